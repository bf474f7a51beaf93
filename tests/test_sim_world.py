"""The example town: its rules, its phrases, and what of it stays apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.evaluation.builtin import GROUPS, held_out_cases
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.documents import INVENTED_ROLES, document
from gt_plugins.sim.invented import invented_role
from gt_plugins.sim.phrases import COMMON, PHRASES, WIDE
from gt_plugins.sim.phrases_prose import PROSE
from gt_plugins.sim.phrases_unseen import UNSEEN
from gt_plugins.sim.reports import role_report
from gt_plugins.sim.situations import POLICIES, situations, stream
from gt_plugins.sim.teacher import Teacher, decision_command, patrol_steps
from gt_plugins.town.roles import ROLES


@pytest.mark.parametrize("role", POLICIES)
def test_what_the_teacher_runs_is_allowed_and_read_as_its_decision(role: str):
    profile = load_profile(role)
    assert profile.action_names == POLICIES[role].actions
    for situation in situations(role, 120, stream(role, "test")):
        command = decision_command(role, situation)
        assert profile.allows(command) and profile.action_of(command) == situation.action
    for step in patrol_steps(role, situations(role, 4, stream(role, "steps"))):
        assert not step.command or profile.allows(step.command)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40), st.text(alphabet=";|&$`<>\n", min_size=1, max_size=2), st.text(max_size=40))
def test_no_fence_admits_a_second_command(before: str, joint: str, after: str):
    for role in ("deacon", "boot", "witness", "polecat", "crew"):
        profile = load_profile(role)
        for first in ("gt hook", "cat reports/01.txt", f"gt nudge a '{before}'", before):
            assert not profile.allows(f"{first}{joint}{after}")


def test_polecats_read_nothing_above_their_folder():
    for role in ("polecat", "crew"):
        profile = load_profile(role)
        assert profile.allows("cat src/main.py")
        for path in ("../x", "a/../../.finetune/deacon/token", "/etc/passwd", ".finetune/x", "~/x"):
            assert not profile.allows(f"cat {path}")


def test_pools_are_apart():
    for kind, by_value in UNSEEN.items():
        for value, templates in by_value.items():
            known = {t.lower() for pool in (COMMON, WIDE, PROSE) for t in pool[kind][value]}
            assert known.isdisjoint(t.lower() for t in templates)
    assert set(PHRASES) == {"common", "wide", "prose", "unseen"}


def test_pre_training_has_no_role_that_can_be_tuned():
    actions = {a for p in POLICIES.values() for a in p.actions}
    for index in range(INVENTED_ROLES):
        role = invented_role(index)
        assert role.policy.role not in ROLES and not actions & set(role.policy.actions)
    for index in range(300):
        system = document(5, index).system
        assert not any(f"the {role} of" in system for role in ROLES)


@pytest.mark.parametrize("role", POLICIES)
def test_held_out_cases_are_many_apart_and_always_the_same(role: str):
    cases = held_out_cases(role)
    assert len(cases) >= 300 and len({c.id for c in cases}) == len(cases)
    assert {c.group for c in cases} == {g for g, _ in GROUPS}
    rng = stream(role, "sessions", "training")
    trained = {role_report(role, s, "common", rng) for s in situations(role, 600, rng)}
    assert trained.isdisjoint(c.evidence for c in cases)
    most = max(sum(c.expected == (a,) for c in cases) for a in POLICIES[role].actions)
    assert most / len(cases) < 0.25


def test_the_teacher_knows_where_it_is_from_the_request():
    found = situations("deacon", 2, stream("teacher"))
    teacher = Teacher("deacon", found)
    body = {"tools": [{}], "messages": [{"role": "user", "content": "go"}]}
    said = []
    while True:
        blocks = teacher.blocks(body)
        body["messages"].append({"role": "assistant", "content": blocks})
        said += [b["input"]["command"] for b in blocks if b["type"] == "tool_use"]
        if not any(b["type"] == "tool_use" for b in blocks):
            break
    assert said[:3] == ["gt hook", "ls reports", "cat reports/01.txt"] and len(said) == 6
