"""Slings to the tuned polecat, staleness, the march of the stages, and the command line's exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_helpers import make_version, score

from gt_plugins import hookimpl, hookspecs, plugins
from gt_plugins.cli import model
from gt_plugins.errors import GateRefused
from gt_plugins.evaluation import gate
from gt_plugins.registry.mirror import mirror
from gt_plugins.rollout import deploy as room
from gt_plugins.rollout import loadcheck, sling, stages, staleness
from gt_plugins.rollout.deployed import Deployment, role_dir, write_deployment
from gt_plugins.town import bd
from gt_plugins.town.root import Town
from gt_plugins.town.sling import Sling, parse


@pytest.fixture
def home(isolated: Path) -> Path:
    return isolated / ".models"


@pytest.fixture(autouse=True)
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[pluggy.PluginManager]:
    made = pluggy.PluginManager("gt_plugins")
    made.add_hookspecs(hookspecs)
    for plugin in (gate, staleness, sling):
        made.register(plugin, name=plugin.__name__)

    class Suites:
        @hookimpl
        def gt_eval_suites(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="decisions", roles=("deacon", "boot", "witness"), required=True)]

    made.register(Suites(), name="suites")
    monkeypatch.setattr(plugins, "plugin_manager", lambda hook="": made)
    yield made


def deployment(role: str, home: Path, rigs: tuple[str, ...] = (), version: str = "v1") -> Deployment:
    place = {"models": str(home), "url": "http://127.0.0.1:1", "port": 1}
    return Deployment(
        role, f"gt-ft-{role}", version, alias=f"ft-{role}", client_model=f"gt-ft-{role}", rigs=rigs, **place
    )  # type: ignore[arg-type]


# -- sling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words", "options"),
    [
        (("dm-1", "demo"), ("dm-1", "demo"), {}),
        (("dm-1", "--agent", "x", "demo"), ("dm-1", "demo"), {"--agent": "x"}),
        (
            ("--agent=x", "dm-1", "-m", "demo", "demo"),
            ("dm-1", "demo"),
            {"--agent": "x", "--message": "demo"},
        ),
        (("dm-1", "-nmhello", "demo"), ("dm-1", "demo"), {"--message": "hello"}),
        (("mol", "--on", "dm-1", "demo", "--var", "a=b"), ("mol", "demo"), {"--on": "dm-1", "--var": "a=b"}),
        (("--", "--agent", "demo"), ("--agent", "demo"), {}),
        (("dm-1", "--no-boot", "demo", "--agent"), ("dm-1", "demo"), {"--agent": ""}),
    ],
)
def test_slings_are_read_as_gt_reads_them(
    args: tuple[str, ...], words: tuple[str, ...], options: dict[str, str]
) -> None:
    found = parse(args)
    assert (found.words, found.options) == (words, options)


@given(st.lists(st.sampled_from(["a", "--", "-m", "--agent", "--agent=", "-n", "--x=1", "-", "", "-sfoo"])))
def test_any_arguments_can_be_read(args: list[str]) -> None:
    one = Sling(tuple(args), Path("/"), None)
    changed = one.with_agent("ft-polecat")
    assert one.parsed and changed.args[1:] == one.args
    assert changed.beads == one.beads and changed.target == one.target


@pytest.fixture
def polecat(town: Town, home: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A town with a deployed polecat, chores in rollout, and three beads."""
    town.own_dir(role_dir(town, "polecat"))
    write_deployment(town, deployment("polecat", home))
    town.settings_file.write_text('[rollout.polecat]\ntask_types = ["chore", "docs"]\n')
    beads: dict[str, dict[str, Any]] = {
        "dm-1": {"issue_type": "chore"},
        "dm-2": {"issue_type": "bug", "labels": ["docs"]},
        "dm-3": {"issue_type": "bug"},
    }

    def show(self: bd.Bd, id: str) -> dict[str, Any]:
        if id not in beads or self.folder.name != "demo":
            raise bd.BdNotFound("bd show: no issue found")
        return beads[id]

    monkeypatch.setattr(bd.Bd, "show", show)
    return town


def routed(town: Town, *args: str) -> str | None:
    found = sling.gt_sling(Sling(args, town.root, town))
    return found.agent if found else None


def test_a_task_in_rollout_goes_to_the_tuned_polecat(polecat: Town) -> None:
    assert routed(polecat, "dm-1", "demo") == "ft-polecat"
    assert routed(polecat, "dm-1", "dm-2", "demo/") == "ft-polecat"
    assert routed(polecat, "mol-x", "--on", "dm-2", "demo") == "ft-polecat"
    assert routed(polecat, "dm-1", "demo/Toast") == "ft-polecat"


