"""Base64 and hexadecimal digits that hold a secret: ``user:password``, a dotenv file, a key, a JSON document.

What they decode to is text in UTF-8, or in UTF-16 as PowerShell has it. Candidates are runs of letters and
digits of 12 characters and more, looked at by twelves: Hyperscan tells the first twelve that is not of one
case (words and hashes are), those that do not decode to text (digests, images, identifiers) go right after.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache

from .decoding import TEXT_HEAD, decode_base64, hex_text, plain_text
from .judge import is_placeholder, looks_random
from .layers import Hit
from .patterns import regex
from .scan import Haystack, Mark, Marks, word_left

_TWELVE = 12
_RUN = regex(r"[A-Za-z0-9+/_-]+={0,2}")
_ALNUM = string.ascii_letters + string.digits
_BASE64 = _ALNUM + "+/_-"
_LIMIT = 1 << 20
_USER_PASSWORD = regex(r"[A-Za-z0-9._@+-]{2,64}:(\S{4,128})")
_BARE_RULES = regex(
    r"(?:pat[A-Za-z0-9]{14}\.[a-f0-9]{64}|[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,40}|"
    r"sl\.[\w=-]{120,})(?![\w.])",
    re.ASCII,
)
_BARE_STARTS = frozenset("pMNOs")
_HEX_TEXT = regex(r"(?:[2-7][0-9a-f]|0[9ad]){12,}(?![0-9a-z])", re.IGNORECASE)
"""Digits of nothing but printable ASCII: no hash is so."""
_HEX_STARTS = "0234567"
_DOTTED = "pat[A-Za-z0-9]{14}[.]"
"""The head of a key that has a run of one case behind it."""
_JOINS = frozenset(_ALNUM + "\\%[;")
"""Before a run: more of it, or what may be the beginning of an escape whose tail looks like a part of it."""


def find(stack: Haystack, inner: Callable[[str], bool]) -> list[Hit]:
    """Every run of base64 that holds something; ``inner`` tells whether what one decodes to has anything."""
    text = stack.text
    out: list[Hit] = []
    done = 0
    for _, start, _ in _candidates().hits(stack.latin):
        if start < done:
            continue
        probe = text[start : start + _TWELVE]
        if start >= 18 and text[start - 1] == "." and _bare(text, start - 18, out):
            done = start + _TWELVE  # a run of one case, but the tail of a key that has a dot in it
        elif probe[0] in _HEX_STARTS and (digits := _HEX_TEXT.match(text, start)) is not None:
            done = digits.end()
            if inner(hex_text(digits[0])):
                out.append(Hit(start, done, "hex"))
        elif not (probe.islower() or probe.isdecimal() or probe.isupper()):
            done = _one_run(text, start, done, inner, out)
    return out


@lru_cache(maxsize=1)
def _candidates() -> Marks:
    """Of a run cut into twelves: the first that has both cases; twice twelve digits of hexadecimal text; and
    the twelve behind the head of a key that has a dot in it."""
    begins = "(?:^|[^A-Za-z0-9])"
    one_case = f"(?:[a-z0-9]{{{_TWELVE}}}|[A-Z0-9]{{{_TWELVE}}})*"
    hex_text = f"(?:[2-7][0-9A-Fa-f]|0[9ADad]){{{_TWELVE}}}"
    return Marks(
        (
            Mark(f"{begins}{one_case}{_both_cases()}", _TWELVE),
            Mark(f"{begins}(?:[A-Za-z0-9]{{{_TWELVE}}})*{hex_text}", 2 * _TWELVE),
            Mark(f"{_DOTTED}[a-f0-9]{{{_TWELVE}}}", _TWELVE),
        )
    )


def _both_cases() -> str:
    """Twelve letters and digits with a capital and a small letter among them, by where the first letter
    stands and where the first of the other case does."""

    def some(what: str, count: int) -> str:
        return f"[{what}]{{{count}}}" if count else ""

    ways = [
        f"{some('0-9', first)}[{one}]{some('0-9' + one, other - first - 1)}[{another}]"
        f"{some('A-Za-z0-9', _TWELVE - 1 - other)}"
        for other in range(1, _TWELVE)
        for first in range(other)
        for one, another in (("a-z", "A-Z"), ("A-Z", "a-z"))
    ]
    return f"(?:{'|'.join(ways)})"


def _one_run(text: str, start: int, floor: int, inner: Callable[[str], bool], out: list[Hit]) -> int:
    """Returns where the run ends."""
    begin = start
    if start and text[start - 1] in _JOINS:
        begin = word_left(text, start + 1, _ALNUM, start + 1 - floor)
    for at in (begin, begin - 3, begin - 4):
        if at >= 0 and text[at] in _BARE_STARTS and (end := _bare(text, at, out)):
            return end
    run = _RUN.match(text, begin)
    if run is None:
        return start + 1
    found = _judge_run(text, begin, run.end(), inner, out)
    if not found and begin and text[begin - 1] in _BASE64:
        wider = word_left(text, begin + 1, _BASE64, begin + 1 - floor)
        if wider < begin:
            _judge_run(text, wider, run.end(), inner, out)
    return run.end()


def _bare(text: str, at: int, out: list[Hit]) -> int:
    """A key that only its parts give away begins at ``at``; returns where it ends, 0 if there is none."""
    match = _BARE_RULES.match(text, at)
    if match is None or not looks_random(match[0], 40):
        return 0
    out.append(Hit(at, match.end(), "token"))
    return match.end()


def _judge_run(text: str, begin: int, end: int, inner: Callable[[str], bool], out: list[Hit]) -> bool:
    plain = _plain_text(text[begin:end]) if TEXT_HEAD.match(text, begin) else None
    if plain is None:
        return False
    pair = _USER_PASSWORD.fullmatch(plain)
    if (
        pair is not None
        and not plain.startswith(("http:", "https:", "file:"))
        and not is_placeholder(pair[1])
    ):
        out.append(Hit(begin, end, "basic_auth"))
    elif inner(plain):
        out.append(Hit(begin, end, "base64"))
    else:
        return False
    return True


def _plain_text(run: str) -> str | None:
    """What ``run`` decodes to, if that is text."""
    if not 12 <= len(run.rstrip("=")) <= _LIMIT:
        return None
    head = decode_base64(run[:64] if len(run) > 64 else run)
    if head is None or (len(run) > 64 and plain_text(head, cut=True) is None):
        return None
    raw = decode_base64(run)
    return plain_text(raw) if raw is not None else None
