"""The example town: its rules, its phrases, and what of it stays apart."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.evaluation.builtin import GROUPS, held_out_cases
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.documents import INVENTED_ROLES, document
from gt_plugins.sim.invented import invented_role
from gt_plugins.sim.phrases import COMMON, PHRASES, WIDE, fact_phrase, number_words
from gt_plugins.sim.phrases_prose import PROSE
from gt_plugins.sim.phrases_talk import TALK
from gt_plugins.sim.phrases_unseen import UNSEEN
from gt_plugins.sim.reports import LAYOUTS, role_report
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
            known = {t.lower() for pool in (COMMON, WIDE, PROSE, TALK) for t in pool[kind][value]}
            assert known.isdisjoint(t.lower() for t in templates)
    assert set(PHRASES) == {"common", "wide", "prose", "talk", "unseen"}


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


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6))
def test_every_wording_of_talk_is_filled_and_means_one_value(seed: int):
    rng = random.Random(seed)
    slots = {"bead": "dm-1", "pid": 4711, "k": 3}
    for kind, by_value in TALK.items():
        said = {}
        for value, templates in by_value.items():
            number = rng.randrange(1, 60) if value == "n" else value
            text = fact_phrase(kind, int(number) if str(number).isdigit() else number, "talk", rng, slots)
            assert text and not re.search(r"\{|\[\w+\|", text.replace("@{u}", "")) and len(templates) >= 40
            assert said.setdefault(text.lower(), value) == value


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6))
def test_every_layout_names_the_agent_and_says_every_part(seed: int):
    parts = [f"part{i}" for i in range(seed % 8 + 1)]
    for pool, layouts in LAYOUTS.items():
        for layout in layouts:
            text = layout("demo/polecats/nux", list(parts), random.Random(seed)).lower()
            assert "demo/polecats/nux" in text and all(text.count(p) == 1 for p in parts), pool


def test_numbers_are_spelled():
    assert number_words(1) == {"word": "one", "times": "once", "nth": "first"}
    assert number_words(2)["times"] == "twice" and number_words(4)["times"] == "four times"
    assert number_words(45)["word"] == "45" and number_words("alive") == {}
