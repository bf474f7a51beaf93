"""``.events.jsonl``: what gt recorded of the town. The join between a client's session and its role.

gt writes one ``session_start`` with the client's session id for each ``gt prime --hook`` (not for dogs, not
after a compaction), and one event for each sling, hook, nudge, escalation, death of a session and so on. Its
daemon prunes them: ``session_start`` after three days, most after seven, ``sling``, ``hook`` and ``done``
after fourteen, deaths and merges after thirty. Lines may be torn or of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from .roles import Identity, parse_gt_role
from .root import Town
from .times import utc

LONG_KEPT = frozenset(
    {"sling", "hook", "done", "session_death", "mass_death"}
    | {f"merge{rest}" for rest in ("d", "_started", "_failed", "_skipped")}
)
"""Types that gt keeps longer than seven days: that one of them is old says nothing of the others."""
AHEAD = 300.0
"""Seconds by which an event may be ahead of our clock: machines that write into one town keep time to within
minutes (Kerberos allows as much). What is further ahead was written by a clock that is wrong."""
_MARK = b'"session_start"'


@dataclass(frozen=True)
class Event:
    """One line of the file: when (RFC 3339, UTC, seconds), its type, who, and the rest."""

    at: str
    kind: str
    actor: str
    payload: Mapping[str, Any]

    def text(self, key: str) -> str:
        """A string of the payload, empty where it is none."""
        value = self.payload.get(key)
        return value if isinstance(value, str) else ""


def read_events(path: Path) -> Iterator[Event]:
    """The whole events of a file, in its order, one line in memory at a time; none where it is not there."""
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        return
    with handle:
        for raw in handle:
            event = _event(raw)
            if event is not None:
                yield event


def json_of(raw: bytes) -> Any:
    """The JSON value on a line; None where there is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _odd_json(raw)


def _odd_json(raw: bytes) -> Any:
    """The same by the standard library, which takes more: NaN, halves of UTF-16 pairs."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _event(raw: bytes) -> Event | None:
    value = json_of(raw)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return None
    ts, actor, payload = value.get("ts"), value.get("actor"), value.get("payload")
    at = utc(ts) if isinstance(ts, str) else ""
    if not at:
        return None
    known = payload if isinstance(payload, dict) else {}
    return Event(at, value["type"], actor if isinstance(actor, str) else "", known)


@dataclass(frozen=True)
class SessionStart:
    """One session's begin: the client's id, who it is, where it runs (may be empty) and when (RFC 3339)."""

    session_id: str
    identity: Identity
    cwd: str
    at: str


def session_starts(path: Path) -> Iterator[SessionStart]:
    """The whole session_start events of a file, in its order, one line in memory at a time."""
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        return
    with handle:
        for raw in handle:
            start = _parse(raw) if _MARK in raw else None
            if start is not None:
                yield start


def session_identities(town: Town) -> dict[str, Identity]:
    """Session id → who it was; the last event of a session counts. Empty where there are no events."""
    return {start.session_id: start.identity for start in session_starts(town.events_file)}


def _parse(raw: bytes) -> SessionStart | None:
    event = json_of(raw)
    if not isinstance(event, dict) or event.get("type") != "session_start":
        return None
    payload = event.get("payload")
    if not isinstance(payload, dict) or not isinstance(payload.get("session_id"), str):
        return None
    for value in (payload.get("role"), event.get("actor")):
        identity = parse_gt_role(value) if isinstance(value, str) else None
        if identity is not None:
            cwd, at = payload.get("cwd"), event.get("ts")
            return SessionStart(
                payload["session_id"],
                identity,
                cwd if isinstance(cwd, str) else "",
                at if isinstance(at, str) else "",
            )
    return None
