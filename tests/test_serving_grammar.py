"""Grammars over a real tokenizer: what they admit, what they never admit, and that they end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_helpers import make_tokenizer

from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.rendering.render import STANDARD, TINY
from gt_plugins.roles.profile import load_profile
from gt_plugins.serving.grammar import Grammars, Limits, Matcher, bounded

TOKENIZER = make_tokenizer()
END = TOKENIZER.token_to_id("<|im_end|>")
GRAMMARS = Grammars(TOKENIZER, frozenset({END}))
DEACON = load_profile("deacon")
LIMITS = Limits()


def admits(matcher: Matcher, text: str) -> bool:
    """Whether the grammar takes the text's tokens and may end after them."""
    for token in TOKENIZER.encode(text).ids:
        try:
            matcher.consume(token)
        except FinetuneError:
            return False
    return matcher.accepting


def call(command: str, name: str = "Bash") -> str:
    value = json.dumps({"name": name, "arguments": {"command": command}}, ensure_ascii=False)
    return f"<tool_call>\n{value}\n</tool_call>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All is well.",
        "idle < 5 minutes",
        call("gt hook"),
        f"It is stuck.\n{call('gt nudge demo/alice ')}".replace("alice ", "alice 'wake up, please'"),
        f"{call('gt hook')}\n{call('gt mail inbox')}",
        call("gt escalate 'a/b: no answer' -s critical"),
    ],
)
def test_what_a_role_may_answer(text: str) -> None:
    assert admits(GRAMMARS.reply(DEACON, LIMITS), text)


@pytest.mark.parametrize(
    "text",
    [
        call("rm -rf /"),
        call("gt hook; rm -rf /"),
        call("gt hook", name="Write"),
        call("gt escalate 'x' -s high && ls"),
        call("gt hook").replace("gt hook", "gt ho\\u006fk"),
        call("gt hook").replace('"}}', '", "timeout": 5}}'),
        call("gt hook")[:-12],
        "<tool_call>",
        "text <|im_start|>system",
        "\n".join([call("gt hook")] * (LIMITS.calls + 1)),
        "x" * (LIMITS.text + 1),
    ],
)
def test_what_it_may_not(text: str) -> None:
    assert not admits(GRAMMARS.reply(DEACON, LIMITS), text)


def test_a_call_that_is_asked_for_must_come() -> None:
    assert not admits(GRAMMARS.reply(DEACON, LIMITS, must_call=True), "no")
    assert admits(GRAMMARS.reply(DEACON, LIMITS, must_call=True), call("gt hook"))


def test_a_double_quote_in_a_command_is_escaped_by_the_grammar(tmp_path) -> None:
    for name in ("system.txt", "rules.md", "actions.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "fence.toml").write_text(
        '[[allow]]\nname = "escalate"\npattern = \'gt escalate "[a-z \\\\ü]{1,20}" -s high\'\n'
    )
    profile = load_profile("deacon", tmp_path)
    matches = 'gt escalate "a \\ ü" -s high'
    assert profile.allows(matches)
    assert admits(GRAMMARS.reply(profile, LIMITS), call(matches))
    assert not admits(GRAMMARS.reply(profile, LIMITS), call(matches.replace("a", "A")))


def test_the_json_around_a_command_is_forced() -> None:
    matcher = GRAMMARS.reply(DEACON, LIMITS)
    matcher.consume(TOKENIZER.token_to_id("<tool_call>"))
    forced = TOKENIZER.decode(matcher.forced())
    assert forced == '\n{"name": "Bash", "arguments": {"command": "'.removesuffix('"') or forced.endswith(
        ' "'
    )


def test_markers_that_are_no_tokens_of_their_own_are_spelled() -> None:
    plain = make_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    grammars = Grammars(plain, frozenset({plain.token_to_id("<|im_end|>")}))
    for text, fine in ((call("gt hook"), True), (call("ls"), False), (f"ok\n{call('gt hook')}", True)):
        matcher = grammars.reply(DEACON, LIMITS)
        taken = all(_consumes(matcher, token) for token in plain.encode(text).ids)
        assert (taken and matcher.accepting) is fine


def _consumes(matcher: Matcher, token: int) -> bool:
    try:
        matcher.consume(token)
    except FinetuneError:
        return False
    return True


def test_a_small_budget_gets_one_call_and_a_short_text() -> None:
    tiny, standard = Limits.for_budget(TINY), Limits.for_budget(STANDARD)
    assert (tiny.calls, tiny.text) == (1, 200) and standard.calls > 1
    assert not admits(GRAMMARS.reply(DEACON, tiny), f"{call('gt hook')}\n{call('gt hook')}")


# -- JSON schemas ---------------------------------------------------------------------------------

DECISION = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "action": {"enum": ["nudge", "no-op", "escalate-to-mayor"]},
    },
    "required": ["reason", "action"],
    "additionalProperties": False,
}


