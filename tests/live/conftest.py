"""The real tools for live tests, and a real town.

Tools come from PATH. Where ``CI=true`` a missing bd, dolt, tmux or client is a failure; gt, which no package
registry has, may be missing, and then one loud line at the end of the run says that these tests did not run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gt_plugins.sim import live_town
from gt_plugins.sim.live_town import LiveTown

NOT_RUN = "LIVE TESTS NOT RUN"


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip (in CI: fail) a test that needs real tools which are not there."""
    absent = live_town.missing_tools()
    required = [tool for tool in absent if tool != "gt"]
    if os.environ.get("CI", "").lower() == "true" and required:
        pytest.fail(f"{NOT_RUN}: {', '.join(required)} not on PATH, and CI must have them", pytrace=False)
    if absent:
        pytest.skip(f"{NOT_RUN}: {', '.join(absent)} not on PATH")


@pytest.fixture(scope="session")
def client() -> str:
    """The real agent client, for tests that need nothing else; in CI it must be there."""
    found = shutil.which(live_town.CLIENT)
    if found is None:
        message = f"{NOT_RUN}: {live_town.CLIENT} not on PATH"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{message}, and CI must have it", pytrace=False)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def real_town(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTown]:
    """A real town under a fresh HOME with rig ``demo`` and crew ``alice``, one per test module."""
    live = live_town.bring_up(tmp_path_factory.mktemp("live"), crew=("alice",))
    try:
        yield live
    finally:
        live_town.tear_down(live)


@pytest.fixture
def in_town(real_town: LiveTown, monkeypatch: pytest.MonkeyPatch) -> LiveTown:
    """The real town with this process in its environment too: HOME, PATH and gt's variables."""
    for name, value in real_town.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GT_MODELS_HOME", str(Path(real_town.home) / ".models"))
    return real_town


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The one loud line."""
    lines = set()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NOT_RUN in reason:
            lines.add(reason[reason.index(NOT_RUN) :])
    for line in sorted(lines):
        terminalreporter.write_line(f"!!! {line} !!!", red=True, bold=True)
