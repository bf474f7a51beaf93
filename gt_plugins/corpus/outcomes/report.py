"""``gt corpus outcomes``: labels brought up to date, counted, and their rates beside matched situations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RetriableError
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
    """What is known of what became of things."""

    sessions: Sequence[SessionCount] = ()
    rates: Sequence[Rate] = ()
    reasons: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "sessions": [vars(s) for s in self.sessions],
            "decisions": [r.to_json() for r in self.rates],
            "reasons": list(self.reasons),
        }


def outcomes_of(town: Town, role: str | None = None) -> Outcomes:
    """Label everything as the town's records now tell, and count (one role). Empty where there is no corpus.

    Raises RetriableError while a sweep holds the corpus."""
    if not exists(town):
        return Outcomes()
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise RetriableError("a sweep is running; try again when it is done")
        with Store(town) as store:
            compute(town, store)
            records, _ = town_records(town, store)
            judged = list(rows.judged(store, role))
            counted = Counter(
                (r["role"], r["outcome"]) for r in store.session_rows() if role in (None, r["role"])
            )
    sessions = [SessionCount(who, outcome, n) for (who, outcome), n in sorted(counted.items())]
    why = Counter((j.outcome.label, _kind_of_reason(j.outcome.reason)) for j in judged)
    reasons = [{"label": label, "reason": reason, "count": n} for (label, reason), n in why.most_common()]
    return Outcomes(sessions, rates(judged, records, Windows(*outcome_windows(town))), reasons)


def _kind_of_reason(reason: str) -> str:
    """A reason without its numbers, so that equal ones are counted together."""
    words = ["N" if word.isdigit() else word.replace("minutes", "minute") for word in reason.split()]
    return " ".join(words)