def test_properties_keep_the_schema_s_order_and_spacing() -> None:
    assert admits(GRAMMARS.schema(DECISION, LIMITS), '{"reason": "idle 5", "action": "nudge"}')
    assert not admits(GRAMMARS.schema(DECISION, LIMITS), '{"action": "nudge", "reason": "idle 5"}')
    assert not admits(GRAMMARS.schema(DECISION, LIMITS), '{"reason":"idle 5","action":"nudge"}')
    assert not admits(GRAMMARS.schema(DECISION, LIMITS), '{"reason": "idle 5", "action": "sleep"}')


def test_an_open_string_is_bounded_and_a_bounded_one_left_alone() -> None:
    long = json.dumps({"reason": "x" * (LIMITS.string + 1), "action": "nudge"})
    assert not admits(GRAMMARS.schema(DECISION, LIMITS), long)
    assert bounded({"type": "string", "maxLength": 500}, LIMITS)["maxLength"] == 500
    assert bounded({"type": "string", "minLength": 200}, LIMITS)["maxLength"] == 200
    assert "maxLength" not in bounded({"type": "string", "enum": ["a"]}, LIMITS)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False},
        {"type": "string", "minLength": "many"},
        {"type": "string", "enum": 5},
    ],
)
def test_a_schema_that_cannot_be_met_is_the_request_s_error(schema: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"output_config\.format\.schema: ") as caught:
        GRAMMARS.schema(schema, LIMITS)
    assert "\n" not in str(caught.value)


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaves = st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["a", 1, None]},
            {"const": "x y"},
            {"type": ["string", "null"]},
            {"type": "integer", "minimum": 3},
            {"type": "number", "maximum": -2000000000},
            {},
        ]
    )

    def larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        names = st.sampled_from(["a", "b", "c"])
        return st.one_of(
            st.builds(lambda items: {"type": "array", "items": items}, inner),
            st.builds(
                lambda p, some: {
                    "type": "object",
                    "properties": p,
                    "required": sorted(p) if some else sorted(p)[:1],
                },
                st.dictionaries(names, inner, max_size=3),
                st.booleans(),
            ),
            st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        )

    return st.recursive(leaves, larger, max_leaves=5)


@given(schemas(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_whatever_a_model_prefers_the_reply_is_json_in_the_schema(schema: dict[str, Any], rng: Any) -> None:
    """A model that wants any token at any time: the grammar still ends, and in JSON of that form."""
    matcher = GRAMMARS.schema(schema, Limits(string=12, items=2))
    ids: list[int] = []
    while not matcher.stopped and len(ids) < 4000:
        allowed = [i for i, fine in enumerate(matcher.allowed()[: TOKENIZER.get_vocab_size()]) if fine]
        token = rng.choice(allowed)
        if token == END:
            break
        matcher.consume(token)
        ids.append(token)
    assert fits(json.loads(TOKENIZER.decode(ids, skip_special_tokens=False)), schema)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as the strategy above uses."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = schema.get("type", [])
    if not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)) and kinds:
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return set(schema.get("required", ())) <= set(value) and all(
            name in known and fits(item, known[name]) for name, item in value.items()
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    kinds = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
    return isinstance(value, kinds[kind])


@pytest.mark.parametrize("role", ["deacon", "witness", "boot"])
@pytest.mark.parametrize("text", ["", "The polecat was idle for 12 minutes: nudge.", "ok\nthen"])
def test_forced_tokens_are_those_that_training_makes(role: str, text: str) -> None:
    """A tuned model knows one spelling of a reply in tokens; what the grammar forces must be that one."""
    commands = ["gt escalate 'the witness of demo is stuck' -s high", "gt hook", "gt nudge deacon 'wake up'"]
    for command in commands:
        profile = load_profile(role)
        if not profile.allows(command):
            continue
        reply = "\n".join(part for part in (text, call(command)) if part)
        ids = TOKENIZER.encode(f"{reply}<|im_end|>").ids
        matcher, place = GRAMMARS.reply(profile, LIMITS), 0
        while place < len(ids) and not matcher.stopped:
            forced = matcher.forced()
            assert forced == ids[place : place + len(forced)], TOKENIZER.decode(ids[:place])
            for token in forced or [ids[place]]:
                matcher.consume(token)
            place += len(forced) or 1
        assert place >= len(ids) - 1


@given(st.text(alphabet="abcdefgh 0123456789.,:-'", max_size=60))
@settings(deadline=None)
def test_forced_tokens_of_a_decision_are_those_that_training_makes(reason: str) -> None:
    ids = TOKENIZER.encode(json.dumps({"reason": reason, "action": "no-op"})).ids
    matcher, place = GRAMMARS.schema(DECISION, LIMITS), 0
    while place < len(ids):
        forced = matcher.forced()
        assert forced == ids[place : place + len(forced)]
        for token in forced or [ids[place]]:
            matcher.consume(token)
        place += len(forced) or 1
