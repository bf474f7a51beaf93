"""The held-out loss while training: when to look, which adapter was best, when to stop early.

The rows are the dataset's own held-out ones, which no step learns from; the suites of the gate are something
else and are never seen here. Looking changes nothing: no random number is drawn and no gradient made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..rendering.render import Row

MOST_ROWS = 256
"""Rows that are looked at: a mean over so many moves less than what a step changes."""


@dataclass(frozen=True)
class Best:
    """The best look so far; ``worse`` counts the looks since then."""

    loss: float = math.inf
    step: int = 0
    worse: int = 0
    looks: tuple[tuple[int, float], ...] = ()
    """Every look: step and loss."""

    def after(self, step: int, loss: float) -> Best:
        """With one more look; one that is not finite is worse than any."""
        looks = (*self.looks, (step, loss))
        if loss < self.loss:
            return Best(loss, step, 0, looks)
        return replace(self, worse=self.worse + 1, looks=looks)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; JSON has no infinity and no NaN."""
        return asdict(self) | {
            "loss": self.loss if math.isfinite(self.loss) else None,
            "looks": [[s, x if math.isfinite(x) else None] for s, x in self.looks],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Best:
        """The inverse of ``to_json``."""
        looks = tuple((int(s), math.nan if x is None else float(x)) for s, x in value["looks"])
        loss = math.inf if value["loss"] is None else float(value["loss"])
        return cls(loss, int(value["step"]), int(value["worse"]), looks)


def sample(rows: Sequence[Row]) -> list[Row]:
    """At most ``MOST_ROWS`` rows, spread evenly over those that there are."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [rows[i * len(rows) // MOST_ROWS] for i in range(MOST_ROWS)]


def in_batches(rows: Sequence[Row], batch_tokens: int) -> list[list[Row]]:
    """Rows by length, in batches of at most ``batch_tokens`` with their padding."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: len(r.ids)):
        if batches and len(row.ids) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def looks_at(epochs: Sequence[int], every: int) -> frozenset[int]:
    """The steps (from 1) after which to look: every so many, or (0) at the end of each pass; always the last.

    ``epochs`` has the pass of each step."""
    total = len(epochs)
    if every:
        return frozenset({*range(every, total + 1, every), total})
    return frozenset(n for n in range(1, total + 1) if n == total or epochs[n] != epochs[n - 1])
