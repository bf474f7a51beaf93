"""Moments as the town's records write them: RFC 3339 text, compared in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=1024)
def utc(text: str) -> str:
    """An RFC 3339 time in UTC with seconds, so that times compare as text; empty where it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"
    except (ValueError, OverflowError, OSError):
        return ""


def epoch(text: str) -> float:
    """An RFC 3339 time in seconds since 1970, 0 where it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
