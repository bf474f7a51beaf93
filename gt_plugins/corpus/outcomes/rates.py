"""How often each decision was good, beside how often the same happened by itself.

An agent that is nudged stirs; many stir without a nudge. So next to the share of good nudges stands the share
of matched situations without a nudge in which the agent stirred all the same. A matched situation is one in
which the same role decided otherwise, or a quiet moment of an agent that it watches, with an equally long
silence of the agent behind it (and an agent as dead or alive). Shares are weighted by how often the action
was taken after such a silence, so that the two are comparable.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...evaluation.stats import wilson
from .deeds import Deed
from .judge import OWN, Windows, answer_to, escalation_of, judge
from .records import TownRecords
from .rows import Judged

SILENCES = (5.0, 15.0, 45.0, 120.0)
"""Bounds, in minutes, between silences that count as equally long."""
MOMENTS = 4000
"""At most so many quiet moments of a role are looked at."""
DEADNESS_IS_THE_POINT = frozenset({"warrant", "start"})
Stratum = tuple[int, bool]


@dataclass(frozen=True)
class Rate:
    """One action of one role. ``rate`` is the share of good among its decisions, with its 95 % interval
    (Wilson); ``without`` the share of ``matched`` situations without it in which the same happened, None
    where there is none."""

    role: str
    action: str
    decisions: int
    good: int
    bad: int
    unknown: int
    rate: float
    low: float
    high: float
    without: float | None
    matched: int

    def to_json(self) -> dict[str, Any]:
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def rates(judged: Sequence[Judged], records: TownRecords, windows: Windows) -> list[Rate]:
    """One row for each role and action, in order of their names."""
    judged = [_aimed(one, records) for one in judged]
    taken: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for one in judged:
        taken[one.deed.role, one.deed.action].append(one)
    moments = {role: _quiet(role, judged, records, windows) for role in {r for r, _ in taken}}
    found = []
    for (role, action), own in sorted(taken.items()):
        others = [j.deed for j in judged if j.deed.role == role and j.deed.action != action]
        without, matched = _without(own, [*others, *moments[role]], records, windows)
        labels = Counter(j.outcome.label for j in own)
        low, high = wilson(labels["good"], len(own))
        counts = (labels["good"], labels["bad"], len(own) - labels["good"] - labels["bad"])
        share = labels["good"] / len(own)
        found.append(Rate(role, action, len(own), *counts, share, low, high, without, matched))
    return found


def _aimed(one: Judged, records: TownRecords) -> Judged:
    """A decision with whom it is about, where only what it made says so: the text of the escalation, the
    title of the cleanup bead."""
    deed, text = one.deed, ""
    if not deed.target and deed.kind == "escalate":
        sent = escalation_of(deed, records)
        text = sent.text if sent else ""
    elif not deed.target and deed.kind == "cleanup" and deed.ref in records.beads:
        text = records.beads[deed.ref].title
    return replace(one, deed=replace(deed, target=records.named_in(text))) if text else one


def _without(
    own: Sequence[Judged], others: Iterable[Deed], records: TownRecords, windows: Windows
) -> tuple[float | None, int]:
    """Share and number of matched situations in which what the action is for happened without it."""
    kind = Counter(j.deed.kind for j in own).most_common(1)[0][0]
    weights = Counter(_stratum(j.deed, kind, records) for j in own if j.deed.target and j.deed.at)
    seen: dict[Stratum, list[bool]] = defaultdict(list)
    for deed in others:
        if deed.target and deed.at and records.covers(deed.at):
            stratum = _stratum(deed, kind, records)
            if stratum in weights:
                seen[stratum].append(happened(kind, deed, records, windows))
    total = sum(weights[s] for s in seen)
    if not total:
        return None, 0
    share = sum(weights[s] * sum(these) / len(these) for s, these in seen.items()) / total
    return share, sum(len(these) for these in seen.values())


def happened(kind: str, deed: Deed, records: TownRecords, windows: Windows) -> bool:
    """Whether what an action of ``kind`` is for came about at a moment at which it was not taken."""
    agent, at = deed.target, deed.at
    if kind == "escalate":
        found = records.escalated_about(agent, at - OWN, at + windows.settle)
        return found is not None and answer_to(found, at, records, windows).label == "good"
    if kind == "cleanup":
        bead = records.on_hook(agent, at)
        finished = records.finished(bead, at + windows.settle) if bead else 0.0
        return finished > at
    supposed = replace(deed, kind=kind, ref="", failed=False)
    return judge(supposed, records, windows).label == "good"


def _stratum(deed: Deed, kind: str, records: TownRecords) -> Stratum:
    """How long the agent had been silent, and whether its session was dead where that is not the point."""
    life = records.last_life(deed.target, deed.at)
    silence = (deed.at - life) / 60 if life else float("inf")
    long = sum(silence >= bound for bound in SILENCES)
    return long, kind not in DEADNESS_IS_THE_POINT and records.dead(deed.target, deed.at)


def _quiet(role: str, judged: Sequence[Judged], records: TownRecords, windows: Windows) -> list[Deed]:
    """Moments, one window apart, of the agents that a role decided about, with no decision near them."""
    about: Mapping[str, list[float]] = defaultdict(list)
    for one in judged:
        if one.deed.role == role and one.deed.target and one.deed.at:
            about[one.deed.target].append(one.deed.at)
    if not about:
        return []
    first = min(min(times) for times in about.values())
    span = max(records.until - windows.follow - first, 0.0)
    step = max(windows.follow, span * len(about) / MOMENTS)
    found = []
    for agent, times in sorted(about.items()):
        for number in range(int(span / step) + 1):
            at = first + number * step
            if all(abs(at - t) > windows.follow for t in times) and records.last_life(agent, at):
                found.append(Deed("", "", at, role, "", "", "", agent))
    return found
