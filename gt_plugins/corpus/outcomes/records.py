"""What the town's records say of its agents over time: who stirred, died, was nudged, warranted, slung work.

Read from ``.events.jsonl``, ``warrants/``, the times of captured sessions' replies, and the corpus' own bead
records. Agents go by their address, times are seconds since 1970. Nothing of this is stored.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...town.events import AHEAD, LONG_KEPT, Event, read_events
from ...town.roles import address
from ...town.root import Town
from ...town.times import epoch

KEPT = 3 * 86400.0
"""Seconds for which gt keeps every event."""
QUIET_ENDS = ("done means idle", "idle-reap", "shutdown", "user", "handoff", "stopped")
"""Words in the reason of a ``session_death`` by which it is an ordinary end."""
_WORD = re.compile(r"[\w-]+(?:/[\w-]+)*")
_NOT_ITS_OWN = frozenset({"session_death", "mass_death", "kill", "spawn", "session_start", "boot", "halt"})


@dataclass(frozen=True)
class Warrant:
    """A death warrant; ``executed`` is 0 while it is pending."""

    filed: float
    executed: float


@dataclass
class Escalation:
    """An escalation and what became of it; 0 and empty where nothing did."""

    id: str
    at: float
    by: str
    text: str
    acked: float = 0.0
    closed: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Given:
    """At ``at`` a bead was put on an agent's hook (``sling``, ``hook``) or left it (``unhook``, ``done``)."""

    at: float
    kind: str
    agent: str
    bead: str


@dataclass(frozen=True)
class BeadFate:
    """What a bead's record says of its end: when it was closed last (0: open) and why, when it was reopened,
    how its merge request ended, what ``bd audit label`` said of it, and its title."""

    status: str
    closed: float = 0.0
    reason: str = ""
    reopened: tuple[float, ...] = ()
    merge: str = ""
    label: str = ""
    title: str = ""


