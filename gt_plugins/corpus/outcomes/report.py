"""``gt corpus outcomes``: labels brought up to date, counted, and their rates beside matched situations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RetriableError, UserError
from ...settings import outcome_windows
from ...town.root import Town
from ..lock import sweep_lock
from ..store import Store, exists
from . import rows
from .compute import compute, town_records
from .judge import Windows
from .rates import Rate, rates

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class SessionCount:
    """How many sessions of a role have an outcome (people's labels included)."""

    role: str
    outcome: str
    sessions: int


@dataclass(frozen=True)
class Outcomes:
    """What is known of what became of things; ``ahead`` counts records of the town that are dated after now
    and were passed over."""

    sessions: Sequence[SessionCount] = ()
    rates: Sequence[Rate] = ()
    reasons: Sequence[Mapping[str, Any]] = ()
    ahead: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "sessions": [vars(s) for s in self.sessions],
            "decisions": [r.to_json() for r in self.rates],
            "reasons": list(self.reasons),
            "ahead": self.ahead,
        }


@dataclass(frozen=True)
class SessionOutcome:
    """One session: its outcome and why, and its decisions in order."""

    session: str
    outcome: str
    reason: str
    decisions: Sequence[Mapping[str, str]] = ()

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "decisions": list(self.decisions)}


def session_outcome(town: Town, ref: str) -> SessionOutcome:
    """What is known of one session, by its id or the start of it. Raises UserError where there is none."""
    if not exists(town):
        raise UserError(f"{ref!r}: nothing was captured yet; run `gt corpus sweep`")
    _labelled(town)
    with Store(town) as store:
        id = store.resolve_session(ref)
        stored = store.session(id)
        said = rows.decision_outcomes(store, id)
        deeds = [one.deed for one in rows.judged(store) if one.deed.session == id]
        reason = rows.outcome_reason(store, id)
    assert stored is not None
    decisions = [
        {"call": d.call, "action": d.action, "label": said[d.call].label, "reason": said[d.call].reason}
        for d in deeds
    ]
    return SessionOutcome(id, stored.outcome, stored.label_reason or reason, decisions)


def outcomes_of(town: Town, role: str | None = None) -> Outcomes:
    """Label everything as the town's records now tell, and count (one role). Empty where there is no corpus.

    Raises RetriableError while a sweep holds the corpus."""
    if not exists(town):
        return Outcomes()
    _labelled(town)
    with Store(town) as store:
        records, _ = town_records(town, store)
        judged = list(rows.judged(store, role))
        own = [row for row in store.session_rows() if role in (None, row["role"])]
    counted = Counter((row["role"], row["outcome"]) for row in own)
    sessions = [SessionCount(who, outcome, n) for (who, outcome), n in sorted(counted.items())]
    why = Counter((j.outcome.label, _kind_of_reason(j.outcome.reason)) for j in judged)
    reasons = [{"label": label, "reason": reason, "count": n} for (label, reason), n in why.most_common()]
    rated = rates(judged, records, Windows(*outcome_windows(town)))
    return Outcomes(sessions, rated, reasons, records.ahead)


def _labelled(town: Town) -> None:
    """Bring the labels up to date. Raises RetriableError while a sweep holds the corpus."""
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise RetriableError("a sweep is running; try again when it is done")
        with Store(town) as store:
            compute(town, store)


def _kind_of_reason(reason: str) -> str:
    """A reason without its numbers, so that equal ones are counted together."""
    words = ["N" if word.isdigit() else word.replace("minutes", "minute") for word in reason.split()]
    return " ".join(words)
