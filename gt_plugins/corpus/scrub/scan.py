"""Fast candidate search: one pass of an automaton over the text, then a regex only where a keyword stands.

Fixed rules are searched by Hyperscan (:class:`Marks`), which also looks at what follows a keyword; lists of
values that each town has of its own by Aho-Corasick (:class:`Automaton`), which is made in no time.

Offsets are those of the text: the haystack is its Latin-1 form with ``?`` for every other character, so
one character is one byte. The cost is linear in the text plus the number of keyword hits.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import ahocorasick_rs
import hyperscan

from .compiled import database
from .patterns import regex

_SHORT = 5
_ANSI = regex(r"(?:\x1b|\\u001b|\\x1b|\\033|\\e)\[[0-9;]{0,12}m$", re.IGNORECASE)
_ANSI_TAIL = regex(r"\d{0,3}m")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


class Haystack:
    """A text and the byte forms that automata search; each form is made at first use."""

    __slots__ = ("_folded", "_latin", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._latin: bytes | None = None
        self._folded: bytes | None = None

    @property
    def latin(self) -> bytes:
        """With a NUL behind it: no letter, digit or underscore, as any text ends."""
        if self._latin is None:
            self._latin = f"{self.text}\0".encode("latin-1", "replace")
        return self._latin

    @property
    def folded(self) -> bytes:
        """ASCII letters lowered."""
        if self._folded is None:
            self._folded = self.latin.lower()
        return self._folded


_last: list[Haystack] = []


def haystack(text: str) -> Haystack:
    """The haystack of ``text``; the last one is kept, since every layer asks for the same text in turn."""
    if _last and _last[0].text is text:
        return _last[0]
    made = Haystack(text)
    _last[:] = [made]
    return made


def forget() -> None:
    """Let go of the last text."""
    _last.clear()


class Automaton:
    """Literal patterns searched all at once; overlapping matches are all reported."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._machine = (
            ahocorasick_rs.BytesAhoCorasick(
                [p.encode("latin-1") for p in self.patterns],
                implementation=ahocorasick_rs.Implementation.DFA,
            )
            if self.patterns
            else None
        )

    def hits(self, data: bytes) -> list[tuple[int, int, int]]:
        """(index of the pattern, start, end), by increasing end."""
        if self._machine is None:
            return []
        return self._machine.find_matches_as_indexes(data, overlapping=True)


@dataclass(frozen=True, slots=True)
class Mark:
    """What gives a candidate away: a pattern of fixed length, and what must follow it for a rule to find
    anything there."""

    pattern: str
    """A regular expression over bytes, what must follow included."""
    size: int
    """How many characters are the mark itself."""
    more: int = 0
    """How many characters behind it are looked at."""
    fold: bool = False
    """Whatever the case of ASCII letters."""


def word(text: str, after: str = "", more: int = 0, exact: bool = False) -> Mark:
    """A literal, in any case unless ``exact``. ``after`` is a pattern of ``more`` characters; case counts.

    Few long words stand in other text by chance, so only a short one is worth the time to compile more."""
    literal = "".join(f"\\x{byte:02x}" for byte in text.encode("latin-1"))
    if not after or len(text) > _SHORT:
        return Mark(literal, len(text), 0, not exact)
    return Mark((literal if exact else f"(?i:{literal})") + after, len(text), more)


class Marks:
    """Marks searched all at once; overlapping ones are all reported."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self.marks = tuple(marks)
        self._ends = tuple(mark.more for mark in self.marks)
        self._starts = tuple(mark.more + mark.size for mark in self.marks)
        self._one_at_a_time = threading.Lock()
        self._database = database(
            [mark.pattern.encode("ascii") for mark in self.marks],
            [hyperscan.HS_FLAG_CASELESS if mark.fold else 0 for mark in self.marks],
        )

    def hits(self, data: bytes) -> list[tuple[int, int, int]]:
        """(index of the mark, its start, its end) in a haystack's ``latin``, by increasing end."""
        found: list[tuple[int, int]] = []
        keep = found.append
        with self._one_at_a_time:
            self._database.scan(
                data, match_event_handler=lambda index, _, end, flags, more: keep((index, end))
            )
        starts, ends = self._starts, self._ends
        hits = [(end - ends[index], end - starts[index], index) for index, end in found]
        hits.sort()
        return [(index, start, end) for end, start, index in hits]


def apart(hits: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Of hits that overlap the one that ends first."""
    kept: list[tuple[int, int, int]] = []
    floor = 0
    for hit in hits:
        if hit[1] >= floor:
            kept.append(hit)
            floor = hit[2]
    return kept


def starts_word(text: str, at: int) -> bool:
    """Whether a token may begin at ``at``: no letter, digit or underscore joins it from the left.

    The tail of an escape does not count: ``\\n`` in escaped JSON, ``%3D``, ``\\u0026``, an ANSI colour.
    """
    if at == 0:
        return True
    before = text[at - 1]
    if not (before.isalnum() or before == "_"):
        return True
    if not before.isascii():
        return True
    if at >= 2 and text[at - 2] == "\\" and before in "nrtbf":
        return True
    if at >= 3 and text[at - 3] == "%" and before in _HEX_DIGITS and text[at - 2] in _HEX_DIGITS:
        return True
    if at >= 6 and text[at - 6 : at - 4] == "\\u" and all(c in _HEX_DIGITS for c in text[at - 4 : at]):
        return True
    return before == "m" and _ANSI.search(text, max(0, at - 24), at) is not None


def word_left(text: str, at: int, chars: str, limit: int) -> int:
    """Where the run of ``chars`` that ends at ``at`` begins, without the tail of an escape that joins it."""
    left = max(0, at - limit)
    left += len(text[left:at].rstrip(chars))
    if left == 0 or left == at:
        return left
    before = text[left - 1]
    if before == "\\" and text[left] in "nrtbf":
        return left + 1
    if before == "\\" and text[left] == "u" and left + 5 <= at:
        return left + 5
    if before == "%" and left + 2 <= at and text[left] in _HEX_DIGITS and text[left + 1] in _HEX_DIGITS:
        return left + 2
    if before in "[;":
        colour = _ANSI_TAIL.match(text, left)
        if colour is not None and _ANSI.search(text, max(0, left - 24), colour.end()):
            return colour.end()
    return left


def ends_word(text: str, at: int) -> bool:
    """Whether a token may end before ``at``."""
    return at >= len(text) or not (text[at].isascii() and (text[at].isalnum() or text[at] == "_"))


@lru_cache(maxsize=4096)
def entropy(value: str) -> float:
    """Shannon entropy of the characters, in bits per character."""
    size = len(value)
    return math.log2(size) - sum(map(_weight, Counter(value).values())) / size if size else 0.0


@lru_cache(maxsize=4096)
def _weight(count: int) -> float:
    return count * math.log2(count)


def luhn(digits: str) -> bool:
    """The check digit of payment cards."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        n = int(digit)
        if place % 2:
            n = n * 2 - 9 if n > 4 else n * 2
        total += n
    return total % 10 == 0


def luhn_digit(digits: str) -> str:
    """The digit that makes ``digits`` + it pass :func:`luhn`."""
    return next(d for d in "0123456789" if luhn(digits + d))
