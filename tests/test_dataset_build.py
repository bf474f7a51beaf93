"""From captured sessions to examples: what is taught, on what evidence, and what is left out and counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataset_helpers import NUDGE, PATROL, build, every, played, session, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_helpers import answered, assistant, called, said, user

from gt_plugins.corpus import dataset
from gt_plugins.corpus.assemble import build_dataset, slimmer, suite_texts
from gt_plugins.corpus.dataset import (
    OVERLAP_WORDS,
    Outcomes,
    Overlap,
    Verdict,
    decisions,
    shingles,
    stated_reason,
)
from gt_plugins.corpus.dataset.outcomes import DEFAULT
from gt_plugins.corpus.store import Store
from gt_plugins.errors import UserError
from gt_plugins.evaluation.builtin import held_out_cases
from gt_plugins.evaluation.suites import decision_body
from gt_plugins.prime.slim import slim
from gt_plugins.rendering.conversation import Conversation, Message, from_request, prime_in, prime_of
from gt_plugins.rendering.render import TINY, Renderer
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.situations import POLICIES
from gt_plugins.sim.teacher import decision_text
from gt_plugins.town.root import Town
from gt_plugins.training.base import SHIPPED

DEACON = load_profile("deacon")


def made(*found: Any, **options: Any) -> tuple[list[dataset.Example], Counter[str], str]:
    """Examples of both sides, drops, prime."""
    built = build(*found, **options)
    return every(built), built.drops, built.prime


def decided(*messages: Message) -> list[tuple[str, str, str]]:
    found = Conversation("", (), "", (user(said("go")), *messages))
    return [(d.action, d.reason, d.evidence) for d in decisions(found, DEACON)]


# -- decisions --------------------------------------------------------------------------------------


def test_evidence_is_what_came_back_since_the_decision_before() -> None:
    assert decided(
        assistant(called("gt hook", "1")),
        user(answered("hook empty", "1")),
        assistant(called("cat reports/01.txt", "2")),
        user(answered("nux idles", "2")),
        assistant(said("It idles."), called("gt nudge nux 'go'", "3")),
        user(answered("Nudged", "3")),
        assistant(called("cat reports/02.txt", "4")),
        user(answered("slit is dead", "4")),
        assistant(said("It is dead."), called("gt warrant file slit --reason 'dead'", "5")),
    ) == [("nudge", "It idles.", "hook empty\n\nnux idles"), ("file-warrant", "It is dead.", "slit is dead")]


def test_a_decisions_own_result_is_no_evidence_even_if_it_comes_late() -> None:
    found = decided(
        assistant(called("cat a", "1")),
        user(answered("a", "1")),
        assistant(called("gt nudge nux 'go'", "2"), called("cat b", "3")),
        user(answered("Nudged", "2"), answered("b", "3")),
        assistant(called("gt nudge slit 'go'", "4")),
    )
    assert [evidence for _, _, evidence in found] == ["a", "b"]


def test_two_decisions_at_once_have_one_evidence() -> None:
    both = assistant(called("gt nudge nux 'go'", "2"), called("gt nudge slit 'go'", "3"))
    found = decided(assistant(called("cat a", "1")), user(answered("a", "1")), both)
    assert [evidence for _, _, evidence in found] == ["a", ""]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", ""),
        ("It idles. So I nudge it.", "It idles."),
        ("It idles for 3.5 hours! Nudge.", "It idles for 3.5 hours!"),
        ("two\n lines", "two lines"),
        ('{"reason": "idle 50m. Yes.", "action": "nudge"}', "idle 50m. Yes."),
        ('{"reason": 7}', '{"reason": 7}'),
        ("[1]", "[1]"),
        ("x" * 300, "x" * 160),
    ],
)
def test_the_reason_is_the_sessions_own(words: str, reason: str) -> None:
    assert stated_reason(words) == reason


# -- examples ---------------------------------------------------------------------------------------


def test_a_session_becomes_a_chat_and_its_decisions() -> None:
    examples, drops, prime = made(stored(session(*PATROL)))
    assert [(e.id, e.kind, e.actions) for e in examples] == [
        ("s1/chat", "chat", ()),
        ("s1/decisions", "decision", ("nudge", "create-cleanup-wisp")),
    ]
    chat, asked = (e.conversation for e in examples)
    assert chat.system == asked.system == DEACON.system and chat.prime == asked.prime == prime == "slim of 29"
    assert [t.name for t in chat.tools] == ["Bash"] and asked.tools == ()
    assert [json.loads(m.blocks[0]["text"]) for m in asked.messages if m.role == "assistant"] == [
        {"reason": "It waits.", "action": "nudge"},
        {"reason": "slit is dead", "action": "create-cleanup-wisp"},
    ]
    first = asked.messages[0].blocks[0]["text"]
    assert first.startswith("Nothing on hook\n\nnux is idle") and "Nudged" not in str(asked.messages)
    assert not drops


def test_a_decision_is_asked_as_a_suite_asks_it() -> None:
    """The ids of a decision's question are those of the gate's request for such a case."""
    examples, _, _ = made(stored(session(*PATROL)), slim=lambda _: "You watch the town.")
    asked = next(e for e in examples if e.kind == "decision").conversation
    evidence = asked.messages[0].blocks[0]["text"].partition("\n\nAllowed: ")[0]
    case = replace(held_out_cases("deacon")[0], evidence=evidence)
    live = from_request(decision_body("m", DEACON.system, "You watch the town.", case))
    renderer = Renderer.from_folder(SHIPPED)
    row = renderer.rows(asked, TINY)[0]
    assert row.ids[: row.spans[0][0]] == renderer.request(live, TINY).ids


def test_turns_outside_the_fence_are_shown_and_never_taught() -> None:
    steps = (
        ("", "gt hook", "empty"),
        ("", "rm -rf build", ""),
        ("", "gt nudge --all 'x'", "?"),
        ("Done.", "", ""),
    )
    examples, drops, _ = made(stored(session(*steps)))
    assert drops["turn: outside the fence"] == 2
    chat = examples[0]
    assert chat.silent == (3, 5) and len(chat.conversation.messages) == 8
    row = Renderer.from_folder(SHIPPED).rows(chat.conversation, TINY, chat.silent)[0]
    assert len(row.spans) == 2


def test_a_tool_that_the_role_has_not_is_outside_the_fence() -> None:
    odd = session(("", "gt hook", "empty"), ("Done.", "", ""))
    calls = ({"type": "tool_use", "id": "1", "name": "Write", "input": {"path": "x"}},)
    write = replace(odd.turns[2], id="w", blocks=calls)
    asked = replace(odd.turns[1], id="q")
    examples, drops, _ = made(stored(replace(odd, turns=(*odd.turns[:2], write, asked, *odd.turns[2:]))))
    assert drops == {"turn: outside the fence": 1} and examples[0].silent == (1,)
    last, _, _ = made(stored(replace(odd, turns=(*odd.turns, asked, write))))
    assert last[0].silent == () and last[0].conversation.messages[-1].blocks[0]["text"] == "Done."


def test_every_drop_has_a_reason() -> None:
    silent = session(("", "rm x", ""), name="s2")
    mute = replace(session(name="s3"), turns=session(name="s3").turns[:2])
    blind = session(NUDGE, name="s4")
    again = replace(session(*PATROL), id="s5")
    examples, drops, _ = made(*map(stored, (session(*PATROL), silent, mute, blind, again)))
    assert drops == {
        "turn: outside the fence": 1,
        "chat: nothing in it that may be taught": 1,
        "session: no reply in it": 1,
        "decision: no evidence before it": 1,
        "chat: same as another": 1,
        "decision: same as another": 2,
    }
    assert [e.id for e in examples] == ["s1/chat", "s1/decisions", "s4/chat"]


@pytest.mark.parametrize("outcome", ["bad", "rejected", "reopened", "abandoned"])
def test_what_went_badly_does_not_train(outcome: str) -> None:
    examples, drops, _ = made(stored(session(*PATROL), outcome), outcomes=Outcomes(DEFAULT))
    assert examples == [] and drops == {f"chat: outcome {outcome}": 1, f"decision: outcome {outcome}": 2}


def test_what_our_own_models_did_does_not_train() -> None:
    examples, drops, _ = made(stored(session(*PATROL), tuned=True))
    assert examples == [] and drops["chat: session of a tuned model"] == 1
    kept, _, _ = made(stored(session(*PATROL), tuned=True), tuned=True)
    assert len(kept) == 2


def test_a_third_partys_filter_drops_with_its_own_words() -> None:
    def no_slit(example: dataset.Example) -> Verdict | None:
        return Verdict("slit" not in example.text(), "about slit")

    examples, drops, _ = made(stored(session(*PATROL)), filters=no_slit)
    assert [e.actions for e in examples] == [("nudge",)]
    assert drops == {"chat: about slit": 1, "decision: about slit": 1}
    _, drops, _ = made(stored(session(*PATROL)), filters=lambda _: Verdict(False))
    assert drops == {"chat: a filter": 1, "decision: a filter": 2}


def test_the_newest_prime_is_the_datasets() -> None:
    early = session(*PATROL, prime="# Deacon: early", started="2026-03-01T08:00:00Z")
    late = session(NUDGE, prime="# Deacon: late", name="s2", started="2026-03-02T08:00:00Z")
    none = session(NUDGE, prime="", name="s3", started="2026-03-03T08:00:00Z")
    for order in ((early, late, none), (none, late, early)):
        assert made(*map(stored, order), slim=lambda stock: stock)[2] == "# Deacon: late"


# -- overlap ----------------------------------------------------------------------------------------

words = st.lists(st.sampled_from("alpha beta gamma delta one two 7".split()), max_size=40)


@settings(max_examples=50, deadline=None)
@given(words, st.integers(0, 30))
def test_shingles_are_every_stretch_of_that_many_words(found: list[str], start: int) -> None:
    text = " ".join(found)
    assert len(set(shingles(text))) <= max(0, len(found) - OVERLAP_WORDS + 1)
    stretch = found[start : start + OVERLAP_WORDS]
    other = f"before: {', '.join(w.upper() for w in stretch)}! after"
    shared = set(shingles(other)) & set(shingles(text))
    assert bool(shared) or len(stretch) < OVERLAP_WORDS


def test_an_example_that_shares_words_with_a_suite_is_dropped_and_counted() -> None:
    evidence = held_out_cases("deacon")[0].evidence
    assert len(evidence.split()) > OVERLAP_WORDS
    planted = (("", "cat reports/03.txt", f"Yesterday:\n{evidence.upper()}\nand so on"), NUDGE)
    clean, none, _ = made(stored(session(*PATROL)), overlap=Overlap(suite_texts()))
    assert len(clean) == 2 and not none
    examples, drops, _ = made(stored(session(*PATROL, *planted)), overlap=Overlap(suite_texts()))
    reason = f"shares {OVERLAP_WORDS} words with a suite"
    assert drops == {f"chat: {reason}": 1, f"decision: {reason}": 1}
    assert [e.actions for e in examples] == [("nudge", "create-cleanup-wisp")]


def test_every_suite_that_is_registered_counts() -> None:
    texts = suite_texts()
    assert {f"{role}-decisions" for role in POLICIES} <= set(texts)
    case = held_out_cases("boot")[0].evidence
    planted = (("", "cat reports/03.txt", case), NUDGE)
    built = build(stored(session(*PATROL, *planted)), overlap=Overlap(texts))
    assert built.facts["overlap"]["found"] == {"boot-decisions": 2}


def test_a_short_case_counts_as_a_whole() -> None:
    short = "nux idles for forty minutes and answers nothing"
    overlap = Overlap({"mine": [short, "too short to count"]})
    assert overlap.find(f"they say: {short.upper()}!") == "mine"
    assert overlap.find(short.rpartition(" ")[0]) == "" == overlap.find("too short to count")


# -- from a corpus ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", POLICIES)
def test_the_teachers_sessions_come_back_with_their_role(town: Town, tmp_path: Path, role: str) -> None:
    found = played(town, tmp_path / "projects", role)
    with Store(town) as store:
        kept = {s.session.id: s.session for s in store.sessions(role)}
        assert set(kept) == {w.session_id for w in found}
        others = [s for other in POLICIES if other != role for s in store.sessions(other)]
        assert others == []
    for written in found:
        read = kept[written.session_id]
        assert read.role == role and read.models == ("sim-teacher-1",)
        asked = [
            json.loads(b["text"])["action"]
            for t in read.turns
            for b in t.blocks
            if b.get("text", "")[:1] == "{"
        ]
        assert asked == [s.action for s in written.situations]
        assert not [k for k in read.counts if not k.startswith("line:")], read.counts


def test_a_dataset_of_the_teachers_sessions(town: Town, tmp_path: Path) -> None:
    found = played(town, tmp_path / "projects", decisions=20)
    data = build_dataset(town, "deacon", tmp_path / "data")
    assert len(data.card["sessions"]) == 5 and data.card["models"] == ["sim-teacher-1"]
    examples = (*data.train, *data.heldout)
    assert (
        sum(len(e.actions) for e in examples) + data.card["drops"].get("decision: same as another", 0) >= 18
    )
    replies = [m for e in examples for m in e.conversation.messages if m.role == "assistant"]
    said_there = {b["text"] for m in replies for b in m.blocks if b["type"] == "text"}
    lost = {decision_text("deacon", s) for w in found for s in w.situations} - said_there
    assert not lost or data.card["drops"]
    for example in examples:
        said, silent = example.conversation.messages, example.silent
        failed = [i for i in silent if said[i + 1].blocks[0]["is_error"]]
        assert not silent or failed[-1] == silent[-1], "only what led to a command that failed"
    assert data.prime and "<gt-prime" not in data.prime and "patrol" in data.prime.lower()
    with Store(town) as store:
        stock = [prime_of(s.session.turns) for s in store.sessions("deacon")]
    assert data.prime in {prime_in(slim(t, "deacon", tokens=240, rules=DEACON.rules).text) for t in stock}


def test_a_prime_is_made_small_without_its_tags(town: Town) -> None:
    stock = "# Deacon Context\n\nrole:deacon\n" + "Much to read.\n" * 200
    small = slimmer(town, DEACON, "tiny")(stock)
    assert small and "gt-prime" not in small
    assert slimmer(town, DEACON, "/models/other")(stock) != ""


def test_there_must_be_a_corpus(town: Town, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.db: no corpus yet; run `gt corpus sweep` first"):
        build_dataset(town, "deacon", tmp_path / "data")
    assert not (tmp_path / "data").exists() and not town.corpus_dir.exists()
