"""Values of a record that nobody promises: each is taken where it has the right form, else it is empty."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,79}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def string(value: Any) -> str:
    """A value that is a string; empty where it is something else."""
    return value if type(value) is str else ""


def text(value: Any, key: str) -> str:
    """A string field of an object; empty where it is missing, or something else."""
    found = value.get(key) if type(value) is dict or isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def table(value: Any, key: str) -> Mapping[str, Any]:
    """An object in a field of an object; an empty one where it is missing, or something else."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


@lru_cache(maxsize=1024)
def name(value: str) -> str:
    """A type, model or version name fit to be shown; anything else would be text of the session."""
    return value if _NAME.fullmatch(value) else ("odd" if value else "")


def safe_id(value: str) -> str:
    """A session id that can be a key and a file name; an odd one is replaced by its hash."""
    if not value or _ID.fullmatch(value):
        return value
    return "odd-" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:24]


def time(value: Mapping[str, Any], key: str = "timestamp") -> str:
    """A field that holds an RFC 3339 time; empty where it holds none."""
    return moment(text(value, key))[0]


def moment(value: str) -> tuple[str, float | None]:
    """An RFC 3339 time and its seconds since 1970; an empty one without seconds where it is none."""
    at = _seconds(value) if _TIME.fullmatch(value) else None
    return ("", None) if at is None else (value, at)


@lru_cache(maxsize=8192)
def seconds(value: str) -> float | None:
    """RFC 3339 as seconds since 1970; None where it is no time."""
    return _seconds(value) if value else None


def _seconds(value: str) -> float | None:
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.astimezone()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def order_of_time(value: str) -> float:
    """A key that sorts times; what is no time comes first."""
    return seconds(value) or 0.0


def time_of_millis(value: Any) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC; empty where it is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    try:
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"
    except (ValueError, OverflowError, OSError):
        return ""


def count(value: Any, key: str) -> int:
    """A field that counts something (tokens); 0 where it is missing, negative or something else."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if type(found) is int and found > 0 else 0
