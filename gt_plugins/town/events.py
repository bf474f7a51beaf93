"""``.events.jsonl``: what gt recorded of sessions. The join between a client's session and its role.

gt writes one ``session_start`` with the client's session id for each ``gt prime --hook`` (not for dogs, not
after a compaction) and prunes them after three days. Lines may be torn or of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .roles import Identity, parse_gt_role
from .root import Town

_MARK = b'"session_start"'


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
    try:
        event = json.loads(raw)
    except ValueError:
        return None
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
