"""A role's allow-list as the endpoint applies it: in the grammar, and once more on what was generated.

The rules of ``fence.toml`` are Python regular expressions. The grammar wants the syntax of Rust's regex
crate, so each pattern is parsed with Python's own parser and written out again from its syntax tree. Where
the two languages could differ the translation only ever narrows (``\\d`` becomes 0-9, ``.`` loses control
characters), and what it cannot narrow safely it refuses, naming the rule: a fence that means two things is
no fence. A pattern that admits a character by which one command becomes two is refused as well.

A group named ``seen`` must stand in what the model was shown: ``gt nudge (?P<seen>…) '…'`` goes to an agent
whose address is in its evidence, and to nobody whom a small model makes up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from re import _compiler as sre_compiler  # type: ignore[attr-defined]
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from ..errors import UserError, in_file
from ..roles.profile import SEEN

if TYPE_CHECKING:
    from ..roles.profile import Profile

Block = dict[str, Any]
Words = Mapping[int, frozenset[str]]

COMMAND_TOOL = "Bash"
BREAKING = frozenset(";|&$`<>\n\r\0")
"""Characters by which a shell takes one line for more than one command, or for another one."""

_PRINTABLE_ASCII = [chr(c) for c in range(0x20, 0x7F)]
_CATEGORIES = {
    sre.CATEGORY_DIGIT: "0-9",
    sre.CATEGORY_WORD: "A-Za-z0-9_",
    sre.CATEGORY_SPACE: r"\x20",
}
_EDGES = {sre.AT_BEGINNING, sre.AT_BEGINNING_STRING, sre.AT_END, sre.AT_END_STRING}
DROPPED_NOTE = "(A command that this role may not run was left out.)"


@dataclass(frozen=True)
class Checked:
    """A reply after the second look: what may be sent, and how many calls were left out."""

    blocks: tuple[Block, ...]
    refused: int


def check(
    blocks: Iterable[Block], profile: Profile, tools: frozenset[str], seen: frozenset[str] | None = None
) -> Checked:
    """Keep text and the tool calls that the role may make; a refused call becomes one line of text. ``seen``
    are the words that a group of this name may hold; None: any.

    The grammar lets nothing else be generated, so this finds something only where grammar and profile
    disagree, which would be a bug of ours. No other command is put in a refused one's place: the endpoint
    never says what the model did not.
    """
    kept: list[Block] = []
    refused = 0
    for block in blocks:
        if block.get("type") != "tool_use" or allowed_call(block, profile, tools, seen):
            kept.append(block)
        else:
            refused += 1
    if refused:
        kept.append({"type": "text", "text": DROPPED_NOTE})
    return Checked(tuple(kept), refused)


def allowed_call(block: Block, profile: Profile, tools: frozenset[str], seen: frozenset[str] | None) -> bool:
    """Whether a block is a Bash call, offered in this request, of a command that the fence admits."""
    arguments = block.get("input")
    if block.get("name") != COMMAND_TOOL or COMMAND_TOOL not in tools or COMMAND_TOOL not in profile.tools:
        return False
    if not isinstance(arguments, dict) or set(arguments) != {"command"}:
        return False
    command = arguments["command"]
    return isinstance(command, str) and not BREAKING & set(command) and profile.allows(command, seen)


def command_pattern(profile: Profile, seen: frozenset[str] | None = None) -> str:
    """All rules of a role as one regular expression in Rust's syntax, without anchors; with the words that
    were ``seen`` in the place of the groups of this name. A rule that nothing seen fits is left out.

    Raises UserError naming file and rule where a pattern cannot be part of a fence."""
    parts = []
    for rule in profile.allow:
        try:
            parts.append(translated(rule.pattern, seen))
        except NothingFits:
            continue
        except ValueError as error:
            where = f"allow rule {rule.name!r}"
            raise UserError(
                in_file(profile.folder / "fence.toml", where, str(error), "rewrite the pattern")
            ) from None
    return "|".join(f"(?:{part})" for part in parts)


class NothingFits(Exception):
    """Nothing that was seen can stand where a rule wants something seen."""


def translated(pattern: str, seen: frozenset[str] | None = None) -> str:
    """A Python pattern for a whole command in Rust's syntax, see :func:`command_pattern`.

    Raises NothingFits, and ValueError saying what in it has no safe translation or admits more than one
    command."""
    try:
        tree = sre_parser.parse(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression ({error})") from None
    if tree.state.flags & ~re.UNICODE:
        raise ValueError("inline flags are not understood")
    items = list(tree)
    if items and items[0][0] is sre.AT and items[0][1] in _EDGES:
        items = items[1:]
    if items and items[-1][0] is sre.AT and items[-1][1] in _EDGES:
        items = items[:-1]
    group = tree.state.groupdict.get(SEEN) if seen is not None else None
    return _sequence(items, {group: seen} if group and seen is not None else {})


def _sequence(items: Sequence[tuple[Any, Any]], words: Words) -> str:
    return "".join(_item(op, value, words) for op, value in items)


def _item(op: Any, value: Any, words: Words) -> str:
    """One node of the syntax tree; ``words`` are what a group, by its number, may hold alone."""
    if op is sre.LITERAL:
        return _literal(value)
    if op is sre.IN:
        return _class(value)
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        low, high, inner = value
        most = "" if high is sre.MAXREPEAT else str(high)
        return f"(?:{_sequence(inner, words)}){{{low},{most}}}"
    if op is sre.SUBPATTERN:
        group, add, remove, inner = value
        if add or remove:
            raise ValueError("inline flags are not understood")
        return f"(?:{_sequence(inner, words) if group not in words else _one_of(words[group], inner)})"
    if op is sre.BRANCH:
        return "(?:" + "|".join(_sequence(branch, words) for branch in value[1]) + ")"
    if op in (sre.ANY, sre.NOT_LITERAL):
        raise ValueError(f"it admits any character ({_name(op)}); name those that it needs")
    if op is sre.AT:
        raise ValueError("an anchor inside the pattern; a rule always matches the whole command")
    raise ValueError(f"{_name(op)} has no translation")


def _one_of(words: frozenset[str], inner: Any) -> str:
    """Those of the words that a part of a pattern matches whole."""
    fits = sre_compiler.compile(inner).fullmatch
    found = sorted(word for word in words if fits(word))
    if not found:
        raise NothingFits
    return "|".join("".join(_literal(ord(c)) for c in word) for word in found)


def _name(op: Any) -> str:
    return str(op).lower().replace("_", " ")


def _literal(code: int) -> str:
    if chr(code) in BREAKING:
        raise ValueError(f"it admits {chr(code)!r}, by which one command becomes two")
    return _escaped(code)


def _escaped(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"


def _class(items: Sequence[tuple[Any, Any]]) -> str:
    """A character class; a negated one is narrowed to printable characters and must leave out BREAKING."""
    negated = items[0][0] is sre.NEGATE
    parts = [_class_item(op, value) for op, value in (items[1:] if negated else items)]
    body = "".join(parts)
    if not negated:
        compiled = re.compile(f"[{_python_class(body)}]")
        _refuse_breaking(c for c in BREAKING if compiled.match(c))
        return f"[{body}]"
    compiled = re.compile(f"[^{_python_class(body)}]")
    _refuse_breaking(c for c in BREAKING if c.isprintable() and compiled.match(c))
    if not any(compiled.match(c) for c in _PRINTABLE_ASCII):
        raise ValueError("a character class that admits nothing")
    return f"[^{body}\\x00-\\x1f\\x7f]"


def _class_item(op: Any, value: Any) -> str:
    if op is sre.LITERAL:
        return _escaped(value)
    if op is sre.RANGE:
        return f"{_escaped(value[0])}-{_escaped(value[1])}"
    if op is sre.CATEGORY and value in _CATEGORIES:
        return _CATEGORIES[value]
    raise ValueError(f"{_name(value if op is sre.CATEGORY else op)} has no translation in a class")


def _python_class(body: str) -> str:
    """A class body as written above in Python's syntax: only the escapes differ."""
    return re.sub(r"\\x\{([0-9a-f]+)\}", lambda m: f"\\U{int(m.group(1), 16):08x}", body)


def _refuse_breaking(found: Iterable[str]) -> None:
    characters = " ".join(sorted(repr(c) for c in found))
    if characters:
        raise ValueError(f"a class in it admits {characters}, by which one command becomes two")
