"""Markdown prose taken apart: blocks, sentences, prohibitions and commands.

A prime's prose is hard-wrapped, so that a line is seldom a statement: blocks are joined first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

PARAGRAPH, ITEM, TABLE, CODE = "paragraph", "item", "table", "code"

STRONG = re.compile(
    r"\b(NEVER|Never|DO NOT|Do NOT|do NOT|Do not|Don't|DON'T|MUST NOT|must NOT|must not|Must not"
    r"|FORBIDDEN|Forbidden|PROHIBITED|Prohibited|OFF LIMITS|OFF-LIMITS|Off-Limits|NOT responsible)\b|❌|⛔|🚫"
)
"""What makes a sentence a prohibition."""
WEAK = re.compile(r"\b(never|don't|do not|cannot|can't)\b")
"""What makes one a caution."""

_BULLET = re.compile(r"(\s*)([-*•]|\d+[.)]|\[ \])\s+(.*)")
_FENCE = re.compile(r"\s*(```|~~~)")
_RULE = re.compile(r"\s*([-*_=═─]{3,}|[│┌└├║╔╚].*|\|[-: |]+\|)\s*$")
_SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')*]))\s+(?=[A-Z\"(`*])")
_BARE_LEAD = re.compile(
    r"(.*\b)?(do not|don't|must not|never|never do|must never|prohibited|forbidden)\W*$", re.IGNORECASE
)
_NOT_YOURS = re.compile(r".*\bnot responsible for\W*$", re.IGNORECASE)
_SPAN = re.compile(r"`((?:gt|bd|git) [^`\n]+)`")
_CODE_COMMAND = re.compile(r"(?:\$ )?((?:gt|bd|git) \S.*)$")
_MISTAKE = re.compile(r"~~|\bWRONG\b|\bNEVER\b|\binstead of\b|\bnot a command\b")
_VARIABLE_WORDS = re.compile(r'"[^"]*"|\'[^\']*\'|<[^<>]+>|\.\.\.')
_NOT_WORDS = re.compile(r"[\W_]+")
_STEP = re.compile(r"^Step \d+: ")
_ITEM_COMMAND = re.compile(r"`((?:gt|bd|git) [^`]+)`\s+[—–-]\s+(.+)")
MAX_NOTE = 60
_DO_NOT = "Do not "


@dataclass(frozen=True)
class Block:
    """A paragraph or a list item as one line, a table row, or one line of code."""

    kind: str
    text: str
    marker: str = ""


@dataclass(frozen=True)
class Command:
    """A command as written, what it is for (may be empty), and how often it was named."""

    text: str
    note: str = ""
    named: int = 1

    @property
    def key(self) -> str:
        """The same for two that differ only in what is to be filled in."""
        return " ".join(_VARIABLE_WORDS.sub("_", self.text).split())


def blocks_of(lines: Iterable[str]) -> list[Block]:
    """The blocks in order; rules, drawings and blank lines are left out."""
    found: list[Block] = []
    open_block: list[str] | None = None
    fenced = False
    for line in lines:
        if _FENCE.match(line):
            fenced, open_block = not fenced, None
        elif fenced:
            if line.strip():
                found.append(Block(CODE, line.strip()))
        elif not line.strip() or _RULE.match(line):
            open_block = None
        elif line.lstrip().startswith("|"):
            found.append(Block(TABLE, line.strip()))
            open_block = None
        elif match := _BULLET.match(line):
            found.append(Block(ITEM, match.group(3).strip(), match.group(2)))
            open_block = [match.group(3).strip()]
        elif open_block is None:
            found.append(Block(PARAGRAPH, _unquoted(line)))
            open_block = [_unquoted(line)]
        else:
            open_block.append(_unquoted(line))
            found[-1] = Block(found[-1].kind, " ".join(open_block), found[-1].marker)
    return found


def _unquoted(line: str) -> str:
    line = line.strip()
    return line.lstrip("> ") if line.startswith(">") else line


def sentences(text: str) -> list[str]:
    """Sentences without bold marks; code spans stay as they are."""
    return [s.strip() for s in _SENTENCE.split(text.replace("**", "")) if s.strip()]


@dataclass(frozen=True)
class Scanned:
    """A block with the prohibitions it states and what it says besides (empty where that is all)."""

    block: Block
    stated: tuple[str, ...]
    besides: str


def scan(lines: Iterable[str], pattern: re.Pattern[str] = STRONG) -> list[Scanned]:
    """The blocks of a text, each with its prohibitions; code and tables state none.

    Items under a lead such as "Do NOT:" are one each; under one that says more, such as "Steps you MUST NOT
    skip:", all become one line."""
    found: list[Scanned] = []
    lead = ""
    for block in blocks_of(lines):
        text = block.text.replace("**", "").strip()
        if block.kind in (CODE, TABLE):
            found.append(Scanned(block, (), text))
        elif block.kind == ITEM and lead and not STRONG.search(text):
            if lead == _DO_NOT:
                found.append(Scanned(block, (lead + _lower_first(text),), ""))
            else:
                joined = f"{lead}{text.split(' — ')[0].rstrip(';,')}"
                found.append(Scanned(block, (f"{joined}.",), ""))
                found[-2:] = _joined(found[-2:], lead)
        else:
            told = sentences(text)
            opening = told.pop() if told and _opens(told[-1]) else ""
            lead = _lead(opening) if opening else (lead if block.kind == ITEM else "")
            stated = tuple(x for x in told if pattern.search(x))
            found.append(Scanned(block, stated, " ".join(x for x in told if x not in stated)))
    return found


