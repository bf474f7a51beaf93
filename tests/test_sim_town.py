"""The example town: situations, wordings and invented roles are kept apart as the gate relies on it."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.corpus.dataset import OVERLAP_WORDS, shingles
from gt_plugins.evaluation.builtin import GROUPS, gt_eval_suites, held_out_cases
from gt_plugins.rendering.conversation import Conversation
from gt_plugins.sim.documents import INVENTED_ROLES, document
from gt_plugins.sim.invented import invented_role
from gt_plugins.sim.phrases import _CHOICE, PHRASES, POOLS, expand, fact_phrase, number_words
from gt_plugins.sim.reports import _DISTRACTORS, LAYOUTS, role_report
from gt_plugins.sim.situations import POLICIES, Facts, facts_from, random_facts, situations, stream
from gt_plugins.sim.suite_text import decision_question, decision_schema
from gt_plugins.sim.teacher import Teacher, decision_text, patrol_steps, report_of
from gt_plugins.town.roles import ROLES
from gt_plugins.town.root import Town

role = pytest.mark.parametrize("role", POLICIES)
few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10**9)


def training_reports(role: str, count: int = 600) -> list[str]:
    """Reports as the sessions of training hold them."""
    rng = stream(role, "sessions", "training")
    return [role_report(role, s, "common", rng) for s in situations(role, count, rng)]


# -- streams ----------------------------------------------------------------------------------------


def test_a_stream_is_its_names_and_nothing_else() -> None:
    assert [stream("a", 1).random() for _ in range(2)] == [stream("a", "1").random()] * 2
    names = [
        ("deacon", "sessions", "training"),
        ("deacon", "held-out", "common"),
        ("boot", "held-out", "common"),
    ]
    assert len({stream(*n).random() for n in names}) == 3
    assert stream("document", 1, 23).random() != stream("document", 12, 3).random()


def test_held_out_cases_do_not_hang_on_this_process() -> None:
    code = (
        "import hashlib; from gt_plugins.evaluation.builtin import held_out_cases;"
        "cases = [held_out_cases(r) for r in ('deacon', 'boot', 'witness')];"
        "print(hashlib.sha256(repr(cases).encode()).hexdigest())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


@role
def test_the_suite_holds_what_it_says(role: str) -> None:
    cases = held_out_cases(role)
    assert Counter(c.group for c in cases) == dict(GROUPS)
    assert len({c.id for c in cases}) == len({c.evidence for c in cases}) == len(cases) == 320
    assert {c.allowed for c in cases} == {POLICIES[role].actions}
    right = Counter(action for c in cases for action in c.expected)
    assert set(right) == set(POLICIES[role].actions) and max(right.values()) <= 0.2 * len(cases)
    suite = next(s for s in gt_eval_suites() if s.roles == (role,))
    assert suite.required and suite.cases() is cases


@role
def test_no_held_out_evidence_is_a_training_one(role: str) -> None:
    trained = set(training_reports(role))
    assert len(trained) == 600
    assert not trained & {c.evidence for c in held_out_cases(role)}


def test_no_held_out_evidence_stands_in_pre_training_text() -> None:
    held_out = {c.evidence for role in POLICIES for c in held_out_cases(role)}
    texts = [block_text(document(0, index)) for index in range(400)]
    assert not [e for e in held_out if any(e in text for text in texts)]


# -- situations -------------------------------------------------------------------------------------


@role
@few
@given(seed=seeds, count=st.integers(1, 40))
def test_every_action_comes_up_about_equally_often(role: str, seed: int, count: int) -> None:
    policy = POLICIES[role]
    found = situations(role, count, random.Random(seed))
    assert len(found) == count
    assert all(policy.decide(s.facts) == s.action for s in found)
    often = Counter(s.action for s in found)
    assert max(often.values()) - min(often[a] for a in policy.actions) <= 1
    assert all(s.target == "deacon" or "/" in s.target for s in found)


@role
@few
@given(seed=seeds)
def test_what_a_role_does_not_weigh_stays_at_its_default(role: str, seed: int) -> None:
    policy = POLICIES[role]
    for found in situations(role, 6, random.Random(seed)):
        unweighed = {k for k in vars(Facts()) if k not in policy.kinds}
        assert all(getattr(found.facts, k) == getattr(Facts(), k) for k in unweighed)
        assert facts_from(vars(found.facts)) == found.facts


def test_the_note_states_every_fact_in_order() -> None:
    facts = Facts("dead", 52, "open", "dirty", 3, "disk", 4)
    assert facts.note(("session", "idle", "error")) == "session dead, idle 52m, error disk"


# -- wordings ---------------------------------------------------------------------------------------


def expansions(template: str) -> Iterator[str]:
    """Every text that a template can become."""
    match = _CHOICE.search(template)
    if match is None:
        yield re.sub(r"  +", " ", template).strip()
        return
    for choice in match.group(1).split("|"):
        yield from expansions(template[: match.start()] + choice + template[match.end() :])


def words(text: str) -> tuple[str, ...]:
    """A wording without slots, case and punctuation."""
    return tuple(re.findall(r"[a-z0-9]+", re.sub(r"\{\w+\}", " 0 ", text.lower())))


def wordings(pool: str) -> set[tuple[str, ...]]:
    templates = [t for by_value in PHRASES[pool].values() for group in by_value.values() for t in group]
    return {words(text) for template in (*templates, *_DISTRACTORS[pool]) for text in expansions(template)}


def runs(found: set[tuple[str, ...]], length: int) -> set[tuple[str, ...]]:
    return {w[i : i + length] for w in found for i in range(len(w) - length + 1)}


def test_the_unseen_wordings_are_nobody_elses() -> None:
    unseen = wordings("unseen")
    seen = wordings("common") | wordings("wide") | wordings("prose") | wordings("talk")
    assert len(unseen) > 50 and len(seen) > 5000
    assert not unseen & seen
    assert not runs(unseen, 6) & runs(seen, 6), "not even most of a sentence"


def test_the_unseen_layouts_are_nobody_elses() -> None:
    others = {layout for pool in POOLS if pool != "unseen" for layout in LAYOUTS[pool]}
    assert not set(LAYOUTS["unseen"]) & others
    assert set(LAYOUTS) == set(_DISTRACTORS) == set(PHRASES) == set(POOLS)


@few
@given(seeds)
def test_pre_training_text_holds_no_unseen_wording(seed: int) -> None:
    text = block_text(document(7, seed))
    marks = ("Notes of the watch about", "To whom it concerns", "on the idle counter", "by our count")
    assert not any(mark in text for mark in marks)
    long = {w for w in wordings("unseen") if len(w) >= 6}
    shown = re.sub(r"\b\d+m?\b", "0", text.lower())
    assert not long & runs({words(shown)}, 6)


@pytest.mark.parametrize("pool", POOLS)
@few
@given(seed=seeds)
def test_a_wording_shows_its_fact_and_no_open_slot(pool: str, seed: int) -> None:
    rng = random.Random(seed)
    facts = random_facts(rng)
    slots = {"bead": "dm-4kx1", "pid": 4711, "k": 7}
    for kind, value in vars(facts).items():
        text = fact_phrase(kind, value, pool, rng, slots)
        plain = text.replace("@{u}", "")  # git's word for a branch's other end
        assert text and not re.search(r"\{\w+\}|[\[|]\w+\|", plain), text
        if kind == "idle":  # the pool talk spells small numbers
            shown = {str(value), *([number_words(value)["word"]] if pool == "talk" else [])}
            assert shown & set(re.findall(r"[a-z]+|\d+", text.lower())), text


@few
@given(seeds)
def test_a_choice_of_words_is_one_of_those_there_are(seed: int) -> None:
    template = "[a|b|] and [c|d] [e| [f|g]]"
    assert expand(template, random.Random(seed)) in set(expansions(template))


@role
@pytest.mark.parametrize("pool", POOLS)
def test_a_report_names_its_agent(role: str, pool: str) -> None:
    rng = random.Random(pool)
    for situation in situations(role, 30, rng):
        assert situation.target in role_report(role, situation, pool, rng)


# -- what pre-training may not know ------------------------------------------------------------------


def block_text(found: Conversation) -> str:
    blocks = [b for m in found.messages for b in m.blocks]
    said = [str(b.get("text") or b.get("content") or b.get("input")) for b in blocks]
    return "\n".join([found.system, found.prime, *said])


@pytest.mark.parametrize("index", range(0, INVENTED_ROLES, 5))
def test_an_invented_role_is_no_role_of_a_town(index: int) -> None:
    invented = invented_role(index)
    real = {action for policy in POLICIES.values() for action in policy.actions}
    assert invented.policy.role not in ROLES
    assert not set(invented.policy.actions) & real
    assert invented.policy.role == invented_role(index).policy.role
    for action in invented.policy.actions:
        command = invented.command(action, "demo/polecats/nux", Facts())
        assert action in command and not command.startswith(("gt ", "bd "))


def test_invented_roles_differ() -> None:
    policies = [invented_role(i).policy for i in range(INVENTED_ROLES)]
    assert len({p.role for p in policies}) == INVENTED_ROLES
    facts = [random_facts(random.Random(i)) for i in range(60)]
    assert len({tuple(p.decide(f) for f in facts) for p in policies}) > INVENTED_ROLES - 5


@few
@given(seeds)
def test_no_document_decides_as_a_role_that_can_be_tuned(index: int) -> None:
    found = document(3, index)
    real = {action for policy in POLICIES.values() for action in policy.actions}
    for message in found.messages:
        for block in message.blocks:
            text = str(block.get("text", ""))
            if "Allowed: " in text:
                assert not real & set(text.partition("Allowed: ")[2].partition("\n")[0].split(", "))
            if message.role == "assistant":
                chosen = re.findall(r'"action": "([^"]+)"', text)
                assert not real & set(chosen)
                command = str((block.get("input") or {}).get("command", ""))
                assert not command.startswith(("gt ", "bd ")) or command == "gt hook"
    assert not re.search(r"You are (the )?(deacon|witness|boot)\b", found.system)


@few
@given(seeds)
def test_a_document_is_always_the_same(index: int) -> None:
    assert document(3, index) == document(3, index)
    assert document(3, index) != document(4, index)


# -- the teacher ------------------------------------------------------------------------------------


@role
@few
@given(seed=seeds, count=st.integers(0, 5))
def test_the_teacher_goes_by_the_request_alone(role: str, seed: int, count: int) -> None:
    found = situations(role, count, random.Random(seed))
    teacher, steps = Teacher(role, found), patrol_steps(role, found)
    messages: list[dict[str, object]] = [{"role": "user", "content": "go"}]
    for step in steps:
        body = {"messages": messages, "tools": [{"name": "Bash"}]}
        blocks = teacher.blocks(body)
        assert [b.get("text") or b["input"]["command"] for b in blocks] == [
            x for x in (step.text, step.command) if x
        ]
        messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": "ok"}]
    assert teacher.blocks({"messages": messages, "tools": [{}]})[0]["text"] == steps[-1].text
    title = teacher.blocks({"messages": messages})
    assert "title" in title[0]["text"] and "tool_use" not in {b["type"] for b in title}
    assert [report_of(s.command) for s in steps if report_of(s.command)] == [
        f"{i + 1:02}" for i in range(count)
    ]


@role
def test_a_decision_is_written_as_the_suite_wants_it(role: str) -> None:
    import json

    for situation in situations(role, 12, random.Random(1)):
        answer = json.loads(decision_text(role, situation))
        schema = decision_schema(POLICIES[role].actions)
        assert list(answer) == schema["required"] == ["reason", "action"]
        assert answer["action"] in schema["properties"]["action"]["enum"]
        assert len(answer["reason"]) <= schema["properties"]["reason"]["maxLength"]


def test_evidence_is_long_enough_for_the_overlap_to_be_seen() -> None:
    """A case of fewer words than the overlap looks for would never be found in an example."""
    for role in POLICIES:
        asked = [c.evidence for c in held_out_cases(role)]
        assert sum(any(shingles(text)) for text in asked) >= 0.95 * len(asked), OVERLAP_WORDS
    assert "Allowed: a, b\n" in decision_question("x", ["a", "b"])


def test_written_sessions_begin_as_a_recorded_one_did(town: Town, tmp_path: Path) -> None:
    from gt_plugins.sim.sessions import frame_of, write_sessions
    from gt_plugins.transcripts.claude import read

    recorded = write_sessions(town, tmp_path / "first", "deacon", 4)[0]
    frame = frame_of(recorded.path)
    assert recorded.session_id in frame.prime and "deacon" in frame.prompt and "hook" in frame.hook
    (written,) = write_sessions(town, tmp_path / "second", "deacon", 4, seed="other", frames=[frame])
    own = frame_of(written.path)
    assert own.session_id == written.session_id != frame.session_id
    assert own.prime == frame.prime.replace(frame.session_id, written.session_id)
    assert (own.prompt, own.hook) == (frame.prompt, frame.hook)
    assert read(written.path).turns != read(recorded.path).turns
