"""A bead's life: when its status, assignee and priority changed, by whom and why, from what left a record.

On a Dolt server the events table has every change with its actor. Elsewhere ``bd history`` has the bead at
each commit, without an actor, and ``interactions.jsonl`` has actor and reason of what ``bd update`` and ``bd
close`` did; the two are put together. What neither has is said to be unknown, and never guessed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...town.times import epoch, utc

WATCHED = ("status", "assignee", "priority")
SAME = 10.0
"""Seconds within which an interaction and a commit are one change."""
COMMENTED = 2.0
"""Seconds within which the comment on a reopening is written."""


@dataclass(frozen=True)
class Transition:
    """One change of one field. ``by`` and ``reason`` are None where nothing recorded them."""

    at: str
    field: str
    old: str
    new: str
    by: str | None = None
    reason: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Label:
    """What ``bd audit label`` said of an interaction with a bead."""

    at: str
    by: str
    label: str
    reason: str


@dataclass(frozen=True)
class Interactions:
    """``interactions.jsonl`` by bead: changes and labels. ``broken`` counts lines that are no records."""

    changes: Mapping[str, Sequence[Transition]]
    labels: Mapping[str, Sequence[Label]]
    broken: int = 0


def read_interactions(paths: Iterable[Path]) -> Interactions:
    """All files together; a label names an interaction, which names the bead."""
    changes: dict[str, list[Transition]] = defaultdict(list)
    labels: dict[str, list[Label]] = defaultdict(list)
    beads: dict[str, str] = {}
    given: list[tuple[str, Label]] = []
    broken = 0
    for path in paths:
        for raw in _lines(path):
            entry = _entry(raw)
            if entry is None:
                broken += bool(raw.strip())
                continue
            bead, at, by = (
                entry.get("issue_id"),
                utc(str(entry.get("created_at"))),
                str(entry.get("actor", "")),
            )
            if isinstance(bead, str):
                beads[str(entry.get("id"))] = bead
            extra = entry.get("extra")
            if entry.get("kind") == "label":
                parts = (str(entry.get("label", "")).lower(), str(entry.get("reason") or ""))
                given.append((str(entry.get("parent_id")), Label(at, by, *parts)))
            elif isinstance(bead, str) and isinstance(extra, dict) and extra.get("field") in WATCHED:
                reason = str(extra["reason"]) if extra.get("reason") else None
                values = (str(extra.get("old_value", "")), str(extra.get("new_value", "")))
                changes[bead].append(
                    Transition(at, str(extra["field"]), *values, by or None, reason, "interactions")
                )
    for parent, label in given:
        if parent in beads:
            labels[beads[parent]].append(label)
    return Interactions(changes, labels, broken)


def from_history(steps: Sequence[Mapping[str, Any]]) -> list[Transition]:
    """Changes between commits, the oldest first, without who made them."""
    found: list[Transition] = []
    before: Mapping[str, Any] | None = None
    for step in steps:
        issue = step.get("Issue")
        if not isinstance(issue, dict):
            continue
        if before is not None:
            # the commit may come late; the bead's own time is when it was changed
            at = utc(str(issue.get("updated_at"))) or utc(str(step.get("CommitDate")))
            for field in WATCHED:
                old, new = str(before.get(field, "")), str(issue.get(field, ""))
                if old != new:
                    reason = issue.get("close_reason") if new == "closed" else None
                    found.append(Transition(at, field, old, new, None, reason, "history"))
        before = issue
    return found


def from_events(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Transition]]:
    """Bead → its changes in a server's events table, which has who made each."""
    by_bead: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        by_bead[str(event.get("issue_id"))].append(event)
    return {bead: _changes(_in_order(found)) for bead, found in by_bead.items()}


