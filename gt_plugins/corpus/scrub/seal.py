"""How a surrogate is known as one: its last characters are a check of those before them.

A surrogate's body is drawn from a keyed hash of the original, so the same original gives the same body in
every session and process, and nobody without the key can test a guess. The check needs no key: whoever
scrubs scrubbed text, here or on another machine, leaves surrogates alone. A foreign value passes for a
surrogate with a chance of about 1 in a million (short digit strings: 1 in 10,000).
"""

from __future__ import annotations

import hashlib
import hmac
import string
import struct

_D, _L, _U = string.digits, string.ascii_lowercase, string.ascii_uppercase
ALPHABETS: tuple[str, ...] = (
    _D,
    _D + "abcdef",
    _D + "ABCDEF",
    _L,
    _U,
    _U + "234567",
    _D + _L,
    _D + _U,
    _L + _U,
    _D + _L + _U,
)
"""Narrowest first; an original's body is redrawn from the first one that covers it."""
LEAST = 8
"""Characters of the shortest sealed body."""
LOWER36, BASE62 = ALPHABETS[6], ALPHABETS[9]
SYLLABLES = tuple(c + v for c in "bdfgjklmnprstvz" for v in "aeiou")
_SETS = tuple(frozenset(a) for a in ALPHABETS)


class Stream:
    """Numbers drawn from a keyed hash of one original; the same key and original give the same numbers."""

    def __init__(self, key: bytes, label: str, original: str) -> None:
        message = label.encode() + b"\0" + original.encode("utf-8", "surrogatepass")
        self._seed = hmac.new(key, message, hashlib.sha256).digest()

    def numbers(self, count: int) -> tuple[int, ...]:
        """``count`` numbers below 65,536."""
        return _numbers(self._seed, count)


def check_numbers(body: str, count: int) -> tuple[int, ...]:
    """The numbers that the check of ``body`` is written with."""
    return _numbers(b"gastown-finetune surrogate\0" + body.encode("ascii", "replace"), count)


def _numbers(seed: bytes, count: int) -> tuple[int, ...]:
    return struct.unpack(f">{count}H", hashlib.shake_256(seed).digest(2 * count))


def check_length(size: int) -> int:
    """How many of ``size`` characters are check."""
    return 6 if size >= 16 else 5 if size >= 12 else 4


def covering(body: str) -> str:
    """The narrowest alphabet that covers ``body`` (ASCII letters and digits)."""
    found = set(body)
    return next(a for a, s in zip(ALPHABETS, _SETS, strict=True) if found <= s)


def sealed_body(stream: Stream, size: int, alphabet: str) -> str:
    """``size`` characters of ``alphabet`` with their check at the end."""
    check = check_length(size)
    base = len(alphabet)
    drawn = stream.numbers(size - check)
    body = "".join([alphabet[n % base] for n in drawn])
    if alphabet == _D:  # a number must not begin with 0, or it is none in JSON
        body = alphabet[1 + drawn[0] % 9] + body[1:]
    return body + "".join([alphabet[n % base] for n in check_numbers(body, check)])


def is_sealed(body: str) -> bool:
    """Whether :func:`sealed_body` could have written ``body``, in whichever alphabet covers it."""
    size, found = len(body), set(body)
    if size < LEAST:
        return False
    for alphabet, members in zip(ALPHABETS, _SETS, strict=True):
        if found <= members:
            check = check_length(size)
            base = len(alphabet)
            wanted = [alphabet[n % base] for n in check_numbers(body[:-check], check)]
            if list(body[-check:]) == wanted:
                return True
    return False


def sealed_syllables(stream: Stream, drawn: int, check: int = 2) -> list[str]:
    """``drawn`` syllables and ``check`` more that seal them; each is a consonant and a vowel."""
    base = len(SYLLABLES)
    body = [SYLLABLES[n % base] for n in stream.numbers(drawn)]
    return body + [SYLLABLES[n % base] for n in check_numbers("".join(body), check)]


def are_sealed_syllables(word: str, check: int = 2) -> bool:
    """Whether the letters of ``word`` are syllables of :func:`sealed_syllables`, whatever their case."""
    word = word.lower()
    parts = [word[i : i + 2] for i in range(0, len(word), 2)]
    if len(parts) <= check or any(p not in _SYLLABLE_SET for p in parts):
        return False
    base = len(SYLLABLES)
    wanted = [SYLLABLES[n % base] for n in check_numbers("".join(parts[:-check]), check)]
    return parts[-check:] == wanted


_SYLLABLE_SET = frozenset(SYLLABLES)