@dataclass
class TownRecords:
    """Indices over the records; every list is in order of time. ``since`` is the oldest event of a kind that
    gt prunes early, ``until`` the newest of any, ``now`` the moment of reading (0: not known). ``until`` is
    never after ``now``; ``ahead`` counts the events and warrants that are, beyond AHEAD, and say nothing."""

    since: float = 0.0
    until: float = 0.0
    now: float = 0.0
    ahead: int = 0
    stirred: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    died: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    crashed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    nudged: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    warrants: dict[str, list[Warrant]] = field(default_factory=lambda: defaultdict(list))
    escalations: dict[str, Escalation] = field(default_factory=dict)
    by_agent: dict[str, list[Given]] = field(default_factory=lambda: defaultdict(list))
    by_bead: dict[str, list[Given]] = field(default_factory=lambda: defaultdict(list))
    beads: Mapping[str, BeadFate] = field(default_factory=dict)

    # -- the records' time --------------------------------------------------------------------------

    @property
    def latest(self) -> float:
        """The last moment that a record can be of; what bears a later one was written by a wrong clock."""
        return self.now + AHEAD if self.now else float("inf")

    # -- an agent at a moment -----------------------------------------------------------------------

    def agents(self) -> set[str]:
        """Every agent that the records name."""
        named = (self.stirred, self.begun, self.died, self.nudged, self.warrants)
        return {agent for index in named for agent in index}

    def covers(self, at: float) -> bool:
        """Whether what happened since a moment is all there: nothing that young is pruned, or nothing was."""
        return bool(self.until) and (0 < self.since <= at or self.until - at <= KEPT)

    def over(self, end: float) -> bool:
        """Whether a window has passed, so that what is not on record by then did not happen. No record
        moves it beyond ``now``."""
        return max(self.until, self.now) >= end

    def last_life(self, agent: str, at: float) -> float:
        """When the agent was last seen to begin or to stir, at ``at`` or before; 0 for never."""
        return max(_last(self.stirred.get(agent), at), _last(self.begun.get(agent), at))

    def dead(self, agent: str, at: float) -> bool:
        """Whether the agent's session had ended and nothing of it was seen since."""
        death = _last(self.died.get(agent), at)
        return bool(death) and death > self.last_life(agent, at) and self.covers(death)

    def last_stir(self, agent: str, at: float) -> float:
        """When it last did something of its own; 0 for never."""
        return _last(self.stirred.get(agent), at)

    def next_stir(self, agent: str, after: float) -> float:
        """When it next did something of its own; 0 for never."""
        return _next(self.stirred.get(agent), after)

    def next_life(self, agent: str, after: float) -> float:
        """When it next began or stirred; 0 for never."""
        found = [t for t in (self.next_stir(agent, after), self.next_begin(agent, after)) if t]
        return min(found, default=0.0)

    def next_begin(self, agent: str, after: float) -> float:
        return _next(self.begun.get(agent), after)

    def next_crash(self, agent: str, after: float) -> float:
        return _next(self.crashed.get(agent), after)

    def next_nudge(self, agent: str, after: float) -> float:
        return _next(self.nudged.get(agent), after)

    def nudges_since_life(self, agent: str, at: float) -> int:
        """How often it was nudged since it last stirred."""
        times, life = self.nudged.get(agent, []), self.last_life(agent, at)
        return bisect_right(times, at) - bisect_right(times, life)

    def warrant_near(self, agent: str, start: float, end: float) -> Warrant | None:
        """The warrant filed on the agent between two moments."""
        return next((w for w in self.warrants.get(agent, ()) if start <= w.filed <= end), None)

    def escalated_about(self, agent: str, start: float, end: float) -> Escalation | None:
        """An escalation that names the agent, sent between two moments."""
        for found in self.escalations.values():
            if start <= found.at <= end and _names(found.text, agent):
                return found
        return None

    def named_in(self, text: str) -> str:
        """The agent that a text names; empty where it names none or several."""
        words = set(_WORD.findall(text))
        found = [agent for agent in self.agents() if _is_among(words, agent)] if words else []
        return found[0] if len(found) == 1 else ""

    def escalated_by(self, agent: str, start: float, end: float) -> Escalation | None:
        """The only escalation that the agent sent between two moments."""
        found = [e for e in self.escalations.values() if e.by == agent and start <= e.at <= end]
        return found[0] if len(found) == 1 else None

    # -- work ---------------------------------------------------------------------------------------

    def on_hook(self, agent: str, at: float) -> str:
        """The bead that was last put on the agent's hook; empty for none."""
        found = [g for g in self.by_agent.get(agent, ()) if g.at <= at and g.kind in ("sling", "hook")]
        return found[-1].bead if found else ""

    def finished(self, bead: str, end: float) -> float:
        """When a bead was closed or its worker said that it was done, by ``end``; 0 for not."""
        done = [g.at for g in self.by_bead.get(bead, ()) if g.kind == "done" and g.at <= end]
        fate = self.beads.get(bead)
        if fate and fate.closed and fate.closed <= end:
            done.append(fate.closed)
        return min(done) if done else 0.0

    def given_again(self, bead: str, start: float, end: float) -> float:
        """When a bead was put on a hook after ``start``; 0 for not."""
        again = [g.at for g in self.by_bead.get(bead, ()) if g.kind == "sling" and start < g.at <= end]
        return again[0] if again else 0.0


