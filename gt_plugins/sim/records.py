"""The town's records around the teacher's decisions, as gt, its daemon and the other agents leave them.

What a report states must have happened before (a death, nudges that were not answered, the last sign of
life), and what a right decision leads to happens after it: the nudged agent stirs, the warrant is executed,
the escalation acknowledged, the work saved. Written in the very files and forms of a real town, so that the
decisions are labelled by the code that labels real ones.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..town.root import Town
from .situations import Situation, stream

ACTORS = {"witness": "demo/witness", "boot": "deacon/boot"}
"""A role's name in gt's events where it is not the role itself."""
_BEAD = re.compile(r"\b(?:dm|gt|hq|ab|cx)-[a-z0-9]{3,5}\b")


@dataclass(frozen=True)
class Decided:
    """A decision as it was played: when, on what report, and what its command printed."""

    situation: Situation
    at: datetime
    report: str
    output: str
    failed: bool = False


def stamp(at: datetime) -> str:
    """A moment as gt writes it."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def event(at: datetime, kind: str, actor: str, **payload: Any) -> dict[str, Any]:
    """One line of ``.events.jsonl``."""
    line = {"ts": stamp(at), "source": "gt", "type": kind, "actor": actor}
    return {**line, "payload": payload, "visibility": "feed"}


def append_events(town: Town, events: Sequence[dict[str, Any]]) -> None:
    """Append events in order of time, as gt does."""
    with town.events_file.open("a", encoding="utf-8") as handle:
        for one in sorted(events, key=lambda e: str(e["ts"])):
            handle.write(json.dumps(one) + "\n")


def write_records(town: Town, role: str, session_id: str, decided: Sequence[Decided]) -> None:
    """What the town has on record before and after the decisions of one session."""
    rng = stream(role, "records", session_id)
    events = []
    for one in decided:
        events += before(role, one, rng)
        events += [] if one.failed else after(town, role, one, rng)
    append_events(town, events)


def before(role: str, one: Decided, rng: random.Random) -> list[dict[str, Any]]:
    """What led to the situation: a start, work, the last sign of life, nudges, perhaps a death."""
    target, facts = one.situation.target, one.situation.facts
    quiet = one.at - timedelta(minutes=max(facts.idle, 2), seconds=rng.randrange(5, 40))
    begun = quiet - timedelta(minutes=rng.randrange(2, 20))
    session = str(rng.getrandbits(64))
    events = [event(begun, "session_start", target, session_id=session, role=target, topic="patrol")]
    bead = _BEAD.search(one.report)
    if bead and facts.task != "none":
        events.append(event(begun, "sling", "mayor", bead=bead.group(), target=target))
    events.append(event(quiet, "mail", target, to="mayor/", subject="progress"))
    if bead and facts.task == "done":
        events.append(event(quiet, "done", target, bead=bead.group(), branch=f"work/{bead.group()}"))
    for count in range(facts.nudges):
        nudged = quiet + (one.at - quiet) * (count + 1) / (facts.nudges + 2)
        events.append(_nudge(nudged, role, target))
    if facts.session == "dead":
        died = quiet + timedelta(seconds=rng.randrange(1, 60))
        reason = "crash detected by daemon health check"
        payload = {"session": target.replace("/", "-"), "agent": target, "reason": reason}
        events.append(event(died, "session_death", target.replace("/", "-"), **payload, caller="daemon"))
    return events


def after(town: Town, role: str, one: Decided, rng: random.Random) -> list[dict[str, Any]]:
    """What the decision's command itself records, and what it leads to."""
    target, at, actor = one.situation.target, one.at, ACTORS.get(role, role)
    soon = at + timedelta(minutes=rng.randrange(2, 8), seconds=rng.randrange(60))
    match one.situation.action:
        case "nudge" | "wake":
            return [_nudge(at, role, target), event(soon, "mail", target, to="mayor/", subject="going on")]
        case "log-and-watch":
            return [event(at, "patrol_watch", actor, target=target)]
        case "escalate" | "escalate-to-mayor":
            return _escalation(one, actor, soon)
        case "file-warrant" | "mark-zombie":
            _warrant(town, target, actor, at, soon)
            return _restarted(target, soon + timedelta(minutes=20))
        case "create-cleanup-wisp":
            return _saved(one, target, soon)
        case "start" | "interrupt":
            return _restarted(target, at + timedelta(seconds=rng.randrange(20, 90)))
    return []


def _nudge(at: datetime, role: str, target: str) -> dict[str, Any]:
    rig = target.split("/")[0] if "/" in target else ""
    return event(at, "nudge", ACTORS.get(role, role), rig=rig, target=target, reason="go on")


def _escalation(one: Decided, actor: str, soon: datetime) -> list[dict[str, Any]]:
    """gt keeps the escalation's id under ``rig``."""
    id = _bead_in(one.output)
    reason = f"{one.situation.target} error {one.situation.facts.error}"
    sent = event(one.at, "escalation_sent", actor, rig=id, target=actor, to="mayor/", reason=reason)
    return [sent, event(soon, "escalation_acked", "mayor", escalation_id=id, acked_by="mayor")]


def _bead_in(output: str) -> str:
    """The bead that a command says it made."""
    found = _BEAD.search(output)
    return found.group() if found else ""


def _warrant(town: Town, target: str, actor: str, filed: datetime, executed: datetime) -> None:
    """The warrant's file as it stands once boot has executed it."""
    folder = town.root / "warrants"
    folder.mkdir(exist_ok=True)
    known = {"id": f"warrant-{int(filed.timestamp() * 1000)}", "target": target, "filed_by": actor}
    times = {"filed_at": stamp(filed), "executed": True, "executed_at": stamp(executed)}
    path = folder / f"{target.replace('/', '_')}.warrant.json"
    path.write_text(json.dumps({**known, "reason": "no sign of life", **times}, indent=2))


def _restarted(target: str, at: datetime) -> list[dict[str, Any]]:
    """The agent comes up again and goes to work."""
    started = event(at, "session_start", target, session_id=f"restart-{at.timestamp():.0f}", role=target)
    return [started, event(at + timedelta(minutes=3), "mail", target, to="mayor/", subject="at work")]


def _saved(one: Decided, target: str, soon: datetime) -> list[dict[str, Any]]:
    """The cleanup bead is given to somebody, who saves the work."""
    bead, worker = _bead_in(one.output), f"{target.split('/')[0]}/crew/keeper"
    given = event(soon, "sling", "mayor", bead=bead, target=worker)
    return [given, event(soon + timedelta(minutes=30), "done", worker, bead=bead, branch=f"save/{bead}")]
