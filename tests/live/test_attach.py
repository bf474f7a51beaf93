"""Attaching to a real town: the shim, the formulas, a real session that ends, and the town as it was before.

One town, the tests in order: install, use, a session, uninstall.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.serving.app import make_app
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import ScriptResponder
from gt_plugins.sim import live_town
from gt_plugins.sim.live_town import LiveTown, Ran
from gt_plugins.town import agents
from gt_plugins.town.events import session_starts

pytestmark = pytest.mark.live
BIN = Path(sys.executable).parent
FORMULAS = ("corpus-collect", "eval-suite", "train-role-model")
TOKEN = "a-token-of-the-stub"
PROVIDER = {"ANTHROPIC_AUTH_TOKEN": "unset", "ANTHROPIC_MODEL": "unset"}


def ours(live: LiveTown, *args: str) -> Ran:
    """A command of our own package, as its operator runs it from the environment it is installed in."""
    return live.run(str(BIN / args[0]), *args[1:])


class Provider:
    """A stub of the model provider: three commands of a patrol, then the end of the turn."""

    SCRIPT = ("gt hook", "gt version", "echo $((40 + 2))")

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.finished = threading.Event()

    def __call__(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.bodies.append(body)
        if not body.get("tools"):
            return [{"type": "text", "text": json.dumps({"title": "Patrol"})}]
        turn = sum(1 for m in body["messages"] if m["role"] == "assistant")
        if turn < len(self.SCRIPT):
            call = {"type": "tool_use", "name": "Bash", "input": {"command": self.SCRIPT[turn]}}
            return [{"type": "text", "text": f"Step {turn}."}, call]
        self.finished.set()
        return [{"type": "text", "text": "Patrol done."}]

    def said(self) -> str:
        return json.dumps(self.bodies)


@pytest.fixture(scope="module")
def before(real_town: LiveTown) -> dict[str, Any]:
    """The town, its HOME and the client's settings before anything of ours."""
    settings = real_town.home / ".claude" / "settings.json"
    settings.parent.mkdir()
    theirs = {"hooks": {"SessionEnd": [{"hooks": [{"type": "command", "command": "true"}]}]}, "theme": "dark"}
    settings.write_text(json.dumps(theirs))
    statuses = real_town.run("bd", "config", "get", "status.custom").out
    return {"town": live_town.snapshot(real_town), "settings": theirs, "statuses": statuses}


@pytest.fixture(scope="module")
def attached(real_town: LiveTown, before: dict[str, Any]) -> Iterator[LiveTown]:
    """The town with us in it, and our shim first on PATH."""
    done = ours(real_town, "gt-plugins", "install", "--yes", "--consent-by", "Ann").checked()
    assert "not checked" not in done.out, done.out
    folder = real_town.home / ".local/share/gastown-finetune/bin"
    real_town.extra_path.append(str(folder))
    yield real_town
    real_town.extra_path.remove(str(folder))


def test_the_shim_stands_before_the_real_gt(attached: LiveTown):
    line = ours(attached, "gt-plugins", "shellenv").out
    which = attached.run("sh", "-c", f"{line}\ncommand -v gt").out.strip()
    assert which == str(attached.home / ".local/share/gastown-finetune/bin/gt")
    version = attached.gt("version").out
    assert version.startswith("gt version")
    assert attached.run("gt", "no-such-command").code == 1
    assert "Usage: gt-model" in attached.gt("model", "--help").out
    assert "Usage: gt-corpus" in attached.gt("corpus", "--help").out
    assert "Ann" in attached.gt("corpus", "consent").out


def test_doctor_is_content_with_a_fresh_install(attached: LiveTown):
    done = ours(attached, "gt-plugins", "doctor", "--json")
    document = json.loads(done.out)
    assert done.code == 0 and document["ok"], done.out
    assert {c["name"] for c in document["checks"] if c["status"] != "ok"} == set(), done.out
    assert ours(attached, "gt-plugins", "doctor").out.splitlines()[0].startswith("ok    install")


