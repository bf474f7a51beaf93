"""A live request's body and a captured session become the same conversation; what is no body is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_helpers import answered, called, chatml, mistral, said, texts

from gt_plugins.rendering.conversation import (
    Conversation,
    Tool,
    from_request,
    from_session,
    prime_of,
    result_text,
)
from gt_plugins.rendering.render import TINY
from gt_plugins.roles.profile import load_profile
from gt_plugins.transcripts.model import Session, Turn

PRIME = '<gt-prime role="deacon">\nYou watch the town.\n</gt-prime>'
REMINDER = "<system-reminder>\nSkills: a, b, c.\n</system-reminder>"
BASH = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {"type": "object", "properties": {"command": {}, "timeout": {}}, "required": ["command"]},
}
few = settings(max_examples=40, deadline=None)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "gt-ft-deacon", "messages": list(messages), "tools": [BASH], **more}


def asked(*content: Any, role: str = "user") -> dict[str, Any]:
    blocks = [c if isinstance(c, dict) else said(c) for c in content]
    return {"role": role, "content": blocks}


# -- from a request ---------------------------------------------------------------------------------


def test_the_shell_of_another_client_is_bash() -> None:
    inputs = (
        ("exec_command", {"cmd": "gt hook"}),
        ("bash", {"command": "gt hook"}),
        ("Bash", {"command": "gt hook"}),
    )
    for name, arguments in (*inputs, ("shell", {"command": ["bash", "-lc", "gt hook"]})):
        block = {"type": "tool_use", "id": "c", "name": name, "input": arguments}
        session = Session("s", "x", (Turn("a", "assistant", (block,)),))
        (message,) = from_session(session, load_profile("deacon"), "").messages
        assert (message.blocks[0]["name"], message.blocks[0]["input"]) == ("Bash", {"command": "gt hook"})
    other = {"type": "tool_use", "id": "c", "name": "apply_patch", "input": {"input": "x"}}
    session = Session("s", "x", (Turn("a", "assistant", (other,)),))
    assert from_session(session, load_profile("deacon"), "").messages[0].blocks[0]["name"] == "apply_patch"


def test_a_request_as_the_client_sends_it() -> None:
    found = from_request(
        body(
            asked(REMINDER, "Begin the patrol."),
            {"role": "system", "content": f"SessionStart:startup hook success: {PRIME}"},
            asked("Looking.", called("gt hook"), role="assistant"),
            asked({"type": "tool_result", "tool_use_id": "toolu_1", "content": f"empty\n{REMINDER}"}),
            system=[
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abc;"},
                {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "Be brief."},
            ],
        )
    )
    assert found.system == "You are an agent.\n\nBe brief."
    assert found.prime == "You watch the town."
    assert found.tools == (Tool("Bash", ("command",)),)
    assert [m.role for m in found.messages] == ["user", "assistant", "user"]
    assert found.messages[0].blocks == (said("Begin the patrol."),)
    assert found.messages[2].blocks == (answered("empty"),)
    assert found.counts == {"system message": 1, "reminder": 1, "billing header": 1}


def test_the_billing_header_changes_no_token() -> None:
    def ids(header: str) -> tuple[int, ...]:
        system = [said(f"x-anthropic-billing-header: {header}"), said("You are an agent.")]
        return chatml().request(from_request(body(asked("go"), system=system)), TINY).ids

    assert ids("cch=1") == ids("cch=22222")


def test_the_last_prime_wins_wherever_it_stands() -> None:
    def prime(word: str) -> str:
        return f"<gt-prime role='deacon'>\n{word}\n</gt-prime>"

    reminded = f"<system-reminder>\nSessionStart hook: {prime('second')}\n</system-reminder>"
    found = from_request(
        body(
            {"role": "system", "content": prime("first")},
            asked("go"),
            asked("well", role="assistant"),
            asked(reminded, f"and {prime('third')}", "on"),
        )
    )
    assert found.prime == "third"
    assert [b["text"] for b in found.messages[-1].blocks] == ["and", "on"]
    assert from_request(body({"role": "system", "content": prime("first")}, asked("go"))).prime == "first"
    assert from_request(body(asked(reminded, "go"))).prime == "second"
    assert from_request(body(asked("go"))).prime == ""


def test_a_prime_in_a_tools_output_is_output() -> None:
    given = asked({"type": "tool_result", "tool_use_id": "t", "content": f"so:\n{PRIME}\nend"})
    found = from_request(body(asked("go"), asked(called("gt prime --hook"), role="assistant"), given))
    assert found.prime == ""
    assert found.messages[-1].blocks[0]["content"] == "so:\nYou watch the town.\nend"


def test_what_the_client_adds_on_its_own_is_dropped_and_counted() -> None:
    listing = "<system-reminder>\nThe following skills are available: pdf, commit\n</system-reminder>"
    found = from_request(
        body(
            {"role": "system", "content": "SessionStart:startup hook success: hello"},
            asked(listing),
            asked("SessionStart:resume hook success: again", "go"),
            asked({"type": "thinking", "thinking": "hm"}, "well", role="assistant"),
            asked({"type": "image", "source": {}}, "next"),
        )
    )
    texts = [b["text"] for m in found.messages for b in m.blocks]
    assert texts == ["go", "well", "next"]
    assert found.counts == {
        "system message": 1,
        "reminder": 1,
        "hook output": 1,
        "block:thinking": 1,
        "block:image": 1,
    }


def test_neighbours_of_one_role_are_one_message() -> None:
    found = from_request(
        body(asked("a"), {"role": "system", "content": "x"}, asked("b"), asked("c", role="assistant"))
    )
    assert [(m.role, [b["text"] for b in m.blocks]) for m in found.messages] == [
        ("user", ["a", "b"]),
        ("assistant", ["c"]),
    ]


def test_a_wish_for_json_carries_its_schema() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    form = {"type": "json_schema", "schema": schema}
    assert from_request(body(asked("go"), output_config={"format": form})).schema == schema
    assert from_request(body(asked("go"), output_format=form)).schema == schema
    assert from_request(body(asked("go"), output_config={"effort": "high"})).schema is None
    assert from_request(body(asked("go"), output_config={"format": {"type": "text"}})).schema is None


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.0.role"),
        ({"messages": [asked("a"), {"role": "robot", "content": "x"}]}, "messages.1.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [said("a"), "b"]}]}, "messages.0.content.1"),
        (
            {"messages": [asked({**called("x"), "input": "ls"}, role="assistant")]},
            "messages.0.content.0.input",
        ),
        ({"system": 7}, "system"),
        ({"system": ["a"]}, "system.0"),
        ({"tools": "Bash"}, "tools"),
        ({"tools": {"name": "Bash"}}, "tools"),
        ({"tools": [BASH, "Read"]}, "tools.1.name"),
        ({"tools": [{"description": "no name"}]}, "tools.0.name"),
        ({"output_config": "json"}, "output_config"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": ["json"]}, "output_format"),
        ({"output_format": {"type": "json_schema", "schema": "x"}}, "output_format.schema"),
    ],
)
def test_what_is_no_body_is_refused_by_its_key(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is needed") as caught:
        from_request({**body(asked("go")), **wrong})
    assert str(caught.value).startswith(f"{key}: ")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "input", "schema"]), inner
        ),
    ),
    max_leaves=12,
)


@few
@given(
    st.dictionaries(
        st.sampled_from(["messages", "system", "tools", "output_config", "output_format"]), json_values
    )
)
def test_no_body_gets_through_but_as_a_conversation(found: dict[str, Any]) -> None:
    for wrong in (found, {**found, "messages": [asked("go")]}):
        try:
            made = from_request(wrong)
        except ValueError:
            continue
        assert isinstance(made, Conversation)
        assert chatml().request(made, TINY).ids


# -- from a session ---------------------------------------------------------------------------------


def session(*turns: Turn) -> Session:
    return Session("s1", "claude", turns)


def test_a_session_is_the_conversation_that_its_requests_were() -> None:
    profile = load_profile("deacon")
    turns = (
        Turn("1", "hook", (said("# Deacon Context"),), hook="SessionStart:startup"),
        Turn("2", "user", (said("Begin."),)),
        Turn("3", "assistant", ({"type": "thinking", "thinking": "hm"}, said("Looking."), called("gt hook"))),
        Turn("4", "user", ({"type": "tool_result", "tool_use_id": "toolu_1", "content": [said("empty")]},)),
        Turn("5", "user", (said("a reminder of the client's"),), meta=True),
        Turn("6", "assistant", (said("Patrol done."),)),
    )
    taught = from_session(session(*turns), profile, "\nYou watch the town.\n")
    live = from_request(
        body(
            {"role": "system", "content": f"SessionStart:startup hook success: {PRIME}"},
            asked(REMINDER, "Begin."),
            asked("Looking.", called("gt hook"), role="assistant"),
            asked(answered("empty")),
            asked("Patrol done.", role="assistant"),
            system=profile.system,
        )
    )
    assert taught.messages == live.messages
    assert (taught.system, taught.tools, taught.prime) == (live.system, live.tools, live.prime)
    assert taught.counts == {"hook turn": 1, "meta turn": 1, "block:thinking": 1}


def test_odd_blocks_of_a_session_do_no_harm() -> None:
    odd = (
        Turn("1", "user", (said("go"),)),
        Turn(
            "2",
            "assistant",
            ({"type": "tool_use", "name": "Bash", "input": "ls"}, {"type": "unknown", "line": {}}),
        ),
        Turn("3", "user", ({"type": "tool_result", "content": None}, {"type": "tool_result", "content": 7})),
        Turn("4", "assistant", ({"type": "tool_use"}, {})),
    )
    found = from_session(session(*odd), load_profile("deacon"), "")
    assert found.messages[1].blocks[0]["input"] == {}
    assert chatml().rows(found, TINY)


def test_the_prime_of_a_session_is_its_last() -> None:
    def hook(name: str, text: str) -> Turn:
        return Turn("h", "hook", (said(text),), hook=name)

    turns = [
        hook("SessionStart:startup", "# First"),
        hook("UserPromptSubmit", "# Mail"),
        hook("PreCompact", "[GAS TOWN] role:deacon\nsecond"),
        hook("SessionStart:compact", "nothing of ours"),
        Turn("u", "user", (said("# not a hook"),)),
    ]
    assert prime_of(turns) == "[GAS TOWN] role:deacon\nsecond"
    assert prime_of(turns[1:2]) == "" and prime_of([]) == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        (" out \n", "out"),
        ([said("a"), {"type": "image"}, said("b")], "a\nb"),
        (7, "7"),
        (["odd"], ""),
    ],
)
def test_the_text_of_a_result(content: Any, text: str) -> None:
    assert result_text({"type": "tool_result", "content": content}) == text


# -- replies ----------------------------------------------------------------------------------------

arguments = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), texts),
        lambda inner: st.one_of(
            st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)
        ),
        max_leaves=4,
    ),
    max_size=3,
)
calls = st.builds(
    lambda name, given: {"type": "tool_use", "name": name, "input": given},
    st.text(min_size=1, max_size=12),
    arguments,
)
reply_blocks = st.tuples(st.lists(texts.map(said), max_size=2), st.lists(calls, max_size=3)).map(
    lambda p: [*p[0], *p[1]]
)


@few
@given(reply_blocks)
def test_a_reply_is_read_back_as_it_was_written(blocks: list[dict[str, Any]]) -> None:
    for renderer in (chatml(), mistral()):
        written = renderer.reply_text(blocks)
        plain = json.loads(
            renderer.plain(json.dumps([b for b in blocks if b["type"] == "tool_use"], ensure_ascii=False))
        )
        text = "\n".join(renderer.plain(b["text"]) for b in blocks if b["type"] == "text").strip()
        expected = [said(text)] if text else []
        parsed = renderer.parse_reply(written)
        assert parsed == [*expected, *plain]
        assert renderer.parse_reply(renderer.reply_text(parsed)) == parsed


@few
@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "Bash"}', "{", "a", "\n"]), max_size=12
    )
)
def test_no_text_breaks_the_reading_of_a_reply(pieces: list[str]) -> None:
    text = "".join(pieces)
    blocks = chatml().parse_reply(text)
    assert all(b["text"].strip() for b in blocks if b["type"] == "text")
    found = sum(b["type"] == "tool_use" for b in blocks)
    assert found <= text.count("</tool_call>")


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        (" well \n", [said("well")]),
        ('<tool_call>{"name": "Bash"}</tool_call>', [{"type": "tool_use", "name": "Bash", "input": {}}]),
        (
            '<tool_call>{"name": "Bash", "arguments": [1]}</tool_call>',
            [{"type": "tool_use", "name": "Bash", "input": {}}],
        ),
        ("<tool_call>ls</tool_call>", [said("<tool_call>ls</tool_call>")]),
        ('<tool_call>{"name": "Bash"}', [said('<tool_call>{"name": "Bash"}')]),
        ('<tool_call>["Bash"]</tool_call> x', [said('<tool_call>["Bash"]</tool_call> x')]),
        ("a <tool_call> b", [said("a"), said("<tool_call> b")]),
    ],
)
def test_what_is_no_call_stays_text(text: str, blocks: list[dict[str, Any]]) -> None:
    assert chatml().parse_reply(text) == blocks
