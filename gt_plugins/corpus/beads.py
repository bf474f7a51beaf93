"""Which beads a session worked on, from ``.events.jsonl``.

``sling``, ``hook``, ``unhook`` and ``done`` name a bead and an agent. An agent works on what was put on its
hook last before it started, and on what came while it ran.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..town.roles import Identity, parse_gt_role
from ..town.times import utc

_MARK = b'"bead"'
_TYPES = frozenset({"sling", "hook", "unhook", "done"})
_AT = attrgetter("at")


@dataclass(frozen=True)
class Work:
    """At ``at`` (RFC 3339, UTC) a bead was put on an agent's hook, or taken off it."""

    at: str
    bead: str
    kind: str


def work_by_agent(path: Path) -> dict[Identity, list[Work]]:
    """What each agent was given, in order of time. Empty where there is no such file."""
    from ..town.events import json_of

    found: dict[Identity, list[Work]] = {}
    if not path.exists():
        return found
    with path.open("rb") as handle:
        for raw in handle:
            parsed = _parse(json_of(raw)) if _MARK in raw else None
            if parsed is not None:
                found.setdefault(parsed[0], []).append(parsed[1])
    for work in found.values():
        work.sort(key=_AT)
    return found


def beads_of(work: list[Work], started: str, ended: str) -> tuple[str, ...]:
    """Beads of a session between two times (RFC 3339), in order; empty where its times are not known.

    ``work`` is in order of time."""
    start, end = utc(started), utc(ended)
    if not start or not end:
        return ()
    first = bisect_right(work, start, key=_AT)
    before, during = work[max(0, first - 1) : first], work[first : bisect_right(work, end, key=_AT)]
    on_hook = [w for w in before if w.kind in ("sling", "hook")]
    return tuple(dict.fromkeys(w.bead for w in on_hook + during))


def _parse(event: Any) -> tuple[Identity, Work] | None:
    payload = event.get("payload") if isinstance(event, dict) else None
    if not isinstance(payload, dict) or event.get("type") not in _TYPES:
        return None
    who = payload.get("target") if event["type"] == "sling" else event.get("actor")
    identity = parse_gt_role(who) if isinstance(who, str) else None
    ts, bead = event.get("ts"), payload.get("bead")
    at = utc(ts) if isinstance(ts, str) else ""
    if identity is None or not isinstance(bead, str) or not at:
        return None
    return identity, Work(at, bead, event["type"])
