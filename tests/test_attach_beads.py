"""Install and uninstall with a bd that answers, complains, hangs or lies; a fake one, so that it can."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gt_plugins.attach import pieces, record
from gt_plugins.attach.install import install
from gt_plugins.attach.uninstall import statuses_left, uninstall
from gt_plugins.errors import UserError
from gt_plugins.town.root import Town
from gt_plugins.training.job import STATES


@pytest.fixture
def bd(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bd that keeps its custom statuses in a file and cooks everything; tests overwrite it."""
    (town.root / ".beads/metadata.json").write_text("{}")
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "statuses").write_text("staged_ready")
    path = script(
        folder / "bd",
        f"""
case "$1 $2" in
"config get") printf '{{"key":"status.custom","value":"%s"}}\\n' "$(cat {tmp_path}/statuses)" ;;
"config set") printf %s "$4" > {tmp_path}/statuses; echo '{{}}' ;;
*) echo '{{}}' ;;
esac""",
    )
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return path


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_states_of_a_job_come_and_go(town: Town, bd: Path, tmp_path: Path):
    report = install(town, "Ann")
    assert not [n for n in report.notes if "bd" in n or "beads" in n]
    known = (tmp_path / "statuses").read_text().split(",")
    assert known[0] == "staged_ready" and set(STATES) < set(known)
    assert record.load_town(town).statuses == ("staged_ready",)
    install(town, "Ann")
    (tmp_path / "statuses").write_text(",".join([*known, "theirs:active"]))
    assert not uninstall(town).notes
    assert (tmp_path / "statuses").read_text() == "staged_ready,theirs:active"


def test_a_formula_that_bd_refuses_stops_the_install(town: Town, bd: Path):
    script(bd, """echo '{"error":"resolving formula: steps[0] (a): needs unknown step"}'; exit 1""")
    with pytest.raises(UserError, match=r"formula\.toml: bd cook: resolving formula: steps"):
        install(town, "Ann")
    assert not town.finetune_dir.exists() and not list(town.formulas_dir.iterdir())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('echo \'{"error":"no beads database found"}\' >&2; exit 1', "no beads database found"),
        ("echo something odd >&2; exit 3", "something odd"),
        ("exit 5", "bd cook ended with 5"),
        ("sleep 60", "no answer in 0.3 s"),
    ],
)
def test_a_bd_that_cannot_say_is_a_note(
    town: Town, bd: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
):
    script(bd, f'case $1 in cook) {body};; *) echo "no" >&2; exit 1;; esac')
    monkeypatch.setattr(pieces, "COOK_SECONDS", 0.3)
    notes = install(town, "Ann").notes
    assert any("not checked with bd cook" in n and said in n for n in notes)
    assert any("statuses of training jobs not added" in n for n in notes)
    assert record.installed(town)
    assert any("statuses of training jobs not removed" in n for n in uninstall(town).notes)
    assert not town.finetune_dir.exists()


def test_without_bd_or_beads_install_says_so_and_asks_nothing(town: Town, bd: Path, tmp_path: Path):
    script(bd, f"touch {tmp_path}/called")
    (town.root / ".beads/metadata.json").unlink()
    assert any("no bd on PATH, or the town has no beads" in n for n in install(town, "Ann").notes)
    uninstall(town)
    os.remove(bd)
    assert not (tmp_path / "called").exists()


def test_which_statuses_stay():
    ours, gts = list(STATES), ["staged_ready", "staged_warnings"]
    assert statuses_left([*gts, *ours], (), False) == []
    assert statuses_left([*gts, *ours], (), True) == gts, "gt asked for them meanwhile"
    assert statuses_left([*gts, *ours, "x"], ("staged_ready",), False) == ["staged_ready", "x"]
    assert statuses_left([*gts, "ready", "failed:done"], ("ready",), True) == [*gts, "ready"]
    assert statuses_left([*gts, *ours, "x"], None, False) == [*gts, "x"], (
        "not known: only what is surely ours"
    )
