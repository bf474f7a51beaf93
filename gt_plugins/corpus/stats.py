"""What the corpus holds, counted: sessions by role, outcome, day and model, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ..town.root import Town
from .store import Store, exists

BAR = 40
DAYS = 60
GOOD = ("merged", "closed", "good")
BAD = ("bad", "rejected", "reopened", "abandoned")


@dataclass(frozen=True)
class Stats:
    """Counts over the stored sessions; ``left_out`` counts session files by why they were not stored."""

    sessions: int = 0
    turns: int = 0
    decisions: int = 0
    tuned: int = 0
    by_role: Mapping[str, int] = field(default_factory=dict)
    by_outcome: Mapping[str, int] = field(default_factory=dict)
    by_day: Mapping[str, int] = field(default_factory=dict)
    by_role_outcome: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    by_model: Mapping[str, int] = field(default_factory=dict)
    decisions_by_role: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, int] = field(default_factory=dict)
    redactions: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    documents: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    last_sweep: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stats(town: Town) -> Stats:
    """The counts; all zero where nothing was captured yet (and no file is made for that)."""
    if not exists(town):
        return Stats()
    with Store(town) as store:
        rows = store.session_rows()
        verdicts = Counter(seen.verdict.partition(":")[0] for seen in store.seen_files().values())
        verdicts.pop("stored", None)
        decisions: Counter[str] = Counter()
        for row in rows:
            decisions[row["role"] or "unknown"] += row["decisions"]
        return Stats(
            sessions=len(rows),
            turns=sum(row["turns"] for row in rows),
            decisions=sum(row["decisions"] for row in rows),
            tuned=sum(row["tuned"] for row in rows),
            by_role=_count(row["role"] or "unknown" for row in rows),
            by_outcome=_count(row["outcome"] for row in rows),
            by_day=dict(sorted(Counter(row["started"][:10] or "unknown" for row in rows).items())),
            by_role_outcome=_nested((row["role"] or "unknown", row["outcome"]) for row in rows),
            by_model=_count(model for row in rows for model in row["models"]),
            decisions_by_role=_sorted(decisions),
            policies=_count(row["policy"] for row in rows),
            redactions=_total(row["redactions"] for row in rows),
            notes=_total(row["counts"] for row in rows),
            documents=store.document_counts(),
            left_out=_sorted(verdicts),
            last_sweep=store.last_sweep(),
        )


def _count(names: Iterable[str]) -> dict[str, int]:
    return _sorted(Counter(names))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Most first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _nested(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Counts of second names by first name."""
    found: dict[str, Counter[str]] = {}
    for first, second in pairs:
        found.setdefault(first, Counter())[second] += 1
    return {first: _sorted(found[first]) for first in sorted(found)}


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return _sorted(total)


def bars(title: str, counts: Mapping[str, int], limit: int = 14) -> list[str]:
    """A picture of counts, one line each, the longest bar BAR cells; the last ``limit`` are shown."""
    if not counts:
        return []
    shown = list(counts.items())[-limit:]
    most = max(value for _, value in shown) or 1
    width = max(len(name) for name, _ in shown)
    cell = max(len(str(value)) for _, value in shown)
    lines = [title]
    for name, value in shown:
        eighths = round(value * BAR * 8 / most)
        bar = "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
        lines.append(f"  {name:<{width}}  {value:>{cell}}  {bar}".rstrip())
    return lines


def stacked(title: str, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A picture of outcomes by role: good in full cells, unknown in light ones, bad in dark ones; the longest
    bar has BAR cells."""
    if not counts:
        return []
    most = max(sum(found.values()) for found in counts.values()) or 1
    width = max(map(len, counts))
    lines = [f"{title} (█ went well, ░ unknown, ▓ went badly)"]
    for name, found in counts.items():
        good = sum(found.get(outcome, 0) for outcome in GOOD)
        bad = sum(found.get(outcome, 0) for outcome in BAD)
        parts = ((good, "█"), (sum(found.values()) - good - bad, "░"), (bad, "▓"))
        bar = "".join(mark * (max(1, round(n * BAR / most)) if n else 0) for n, mark in parts)
        told = ", ".join(f"{outcome} {n}" for outcome, n in found.items())
        lines.append(f"  {name:<{width}}  {bar}  {told}")
    return lines


def days(title: str, counts: Mapping[str, int], today: date | None = None) -> list[str]:
    """A curve of counts by day, days without any in it too; the last DAYS of them. Days after tomorrow are of
    a clock that was wrong, and would leave no room for the others. What is not in it is counted below it."""
    known = sorted(day for day in counts if day != "unknown")
    if not known:
        return []
    tomorrow = ((today or datetime.now(UTC).date()) + timedelta(days=1)).isoformat()
    last = date.fromisoformat(max((day for day in known if day <= tomorrow), default=known[-1]))
    first = max(date.fromisoformat(known[0]), last - timedelta(days=DAYS - 1))
    span = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    values = [counts.get(day.isoformat(), 0) for day in span]
    most = max(values) or 1
    curve = "".join(" " if not n else "▁▂▃▄▅▆▇█"[round(n / most * 7)] for n in values)
    earlier = sum(counts[day] for day in known if day < first.isoformat())
    later = sum(counts[day] for day in known if day > last.isoformat())
    left = [f"{n} {when}" for n, when in ((earlier, f"before {first}"), (later, f"after {last}")) if n]
    told = [f"  not shown: {', '.join(left)}"] if left else []
    return [f"{title} ({most} at most)", f"  {first}  {curve}  {last}", *told]
