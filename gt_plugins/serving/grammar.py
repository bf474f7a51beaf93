"""What a reply may look like, as grammars that mask a model's next token.

Three kinds: JSON in a schema that the request asks for; a short text and tool calls whose commands are on
the role's allow-list; plain text. All are bounded in length, because a small model that repeats itself
would never close an open string. Bounds only narrow: what comes out still fits the schema as asked.
The engine behind it is llguidance, which works on our tokenizer's own tokens and whose forced tokens (the
JSON around a command) cost a model no step of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import FinetuneError, NonRetriableError, UserError
from ..rendering.render import CALL, CALL_END
from .fence import COMMAND_TOOL, command_pattern

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    from ..rendering.render import Budget
    from ..roles.profile import Profile

Schema = Mapping[str, Any]

_COMPACT: Any = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": True,
}
"""JSON as ``json.dumps`` writes it, which is what models are trained on here."""
_SCALARS = ["string", "number", "boolean", "null"]
_MAX_NUMBER = 999_999_999
_SMALLEST_STEP = 1e-6
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref")
_SHARING = (*_COMBINING, "properties", "required")
_CACHE = 32


@dataclass(frozen=True)
class Limits:
    """Bounds of one reply: characters of text, of a command, of an open string in JSON; calls; items."""

    text: int = 600
    command: int = 300
    string: int = 80
    calls: int = 3
    items: int = 8

    @classmethod
    def for_budget(cls, budget: Budget) -> Limits:
        """A small reply budget gets one call and as many characters of text as it has tokens, so that even a
        model that writes letter by letter comes to an end."""
        if budget.reply < 512:
            return cls(text=min(cls.text, budget.reply), calls=1)
        return cls()

    @property
    def longest(self) -> int:
        """Tokens of the longest reply with calls if every character were a token of its own."""
        return self.text + self.calls * (self.command + 32)


class Matcher:
    """Where a reply stands in its grammar. Not for use from two threads at once."""

    def __init__(self, inner: Any, vocabulary: int) -> None:
        import numpy as np

        self._inner = inner
        self._mask = np.zeros((vocabulary + 31) // 32, dtype=np.int32)

    @property
    def stopped(self) -> bool:
        """Nothing but the end may follow."""
        return bool(self._inner.is_stopped())

    @property
    def accepting(self) -> bool:
        """The reply may end here."""
        return bool(self._inner.is_accepting())

    def forced(self) -> list[int]:
        """Tokens that are the only way on, [] where the model has a choice."""
        return list(self._inner.compute_ff_tokens())

    def allowed(self) -> np.ndarray:
        """One truth value per token id, end tokens included where the reply may end."""
        import numpy as np

        self._inner.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        return np.unpackbits(self._mask.view(np.uint8), bitorder="little").view(bool)

    def consume(self, token: int) -> None:
        """Go on by one token. Raises FinetuneError where the grammar does not admit it."""
        if not self._inner.consume_token(token):
            raise FinetuneError(f"grammar: token {token} is not admitted: {self._inner.get_error()}")


class Grammars:
    """Grammars over one tokenizer; compiled ones are kept."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer as Copy

        bare = Copy.from_str(tokenizer.to_str())
        bare.no_padding()
        bare.no_truncation()
        self._tokenizer = LLTokenizer(bare.to_str(), eos_token=sorted(end_ids))
        self._marks = {mark: tokenizer.token_to_id(mark) for mark in (CALL, CALL_END)}
        self._compiled: dict[str, Any] = {}

    def schema(self, schema: Schema, limits: Limits) -> Matcher:
        """JSON in a schema, properties in the schema's order. Raises UserError where it cannot be met."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(bounded(schema, limits)), overrides=_COMPACT
            )
        except ValueError as error:
            raise UserError(f"output_config.format.schema: {error}") from None
        try:
            return self._matcher(grammar)
        except NonRetriableError as error:
            raise UserError(f"output_config.format.schema: {error}") from None

    def text(self, characters: int) -> Matcher:
        """Plain text: no special token but the end, no control character but line break and tab."""
        return self._lark(f"start: {self._plain(characters)}\n")

    def reply(
        self, profile: Profile, limits: Limits, *, must_call: bool = False, seen: frozenset[str] | None = None
    ) -> Matcher:
        """A short text, then at most ``limits.calls`` Bash calls with commands that the role may run.

        ``seen``: see :func:`command_pattern`. ``must_call``: at least one call (the API's tool_choice).
        Raises UserError for a fence that cannot be translated."""
        more = f' ("\\n" call){{0,{limits.calls - 1}}}' if limits.calls > 1 else ""
        calls = f"call{more}" if must_call else f"(call{more})?"
        return self._lark(
            f"start: text? {calls}\n"
            f"text: {self._plain(limits.text)}\n"
            f'call: {self._mark(CALL)} "\\n" body "\\n" {self._mark(CALL_END)}\n'
            f"body: %json {json.dumps(call_schema(profile, limits, seen))}\n"
        )

    def _mark(self, mark: str) -> str:
        """A marker in grammar syntax: by token id where it is one token, else as the characters it is."""
        token = self._marks[mark]
        return json.dumps(mark) if token is None else f"<[{token}]>"

    def _plain(self, characters: int) -> str:
        """Text without control characters. ``<`` stands in it only where no marker can begin, and nowhere
        where the marker is spelled: the lexer could not tell the two apart."""
        spelled = self._marks[CALL] is None
        less = "" if spelled else "|<[ =0-9]"
        return rf"/(?:[^<\x00-\x08\x0b-\x1f\x7f]{less}){{1,{characters}}}/"

    def _lark(self, lark: str) -> Matcher:
        from llguidance import LLMatcher

        return self._matcher(LLMatcher.grammar_from_lark(lark))

    def _matcher(self, grammar: str) -> Matcher:
        from llguidance import LLMatcher

        found = self._compiled.pop(grammar, None)
        if found is None:
            found = LLMatcher(self._tokenizer, grammar, log_level=0)
            if found.is_error():
                raise NonRetriableError(_first_line(found.get_error()))
        self._compiled[grammar] = found
        while len(self._compiled) > _CACHE:
            self._compiled.pop(next(iter(self._compiled)))
        return Matcher(found.deep_copy(), self._tokenizer.vocab_size)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "the grammar was refused"


def call_schema(profile: Profile, limits: Limits, seen: frozenset[str] | None = None) -> dict[str, Any]:
    """The JSON of a tool call: exactly ``{"name": "Bash", "arguments": {"command": …}}``, as rendered."""
    command = {
        "type": "string",
        "pattern": f"^(?:{command_pattern(profile, seen)})$",
        "maxLength": limits.command,
    }
    arguments = {
        "type": "object",
        "properties": {"command": command},
        "required": ["command"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"name": {"const": COMMAND_TOOL}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        "x-guidance": _COMPACT,
    }


def bounded(schema: Any, limits: Limits, *, combined: bool = False) -> Any:
    """A schema with every open end closed: strings, arrays, numbers, further properties, "any JSON".

    ``combined`` says that siblings may add properties (allOf and the like), so objects stay open.
    """
    if schema is True or schema == {}:
        return bounded({"type": _SCALARS}, limits)
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    joins = combined or any(key in out for key in _COMBINING)
    for key in ("properties", "patternProperties", "$defs", "definitions"):
        if isinstance(out.get(key), Mapping):
            out[key] = {name: bounded(inner, limits) for name, inner in out[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), Mapping):
            out[key] = bounded(out[key], limits)
    if isinstance(out.get("prefixItems"), list):
        out["prefixItems"] = [bounded(inner, limits) for inner in out["prefixItems"]]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(out.get(key), list):
            shared = combined or key == "allOf" or any(k in out for k in _SHARING if k != key)
            out[key] = [bounded(inner, limits, combined=shared) for inner in out[key]]
    if not any(key in out for key in ("enum", "const")):
        _close(out, _types(out), limits, joins)
    return out


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    """The types that a schema admits: as it says, or as its keywords imply."""
    named = schema.get("type")
    if isinstance(named, str):
        return (named,)
    if isinstance(named, list):
        return [t for t in named if isinstance(t, str)]
    return ("object",) if "properties" in schema else ()


def _close(out: dict[str, Any], types: Sequence[str], limits: Limits, joins: bool) -> None:
    if "string" in types and not any(key in out for key in ("maxLength", "format")):
        longest = limits.string if "pattern" not in out else limits.command
        out["maxLength"] = max(longest, int(out.get("minLength") or 0))
    if "array" in types:
        out.setdefault("maxItems", max(limits.items, int(out.get("minItems") or 0)))
        out.setdefault("items", bounded(True, limits))
    if "integer" in types or "number" in types:
        if not any(key in out for key in ("minimum", "exclusiveMinimum")):
            out["minimum"] = min(-_MAX_NUMBER, out.get("maximum", 0), out.get("exclusiveMaximum", 0) - 1)
        if not any(key in out for key in ("maximum", "exclusiveMaximum")):
            out["maximum"] = max(_MAX_NUMBER, out.get("minimum", 0), out.get("exclusiveMinimum", 0) + 1)
        if "number" in types:
            out.setdefault("multipleOf", _SMALLEST_STEP)
    if "object" in types and not joins and "patternProperties" not in out:
        known = out.get("properties") or {}
        if all(name in known for name in out.get("required") or ()):
            out.setdefault("additionalProperties", False)
