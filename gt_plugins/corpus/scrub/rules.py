"""What a rule of :mod:`.formats` is: a literal that announces a key, the body's pattern, maybe a check.

A rule's groups are what is replaced; the announcing prefix stays, so that the surrogate keeps the type.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from .judge import is_placeholder, looks_random
from .patterns import regex
from .scan import Mark, entropy, word
from .seal import BASE62


@dataclass(frozen=True)
class Rule:
    """``pattern`` is tried ``back`` characters before each place of one of ``keywords``."""

    kind: str
    keywords: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    back: range = range(1)
    after: str = ""
    """What the body begins with, for the prefilter: a class of characters, ``size`` times."""
    size: int = 0

    def marks(self) -> list[Mark]:
        """What is searched for; a keyword in front is written as its issuer writes it."""
        return [word(w, self.after, self.size, exact=self.back == range(1)) for w in self.keywords]


def varied(body: str) -> bool:
    """No filler such as ``xxxx``: at least five different characters and no placeholder word."""
    return len(set(body)) >= 5 and not is_placeholder(body)


def strong(body: str) -> bool:
    """Digits and letters with the entropy of something generated; for prefixes that words also begin with."""
    return looks_random(body, 16) and any(c.isdigit() for c in body) and entropy(body) >= 3.0


def github(body: str) -> bool:
    """GitHub's tokens end in a base-62 CRC-32; one that fits is real whatever it looks like."""
    return crc32_base62(body[:-6]) == body[-6:] or varied(body)


def crc32_base62(body: str) -> str:
    """The six characters that GitHub and npm append to 30 random ones."""
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        out = BASE62[digit] + out
    return out


def rule(kind: str, prefixes: str, body: str, check: Callable[[str], bool] = varied, after: str = "") -> Rule:
    words = prefixes.split()
    announced = "|".join(re.escape(w) for w in words)
    body = body if _GROUP.search(body) else f"({body})"
    pattern = regex(f"(?:{announced}){body}{after}", re.ASCII)
    return Rule(kind, tuple(words), pattern, check, range(1), *_beginning(body))


_GROUP = re.compile(r"(?<!\\)\((?!\?)")
_BEGINNING = regex(r"\(?(\[[^\[\]]+\]|\\w|\\d)\{(\d+)[,}]")
_LOOK = 8
"""So many characters behind a keyword tell a word from a key."""


def _beginning(body: str) -> tuple[str, int]:
    """The class of characters that a body begins with and how many of it are looked at; nothing where it may
    begin otherwise."""
    first = _BEGINNING.match(body)
    if first is None or "|" in body:
        return "", 0
    size = min(int(first[2]), _LOOK)
    return f"{first[1]}{{{size}}}", size


def around(
    kind: str, keywords: str, pattern: str, back: range, check: Callable[[str], bool] = varied
) -> Rule:
    return Rule(kind, tuple(keywords.split()), regex(pattern, re.ASCII), check, back)
