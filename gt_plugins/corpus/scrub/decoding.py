"""Bytes behind base64, and whether they are text."""

from __future__ import annotations

import base64
import binascii
import codecs

_CONTROL = bytes(c for c in (*range(32), 127) if c not in (9, 10, 13))
_LAYOUT = dict.fromkeys(map(ord, "\t\r\n"))


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
    """The ASCII characters that hexadecimal digits stand for."""
    return bytes.fromhex(digits).decode("ascii", "replace")


def is_utf16(raw: bytes) -> bool:
    """Whether ``raw`` is UTF-16 (little-endian) of ASCII characters."""
    return len(raw) >= 8 and not len(raw) % 2 and not any(raw[1::2]) and all(raw[::2])