@pytest.mark.parametrize(
    "args",
    [
        ("dm-3", "demo"),
        ("dm-1", "dm-3", "demo"),
        ("dm-9", "demo"),
        ("dm-1",),
        ("dm-1", "mayor"),
        ("dm-1", "demo", "--crew", "mel"),
        ("dm-1", "demo/crew/mel"),
        ("dm-1", "demo", "--help"),
        ("respawn-reset", "dm-1"),
        (),
    ],
)
def test_every_other_sling_is_left_alone(polecat: Town, args: tuple[str, ...]) -> None:
    assert routed(polecat, *args) is None


def test_a_chosen_agent_an_undeployed_and_a_switched_off_role_are_respected(polecat: Town) -> None:
    chosen = Sling(("dm-1", "demo", "--agent=codex"), polecat.root, polecat)
    assert sling.gt_sling(chosen) is None
    (role_dir(polecat, "polecat") / "off").write_text("")
    assert routed(polecat, "dm-1", "demo") is None
    (role_dir(polecat, "polecat") / "off").unlink()
    polecat.settings_file.write_text("[rollout.polecat]\ntask_types = 3\n")
    noted = sling.gt_sling(Sling(("dm-1", "demo"), polecat.root, polecat))
    assert noted is not None and noted.args == ("dm-1", "demo")
    assert "rollout.polecat.task_types: not a list of strings" in noted.notes[0]
    (role_dir(polecat, "polecat") / "role.json").unlink()
    assert routed(polecat, "dm-1", "demo") is None


def test_a_canary_takes_only_its_rigs_slings(polecat: Town, home: Path) -> None:
    write_deployment(polecat, deployment("polecat", home, rigs=("other",)))
    assert routed(polecat, "dm-1", "demo") is None


# -- staleness --------------------------------------------------------------------------------------


def test_staleness_names_what_changed_for_the_role(town: Town, home: Path, tmp_path: Path) -> None:
    formulas = town.formulas_dir
    (town.root / "CLAUDE.md").write_text("anchor")
    (formulas / "mol-deacon-patrol.formula.toml").write_text("one")
    (formulas / "mol-witness-patrol.formula.toml").write_text("one")
    (formulas / "shiny.formula.toml").write_text("one")
    recorded = staleness.signals(town, "deacon")
    assert list(recorded) == ["conventions:*:CLAUDE.md", "formula:deacon:mol-deacon-patrol"]
    assert "formula:polecat+crew:shiny" in staleness.signals(town, "crew")
    version = make_version(home, tmp_path, signals=recorded)
    assert not staleness.compare(town, version).stale
    (formulas / "mol-witness-patrol.formula.toml").write_text("two")
    assert not staleness.compare(town, version).stale
    (formulas / "mol-deacon-patrol.formula.toml").write_text("two")
    (town.root / "CLAUDE.md").unlink()
    (town.root / "directives").mkdir()
    (town.root / "directives/deacon.md").write_text("be kind")
    found = staleness.compare(town, version)
    assert found.changed == ("formula:deacon:mol-deacon-patrol",)
    assert found.removed == ("conventions:*:CLAUDE.md",)
    assert found.added == ("directive:deacon:deacon.md",)
    assert not staleness.compare(town, make_version(home, tmp_path)).known


def test_a_third_partys_signal_counts(
    town: Town, home: Path, tmp_path: Path, manager: pluggy.PluginManager
) -> None:
    class Weather:
        value = "rain"

        @hookimpl
        def gt_staleness_signals(self, town: Town) -> dict[str, str]:
            return {"weather": self.value}

    plugin = Weather()
    manager.register(plugin, name="weather")
    version = make_version(home, tmp_path, signals=staleness.signals(town, "deacon"))
    plugin.value = "sun"
    assert staleness.compare(town, version).changed == ("weather",)


# -- stages -----------------------------------------------------------------------------------------


def test_the_next_role_waits_for_the_one_before(
    town: Town, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: set[str] = set()
    monkeypatch.setattr(room, "running_endpoint", lambda town, role: role if role in running else None)
    assert stages.next_stage(town) == "deacon"
    version = make_version(home, tmp_path)
    town.own_dir(role_dir(town, "deacon"))
    write_deployment(town, deployment("deacon", home))
    with pytest.raises(GateRefused, match="Stage deacon does not hold: the endpoint of deacon does not run"):
        stages.next_stage(town)
    running.add("deacon")
    with pytest.raises(GateRefused, match="never evaluated as served"):
        stages.next_stage(town)
    score(home, version, 95)
    assert stages.next_stage(town) == "boot"
    (role_dir(town, "deacon") / "off").write_text("")
    with pytest.raises(GateRefused, match="deacon is switched off"):
        stages.next_stage(town)
    (role_dir(town, "deacon") / "off").unlink()
    stages.hold(town, "holidays")
    with pytest.raises(GateRefused, match="The rollout is held: holidays"):
        stages.next_stage(town)
    stages.hold(town, "")
    for role in ("boot", "witness", "polecat", "crew"):
        town.own_dir(role_dir(town, role))
        write_deployment(town, deployment(role, home))
    with pytest.raises(GateRefused, match="Stage boot"):
        stages.next_stage(town)
    assert [s.role for s in stages.stages(town) if s.done] == ["deacon"]


# -- the command line -------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        model.main(list(words))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_a_refusal_is_exit_3_and_stands_alone(
    town: Town,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 899, 1000)
    words = ("deploy", "gt-ft-deacon", "--role", "deacon", "--town", str(town.root))
    assert call(capsys, *words) == (
        3,
        "",
        "Model score 0.89 below threshold 0.90. Run eval suite again or override with --force-deploy.\n",
    )
    code, out, err = call(capsys, *words, "--json")
    assert code == 3 and err.startswith("Model score 0.89") and err.count("\n") == 1
    assert json.loads(out)["refused"] and json.loads(out)["verdicts"][0]["gate"] == "threshold"
    assert call(capsys, *words, "--force-deploy")[0] == 2
    assert call(capsys, "deploy", "gt-ft-deacon:v4", *words[2:])[0] == 2
    assert call(capsys, "rollback", *words[2:])[0] == 2
    assert call(capsys, "off", "deacon", *words[4:])[0] == 2