def read_records(
    town: Town,
    *,
    stirred: Iterable[tuple[str, Iterable[float]]] = (),
    beads: Mapping[str, BeadFate] | None = None,
    rename: Callable[[str], str] = lambda name: name,
    now: float = 0.0,
) -> TownRecords:
    """The town's records. ``stirred`` gives agents and moments from captured sessions; ``rename`` makes an
    agent's name what it is in the corpus, where names of people are replaced."""
    records = TownRecords(beads=beads or {}, now=now)
    names: dict[str, str] = {}

    def agent(text: str) -> str:
        if text not in names:
            known = address(text)
            names[text] = rename(known) if known else ""
        return names[text]

    for event in read_events(town.events_file):
        at = epoch(event.at)
        if at > records.latest:
            records.ahead += 1
        else:
            _take(records, event, at, agent)
    for path in sorted((town.root / "warrants").glob("*.warrant.json")):
        _take_warrant(records, path, agent)
    for who, moments in stirred:
        if who:
            records.stirred[who] += [moment for moment in moments if moment <= records.latest]
    for index in (records.stirred, records.begun, records.died, records.crashed, records.nudged):
        for times in index.values():
            times.sort()
    for warrants in records.warrants.values():
        warrants.sort(key=lambda w: w.filed)
    for given in (*records.by_agent.values(), *records.by_bead.values()):
        given.sort(key=lambda g: g.at)
    return records


def _take(records: TownRecords, event: Event, at: float, agent: Callable[[str], str]) -> None:
    """One event into the indices."""
    who = agent(event.actor)
    records.until = max(records.until, min(at, records.now or at))
    if event.kind not in LONG_KEPT:
        records.since = min(records.since or at, at)
    if who and event.kind not in _NOT_ITS_OWN:
        records.stirred[who].append(at)
    match event.kind:
        case "session_start" if who:
            records.begun[who].append(at)
        case "spawn":
            spawned = agent(f"{event.text('rig')}/polecats/{event.text('polecat')}")
            if spawned:
                records.begun[spawned].append(at)
        case "session_death":
            gone = agent(event.text("agent")) or who
            if gone:
                records.died[gone].append(at)
                if not any(word in event.text("reason").lower() for word in QUIET_ENDS):
                    records.crashed[gone].append(at)
        case "nudge":
            told = agent(event.text("target"))
            if told:
                records.nudged[told].append(at)
        case "sling" | "hook" | "unhook" | "done":
            holder = agent(event.text("target")) if event.kind == "sling" else who
            bead = event.text("bead")
            if holder and bead:
                given = Given(at, event.kind, holder, bead)
                records.by_agent[holder].append(given)
                records.by_bead[bead].append(given)
        case "escalation_sent" | "escalation_acked" | "escalation_closed":
            _take_escalation(records, event, at, who)


def _take_escalation(records: TownRecords, event: Event, at: float, who: str) -> None:
    """gt writes an escalation's id under ``rig`` when it is sent and under ``escalation_id`` afterwards."""
    id = event.text("escalation_id") or event.text("rig")
    known = records.escalations.setdefault(id, Escalation(id, at, who, event.text("reason")))
    if event.kind == "escalation_acked":
        known.acked = known.acked or at
    elif event.kind == "escalation_closed":
        known.closed, known.reason = at, event.text("reason")
    else:
        known.at, known.by, known.text = min(known.at, at), who, event.text("reason")


def _take_warrant(records: TownRecords, path: Path, agent: Callable[[str], str]) -> None:
    try:
        value: Any = json.loads(path.read_bytes())
        target, filed = agent(str(value["target"])), epoch(str(value["filed_at"]))
        executed = epoch(str(value.get("executed_at") or "")) if value.get("executed") else 0.0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    if filed > records.latest:
        records.ahead += 1
    elif target and filed:
        records.warrants[target].append(Warrant(filed, executed if executed <= records.latest else 0.0))


def _names(text: str, agent: str) -> bool:
    """Whether a text names an agent: by its address, or by its name alone where the name says which it is."""
    return _is_among(set(_WORD.findall(text)), agent)


def _is_among(words: set[str], agent: str) -> bool:
    name = agent.rsplit("/", 1)[-1]
    return agent in words or (name in words and name not in ("witness", "refinery"))


def _last(times: list[float] | None, at: float) -> float:
    index = bisect_right(times, at) if times else 0
    return times[index - 1] if times and index else 0.0


def _next(times: list[float] | None, after: float) -> float:
    index = bisect_right(times, after) if times else 0
    return times[index] if times and index < len(times) else 0.0
