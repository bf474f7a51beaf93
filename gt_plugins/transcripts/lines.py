"""JSON lines as they are found on disk: torn, binary, glued or huge, each counted and none fatal.

Counts: ``torn`` (the last line has no end), ``broken`` (no JSON), ``binary`` (no UTF-8, or NUL bytes),
``not_object``, ``huge`` (over MAX_LINE bytes), ``nested`` (too deep to parse), ``glued`` (two records on one
line; both are read), ``surrogate`` (half of a UTF-16 pair, replaced by U+FFFD: no encoder takes it).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

MAX_LINE = 32 * 1024 * 1024
AT_ONCE = 1 << 18
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def objects(handle: BinaryIO, counts: Counter[str], max_line: int = MAX_LINE) -> Iterator[dict[str, Any]]:
    """The JSON objects of an open file, one line in memory at a time; longer ones are passed over."""
    for raw in lines_of(handle, counts, max_line):
        yield from parse_line(raw, counts, raw.endswith(b"\n"))


def lines_of(handle: BinaryIO, counts: Counter[str], max_line: int = MAX_LINE) -> Iterator[bytes]:
    """The lines of an open file, with their ends; longer ones are passed over."""
    while raw := handle.readline(max_line + 1):
        if len(raw) > max_line:
            counts["huge"] += 1
            while raw and not raw.endswith(b"\n"):
                raw = handle.readline(AT_ONCE)
        else:
            yield raw


def first_lines(handle: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines of an unbuffered file, read in small pieces, at most ``limit`` bytes; the last may be cut."""
    rest, taken = b"", 0
    while taken < limit and (piece := handle.read(4096)):
        taken += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def parse_line(raw: bytes, counts: Counter[str], whole: bool = True) -> list[dict[str, Any]]:
    """The objects on one line; what is none is counted. ``whole`` is False for a line without its end."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parse_odd_line(raw, counts, whole)
    return [value] if type(value) is dict else _parse_odd_line(raw, counts, whole)


def _parse_odd_line(raw: bytes, counts: Counter[str], whole: bool) -> list[dict[str, Any]]:
    """The same for a line that is not one sound object."""
    try:
        text = raw.decode("utf-8").strip().lstrip("\ufeff")
    except UnicodeDecodeError:
        counts["binary"] += 1
        return []
    if not text:
        return []
    if "\0" in text:
        counts["binary"] += 1
        return []
    values, trouble = _values(text)
    if trouble:
        counts["torn" if trouble == "broken" and not whole else trouble] += 1
    if len(values) > 1:
        counts["glued"] += 1
    objects = [v for v in values if isinstance(v, dict)]
    if len(objects) < len(values):
        counts["not_object"] += len(values) - len(objects)
    if _ESCAPED_HALF.search(raw):
        objects = [_mended(v, counts) for v in objects]
    return objects


def _values(text: str) -> tuple[list[Any], str]:
    """Every JSON value at the start of ``text``, and what stopped the reading (empty: nothing)."""
    values: list[Any] = []
    at = 0
    try:
        while at < len(text):
            value, at = _DECODER.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except RecursionError:
        return values, "nested"
    except ValueError:
        return values, "broken"
    return values, ""


def _mended(value: Any, counts: Counter[str]) -> Any:
    """``value`` with halves of UTF-16 pairs replaced; a client that cuts text by length leaves them."""
    if isinstance(value, str):
        mended, found = _HALF_PAIR.subn("\ufffd", value)
        if found:
            counts["surrogate"] += found
        return mended
    if isinstance(value, list):
        return [_mended(v, counts) for v in value]
    if isinstance(value, dict):
        return {_mended(k, counts): _mended(v, counts) for k, v in value.items()}
    return value
