"""A text as it reads when an encoding is undone, with the way back to where each character stood.

Percent signs, HTML entities, unicode and hexadecimal escapes, terminal colours, backslashes three deep, marks
of no width, a word continued on the next line or in the next string: rules know values as their issuers write
them, so what hides behind such marks is searched once more without them.
Only windows around marks are undone; a text without marks costs one pass of an automaton.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from .patterns import regex
from .scan import Haystack, Mark, Marks, apart, word

_MARKS: tuple[str, ...] = (
    *(f"%{n}" for n in range(2, 8)),
    "&quot;",
    "&apos;",
    "&amp;",
    "&lt;",
    "&#",
    "\\u00",
    "\\x1b",
    *(f"\\x{n}" for n in range(2, 8)),
    "\\033[",
    "\\e[",
    "\x1b[",
    '\\\\\\"',
    "\\\\\\n",
)
_JOINTS: tuple[str, ...] = (
    r"[0-9A-Za-z_-]\\\n",
    *(f"[0-9A-Za-z_-]{q}{glue}{q}[0-9A-Za-z_-]" for q in "\"'" for glue in ("", r"\+", r" \+ ")),
)
"""Where a word goes on after a line's or a string's end: as a shell reads it, and most languages."""
_INVISIBLE = "\xad\u200b\u200c\u200d\u2060\ufeff"
MARK = regex(
    r"%(?:25)?(?P<percent>[2-7][0-9A-Fa-f]|0[9AaDd])|"
    r"&(?P<entity>quot|apos|amp|lt|gt|#0{0,3}\d{2,3}|#[xX]0{0,2}[0-9A-Fa-f]{2});|"
    r"(?P<colour>(?:\x1b|\\+(?:u001[bB]|x1[bB]|033|e))\[[0-9;]{0,12}m)|"
    r"\\+(?:u00|x)(?P<escape>[2-7][0-9A-Fa-f])|\\{3,}(?P<quote>[\"'])|\\{2,}(?P<line>n)|"
    rf"(?P<joint>[{_INVISIBLE}]|(?<=[\w-])(?:\\\n[ \t]*|\"(?: ?\+ ?)?\"|'(?: ?\+ ?)?')(?=[\w-]))"
)
_FORM_WORD = regex(r"[^\s\x00\"'`<>\\]+")
_PERCENT = regex(r"%(?:25)?[0-9A-Fa-f]{2}")
_PLUS = regex(r"\+")
_BEFORE, _AFTER = 160, 320
_EDGE = regex(r"[\s\x00]")


@dataclass(frozen=True)
class View:
    """``text`` is what ``start … end`` of the original reads like; ``steps`` lead back."""

    text: str
    start: int
    end: int
    steps: tuple[tuple[int, int, int, int], ...]
    """(place in ``text``, place in the original, characters here, characters there), in order."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where ``text[start:end]`` stands in the original."""
        return self._place(start)[0], self._place(end - 1)[1]

    def _place(self, at: int) -> tuple[int, int]:
        index = bisect_right(self.steps, (at, 1 << 62)) - 1
        here, there, size, old = self.steps[index]
        if size == old:
            return there + at - here, there + at - here + 1
        return there, there + old


@lru_cache(maxsize=1)
def _marks() -> Marks:
    joints = (Mark(joint, len(re.sub(r"\[[^]]*\]|\\.", "x", joint))) for joint in _JOINTS)
    return Marks([*map(word, _MARKS), *joints])


def views(stack: Haystack) -> Iterator[View]:
    """One view for each stretch of the text that has marks, two where it may be an encoded form."""
    text = stack.text
    hits = _marks().hits(stack.latin)
    if not text.isascii() and (hidden := _invisible(text)):
        hits = sorted([*hits, *hidden], key=lambda hit: hit[2])
    for start, end in _windows(text, apart(hits)):
        marks = [(m.start(), m.end(), undo(m)) for m in MARK.finditer(text, start, end)]
        made = _undone(text, start, end, marks)
        if made is not None:
            yield made
        spaces = _spaces(text, start, end)
        if spaces and (made := _undone(text, start, end, sorted(marks + spaces))) is not None:
            yield made


def _invisible(text: str) -> list[tuple[int, int, int]]:
    """Characters of no width; the automaton sees none beyond Latin-1."""
    found = []
    for char in _INVISIBLE:
        at = text.find(char)
        while at >= 0:
            found.append((0, at, at + 1))
            at = text.find(char, at + 1)
    return found


def _windows(text: str, hits: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Stretches around the hits, from one white space to another where there is one near."""
    at, count = 0, len(hits)
    floor = 0
    while at < count:
        first = hits[at][1]
        last = hits[at][2]
        at += 1
        while at < count and hits[at][1] - last < _BEFORE:
            last = hits[at][2]
            at += 1
        start = max(floor, first - _BEFORE, text.rfind("\0", floor, first) + 1)
        stop = text.find("\0", last, last + _AFTER)
        end = min(len(text), last + _AFTER) if stop < 0 else stop
        space = _EDGE.search(text, start, first) if start > floor else None
        start = space.end() if space is not None else start
        gap = _EDGE.search(text, end, end + _BEFORE) if stop < 0 else None
        end = gap.start() if gap is not None else end
        yield start, end
        floor = end


def _spaces(text: str, start: int, end: int) -> list[tuple[int, int, str]]:
    """Each plus in a word with percent signs: a space, where a form has been encoded."""
    if text.find("+", start, end) < 0 or text.find("%", start, end) < 0:
        return []
    words = (word for word in _FORM_WORD.finditer(text, start, end) if _PERCENT.search(word[0]))
    signs = (sign for word in words for sign in _PLUS.finditer(text, *word.span()))
    return [(sign.start(), sign.end(), " ") for sign in signs]


def _undone(text: str, start: int, end: int, marks: list[tuple[int, int, str]]) -> View | None:
    """The view of a stretch with its marks, each (start, end, what it stands for), in order."""
    parts: list[str] = []
    steps: list[tuple[int, int, int, int]] = []
    here, at = 0, start
    for left, right, plain in marks:
        if left > at:
            steps.append((here, at, left - at, left - at))
            parts.append(text[at:left])
            here += left - at
        if plain:
            steps.append((here, left, 1, right - left))
            parts.append(plain)
            here += 1
        at = right
    if at == start:
        return None
    if end > at:
        steps.append((here, at, end - at, end - at))
        parts.append(text[at:end])
    return View("".join(parts), start, end, tuple(steps)) if steps else None


def undo(mark: re.Match[str]) -> str:
    """The one character that a mark stands for; nothing for a colour or a joint."""
    code = mark["percent"] or mark["escape"]
    if code:
        return chr(int(code, 16))
    if mark["entity"]:
        return html.unescape(f"&{mark['entity']};")[:1]
    return "\n" if mark["line"] else mark["quote"] or ""
