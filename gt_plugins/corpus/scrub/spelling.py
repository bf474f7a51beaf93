"""How a value is written: percent-encoded, escaped, split.

A surrogate is that of the value as it reads, so that the same original has the same one however it is met,
and is written as the original was.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from .patterns import regex
from .views import MARK, undo

_TELLS = regex("[%&\\\\\x1b\"'\xad\u200b-\u200d\u2060\ufeff]")
"""One of them stands in whatever is written otherwise than it reads."""
_BEYOND_ASCII = regex(r"(?:%[89A-Fa-f][0-9A-Fa-f]){2,}")


def plain(text: str) -> str:
    """``text`` as it reads when its escapes are undone; a sequence that is no UTF-8 stays."""
    if _TELLS.search(text) is None:
        return text
    return _BEYOND_ASCII.sub(_letters, MARK.sub(undo, text))


def _letters(escapes: re.Match[str]) -> str:
    try:
        return unquote(escapes[0], errors="strict")
    except UnicodeDecodeError:
        return escapes[0]


def respelled(text: str, original: str) -> str:
    """``text`` with those signs escaped that are so in ``original``, letters and digits never; in a
    percent-encoded one also those that would end a word of an address, unless they stand in it plainly."""
    spelled: dict[str, str] = {}
    for mark in MARK.finditer(original):
        spelled.setdefault(undo(mark), mark[0])
    raw = MARK.sub("", original)
    percent = any(sign.startswith("%") for sign in spelled.values()) or _BEYOND_ASCII.search(original)
    return "".join(
        c if c.isalnum() else spelled.get(c) or (quote(c, safe=raw) if percent and c.isascii() else c)
        for c in text
    )
