"""Bytes behind base64, and whether they are text."""

from __future__ import annotations

import base64
import binascii
import codecs
import string

from .patterns import regex

_CONTROL = bytes(c for c in (*range(32), 127) if c not in (9, 10, 13))
_LAYOUT = dict.fromkeys(map(ord, "\t\r\n"))

_DIGITS = [*string.ascii_uppercase, *string.ascii_lowercase, *string.digits, r"+\-", "/_"]
"""Of base64, by value; the last two differ where it is made for URLs."""


def _digits(mask: int, value: int) -> str:
    """Those digits whose bits under ``mask`` are ``value``."""
    return "[" + "".join(c for n, c in enumerate(_DIGITS) if n & mask == value) + "]"


def _text_head() -> str:
    """A regular expression: four digits are three bytes, and each is ASCII (A), or begins (L) or goes on (C)
    with a character of UTF-8, by its highest bits."""
    first = {"A": _digits(32, 0), "L": _digits(48, 48)}
    second = {"A": _digits(8, 0), "L": _digits(12, 12), "C": _digits(12, 8)}
    third = {"A": _digits(2, 0), "L": _digits(3, 3), "C": _digits(3, 2)}
    fours = {w: f"{first[w[0]]}{second[w[1]]}{third[w[2]]}." for w in "AAA AAL ALC LCA LCL LCC".split()}
    ascii_only = fours.pop("AAA")
    return f"(?:{ascii_only}){{3}}|(?:{ascii_only}){{0,2}}(?:{'|'.join(fours.values())})"


TEXT_HEAD = regex(_text_head())
"""How base64 of any text begins. Few identifiers do, and asking this is far cheaper than to decode."""


def decode_base64(text: str) -> bytes | None:
    """The bytes of standard or URL-safe base64, padded or not; None where it is none."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    if len(plain) % 4 == 1:
        return None
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def plain_text(raw: bytes, cut: bool = False) -> str | None:
    """``raw`` as text, if it is some: UTF-8, or UTF-16 of ASCII; ``cut``: the end may be missing."""
    if b"\0" in raw and is_utf16(raw):
        raw = raw[::2]
    if len(raw.translate(None, _CONTROL)) < len(raw):
        return None
    if raw.isascii():
        return raw.decode("ascii")
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, final=not cut)
    except UnicodeDecodeError:
        return None
    return text if text.translate(_LAYOUT).isprintable() else None


def wrapped(kind: str, text: str) -> str:
    """The text that a value of kind ``base64`` or ``hex`` wraps; empty for others, and where it is none."""
    if kind == "hex":
        return hex_text(text)
    raw = decode_base64(text) if kind == "base64" else None
    return (plain_text(raw) or "") if raw is not None else ""


def lenient_text(raw: bytes) -> str:
    """``raw`` as text whatever it is; what is none is replaced."""
    return (raw[::2] if is_utf16(raw) else raw).decode("utf-8", "replace")


def hex_text(digits: str) -> str:
    """The ASCII characters that hexadecimal digits stand for; nothing where something else is among them."""
    try:
        return bytes.fromhex(digits).decode("ascii", "replace")
    except ValueError:
        return ""


def is_utf16(raw: bytes) -> bool:
    """Whether ``raw`` is UTF-16 (little-endian) of ASCII characters."""
    return len(raw) >= 8 and not len(raw) % 2 and not any(raw[1::2]) and all(raw[::2])