def _changes(events: Iterable[Mapping[str, Any]]) -> list[Transition]:
    """The changes of one bead, whose events are in order."""
    found: list[Transition] = []
    status = ""
    events = list(events)
    comments = [e for e in events if e.get("event_type") == "commented" and e.get("comment")]
    for event in events:
        at, by = utc(str(event.get("created_at"))), str(event.get("actor") or "") or None
        old, new = _object(event.get("old_value")), _object(event.get("new_value"))
        if event.get("event_type") == "closed":
            reason = str(event.get("new_value") or "") or None
            found.append(Transition(at, "status", status, "closed", by, reason, "events"))
        for field in WATCHED:
            if field in new and str(new[field]) != str(old.get(field, "")):
                values = (str(old.get(field, "")), str(new[field]))
                why = _comment_on(event, comments) if event.get("event_type") == "reopened" else None
                found.append(Transition(at, field, *values, by, why, "events"))
        status = _status_after(event, status)
    return found


def _comment_on(event: Mapping[str, Any], comments: Iterable[Mapping[str, Any]]) -> str | None:
    """Why a bead was reopened: ``bd reopen --reason`` leaves a comment of the same moment."""
    at = epoch(utc(str(event.get("created_at"))))
    near = (c for c in comments if c.get("actor") == event.get("actor"))
    said = (c for c in near if 0 <= epoch(utc(str(c.get("created_at")))) - at <= COMMENTED)
    return next((str(c["comment"]) for c in said), None)


def _in_order(events: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Events by time; those of one second so that each begins with the status in which one ended."""
    left = sorted(events, key=lambda e: utc(str(e.get("created_at"))))
    status = ""
    while left:
        same = [e for e in left if e.get("created_at") == left[0].get("created_at")]
        chosen = next((e for e in same if _fits(e, status)), same[0])
        left.remove(chosen)
        status = _status_after(chosen, status)
        yield chosen


def _fits(event: Mapping[str, Any], status: str) -> bool:
    if event.get("event_type") == "created":
        return True
    if event.get("event_type") == "closed":
        return status not in ("", "closed")
    old = str(_object(event.get("old_value")).get("status", ""))
    return old in ("", status)


def _status_after(event: Mapping[str, Any], status: str) -> str:
    match event.get("event_type"):
        case "created":
            return "open"
        case "closed":
            return "closed"
    return str(_object(event.get("new_value")).get("status", status))


def merged(recorded: Sequence[Transition], interactions: Sequence[Transition]) -> list[Transition]:
    """One list of changes: what was recorded, with actor and reason from the interaction that it was.

    Changes of one second stay in the order in which they were recorded."""
    left = list(interactions)
    found = []
    for change in recorded:
        twin = next((i for i in left if _same(change, i)), None)
        if twin is not None:
            left.remove(twin)
            both = change.source if change.by else f"{change.source}, interactions"
            change = replace(
                change, by=change.by or twin.by, reason=change.reason or twin.reason, source=both
            )
        found.append(change)
    return sorted([*found, *left], key=lambda t: t.at)


def _same(change: Transition, other: Transition) -> bool:
    near = abs(epoch(change.at) - epoch(other.at)) <= SAME
    return near and (change.field, change.new) == (other.field, other.new)


def unknowns(bead: Mapping[str, Any], changes: Sequence[Transition], complete: bool) -> list[str]:
    """What left no record, in words."""
    found = [f"who set {t.field} to {t.new or 'nothing'} at {t.at}" for t in changes if t.by is None]
    statuses = [t for t in changes if t.field == "status"]
    last = statuses[-1].new if statuses else "open"
    if not complete:
        found.append("its history has not been read yet")
    elif bead.get("status") != last:
        found.append(f"how its status came to be {bead.get('status')}")
    if bead.get("status") == "closed" and not bead.get("close_reason"):
        found.append("why it was closed")
    return found


def as_objects(changes: Sequence[Transition] | Sequence[Label]) -> list[dict[str, Any]]:
    """For a document's JSON."""
    return [asdict(change) for change in changes]


def _lines(path: Path) -> Iterable[bytes]:
    try:
        handle = path.open("rb")
    except OSError:
        return
    with handle:
        yield from handle


def _entry(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _object(value: Any) -> dict[str, Any]:
    """A JSON object in a text column; empty for anything else."""
    found = _entry(value.encode("utf-8", "replace")) if isinstance(value, str) else None
    return found or {}
