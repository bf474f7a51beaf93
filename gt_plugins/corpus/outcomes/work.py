"""What became of a session's bead: merged, closed, reopened, rejected, abandoned, or unknown.

Sessions are joined to beads by the agent's hook: what was put on it last before the session began, and what
came while it ran. A hand-off changes the session and not the hook, so its sessions have the same bead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...town.times import epoch
from .records import Given, TownRecords
from .rows import SessionFacts

POSITIVE = ("merged", "closed", "good")
"""Outcomes that train by default."""
MERGED = re.compile(r"(?i)\bmerged\b")
REJECTED = re.compile(r"(?i)\b(rejected|conflict|superseded|duplicate|invalid|wont ?fix|won't fix)\b")
ABANDONED = re.compile(
    r"(?i)\b(abandon\w*|cancel\w*|burned|obsolete|deferred|stale|timeout|failed|gave up)\b"
)


@dataclass(frozen=True)
class WorkOutcome:
    """A session's outcome and why."""

    label: str
    reason: str


def beads_of(session: SessionFacts, given: Sequence[Given]) -> tuple[str, ...]:
    """The beads that a session worked on; ``given`` is its agent's, in order of time."""
    start, end = epoch(session.started), epoch(session.ended)
    found = list(session.beads)
    if start and end:
        before = [g for g in given if g.at <= start]
        if before and before[-1].kind in ("sling", "hook"):
            found.append(before[-1].bead)
        found += [g.bead for g in given if start < g.at <= end]
    return tuple(dict.fromkeys(found))


def work_outcome(session: SessionFacts, beads: Sequence[str], records: TownRecords) -> WorkOutcome:
    """The outcome of a session's beads: what went wrong with one counts, then what is not known of one."""
    if not beads:
        return WorkOutcome("unknown", "no bead is known that it worked on")
    found = [bead_outcome(session, bead, records) for bead in beads]
    for label in ("bad", "rejected", "reopened", "abandoned", "unknown", "good", "merged", "closed"):
        for one in found:
            if one.label == label:
                return one
    return WorkOutcome("unknown", "")


def bead_outcome(session: SessionFacts, bead: str, records: TownRecords) -> WorkOutcome:
    """What became of one bead, as far as this session has part in it."""
    fate = records.beads.get(bead)
    if fate and fate.label:
        return WorkOutcome(fate.label, "labelled with `bd audit label`")
    start = epoch(session.started)
    if fate:
        again = [moment for moment in fate.reopened if moment >= start]
        if again:
            return WorkOutcome("reopened", f"{bead} was reopened")
        if fate.merge in ("rejected", "conflict"):
            return WorkOutcome("rejected", f"the merge of {bead} was refused: {fate.merge}")
        if fate.merge == "merged":
            return WorkOutcome("merged", f"{bead} was merged")
        if fate.status == "closed":
            return _closed(bead, fate.reason)
    return _left(session, bead, start, records)


def _closed(bead: str, reason: str) -> WorkOutcome:
    if MERGED.search(reason):
        return WorkOutcome("merged", f"{bead} was merged")
    if REJECTED.search(reason):
        return WorkOutcome("rejected", f"{bead} was closed as rejected")
    if ABANDONED.search(reason):
        return WorkOutcome("abandoned", f"{bead} was closed as abandoned")
    return WorkOutcome("closed", f"{bead} was closed")


def _left(session: SessionFacts, bead: str, start: float, records: TownRecords) -> WorkOutcome:
    """A bead that is still open, or of which there is no record but events."""
    later = [g for g in records.by_bead.get(bead, ()) if g.at >= start]
    if any(g.kind == "done" for g in later):
        return WorkOutcome("unknown", f"the agent said that {bead} was done; no merge or close is recorded")
    if any(g.kind == "unhook" and g.agent == session.agent for g in later):
        return WorkOutcome("abandoned", f"{bead} was taken off the hook")
    if any(g.kind == "sling" and g.agent != session.agent for g in later):
        return WorkOutcome("abandoned", f"{bead} was given to another agent")
    return WorkOutcome(
        "unknown", f"{bead} is still open" if bead in records.beads else f"no record of {bead}"
    )
