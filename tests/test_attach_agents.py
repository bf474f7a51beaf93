"""Which agent gt would start, in gt's order, and our entries in its settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gt_plugins.errors import UserError
from gt_plugins.town import agents
from gt_plugins.town.root import Town

OURS = {"provider": "claude", "command": "/t/.finetune/deacon/claude", "args": ["--x"]}


def town_settings(town: Town, **keys: object) -> Path:
    town.gt_settings_file.write_text(json.dumps({"type": "town-settings", "version": 1, **keys}))
    return town.gt_settings_file


def rig_settings(town: Town, **keys: object) -> Path:
    path = agents.rig_settings_file(town, "demo")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "rig-settings", "version": 1, **keys}))
    return path


def resolve(town: Town, role: str, rig: str | None = None, tier: str = "", worker: str | None = None):
    return agents.resolve_role_agent(town, role, rig, worker=worker, environ={"GT_COST_TIER": tier})


def test_without_any_settings_it_is_claude(town: Town):
    found = resolve(town, "deacon")
    assert (found.agent, found.file, found.decided_by) == ("claude", None, "gt's default")


def test_each_layer_beats_the_one_after_it(town: Town):
    file = town_settings(town, default_agent="claude", agents={"ours": OURS, "r": OURS, "d": OURS})
    assert resolve(town, "witness", "demo").decided_by == f"{file}: default_agent"
    rig = rig_settings(town, agent="d")
    assert resolve(town, "witness", "demo").decided_by == f"{rig}: agent"
    assert resolve(town, "witness").agent == "claude", "a rig's settings hold for the rig alone"
    rig = rig_settings(town, agent="d", runtime={"provider": "codex"})
    assert (resolve(town, "witness", "demo").agent, resolve(town, "witness", "demo").key) == (
        "codex",
        "runtime",
    )
    town_settings(town, agents={"ours": OURS, "r": OURS}, role_agents={"witness": "ours"})
    assert resolve(town, "witness", "demo").agent == "ours"
    rig_settings(town, agent="d", role_agents={"witness": "r"})
    assert resolve(town, "witness", "demo").decided_by == f"{rig}: role_agents.witness"


def test_an_agent_that_is_not_there_is_passed_over_with_a_warning(
    town: Town, monkeypatch: pytest.MonkeyPatch
):
    town_settings(town, role_agents={"deacon": "nobody", "boot": "gemini"}, default_agent="claude")
    monkeypatch.setenv("PATH", "/nowhere")
    for role, said in (("deacon", "'nobody' is not defined"), ("boot", "not on PATH")):
        found = resolve(town, role)
        assert found.agent == "claude" and said in found.warnings[0]


def test_the_cost_tier_beats_role_agents_but_not_another_platform(town: Town):
    town_settings(town, agents={"ours": OURS}, role_agents={"deacon": "ours", "polecat": "ours"})
    assert resolve(town, "deacon", tier="budget").decided_by == "GT_COST_TIER=budget"
    assert resolve(town, "polecat", tier="economy").key == "gt's default", (
        "the tier leaves that role to default"
    )
    assert resolve(town, "deacon", tier="nonsense").agent == "ours"
    assert resolve(town, "boot", tier="standard").key == "gt's default", "standard defines no claude-haiku"
    foreign = {**OURS, "provider": "generic"}
    town_settings(town, agents={"ours": foreign}, role_agents={"deacon": "ours"})
    assert resolve(town, "deacon", tier="budget").agent == "ours"


def test_a_dog_is_haiku_unless_the_agent_is_not_claude(town: Town):
    town_settings(town, agents={"ours": OURS}, role_agents={"dog": "ours"})
    assert resolve(town, "dog").key == "gt's dog rule"
    by_name = {"command": "/opt/other/agent"}
    town_settings(town, agents={"ours": by_name}, role_agents={"dog": "ours"})
    assert resolve(town, "dog").agent == "ours"


def test_a_crew_member_has_an_agent_of_its_own_first(town: Town):
    file = town_settings(town, agents={"ours": OURS, "w": OURS}, crew_agents={"alice": "ours"})
    assert resolve(town, "crew", "demo", worker="alice").decided_by == f"{file}: crew_agents.alice"
    assert resolve(town, "crew", "demo", worker="bob").agent == "claude"
    rig = rig_settings(town, worker_agents={"alice": "w"})
    assert resolve(town, "crew", "demo", worker="alice").decided_by == f"{rig}: worker_agents.alice"


def test_settings_that_are_not_json_count_as_missing_as_for_gt(town: Town):
    town.gt_settings_file.write_text("{oops")
    rig_settings(town, type="town-settings", agent="x")
    found = resolve(town, "witness", "demo")
    assert found.agent == "claude" and len(found.warnings) == 2 and "line 1" in found.warnings[0]


def test_the_registry_adds_names(town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (town.root / "settings/agents.json").write_text(json.dumps({"agents": {"mine": {"command": "mine"}}}))
    town_settings(town, role_agents={"deacon": "mine"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve(town, "deacon").agent == "claude"
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    assert resolve(town, "deacon").agent == "mine"


def test_an_entry_comes_and_goes_to_the_byte(town: Town):
    text = '{ "type":"town-settings",\n  "version":1, "unknown": [1,2], "role_agents":{"deacon":"claude"} }'
    town.gt_settings_file.write_text(text)
    change = agents.set_agent_entry(town, "gt-ft-deacon", OURS, role="deacon")
    now = json.loads(town.gt_settings_file.read_text())
    assert now["agents"]["gt-ft-deacon"] == OURS and now["role_agents"] == {"deacon": "gt-ft-deacon"}
    assert now["unknown"] == [1, 2] and change.previous_role_agent == "claude"
    assert resolve(town, "deacon").agent == "gt-ft-deacon"
    change = agents.AgentChange.from_record(json.loads(json.dumps(change.record())))
    assert agents.restore(change) and town.gt_settings_file.read_text() == text


def test_a_file_that_we_made_goes_again(town: Town):
    change = agents.set_agent_entry(town, "gt-ft-witness", OURS, role="witness", rig="demo")
    path = agents.rig_settings_file(town, "demo")
    assert json.loads(path.read_text())["type"] == "rig-settings"
    assert agents.restore(change) and not path.parent.exists()


def test_what_gt_rewrote_in_between_is_restored_by_content(town: Town):
    town_settings(town, role_agents={"deacon": "claude"})
    change = agents.set_agent_entry(town, "gt-ft-deacon", OURS, role="deacon")
    document = json.loads(town.gt_settings_file.read_text())
    document["default_agent"] = "claude"
    town.gt_settings_file.write_text(json.dumps(document, indent=2))
    assert not agents.restore(change)
    assert json.loads(town.gt_settings_file.read_text()) == {
        "type": "town-settings",
        "version": 1,
        "role_agents": {"deacon": "claude"},
        "default_agent": "claude",
    }


def test_a_role_that_was_pointed_elsewhere_since_is_left_alone(town: Town):
    change = agents.set_agent_entry(town, "gt-ft-deacon", OURS, role="deacon")
    document = json.loads(town.gt_settings_file.read_text())
    document["role_agents"]["deacon"] = "codex"
    town.gt_settings_file.write_text(json.dumps(document))
    agents.restore(change)
    now = json.loads(town.gt_settings_file.read_text())
    assert now["role_agents"] == {"deacon": "codex"} and "agents" not in now


def test_one_change_over_another_goes_back_step_by_step(town: Town):
    first = agents.set_agent_entry(town, "gt-ft-deacon", OURS, role="deacon")
    second = agents.set_agent_entry(town, "gt-ft-deacon", {**OURS, "args": ["--v2"]}, role="deacon")
    assert agents.restore(second)
    assert json.loads(town.gt_settings_file.read_text())["agents"]["gt-ft-deacon"] == OURS
    assert agents.restore(first) and not town.gt_settings_file.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"agents": [}', r"config.json: line 1: not JSON"),
        ('{"agents": []}', r"config.json: agents: not a JSON object"),
        ('{"agents": {"a": {"env": {"T": "x"}}}}', r"agents.a.env"),
    ],
)
def test_broken_settings_are_named_and_left_as_they_are(town: Town, text: str, said: str):
    town.gt_settings_file.write_text(text)
    with pytest.raises(UserError, match=said):
        agents.set_agent_entry(town, "a", OURS, role="deacon")
    assert town.gt_settings_file.read_text() == text