def _opens(sentence: str) -> bool:
    """Whether items that follow are forbidden by it."""
    return sentence.endswith(":") and bool(STRONG.search(sentence) or _BARE_LEAD.match(sentence))


def _joined(pair: list[Scanned], lead: str) -> list[Scanned]:
    """Two neighbours under the same lead: the second's line takes in the first's."""
    first, second = pair
    if not (first.stated and first.stated[-1].startswith(lead)):
        return pair
    line = f"{first.stated[-1].rstrip('.')}; {second.stated[0][len(lead) :]}"
    return [Scanned(first.block, first.stated[:-1], first.besides), Scanned(second.block, (line,), "")]


def prohibitions(lines: Iterable[str], pattern: re.Pattern[str] = STRONG) -> list[str]:
    """Every prohibition of a text as one line."""
    return unique(x for one in scan(lines, pattern) for x in one.stated)


def _lead(sentence: str) -> str:
    """What stands before the items of a list of prohibitions."""
    if _BARE_LEAD.match(sentence):
        return _DO_NOT
    return "Not your job: " if _NOT_YOURS.match(sentence) else f"{sentence} "


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def unique(texts: Iterable[str]) -> list[str]:
    """The first of those that say the same but for case, marks and space."""
    seen: set[str] = set()
    kept = []
    for text in texts:
        key = _NOT_WORDS.sub(" ", text.lower()).strip()
        if key and key not in seen:
            seen.add(key)
            kept.append(text)
    return kept


def commands(lines: Iterable[str]) -> list[Command]:
    """The gt, bd and git commands that a text recommends, as they are first named; mistakes are left out."""
    return commands_in(scan(lines))


def commands_in(scanned: Iterable[Scanned]) -> list[Command]:
    """The same of a text that is scanned already."""
    found: list[Command] = []
    for one in scanned:
        if one.block.kind == CODE:
            found.extend(_code_command(one.block.text))
        elif one.block.kind == TABLE:
            found.extend(_table_command(one.block.text))
        else:
            found.extend(_span_commands(one.block.kind, one.besides))
    return merge_commands(found)


def merge_commands(found: Iterable[Command]) -> list[Command]:
    """One of each, with the first note there is and the number of times it was named.

    A bare name such as ``gt nudge`` goes where a fuller form of it stands."""
    merged: dict[str, Command] = {}
    for command in found:
        old = merged.get(command.key)
        if old is None:
            merged[command.key] = command
        else:
            merged[command.key] = Command(old.text, old.note or command.note, old.named + command.named)
    keys = sorted(merged)
    bare = {a for a, b in pairwise(keys) if b.startswith(f"{a} ") and not merged[a].note}
    return [c for key, c in merged.items() if key not in bare]


def _command(text: str, note: str = "") -> list[Command]:
    text = " ".join(text.split()).rstrip(" \\")
    if text.count('"') % 2:
        text = text[: text.rindex('"')] + '"…"'
    if len(text.split()) < 2 or len(text) > 160 or "bd show -" in text:
        return []
    note = note.replace("**", "").strip().rstrip(".")
    return [Command(text, note if len(note) <= MAX_NOTE else "")]


def _code_command(line: str) -> list[Command]:
    match = _CODE_COMMAND.match(line)
    if not match:
        return []
    text, _, note = match.group(1).partition(" #")
    return [] if _MISTAKE.search(line) else _command(text, _STEP.sub("", note.strip()))


def _table_command(row: str) -> list[Command]:
    cells = [c.strip() for c in row.strip("|").split("|")]
    found: list[Command] = []
    for cell in cells[1:]:
        if not _MISTAKE.search(cell):
            found.extend(c for span in _SPAN.findall(cell)[:2] for c in _command(span, cells[0]))
    return found


def _span_commands(kind: str, text: str) -> list[Command]:
    if kind == ITEM and (head := _ITEM_COMMAND.match(text)):
        return _command(head.group(1), sentences(head.group(2))[0])
    found: list[Command] = []
    for sentence in sentences(text):
        if not _MISTAKE.search(sentence):
            found.extend(c for span in _SPAN.findall(sentence) for c in _command(span))
    return found


def units_of(lines: Iterable[str], longest: int = 400) -> list[str]:
    """Lines to keep or drop one by one: items, table rows, code lines, paragraphs (long ones by sentence)."""
    units = []
    for block in blocks_of(lines):
        if block.kind == ITEM:
            units.append(f"{block.marker} {block.text}")
        elif block.kind == PARAGRAPH and len(block.text) > longest:
            units.extend(sentences(block.text))
        else:
            units.append(block.text)
    return units
