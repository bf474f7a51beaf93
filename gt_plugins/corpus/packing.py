"""JSON values as the corpus keeps and compares them: compact bytes, and one form for one value.

Records of ours (a session, its turns) are written as JSON objects of their fields, without a copy before.
orjson does not take what no encoder of UTF-8 takes (half of a UTF-16 pair) and numbers beyond 64 bits; the
standard library writes those, escaped.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import is_dataclass
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


def text_of_json(value: Any) -> str:
    """A small JSON value as text, keys in order."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def canonical(value: Any) -> bytes:
    """A JSON value with its keys in order: equal values have equal bytes."""
    return _encoded(value, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS)


def encodable(text: str) -> str:
    """``text`` without halves of UTF-16 pairs, which SQLite does not take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _encoded(value: Any, option: int) -> bytes:
    try:
        return orjson.dumps(value, default=_fields, option=option)
    except TypeError:
        written = json.dumps(value, default=_fields, separators=(",", ":"), sort_keys=bool(option))
        return written.encode("ascii")


def _fields(record: Any) -> dict[str, Any]:
    """A record's fields, of which orjson itself would not sort the names."""
    if is_dataclass(record):
        return vars(record)
    raise TypeError(f"no JSON value: {type(record).__name__}")


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _plain(stored: bytes) -> bytes:
    if stored[:1] == _ZLIB:
        return zlib.decompress(stored)
    return zstandard.ZstdDecompressor().decompress(stored)
