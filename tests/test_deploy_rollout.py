"""Deploying and rolling back in a folder town: order, refusals, restoring to the byte, crashes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from deploy_helpers import make_client
from registry_helpers import make_version, score

from gt_plugins import hookimpl, hookspecs, plugins
from gt_plugins.errors import FinetuneError, GateRefused, NonRetriableError, UserError
from gt_plugins.evaluation import gate
from gt_plugins.registry.journal import events, fold, town_key
from gt_plugins.rollout import deploy as room
from gt_plugins.rollout import pointers
from gt_plugins.rollout.deployed import read_deployment, role_dir
from gt_plugins.rollout.off import switch
from gt_plugins.town import bd
from gt_plugins.town.root import Town

ROLES = ("deacon", "boot", "witness", "polecat", "crew", "mayor", "refinery")
SETTINGS = '{\n    "type":"town-settings", "version": 1,\n\t"scheduler": {"x": [1,2]},\n  "zzz": "kept"}\n\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


class World:
    """A town with versions, a gate that has suites, and an endpoint that only remembers."""

    def __init__(self, town: Town, home: Path, tmp: Path) -> None:
        self.town, self.home, self.tmp = town, home, tmp
        self.running: dict[str, str] = {}
        self.log: list[str] = []
        self.loads = True

    def version(self, role: str = "deacon", right: int = 95) -> str:
        version = make_version(self.home, self.tmp, f"gt-ft-{role}", role)
        score(self.home, version, right)
        return version.ref

    def check(self, version: Any) -> str:
        self.log.append(f"load {version.ref}")
        if not self.loads:
            raise NonRetriableError(f"{version.ref} does not load: torn; nothing was changed")
        return "fake"

    def deploy(self, ref: str, role: str = "deacon", **more: Any) -> room.Done:
        return room.deploy(self.town, self.home, ref, role, check=self.check, **more)

    def rollback(self, role: str = "deacon", **more: Any) -> room.Done:
        return room.rollback(self.town, role, check=self.check, **more)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.town.gt_settings_file.read_text())


@pytest.fixture
def world(town: Town, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = pluggy.PluginManager("gt_plugins")
    made.add_hookspecs(hookspecs)
    made.register(gate, name="gt_plugins.evaluation.gate")

    class Suites:
        @hookimpl
        def gt_eval_suites(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="decisions", roles=ROLES, required=True)]

    made.register(Suites(), name="suites")
    monkeypatch.setattr(plugins, "plugin_manager", lambda hook="": made)
    world = World(town, home, tmp_path)

    def ensure(town: Town, role: str) -> None:
        deployment = read_deployment(town, role)
        assert deployment is not None
        world.log.append(f"serve {deployment.ref}")
        world.running[role] = deployment.ref

    def stop(town: Town, role: str) -> None:
        if world.running.pop(role, None):
            world.log.append(f"stop {role}")

    monkeypatch.setattr(room, "ensure_endpoint", ensure)
    monkeypatch.setattr(room, "stop_endpoint", stop)
    monkeypatch.setattr(bd.Bd, "problem", lambda self: "bd is not on PATH")
    monkeypatch.setattr(room, "running_endpoint", lambda town, role: world.running.get(role))
    yield world


def tree(town: Town) -> dict[str, bytes]:
    """Every file of the town but our own folder."""
    files = (p for p in town.root.rglob("*") if p.is_file() and ".finetune" not in p.parts)
    return {str(p.relative_to(town.root)): p.read_bytes() for p in files}


def test_a_deploy_moves_one_pointer_after_everything_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.town.gt_settings_file.write_text(SETTINGS)
    set_pointer = pointers.set_pointer

    def watched(*args: Any, **more: Any) -> None:
        world.log.append("pointer")
        assert world.running == {"deacon": "gt-ft-deacon:v1"}
        assert not (role_dir(world.town, "deacon") / "off").exists()
        set_pointer(*args, **more)

    monkeypatch.setattr(pointers, "set_pointer", watched)
    done = world.deploy(world.version())
    assert world.log == ["load gt-ft-deacon:v1", "serve gt-ft-deacon:v1", "pointer"]
    assert (done.before, done.forced, done.engine, done.served) == ("", False, "fake", True)
    wrapper = role_dir(world.town, "deacon") / "claude"
    assert world.config == {
        **json.loads(SETTINGS),
        "agents": {"ft-deacon": {"provider": "claude", "command": str(wrapper)}},
        "role_agents": {"deacon": "ft-deacon"},
    }
    names = {p.name for p in role_dir(world.town, "deacon").iterdir()}
    assert names == {
        *("claude", "settings.json", "settings.json.from", "role.json", "token", "starts.log"),
        *("system.txt", "rules.md", "fence.toml", "actions.toml"),
    }
    live = fold(world.home).live[town_key(world.town.root), "deacon"]
    assert (live.version, live.forced, live.rigs) == ("v1", False, ())
    deployment = read_deployment(world.town, "deacon")
    assert deployment is not None and deployment.url == f"http://127.0.0.1:{deployment.port}"


@pytest.mark.parametrize(
    ("before", "order"),
    [
        *((SETTINGS, order) for order in itertools.permutations(("deacon", "witness", "boot"))),
        *((text, ("deacon", "witness", "boot")) for text in (None, "{}")),
        ('{"agents":{},"role_agents":{"deacon":"claude"}}', ("deacon", "boot", "witness")),
    ],
)
def test_any_order_of_rollbacks_restores_every_byte(
    world: World, before: str | None, order: tuple[str, ...]
) -> None:
    if before is not None:
        world.town.gt_settings_file.write_text(before)
    was = tree(world.town)
    for role in ("deacon", "witness", "boot"):
        world.deploy(world.version(role), role)
    for role in order:
        assert world.rollback(role).after is None
        left = {k for k in ("deacon", "witness", "boot") if read_deployment(world.town, k)}
        now = world.config if world.town.gt_settings_file.exists() else {}
        assert {r for r, a in now.get("role_agents", {}).items() if a == f"ft-{r}"} == left
    assert tree(world.town) == was
    assert world.running == {}


def test_rollback_brings_the_version_of_before_back_then_the_stock_agent(world: World) -> None:
    world.town.gt_settings_file.write_text(SETTINGS)
    for _ in range(3):
        world.deploy(world.version())
    assert world.running == {"deacon": "gt-ft-deacon:v3"}
    config = world.config
    done = world.rollback()
    assert (done.before, done.after and done.after.ref) == ("gt-ft-deacon:v3", "gt-ft-deacon:v2")
    assert world.log[-2:] == ["load gt-ft-deacon:v2", "serve gt-ft-deacon:v2"]
    assert world.config == config
    key = (town_key(world.town.root), "deacon")
    state = fold(world.home)
    assert (state.live[key].version, state.previous[key].version) == ("v2", "v1")
    world.rollback()
    done = world.rollback()
    assert done.after is None and any("fenced off" in note for note in done.notes)
    assert world.town.gt_settings_file.read_text() == SETTINGS
    assert key not in fold(world.home).live
    assert {p.name for p in role_dir(world.town, "deacon").iterdir()} == {"claude", "starts.log"}
    with pytest.raises(UserError, match=r"deacon is not deployed in .*; deployed: nothing"):
        world.rollback()


def test_a_version_of_before_that_does_not_load_gives_the_stock_agent(world: World) -> None:
    world.deploy(world.version())
    world.deploy(world.version())
    world.loads = False
    done = world.rollback()
    assert done.after is None
    assert any("v1 could not be brought back" in note for note in done.notes)
    assert not world.town.gt_settings_file.exists() and world.running == {}


def test_straight_to_stock(world: World) -> None:
    world.deploy(world.version())
    world.deploy(world.version())
    assert world.rollback(stock=True).after is None
    assert (town_key(world.town.root), "deacon") not in fold(world.home).live


def test_the_gate_refuses_before_anything_is_loaded_or_written(world: World) -> None:
    ref = world.version(right=50)
    was = tree(world.town)
    with pytest.raises(GateRefused, match=r"^Model score 0\.50 below threshold 0\.90\. Run eval suite again"):
        world.deploy(ref)
    assert world.log == [] and tree(world.town) == was
    assert read_deployment(world.town, "deacon") is None
    with pytest.raises(UserError, match="--force-deploy needs --reason"):
        world.deploy(ref, force=True, reason="  ")
    done = world.deploy(ref, force=True, reason="a drill", by="Ann")
    assert done.forced
    line = next(e for _, e in events(world.home) if isinstance(e, dict) and e["event"] == "deployed")
    assert {k: line[k] for k in ("forced", "reason", "by", "score", "threshold")} == {
        **{"forced": True, "reason": "a drill", "by": "Ann", "score": 0.5, "threshold": 0.9}
    }


def test_force_does_not_skip_the_load_check_nor_the_hashes(world: World) -> None:
    ref = world.version(right=50)
    world.loads = False
    with pytest.raises(NonRetriableError, match="does not load"):
        world.deploy(ref, force=True, reason="x")
    adapter = world.home / "gt-ft-deacon/v1/adapter/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes() + b"x")
    world.log.clear()
    with pytest.raises(NonRetriableError, match="is not as it was registered"):
        world.deploy(ref, force=True, reason="x")
    assert world.log == [] and read_deployment(world.town, "deacon") is None


def test_names_are_checked_first(world: World) -> None:
    ref = world.version()
    for args, more, message in (
        ((ref, "janitor"), {}, "unknown role 'janitor'; a town has mayor, deacon"),
        (("gt-ft-deacon:v9", "deacon"), {}, "no version gt-ft-deacon:v9; gt-ft-deacon has v1"),
        (("nothing", "deacon"), {}, "no model 'nothing'; models: gt-ft-deacon"),
        ((ref, "witness"), {}, "was trained for deacon, not for witness"),
        ((ref, "deacon"), {"rig": "demo"}, "deacon is the town's own and has no rig"),
        ((world.version("dog"), "dog"), {}, "dog rule"),
        ((world.version("witness"), "witness"), {"rig": "nowhere"}, "no rig 'nowhere' in .*; it has demo"),
    ):
        with pytest.raises(UserError, match=message):
            world.deploy(*args, **more)
    assert world.log == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("settings/config.json", '{\n "a": 1,\n}', "settings/config.json: line 3: not JSON"),
        ("settings/config.json", '{"agents": []}', "settings/config.json: agents: not a JSON object"),
        ("settings/finetune.toml", "[gate\n", "settings/finetune.toml"),
        ("demo/settings/config.json", "{", "demo/settings/config.json: line 1: not JSON"),
        ("demo/witness/.claude/settings.json", "{\n\n,}", ".claude/settings.json: line 3"),
        (
            "demo/witness/.claude/settings.json",
            '{"hooks": []}',
            ".claude/settings.json: hooks: not a JSON object",
        ),
        ("demo/witness/.claude/settings.json", '{"hooks": {"Stop": 3}}', "hooks.Stop: not a list"),
    ],
)
def test_broken_files_are_named_and_nothing_is_written(
    world: World, file: str, text: str, message: str
) -> None:
    ref = world.version("witness")
    path = world.town.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    was = tree(world.town)
    with pytest.raises(UserError, match=message):
        world.deploy(ref, "witness")
    assert tree(world.town) == was and world.log == []
    assert read_deployment(world.town, "witness") is None


def write_rig(world: World, value: dict[str, Any]) -> None:
    path = world.town.root / "demo/settings/config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_an_override_is_named_where_the_pointer_would_have_no_effect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_client(world.tmp / "bin").parent), prepend=":")
    ref = world.version("witness")
    write_rig(world, {"role_agents": {"witness": "claude"}})
    with pytest.raises(
        UserError, match=r"demo/settings/config.json: role_agents.witness decides for 'claude'"
    ):
        world.deploy(ref, "witness")
    write_rig(world, {"agents": {"ft-witness": {"command": "codex", "provider": "codex"}}, "agent": "x"})
    world.deploy(ref, "witness")  # a rig's agent does not beat the town's role_agents
    world.rollback("witness")
    write_rig(world, {})
    monkeypatch.setenv("GT_COST_TIER", "economy")
    with pytest.raises(UserError, match="GT_COST_TIER=economy decides for 'claude-sonnet'"):
        world.deploy(ref, "witness")
    monkeypatch.setenv("GT_COST_TIER", "standard")
    with pytest.raises(UserError, match="witness in rig demo would not change"):
        world.deploy(ref, "witness")
    monkeypatch.delenv("GT_COST_TIER")
    role_file = world.town.root / "roles/witness.toml"
    role_file.parent.mkdir()
    role_file.write_text('[session]\nstart_command = "exec run --town {town}"\n')
    with pytest.raises(
        UserError, match=r"roles/witness.toml: session.start_command: would start witness past"
    ):
        world.deploy(ref, "witness")
    role_file.write_text('[session]\nstart_command = "exec claude --dangerously-skip-permissions"\n')
    world.deploy(ref, "witness")


def test_no_secret_of_gts_settings_reaches_a_scratch_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-very-secret"
    agents = {"mine": {"command": "claude", "env": {"ANTHROPIC_AUTH_TOKEN": secret}, "args": [secret]}}
    world.town.gt_settings_file.write_text(json.dumps({"agents": agents, "role_agents": {"deacon": "mine"}}))
    seen: list[str] = []
    resolve = pointers.resolve_role_agent

    def watched(town: Town, *args: Any, **more: Any) -> Any:
        if town.root != world.town.root:
            seen.extend(p.read_text() for p in town.root.rglob("*.json"))
        return resolve(town, *args, **more)

    monkeypatch.setattr(pointers, "resolve_role_agent", watched)
    done = world.deploy(world.version())
    assert seen and not any(secret in text for text in seen)
    ours = "".join(p.read_text() for p in world.town.finetune_dir.rglob("*") if p.is_file())
    assert "ANTHROPIC_AUTH_TOKEN" in ours and "Bearer" not in ours
    assert any("has an environment (ANTHROPIC_AUTH_TOKEN)" in note for note in done.notes)


def test_the_stand_in_carries_the_stock_agents_arguments(world: World) -> None:
    agents = {
        "big": {
            "command": "claude",
            "provider": "claude",
            "args": ["--dangerously-skip-permissions", "--model", "big"],
        }
    }
    text = json.dumps({"agents": agents, "role_agents": {"deacon": "big"}}, indent=1)
    world.town.gt_settings_file.write_text(text)
    world.deploy(world.version())
    entry = world.config["agents"]["ft-deacon"]
    assert entry["args"] == agents["big"]["args"]
    world.deploy(world.version())
    assert world.config["agents"]["ft-deacon"] == entry
    world.rollback(stock=True)
    assert world.town.gt_settings_file.read_text() == text


def test_a_canary_points_in_one_rig_alone(world: World) -> None:
    write_rig(world, {"type": "rig-settings", "version": 1})
    was = tree(world.town)
    ref = world.version("witness")
    done = world.deploy(ref, "witness", rig="demo")
    assert done.after is not None and done.after.rigs == ("demo",)
    assert not world.town.gt_settings_file.exists()
    rig = json.loads((world.town.root / "demo/settings/config.json").read_text())
    assert rig["role_agents"] == {"witness": "ft-witness"}
    world.deploy(world.version("witness"), "witness", rig="demo")
    assert world.rollback("witness").after is not None
    world.deploy(ref, "witness")
    assert world.config["role_agents"] == {"witness": "ft-witness"}
    with pytest.raises(UserError, match="witness runs gt-ft-witness:v1 in the whole town"):
        world.deploy(ref, "witness", rig="demo")
    world.rollback("witness", stock=True)
    assert tree(world.town) == was


def test_a_polecat_gets_an_entry_and_no_pointer(world: World) -> None:
    done = world.deploy(world.version("polecat"), "polecat")
    assert list(world.config["agents"]) == ["ft-polecat"] and "role_agents" not in world.config
    assert any("task_types" in note for note in done.notes)
    world.rollback("polecat")
    assert not world.town.gt_settings_file.exists()


def test_crew_members_with_their_own_agent_are_named(world: World) -> None:
    write_rig(world, {"worker_agents": {"alice": "claude"}, "agents": {"claude": {"command": "claude"}}})
    done = world.deploy(world.version("crew"), "crew")
    assert any(
        "demo/crew/alice keeps claude" in note and "worker_agents.alice" in note for note in done.notes
    )


def test_a_role_that_was_pointed_elsewhere_since_is_left_alone(world: World) -> None:
    world.town.gt_settings_file.write_text(SETTINGS)
    world.deploy(world.version())
    config = world.config | {"role_agents": {"deacon": "codex"}, "new": 1}
    world.town.gt_settings_file.write_text(json.dumps(config))
    world.rollback()
    assert world.config["role_agents"] == {"deacon": "codex"}
    assert "ft-deacon" not in world.config.get("agents", {}) and world.config["new"] == 1


@pytest.mark.parametrize("step", ["write_role", "ensure_endpoint", "set_pointer"])
@pytest.mark.parametrize("redeploy", [False, True])
def test_a_failure_before_the_pointer_leaves_everything_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, redeploy: bool
) -> None:
    world.town.gt_settings_file.write_text(SETTINGS)
    first, second = world.version(), world.version()
    if redeploy:
        world.deploy(first)
    before = tree(world.town), sorted((p.name, p.read_bytes()) for p in role_files(world))

    def fails(*_: Any, **__: Any) -> None:
        raise FinetuneError("the disk is full")

    with monkeypatch.context() as patch:
        if step == "write_role":
            from gt_plugins.rollout import rolefiles

            patch.setattr(rolefiles, "refresh", fails)
        elif step == "set_pointer":
            patch.setattr(pointers, "set_pointer", fails)
        else:
            real = room.ensure_endpoint

            def only_old(town: Town, role: str) -> Any:
                deployment = read_deployment(town, role)
                assert deployment is not None
                return real(town, role) if deployment.ref == first and redeploy else fails()

            patch.setattr(room, "ensure_endpoint", only_old)
        with pytest.raises(FinetuneError, match="disk is full"):
            world.deploy(second)
    assert (tree(world.town), sorted((p.name, p.read_bytes()) for p in role_files(world))) == before
    assert world.running == ({"deacon": first} if redeploy else {})
    assert world.deploy(second).after is not None


def role_files(world: World) -> list[Path]:
    folder = role_dir(world.town, "deacon")
    return [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []


def test_a_deploy_killed_at_the_pointer_can_be_rolled_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.town.gt_settings_file.write_text('{"role_agents": {"deacon": "mine"}, "agents": {"mine": {}}}')
    before = world.config
    real = pointers.set_agent_entry

    class Killed(BaseException):
        pass

    def killed(place: Town, *args: Any, **more: Any) -> Any:
        real(place, *args, **more)
        if place.root == world.town.root:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pointers, "set_agent_entry", killed)
        patch.setattr(room.rolefiles, "kept", lambda *_: __import__("contextlib").nullcontext())
        with pytest.raises(Killed):
            world.deploy(world.version())
    assert world.config["role_agents"] == {"deacon": "ft-deacon"}
    assert (role_dir(world.town, "deacon") / "changing").exists()
    world.rollback()
    assert world.config == before


def test_off_and_on(world: World) -> None:
    with pytest.raises(UserError, match="no role is deployed"):
        switch(world.town, None, True)
    world.deploy(world.version())
    with pytest.raises(UserError, match=r"witness is not deployed in .*; deployed: deacon"):
        switch(world.town, "witness", True)
    with pytest.raises(UserError, match="unknown role"):
        switch(world.town, "nobody", True)
    flag = role_dir(world.town, "deacon") / "off"
    assert switch(world.town, None, True) == ["deacon"] and flag.exists()
    assert switch(world.town, "deacon", True) == []
    done = world.deploy(world.version())
    assert flag.exists() and any("switched off" in note for note in done.notes)
    assert switch(world.town, None, False) == ["deacon"] and not flag.exists()


def test_rollback_all_leaves_nothing(world: World) -> None:
    world.town.gt_settings_file.write_text(SETTINGS)
    was = tree(world.town)
    assert room.rollback_all(world.town) == []
    for role in ("deacon", "boot", "polecat"):
        world.deploy(world.version(role), role)
    world.deploy(world.version("witness"), "witness", rig="demo")
    world.rollback("boot")
    assert room.rollback_all(world.town) == ["deacon", "witness", "polecat"]
    assert tree(world.town) == was
    assert [p.name for p in world.town.finetune_dir.iterdir()] == [".gitignore"]
    assert fold(world.home).live == {} and world.running == {}
    assert room.rollback_all(world.town) == []


def test_no_serve_stops_what_ran(world: World) -> None:
    world.deploy(world.version())
    done = world.deploy(world.version(), serve=False)
    assert not done.served and world.running == {}
