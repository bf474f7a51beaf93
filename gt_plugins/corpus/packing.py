"""JSON values as the corpus keeps and compares them: compact bytes, and one form for one value.

orjson does not take what no encoder of UTF-8 takes (half of a UTF-16 pair) and numbers beyond 64 bits; the
standard library writes those, escaped.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import orjson
import zstandard

LEVEL = 1  # higher ones save little of a transcript and take several times as long
_ZLIB = b"\x78"
"""First byte of what earlier versions stored."""


def pack(value: Any) -> bytes:
    """A JSON value, compressed."""
    return _compressed(_encoded(value, 0))


def unpack(stored: bytes) -> Any:
    """The value that :func:`pack` was given."""
    data = _plain(stored)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def pack_text(text: str) -> bytes:
    """A text, compressed; halves of UTF-16 pairs become question marks."""
    return _compressed(encodable(text).encode())


def unpack_text(stored: bytes) -> str:
    """The text that :func:`pack_text` was given."""
    return _plain(stored).decode()


def canonical(value: Any) -> bytes:
    """A JSON value with its keys in order: equal values have equal bytes."""
    return _encoded(value, orjson.OPT_SORT_KEYS)


def encodable(text: str) -> str:
    """``text`` without halves of UTF-16 pairs, which SQLite does not take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _encoded(value: Any, option: int) -> bytes:
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), sort_keys=bool(option)).encode("ascii")


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _plain(stored: bytes) -> bytes:
    if stored[:1] == _ZLIB:
        return zlib.decompress(stored)
    return zstandard.ZstdDecompressor().decompress(stored)
