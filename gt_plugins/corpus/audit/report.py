"""What an audit says, and the series that it is kept in (``<town>/.corpus/audits.jsonl``, 0600).

Nothing in it quotes a value: types, counts, rates, and which row to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...durable import append_line, read_lines
from ...evaluation.stats import wilson
from ...town.root import Town

SERIES = "audits.jsonl"


@dataclass(frozen=True)
class Rate:
    """``count`` of ``of`` with the 95 % Wilson interval; the base is said where it stands."""

    count: int
    of: int
    rate: float
    low: float
    high: float


def rate(count: int, of: int) -> Rate:
    """The share with its interval; 0 to 1 where there is nothing to count."""
    if not of:
        return Rate(0, 0, 0.0, 0.0, 1.0)
    low, high = wilson(count, of)
    return Rate(count, of, count / of, low, high)


@dataclass(frozen=True)
class Place:
    """Where to look: a row, and the turn of a session (from 1; 0 is the row as a whole)."""

    row: str
    turn: int
    kind: str
    by: str
    """``rules``, ``independent``."""


@dataclass(frozen=True)
class AuditReport:
    """One audit. Bases of the rates: rows sampled for misses, values replaced for over-redactions."""

    at: str
    policy: str
    since: str
    rows: int
    """Rows that could have been sampled."""
    sampled: int
    outdated: int
    """Sampled rows of another policy version: ``gt corpus rescrub`` brings them up to date."""
    characters: int
    missed_by_rules: Mapping[str, Rate] = field(default_factory=dict)
    """What the present rules find in stored text, by type: rows that have any, of the rows sampled."""
    missed_by_independent: Mapping[str, Rate] = field(default_factory=dict)
    """The same by detectors that are not those of the layers."""
    any_miss: Rate = field(default_factory=lambda: rate(0, 0))
    judged: int = 0
    """Sampled sessions whose source still exists; only their replaced values can be judged."""
    over_redacted: Mapping[str, Rate] = field(default_factory=dict)
    """Replaced values that look harmless, by type, of the values of that type."""
    over_redaction: Rate = field(default_factory=lambda: rate(0, 0))
    places: tuple[Place, ...] = ()
    reversions: tuple[Mapping[str, Any], ...] = ()
    failed: tuple[str, ...] = ()
    """Rows that could not be looked at."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def entry(self) -> dict[str, Any]:
        """What the series keeps: counts and rates without places."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("places", "reversions", "failed")}
        return {**kept, "reversions": len(self.reversions), "failed": len(self.failed)}


def series_path(town: Town) -> Path:
    return town.corpus_dir / SERIES


def keep(town: Town, report: AuditReport) -> None:
    """Append the report to the town's series."""
    town.own_dir(town.corpus_dir)
    append_line(series_path(town), report.entry())


def series(town: Town) -> Iterator[dict[str, Any]]:
    """Every audit so far, oldest first."""
    path = series_path(town)
    return iter(read_lines(path)) if path.exists() else iter(())
