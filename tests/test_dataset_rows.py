"""A line of a dataset: the form that others read, and the same conversation when we read it back."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from dataset_helpers import PATROL, build, every, session, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_helpers import (
    FAMILIES,
    SMALL,
    answered,
    assistant,
    called,
    conversation,
    conversations,
    said,
    steps,
    user,
)

from gt_plugins.corpus.dataset import Example, Ids, Length, Outcomes, examples_of, from_row, to_row
from gt_plugins.corpus.dataset.lengths import fitted
from gt_plugins.errors import FinetuneError
from gt_plugins.rendering.conversation import Conversation, call_json
from gt_plugins.roles.profile import load_profile


def example_of(found: Conversation, silent: tuple[int, ...] = (), kind: str = "chat") -> Example:
    return Example("s1/x", kind, "deacon", "s1", ("dm-1",), "good", False, ("m1",), found, silent)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(conversations, st.data())
def test_what_is_read_back_renders_the_same(family: str, found: Conversation, data: Any) -> None:
    replies = [i for i, m in enumerate(found.messages) if m.role == "assistant"]
    silent = tuple(sorted(data.draw(st.sets(st.sampled_from(replies)))))
    written = json.loads(json.dumps(to_row(example_of(found, silent)), ensure_ascii=False))
    again = from_row(written)
    renderer = FAMILIES[family]()
    assert again.silent == silent
    assert renderer.rows(again.conversation, SMALL, again.silent) == renderer.rows(found, SMALL, silent)
    assert to_row(again) == written


def test_a_row_is_in_the_common_form() -> None:
    chat, asked = map(to_row, every(build(stored(session(*PATROL, beads=("dm-7",))))))
    assert [m["role"] for m in chat["messages"][:5]] == ["system", "user", "assistant", "tool", "assistant"]
    call, result = chat["messages"][2]["tool_calls"][0], chat["messages"][3]
    assert call["type"] == "function" and call["function"] == {
        "name": "Bash",
        "arguments": {"command": "gt hook"},
    }
    assert result["tool_call_id"] == call["id"] and result["name"] == "Bash"
    assert [t["function"]["name"] for t in chat["tools"]] == ["Bash"] and asked["tools"] == []
    assert chat["tools"][0]["function"]["parameters"]["required"] == ["command"]
    assert chat["beads"] == ["dm-7"] and chat["outcome"] == "good" and chat["started"]


def test_spans_say_what_is_taught_and_what_it_is() -> None:
    chat, asked = map(to_row, every(build(stored(session(*PATROL[:-1], ("", "rm -rf x", "no"), PATROL[-1])))))
    taught = [(s["type"], told(chat, s)) for s in chat["supervision"]]
    assert ("text", "It waits. So I nudge it.") in taught
    assert taught[-1] == ("final", "Patrol done.") and "rm -rf" not in str(taught)
    assert [m.get("weight") for m in chat["messages"] if m["role"] == "assistant"] == [None] * 5 + [0, None]
    parts = [(s["type"], told(asked, s)) for s in asked["supervision"]]
    assert parts[:2] == [("reason", '"It waits."'), ("action", '"nudge"')]


def told(row: dict[str, Any], span: dict[str, Any]) -> str:
    """The characters that a span names."""
    message = row["messages"][span["message"]]
    if span["part"] == "content":
        return message["content"][span["start"] : span["end"]]
    function = message["tool_calls"][span["index"]]["function"]
    return call_json({"name": function["name"], "input": function["arguments"]})[span["start"] : span["end"]]


def test_a_failed_call_says_so_to_others_too() -> None:
    failed = conversation(
        [assistant(called("ls")), user(answered("no", is_error=True)), assistant(said("?"))]
    )
    row = to_row(example_of(failed))
    assert row["messages"][2]["content"] == "Error: no"
    assert from_row(row).conversation.messages == failed.messages


# -- ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "silent"),
    [
        ("gt nudge nux 'see dm-4kx1'", ()),
        ("gt nudge nux 'see dm-9zz9'", (3,)),
        ("gt nudge nux 'see dm-a-well-known word and re-run-2'", ()),
        ("git show 9f86d081884c", ()),
        ("git show 9f86d081884d", (3,)),
        ("bd show 89be14c8-58c2-413d-8b4f-466d9ebe7126", (3,)),
        ("bd show my-rig-wisp-a1", (3,)),
    ],
)
def test_a_reply_with_an_id_from_nowhere_is_not_taught(command: str, silent: tuple[int, ...]) -> None:
    found = conversation(
        [
            user(said("Go.")),
            assistant(called("bd list", "1")),
            user(answered("dm-4kx1 open, commit 9f86d081884c", "1")),
            assistant(called(command, "2")),
            user(answered("done", "2")),
            assistant(said("All of it is done.")),
        ]
    )
    ids = Ids({"dm-zzz", "my-rig-4kx", "my-rig-mol-1a"})
    drops: Counter[str] = Counter()
    assert tuple(ids.unfounded(example_of(found), (), drops)) == silent
    assert drops == ({"turn: an id that is not in its context": 1} if silent else {})


def test_a_decision_whose_reason_names_an_id_from_nowhere_is_dropped() -> None:
    steps = (
        ("", "cat reports/01.txt", "nux waits"),
        ("dm-9zz waits for review.", "gt nudge demo/polecats/nux 'go'", "ok"),
    )
    built = build(stored(session(*steps, beads=("dm-1",))))
    assert built.drops["decision: an id that is not in its evidence"] == 1
    assert [e.kind for e in every(built)] == ["chat"]


# -- outcomes ----------------------------------------------------------------------------------------


def test_in_a_patrol_each_decision_is_judged_by_itself() -> None:
    labels = {"toolu_s1_2": "good", "toolu_s1_4": "bad"}
    wanted = Outcomes(("good",), lambda _: labels)
    built = build(stored(session(*PATROL), "unknown"), outcomes=wanted)
    chat, asked = every(built)
    assert asked.actions == ("nudge",) and asked.outcome == "good" == chat.outcome
    taught = [i for i, _ in chat.taught()]
    assert taught == [1, 3, 5, 11], "looking at what led to the bad decision is not taught either"
    assert built.drops == {"decision: outcome bad": 1, "turn: outcome bad": 1}


def test_a_session_that_is_bad_as_a_whole_teaches_nothing() -> None:
    profile = load_profile("deacon")
    found = list(examples_of(stored(session(*PATROL), "bad"), profile, "", Counter()))
    assert {e.outcome for e in found} == {"bad"}


# -- lengths -----------------------------------------------------------------------------------------


def fit(policy: str, tokens: int, found: Example) -> tuple[list[Example], dict[str, int]]:
    drops: Any = Counter()
    count = lambda c: sum(len(str(m.blocks)) for m in c.messages)  # noqa: E731
    return list(fitted([found], Length(policy, tokens, count), drops)), dict(drops)


def test_what_is_too_long_is_kept_cut_dropped_or_an_error() -> None:
    long = replace(example_of(steps(6)), silent=(1, 3))
    assert fit("window", 10, long) == ([long], {})
    assert fit("drop", 10, long) == ([], {"chat: longer than 10 tokens": 1})
    assert fit("drop", 10**6, long) == ([long], {})
    with pytest.raises(FinetuneError, match=r"s1/x: \d+ tokens, more than 10; raise --max-tokens"):
        fit("error", 10, long)
    cut, drops = fit("trim", 2500, long)
    assert drops == {"chat: trimmed to 2500 tokens": 1}
    messages = cut[0].conversation.messages
    assert messages == long.conversation.messages[: len(messages)] and messages[-1].role == "assistant"
    assert 5 < len(messages) < len(long.conversation.messages) and cut[0].silent == (1, 3)
    assert fit("trim", 300, long) == ([], {"chat: longer than 300 tokens": 1}), "only what is not taught fits"


def test_a_trimmed_row_of_decisions_loses_questions_and_their_actions() -> None:
    asked = every(build(stored(session(*PATROL))))[1]
    size = len(str(asked.conversation.messages[:2]))
    cut, drops = fit("trim", size, asked)
    assert cut[0].actions == ("nudge",) and len(cut[0].conversation.messages) == 2
    assert drops == {f"decision: trimmed to {size} tokens": 1}


def test_what_no_span_is_in_carries_no_loss() -> None:
    row = json.loads(json.dumps(to_row(every(build(stored(session(*PATROL))))[0])))
    replies = [message for message in row["messages"] if message["role"] == "assistant"]
    assert from_row(row).silent == () and len(replies) > 1
    assert len(from_row(row | {"supervision": []}).silent) == len(replies)
    first = [span for span in row["supervision"] if span["message"] == row["supervision"][0]["message"]]
    assert len(from_row(row | {"supervision": first}).silent) == len(replies) - 1
