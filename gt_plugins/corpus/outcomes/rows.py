"""Where labels are kept and read: tables ``decisions`` and ``outcomes`` of the corpus.

``decision_outcomes`` is what the dataset asks for: the label of each decision of a session, by the id of the
``tool_use`` block that carried it out. The session's own outcome is ``StoredSession.outcome``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...town.roles import Identity, address_of
from ..store import Store
from .deeds import Deed
from .judge import DecisionOutcome

OPERATOR = "the operator's label"


@dataclass(frozen=True)
class Judged:
    """A deed with its label."""

    deed: Deed
    outcome: DecisionOutcome


@dataclass(frozen=True)
class SessionFacts:
    """What judging needs of a session without its turns. Times are RFC 3339; ``stirred`` are the moments of
    its replies, in seconds since 1970; ``label`` is the operator's."""

    id: str
    parent: str
    role: str
    agent: str
    started: str
    ended: str
    outcome: str
    label: str
    beads: tuple[str, ...]
    stirred: tuple[float, ...]


def decision_outcomes(store: Store, session_id: str) -> dict[str, DecisionOutcome]:
    """Id of the tool call → what became of the decision, for the decisions of one session of a patrol role.

    Empty for other roles: there the session's own outcome is that of all it did. An operator's label of the
    session is that of each of its decisions."""
    label = store.query("SELECT label FROM labels WHERE session_id = ?", session_id)
    sql = "SELECT call, label, reason FROM decisions WHERE session_id = ? ORDER BY at, call"
    rows = store.query(sql, session_id)
    if label:
        said = DecisionOutcome(label[0]["label"], OPERATOR)
        return {row["call"]: said for row in rows}
    return {row["call"]: DecisionOutcome(row["label"] or "unknown", row["reason"]) for row in rows}


def judged(store: Store, role: str | None = None) -> Iterator[Judged]:
    """All decisions (of one role), with the operator's labels where there are any."""
    sql = """SELECT d.*, l.label AS said FROM decisions d LEFT JOIN labels l ON l.session_id = d.session_id
             WHERE ? IS NULL OR role = ? ORDER BY d.at, d.session_id, d.call"""
    for row in store.query(sql, role, role):
        given = DecisionOutcome(row["label"] or "unknown", row["reason"])
        yield Judged(_deed(row), DecisionOutcome(row["said"], OPERATOR) if row["said"] else given)


def found_labels(store: Store) -> dict[tuple[str, str], DecisionOutcome]:
    """(session, call) → the label that was found before, without the operator's."""
    rows = store.query("SELECT session_id, call, label, reason FROM decisions WHERE label != ''")
    return {(r["session_id"], r["call"]): DecisionOutcome(r["label"], r["reason"]) for r in rows}


def save_deeds(store: Store, session_id: str, found: Sequence[Deed]) -> None:
    """Store a session's deeds in the place of those stored before; labels of those that remain stay."""
    rows = store.query("SELECT * FROM decisions WHERE session_id = ?", session_id)
    before = {(row["call"], row["action"]): row for row in rows}
    store.execute("DELETE FROM decisions WHERE session_id = ?", session_id)
    for deed in found:
        old = before.get((deed.call, deed.action))
        label, reason = (old["label"], old["reason"]) if old is not None else ("", "")
        sql = "INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        values = (deed.session, deed.call, f"{deed.at:.3f}", deed.role, deed.actor, deed.action, deed.kind)
        store.execute(sql, *values, deed.target, deed.ref, int(deed.failed), label, reason)


def save_labels(store: Store, labels: Iterable[Judged]) -> int:
    """Store labels that changed; returns how many."""
    sql = """UPDATE decisions SET label = ?, reason = ? WHERE session_id = ? AND call = ?
             AND (label != ? OR reason != ?)"""
    changed = 0
    for one in labels:
        label, reason = one.outcome.label, one.outcome.reason
        changed += store.execute(sql, label, reason, one.deed.session, one.deed.call, label, reason)
    return changed


def session_facts(store: Store) -> list[SessionFacts]:
    """All sessions that were looked at, oldest first."""
    sql = """SELECT s.id, s.parent, s.role, s.rig, s.name, s.started, s.ended, s.outcome, l.label,
             o.beads, o.stirred FROM sessions s JOIN outcomes o ON o.session_id = s.id
             LEFT JOIN labels l ON l.session_id = s.id ORDER BY s.started, s.id"""
    return [
        SessionFacts(
            row["id"],
            row["parent"],
            row["role"],
            address_of(Identity(row["role"], row["rig"] or None, row["name"] or None)),
            row["started"],
            row["ended"],
            row["outcome"],
            row["label"] or "",
            tuple(json.loads(row["beads"])),
            tuple(json.loads(row["stirred"])),
        )
        for row in store.query(sql)
    ]


def to_look_at(store: Store, version: str) -> list[tuple[str, str]]:
    """(session id, stamp) of sessions that changed since they were last looked at, or whose reading did; not
    of those that other towns shared, of which our records know nothing."""
    sql = """SELECT s.id, s.source_hash || ' ' || s.policy || ' ' || s.updated_at || ' ' || s.role AS found,
             o.stamp FROM sessions s LEFT JOIN outcomes o ON o.session_id = s.id
             WHERE s.id NOT IN (SELECT session_id FROM shared) ORDER BY s.n"""
    rows = [(row["id"], f"{version} {row['found']}", row["stamp"]) for row in store.query(sql)]
    return [(id, stamp) for id, stamp, known in rows if stamp != known]


def save_looked_at(
    store: Store, session_id: str, stamp: str, beads: Sequence[str], stirred: Sequence[float]
) -> None:
    """Note what a session told."""
    sql = """INSERT INTO outcomes VALUES (?, ?, ?, ?, '') ON CONFLICT (session_id)
             DO UPDATE SET stamp = excluded.stamp, beads = excluded.beads, stirred = excluded.stirred"""
    store.execute(sql, session_id, stamp, json.dumps(list(beads)), json.dumps(list(stirred)))


def save_outcome(store: Store, session_id: str, outcome: str, reason: str) -> bool:
    """Store a session's outcome and why; True where it changed."""
    sql = "UPDATE sessions SET outcome = ? WHERE id = ? AND outcome != ?"
    changed = store.execute(sql, outcome, session_id, outcome)
    store.execute("UPDATE outcomes SET reason = ? WHERE session_id = ?", reason, session_id)
    return bool(changed)


def outcome_reason(store: Store, session_id: str) -> str:
    """Why a session has the outcome that was found for it."""
    rows = store.query("SELECT reason FROM outcomes WHERE session_id = ?", session_id)
    return rows[0]["reason"] if rows else ""


def _deed(row: object) -> Deed:
    value = dict(row)  # type: ignore[call-overload]
    return Deed(
        value["session_id"],
        value["call"],
        float(value["at"]),
        value["role"],
        value["actor"],
        value["action"],
        value["kind"],
        value["target"],
        value["ref"],
        bool(value["failed"]),
    )
