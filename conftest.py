"""One autouse fixture isolates every test: HOME, models folder, town and the client's own variables."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gt_plugins.town.root import Town

_CLEARED = ("GT_", "BD_", "BEADS_", "ANTHROPIC_", "CLAUDE", "CODEX_", "OPENCODE", "XDG_", "NODE_OPTIONS")


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HOME and models folder, no town, no client variables; returns the HOME."""
    for name in list(os.environ):
        if name.startswith(_CLEARED):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GT_MODELS_HOME", str(home / ".models"))
    monkeypatch.setenv("GT_PLUGINS_LOAD", "")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    return home


@pytest.fixture
def town(tmp_path: Path) -> Town:
    """A minimal town on disk, as ``gt install`` and ``gt rig add demo`` lay it out; no beads."""
    root = tmp_path / "town"
    for folder in (
        "mayor",
        "settings",
        "deacon/dogs/boot",
        "demo/witness",
        "demo/refinery",
        "demo/crew/alice",
        "demo/polecats",
        ".beads/formulas",
    ):
        (root / folder).mkdir(parents=True)
    (root / "mayor/town.json").write_text(json.dumps({"type": "town", "version": 2, "name": "example"}))
    (root / "mayor/rigs.json").write_text(json.dumps({"version": 1, "rigs": {"demo": {}}}))
    return Town(root)
