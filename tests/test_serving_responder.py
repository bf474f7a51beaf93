"""From a body to a reply with a random model: always in the grammar, always inside the fence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import BASH, make_base, make_model, make_tokenizer, request

from gt_plugins.errors import UserError
from gt_plugins.rendering.conversation import Conversation, Message
from gt_plugins.rendering.render import STANDARD, TINY, Renderer
from gt_plugins.roles.profile import AllowRule, load_profile
from gt_plugins.serving.fence import DROPPED_NOTE
from gt_plugins.serving.grammar import Grammars, Limits
from gt_plugins.serving.responder import (
    ModelResponder,
    Prepared,
    PromptTooLong,
    Reply,
    ScriptResponder,
    StagedResponder,
    TextPieces,
    role_conversation,
    seen_in,
)

DEACON = load_profile("deacon")
TITLE = {
    "format": {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "kind": {"enum": ["a", "b"]}},
            "required": ["title", "kind"],
            "additionalProperties": False,
        },
    }
}


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer.from_folder(make_base(tmp_path_factory.mktemp("responder") / "base", weights=False))


class FixedEngine:
    """Writes given text, whatever the grammar says; for what a sound engine would never do."""

    name = "fixed"

    def __init__(self, renderer: Renderer, text: str, *, end: bool = True) -> None:
        self.renderer, self.context = renderer, renderer.context
        self.tokens = renderer.encode(text) + ([min(renderer.end_ids)] if end else [])
        self.given = 0

    def generate(self, ids: Sequence[int], *, matcher: Any, max_tokens: int) -> Any:
        for token in self.tokens[:max_tokens]:
            self.given += 1
            yield token

    def score(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        return [0.0 for _ in continuations]


def random_engine(renderer: Renderer, seed: int) -> Any:
    from gt_plugins.serving.engines.transformers_engine import TransformersEngine

    return TransformersEngine(make_model(renderer.tokenizer.get_vocab_size(), seed), renderer)


@pytest.mark.parametrize("seed", range(20))
def test_random_weights_answer_in_schema_and_fence(renderer: Renderer, seed: int) -> None:
    responder = ModelResponder(random_engine(renderer, seed), DEACON, TINY)
    title = responder.respond(request(output_config=TITLE))
    value = json.loads(title.blocks[0]["text"])
    assert title.stop_reason == "end_turn" and list(value) == ["title", "kind"]
    assert value["kind"] in ("a", "b") and len(value["title"]) <= responder.limits.string

    forced = responder.respond(request(tools=[BASH], tool_choice={"type": "any"}))
    calls = [b for b in forced.blocks if b["type"] == "tool_use"]
    assert forced.stop_reason == "tool_use" and len(calls) == 1
    assert set(calls[0]) == {"type", "id", "name", "input"} and calls[0]["id"].startswith("toolu_")
    assert DEACON.allows(calls[0]["input"]["command"])

    free = responder.respond(request(tools=[BASH]))
    assert free.stop_reason in ("end_turn", "tool_use")
    assert all(b["type"] == "text" or DEACON.allows(b["input"]["command"]) for b in free.blocks)
    assert responder.refused == 0


def patrol(*results: str, decided: str = "") -> Conversation:
    """A conversation in which commands printed ``results``; ``decided`` is a command after the first."""
    messages = [Message("user", ({"type": "text", "text": "I am demo/boss. Begin."},))]
    for index, result in enumerate(results):
        ran = decided if decided and index == 1 else "cat reports/01.txt"
        messages.append(
            Message("assistant", ({"type": "tool_use", "name": "Bash", "input": {"command": ran}},))
        )
        messages.append(Message("user", ({"type": "tool_result", "content": result},)))
    return Conversation("", (), "role:deacon", tuple(messages))


def test_a_command_is_about_an_agent_in_its_evidence() -> None:
    seen = seen_in(patrol("Report on demo/polecats/nux-1.\nidle 5m"), DEACON)
    assert {"demo/polecats/nux-1", "demo/nux-1"} <= seen and "demo/boss" not in seen
    before = seen_in(patrol("of demo/old", "✓ done", decided="gt nudge demo/old 'go on'"), DEACON)
    assert {"demo/old", "demo/boss"} <= before, "nobody is named since, so whoever was named counts"
    since = seen_in(patrol("of demo/old", "✓", "of demo/new", decided="gt nudge demo/old 'go on'"), DEACON)
    assert "demo/new" in since and "demo/old" not in since


@pytest.mark.parametrize("seed", range(6))
def test_random_weights_nudge_nobody_whom_they_make_up(renderer: Renderer, seed: int) -> None:
    grammars = Grammars(renderer.tokenizer, renderer.end_ids)
    nudge = AllowRule("nudge", next(r.pattern for r in DEACON.allow if r.name == "nudge"))
    profile = replace(DEACON, allow=(nudge,))
    engine, seen = random_engine(renderer, seed), frozenset({"demo/polecats/nux", "demo/nux", "idle"})
    matcher = grammars.reply(profile, Limits(text=20, calls=1), must_call=True, seen=seen)
    made = engine.generate([5, 6, 7], matcher=matcher, max_tokens=400)
    text = renderer.tokenizer.decode(list(made)[:-1], skip_special_tokens=False)
    command = renderer.parse_reply(text)[-1]["input"]["command"]
    assert command.split()[2] in seen - {"idle"}


def test_streamed_pieces_are_the_reply_s_first_text(renderer: Renderer) -> None:
    for seed in range(4):
        responder = ModelResponder(random_engine(renderer, seed), DEACON, TINY)
        *pieces, reply = responder.stream(responder.prepare(request(tools=[BASH])), lambda: False)
        assert isinstance(reply, Reply)
        first = reply.blocks[0]["text"] if reply.blocks and reply.blocks[0]["type"] == "text" else ""
        assert first.startswith("".join(pieces)) and len(first) - len("".join(pieces)) <= 12


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Stuck, so nudge.\n<tool_call>\n{}\n</tool_call>\nmore", "Stuck, so nudge."),
        ("a <tool_cal b", "a <tool_cal b"),
        ("  spaced out  ", "spaced out"),
        ("größer — ✓ 日本", "größer — ✓ 日本"),
        ("<tool_call>x", ""),
        ("a <", "a"),
    ],
)
def test_text_pieces_hold_back_what_is_not_sure(text: str, pieces: str) -> None:
    tokenizer = make_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    stream = TextPieces(tokenizer)
    given = [stream.add(token) for token in tokenizer.encode(text).ids]
    assert "".join(given) == pieces and stream.text == text
    assert not any("\ufffd" in piece for piece in given)


def test_a_command_outside_the_fence_is_not_sent_even_if_the_engine_writes_it(renderer: Renderer) -> None:
    text = 'Cleaning.\n<tool_call>\n{"name": "Bash", "arguments": {"command": "rm -rf /"}}\n</tool_call>'
    responder = ModelResponder(FixedEngine(renderer, text), DEACON)
    reply = responder.respond(request(tools=[BASH]))
    assert [b["text"] for b in reply.blocks] == ["Cleaning.", DROPPED_NOTE]
    assert reply.stop_reason == "end_turn" and responder.refused == 1


def test_a_call_cut_off_by_max_tokens_is_left_out(renderer: Renderer) -> None:
    text = 'ok\n<tool_call>\n{"name": "Bash", "arguments": {"command": "gt hook"'
    responder = ModelResponder(FixedEngine(renderer, text, end=False), DEACON)
    reply = responder.respond(request(tools=[BASH]))
    assert reply.blocks == ({"type": "text", "text": "ok"},) and reply.stop_reason == "max_tokens"


def test_json_text_is_one_block_even_if_it_speaks_of_tool_calls(renderer: Renderer) -> None:
    text = '{"title": "x", "kind": "a"}'
    reply = ModelResponder(FixedEngine(renderer, text), DEACON).respond(request(output_config=TITLE))
    assert reply.blocks == ({"type": "text", "text": text},)


def test_max_tokens_is_respected_and_capped(renderer: Renderer) -> None:
    responder = ModelResponder(FixedEngine(renderer, "x " * 3000, end=False), DEACON, TINY)
    assert responder.respond(request(max_tokens=5)).output_tokens == 5
    assert responder.respond(request(max_tokens=32000)).output_tokens == responder.limits.longest
    assert responder.prepare(request(max_tokens=32000, tools=[BASH])).max_tokens <= renderer.context


def test_stopping_ends_the_engine_s_work(renderer: Renderer) -> None:
    engine = FixedEngine(renderer, "word " * 200)
    responder = ModelResponder(engine, DEACON, TINY)
    stream = responder.stream(responder.prepare(request()), lambda: engine.given > 4)
    assert not any(isinstance(item, Reply) for item in stream)
    assert engine.given <= 6


def test_a_turn_with_tools_is_seen_as_the_model_was_taught() -> None:
    body = request(
        system=[{"type": "text", "text": "You are the client's own prompt."}],
        tools=[BASH, {"name": "Write", "input_schema": {"required": ["path"]}}],
    )
    conversation = role_conversation(body, DEACON)
    assert conversation.system == DEACON.system
    assert [t.name for t in conversation.tools] == ["Bash"]
    title = role_conversation(request(system="Make a title."), DEACON)
    assert title.system == "Make a title." and title.tools == ()


def test_tools_that_the_role_has_not_leave_text_only(renderer: Renderer) -> None:
    text = '<tool_call>\n{"name": "Write", "arguments": {"path": "x"}}\n</tool_call>'
    responder = ModelResponder(FixedEngine(renderer, text), DEACON)
    body = request(tools=[{"name": "Write", "input_schema": {"required": ["path"]}}])
    assert responder.respond(body).blocks == ({"type": "text", "text": DROPPED_NOTE},)
    matcher = responder.prepare(body).new_matcher()
    assert not matcher.allowed()[renderer.tokenizer.token_to_id("<tool_call>")]


@pytest.mark.parametrize("choice", [{"type": "none"}, {"type": "auto"}, {"type": "any"}])
def test_tool_choice(renderer: Renderer, choice: dict[str, str]) -> None:
    responder = ModelResponder(FixedEngine(renderer, ""), DEACON)
    matcher = responder.prepare(request(tools=[BASH], tool_choice=choice)).new_matcher()
    allowed = matcher.allowed()
    assert bool(allowed[renderer.tokenizer.token_to_id("<tool_call>")]) is (choice["type"] != "none")
    assert bool(allowed[min(renderer.end_ids)]) is (choice["type"] == "auto")


def test_a_prompt_that_cannot_fit_is_said_in_the_api_s_words(tmp_path: Path) -> None:
    small = Renderer.from_folder(make_base(tmp_path / "base", context=200, weights=False))
    responder = ModelResponder(FixedEngine(small, "x"), DEACON, TINY)
    body = request(messages=[{"role": "user", "content": "word " * 2000}])
    with pytest.raises(PromptTooLong, match=r"prompt is too long: \d+ tokens > 184 maximum"):
        responder.prepare(body)


def test_a_body_that_is_no_conversation_is_the_request_s_error(renderer: Renderer) -> None:
    responder = ModelResponder(FixedEngine(renderer, "x"), DEACON)
    with pytest.raises(UserError, match="messages"):
        responder.prepare(request(messages=[]))


def test_responders_are_told_apart_by_what_they_can(renderer: Renderer) -> None:
    assert isinstance(ModelResponder(FixedEngine(renderer, "x"), DEACON, STANDARD), StagedResponder)
    script = ScriptResponder("teacher", lambda body: [{"type": "tool_use", "name": "Bash", "input": {}}])
    assert not isinstance(script, StagedResponder)
    reply = script.respond(request())
    assert reply.stop_reason == "tool_use" and reply.blocks[0]["id"].startswith("toolu_")
    assert Prepared((1, 2), 3, frozenset(), lambda: None).input_tokens == 2  # type: ignore[arg-type, return-value]