def test_every_formula_cooks_and_gt_runs_it_dry(attached: LiveTown):
    for name in FORMULAS:
        cooked = attached.run("bd", "cook", name).checked()
        assert json.loads(cooked.out[cooked.out.index("{") :])["formula"] == name
        dry = attached.gt("formula", "run", name, "--rig", attached.rig, "--dry-run").out
        assert f"Formula: {name}" in dry and "← ready" in dry


def test_prime_of_a_role_that_is_not_deployed_is_the_real_one(attached: LiveTown):
    """The same bytes but for the process id, and the first thing the shim does is to be the real gt."""
    role = {"GT_ROLE": "mayor", "GT_SESSION_ID": "fixed", "CLAUDE_SESSION_ID": "fixed"}
    folder = attached.town.root / "mayor"
    real = attached.env["PATH"]
    direct = attached.run("gt", "prime", "--dry-run", cwd=folder, more={**role, "PATH": real}).checked()
    through = attached.run("gt", "prime", "--dry-run", "--full", cwd=folder, more=role).checked()

    def steady(text: str) -> list[str]:
        return [line for line in text.splitlines() if "pid:" not in line]

    assert steady(through.out) == steady(direct.out) and len(through.out) > 10_000


def test_a_real_session_ends_and_its_end_is_noted(attached: LiveTown):
    provider = Provider()
    app = make_app(ScriptResponder("stub", provider), TOKEN, ["stub"])
    with served_locally(app) as url:
        change = agents_change = live_town.point_role(attached, "deacon", url, TOKEN, "stub")
        try:
            attached.gt("deacon", "start")
            assert provider.finished.wait(120), attached.pane("hq-deacon")
            spool = attached.town.spool_dir
            assert not spool.exists() or not list(spool.iterdir()), "nothing is noted before the end"
            attached.gt("deacon", "stop")
            live_town.wait_for("a note or a capture of the session", lambda: _noted(attached), 60)
        finally:
            attached.run("gt", "deacon", "stop")
            agents.restore(agents_change)
    assert change.previous_role_agent is None
    assert "gt version v" in provider.said(), "the agent's own gt reached the real one through the shim"
    deacon = [s for s in session_starts(attached.town.events_file) if s.identity.role == "deacon"]
    assert deacon and deacon[-1].session_id in {p.stem for p in live_town.transcripts(attached)}


def _noted(live: LiveTown) -> bool:
    """A note waits in the spool, or the detached worker has made it a row of the corpus already."""
    waiting = list(live.town.spool_dir.glob("*.json")) if live.town.spool_dir.exists() else []
    return bool(waiting) or live.town.corpus_db.exists()


def test_the_session_reaches_the_corpus_by_a_sweep_at_the_latest(attached: LiveTown):
    attached.gt("corpus", "sweep", timeout=180)
    stats = json.loads(attached.gt("corpus", "stats", "--json").out)
    assert "deacon" in json.dumps(stats)
    assert TOKEN.encode() not in attached.town.corpus_db.read_bytes()


def test_a_second_install_and_doctor_fix_change_nothing(attached: LiveTown):
    once = live_town.snapshot(attached)
    ours(attached, "gt-plugins", "install").checked()
    ours(attached, "gt-plugins", "doctor", "--fix").checked()
    assert live_town.snapshot(attached) == once


def test_uninstall_leaves_the_town_as_it_was(attached: LiveTown, before: dict[str, Any]):
    settings = attached.home / ".claude" / "settings.json"
    assert len(json.loads(settings.read_text())["hooks"]["SessionEnd"]) == 2
    ours(attached, "gt-plugins", "uninstall", "--purge").checked()
    after = live_town.snapshot(attached)
    changed = {k for k in before["town"].keys() | after.keys() if before["town"].get(k) != after.get(k)}
    assert changed <= {"deacon/.claude/settings.json"}, "gt writes that one anew when its agent starts"
    left = json.loads(settings.read_text())
    assert left["hooks"] == before["settings"]["hooks"] and left["theme"] == "dark"
    assert not (attached.home / ".local/share/gastown-finetune").exists()
    assert attached.run("bd", "config", "get", "status.custom").out == before["statuses"]
    attached.gt("version")
    assert not [name for name in os.listdir(attached.town.root) if name in (".corpus", ".finetune")]
