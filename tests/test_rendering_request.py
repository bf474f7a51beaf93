"""A training example's prefix is the live request at that point, id for id; nothing poses as structure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_helpers import (
    FAMILIES,
    MARKERS,
    SMALL,
    answered,
    assistant,
    called,
    chatml,
    conversation,
    conversations,
    mistral,
    said,
    steps,
    texts,
    user,
)

from gt_plugins.rendering.conversation import Conversation, Message
from gt_plugins.rendering.render import TINY, Budget, Renderer

LARGE = Budget(request=100_000, result=50_000, prime=0, reply=64)
few = settings(max_examples=25, deadline=None)
family = pytest.mark.parametrize("family", FAMILIES)


def replies(found: Conversation) -> list[int]:
    return [i for i, m in enumerate(found.messages) if m.role == "assistant"]


def prefixes_are_requests(renderer: Renderer, found: Conversation, budget: Budget) -> None:
    rows = renderer.rows(found, budget)
    spans = [(row, start, end) for row in rows for start, end in row.spans]
    assert len(spans) == len(replies(found)), "each reply is taught once"
    for reply, (row, start, end) in zip(replies(found), spans, strict=True):
        asked = renderer.request(found.upto(reply), budget)
        assert row.ids[:start] == asked.ids
        assert row.first_message == asked.first_message
        taught = renderer.tokenizer.decode(list(row.ids[start:end]), skip_special_tokens=False)
        assert (
            taught.strip()
            == renderer.reply_text(found.messages[reply].blocks).strip() + renderer.end_tokens[0]
        )
        assert row.ids[end - 1] in renderer.end_ids


@family
@few
@given(conversations)
def test_an_examples_prefix_is_the_request(family: str, found: Conversation) -> None:
    prefixes_are_requests(FAMILIES[family](), found, LARGE)


@family
@few
@given(conversations)
def test_it_is_so_in_a_window_that_moves(family: str, found: Conversation) -> None:
    prefixes_are_requests(FAMILIES[family](), found, SMALL)


@family
def test_it_is_so_where_one_turn_alone_is_too_long(family: str) -> None:
    many = [answered(" ".join(f"r{i}.{n}" for n in range(80)), f"t{i}") for i in range(9)]
    found = steps(3)
    messages = [*found.messages[:-1], assistant(called("ls")), user(*many), assistant(said("Done."))]
    whole = conversation(messages)
    renderer, budget = FAMILIES[family](), Budget(800, 128, 0, 64)
    prefixes_are_requests(renderer, whole, budget)
    last = renderer.request(whole.upto(len(messages) - 1), budget)
    assert len(last.ids) <= 800 and last.cut_results == 9


@family
def test_a_long_session_keeps_its_beginning_until_the_budget_is_passed(family: str) -> None:
    renderer, found = FAMILIES[family](), steps(40, 12)
    budget = Budget(600, 128, 0, 64)
    moves = 0
    before = renderer.request(found.upto(1), budget)
    for reply in replies(found)[1:]:
        now = renderer.request(found.upto(reply), budget)
        assert len(now.ids) <= budget.request
        if now.first_message == before.first_message:
            assert now.ids[: len(before.ids)] == before.ids
        else:
            moves += 1
            assert now.first_message > before.first_message and len(now.ids) <= budget.request // 2
        before = now
    assert 2 <= moves <= 20, "a window that moves with each request would share no prefix"
    assert before == renderer.request(found.upto(replies(found)[-1]), budget)


@few
@given(conversations)
def test_never_over_budget_where_the_last_turn_fits(found: Conversation) -> None:
    renderer = chatml()
    for end in replies(found):
        part = found.upto(end)
        alone = Conversation(part.system, part.tools, part.prime, part.messages[-1:])
        least = len(renderer.request(alone, Budget(1, 16, 0, 1)).ids)
        asked = renderer.request(part, SMALL)
        assert len(asked.ids) <= max(SMALL.request, least)
        assert asked == renderer.request(part, SMALL)


def test_results_are_cut_in_the_middle_and_counted() -> None:
    text = " ".join(f"line{n}" for n in range(500))
    found = conversation([user(said("go")), assistant(called("cat log")), user(answered(text))])
    asked = chatml().request(found, TINY)
    assert asked.cut_results == 1 and asked.first_message == 0
    assert "line0 line1" in asked.text and "line498 line499" in asked.text and "line250 " not in asked.text
    assert "characters left out" in asked.text
    shown = asked.text.split("<tool_response>\n")[1].split("\n</tool_response>")[0]
    assert chatml().count(shown) <= TINY.result + 40, "and the note"


@pytest.mark.parametrize("size", [319, 320, 321])
def test_a_result_is_cut_only_above_its_limit(size: int) -> None:
    renderer = chatml()
    text = renderer.tokenizer.decode(renderer.encode("deacon " * 2000)[:size])
    assert renderer.count(text) == size
    found = conversation([user(said("go")), assistant(called("x")), user(answered(text))])
    assert renderer.request(found, TINY).cut_results == (size > 320)


def structure(renderer: Renderer, found: Conversation) -> tuple[list[int], int]:
    """The ids of special tokens in a request, in order, and how many results its text shows."""
    special = {
        renderer.tokenizer.token_to_id(t.content)
        for t in renderer.tokenizer.get_added_tokens_decoder().values()
    }
    asked = renderer.request(found, LARGE)
    return [i for i in asked.ids if i in special], asked.text.count("</tool_response>")


def harmless(found: Conversation) -> Conversation:
    """The same conversation with words in place of all that is said in it."""

    def plain(message: Message) -> Message:
        changed = []
        for block in message.blocks:
            keys = {"text": "x", "content": "x", "input": {"command": "x"}}
            changed.append({k: keys.get(k, v) for k, v in block.items()})
        return Message(message.role, tuple(changed))

    return Conversation("x", found.tools, "x", tuple(plain(m) for m in found.messages))


@family
@few
@given(conversations)
def test_what_is_said_never_makes_structure(family: str, found: Conversation) -> None:
    renderer = FAMILIES[family]()
    assert structure(renderer, found) == structure(renderer, harmless(found))


@family
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_in_a_tools_output_stays_text(family: str, marker: str) -> None:
    renderer = FAMILIES[family]()
    hostile = conversation([user(said("go")), assistant(called("cat x")), user(answered(f"a {marker} b"))])
    assert structure(renderer, hostile) == structure(renderer, harmless(hostile))
    if family == "mistral":
        assert renderer.request(hostile, LARGE).text.count("[/INST]") == 2


@few
@given(texts)
def test_plain_text_has_no_marker_and_is_plain(text: str) -> None:
    own = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    for renderer, markers in ((chatml(), ("<|im_start|>", "<|im_end|>")), (mistral(), ("[/INST]", "</s>"))):
        made = renderer.plain(text)
        assert renderer.plain(made) == made
        assert not any(marker in made for marker in (*own, *markers))


def test_half_a_utf16_pair_is_rendered() -> None:
    found = conversation(
        [user(said("fox \ud83e ends here")), assistant(called("echo \udd8a"))], prime="\ud800"
    )
    assert "fox \ufffd ends here" in chatml().request(found, TINY).text
    assert chatml().rows(found, TINY)


def test_silent_turns_are_shown_and_not_taught() -> None:
    found = steps(3)
    all_of_it = chatml().rows(found, LARGE)[0]
    some = chatml().rows(found, LARGE, silent=(1, 5))[0]
    assert some.ids == all_of_it.ids
    assert some.spans == tuple(s for i, s in enumerate(all_of_it.spans) if i not in (0, 2))
    assert chatml().rows(found, LARGE, silent=replies(found)) == []


def test_a_long_session_is_rendered_in_reasonable_time() -> None:
    import time

    found = steps(150, 30)
    began = time.process_time()
    rows = chatml().rows(found, TINY)
    assert sum(len(r.spans) for r in rows) == 151
    assert time.process_time() - began < 20


@family
def test_the_alternating_template_is_rendered_as_its_family_has_it(family: str) -> None:
    found = conversation([user(said("one")), assistant(said("two")), user(said("three"))])
    text = FAMILIES[family]().request(found, LARGE).text
    system = "You are the deacon.\n\nTools: Bash(command)\n\nBe brief."
    expected = {
        "chatml": f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
        "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n",
        "mistral": f"<s>[INST] {system}\n\none[/INST] two</s>[INST] three[/INST]",
    }
    assert text == expected[family]


@few
@given(st.integers(0, 3), st.booleans())
def test_the_request_follows_from_what_was_said_alone(extra: int, tools: bool) -> None:
    found = steps(extra)
    made = Conversation(found.system, found.tools if tools else (), found.prime, found.messages)
    fresh = Renderer(chatml().tokenizer, chatml()._template_source, ("<|im_end|>",), 4096)
    assert fresh.request(made, SMALL) == chatml().request(made, SMALL)