def test_deploy_and_rollback_tell_what_they_did(
    town: Town,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        room.deploy, "__kwdefaults__", room.deploy.__kwdefaults__ | {"check": lambda v: "fake"}
    )
    monkeypatch.setattr(bd.Bd, "problem", lambda self: "bd is not on PATH")
    version = make_version(home, tmp_path)
    score(home, version, 91)
    place = ("--town", str(town.root))
    code, out, err = call(capsys, "deploy", "gt-ft-deacon", "--role", "deacon", "--no-serve", *place)
    assert (code, err) == (0, "")
    assert "gate threshold allows: 0.91 reaches 0.90" in out
    assert "deacon: the stock agent -> gt-ft-deacon:v1, from its next start" in out
    assert "not mirrored as a bead: bd is not on PATH" in out
    score(home, version, 20)
    words = ("--role", "deacon", "--no-serve", "--force-deploy", "--reason", "drill", "--json", *place)
    document = json.loads(call(capsys, "deploy", "gt-ft-deacon", *words)[1])
    assert document["forced"] and document["before"] == document["after"] == "gt-ft-deacon:v1"
    assert "forced past the gate" in call(capsys, "show", "gt-ft-deacon")[1]
    assert json.loads(call(capsys, "off", "--json", *place)[1]) == {"changed": ["deacon"], "state": "off"}
    assert call(capsys, "on", *place)[1] == "on, from the next start: deacon\n"
    status = json.loads(call(capsys, "rollout", "status", "--json", *place)[1])
    assert status["stages"][0]["version"] == "gt-ft-deacon:v1" and not status["stages"][0]["done"]
    assert call(capsys, "rollout", "advance", *place)[0] == 3
    assert "known" in call(capsys, "stale", *place)[1]
    (town.root / "settings/finetune.toml").write_text("[consent")
    code, out, err = call(capsys, "rollback", "--role", "deacon", *place)
    assert code == 0 and "deacon: gt-ft-deacon:v1 -> the stock agent" in out, "broken settings or not"


def test_a_load_check_that_fails_says_why(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gt_plugins.errors import NonRetriableError

    version = make_version(home, tmp_path)  # its base is no model
    with pytest.raises(NonRetriableError, match=r"gt-ft-deacon:v1 does not load: .*; nothing was changed"):
        loadcheck.load_check(version)
    with pytest.raises(NonRetriableError, match=r"did not load within 0\.01 s"):
        loadcheck.load_check(version, seconds=0.01)


def test_a_version_is_mirrored_once(
    town: Town, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(home, tmp_path)
    made: list[dict[str, Any]] = []

    def create(self: bd.Bd, title: str, description: str = "", **more: Any) -> str:
        made.append({"title": title, **more})
        return "hq-1"

    monkeypatch.setattr(bd.Bd, "problem", lambda self: None)
    monkeypatch.setattr(bd.Bd, "create", create)
    closed: list[str] = []
    monkeypatch.setattr(bd.Bd, "close", lambda self, id, reason: closed.append(f"{id}: {reason}"))
    for _ in range(2):
        assert mirror(town, home, version) == "mirrored as bead hq-1"
    assert len(made) == 1 and made[0]["metadata"]["finetune_version"] == "v1"
    assert closed == ["hq-1: completed: gt-ft-deacon:v1 is registered"]

    def fails(self: bd.Bd, *_: Any, **__: Any) -> str:
        raise bd.BdError("bd create: locked")

    monkeypatch.setattr(bd.Bd, "create", fails)
    assert mirror(town, home, make_version(home, tmp_path)) == "not mirrored as a bead: bd create: locked"


def test_a_town_must_be_there(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = call(capsys, "rollback", "--role", "deacon", "--town", str(tmp_path / "none"))
    assert code == 2 and "no Gas Town" in err
