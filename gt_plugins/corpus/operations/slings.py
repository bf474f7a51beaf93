"""Source ``slings``: what was given to whom and how it ended, and the merge requests that came of it.

A sling is an event; what followed stands in later events, in the worker's agent bead (how it called its end)
and in the merge request (``gt mq status``). gt prunes events: a sling that was stored stays as it was.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import FinetuneError, UserError
from ...town.bd import BdMissing
from ...town.events import AHEAD, Event, read_events
from ...town.gt import gt_json
from ...town.roles import address, parse_gt_role
from ...town.root import Town
from ...town.times import epoch, utc
from ..sources import Document, Kept, Trouble
from .databases import Database, as_json, databases, fields_of, stored

SOURCE = "slings"
QUESTIONS = 200
"""At most so many merge requests are asked about in one run."""
_AGENT_FIELDS = ("exit_type", "mr_id", "branch", "mr_failed", "push_failed", "completion_time")


@dataclass
class _Known:
    """What the town has on record: events by agent, slings by bead, merge requests by id, agent beads."""

    acts: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    deaths: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    given: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    agents: dict[str, dict[str, str]] = field(default_factory=dict)


def slings(town: Town) -> Iterator[Document | Kept | Trouble]:
    """Sling outcomes and merge requests; what cannot be asked now stays as it is stored."""
    known = _Known()
    yield from _merge_requests(town, known)
    latest = time.time() + AHEAD
    events = (event for event in read_events(town.events_file) if epoch(event.at) <= latest)
    for event in sorted(events, key=lambda e: e.at):
        known.acts[address(event.actor)].append(event)
        if event.kind == "session_death":
            known.deaths[address(event.text("agent"))].append(event)
        elif event.kind == "sling" and event.text("bead") and event.text("target"):
            known.given[event.text("bead")].append(event)
    before = stored(town, SOURCE, "sling_outcome")
    for bead, given in known.given.items():
        for event, later in zip(given, [*given[1:], None], strict=True):
            yield _sling(bead, event, later, known, before.pop(f"{bead}@{event.at}", {}))
    yield from (Kept(key) for key in before)


def _sling(
    bead: str, event: Event, later: Event | None, known: _Known, before: Mapping[str, Any]
) -> Document:
    """One sling with what followed, up to the next sling of the same bead.

    The agent bead tells how the worker called its end until its next task; after that what was stored
    ``before`` counts."""
    target = address(event.text("target")) or event.text("target")
    end = later.at if later else "9999"
    acts = _between(known.acts.get(target, []), event.at, end)
    ours = [e for e in acts if e.text("bead") == bead]
    deaths = _between(known.deaths.get(target, []), event.at, end)
    called = _agent_end(known.agents.get(target, {}), event.at, end)
    content: dict[str, Any] = {
        "bead": bead,
        "target": target,
        "by": event.actor,
        "at": event.at,
        "formula": event.text("formula"),
        "done": [{"at": e.at, "branch": e.text("branch")} for e in ours if e.kind == "done"],
        "unhooked": [e.at for e in ours if e.kind == "unhook"],
        "handoffs": [e.at for e in acts if e.kind == "handoff"],
        "deaths": [{"at": e.at, "reason": e.text("reason")} for e in deaths],
        "given_again": later.at if later else "",
        "agent_bead": called or before.get("agent_bead") or {},
        "merge_requests": sorted(i for i, one in known.requests.items() if one.get("source_issue") == bead),
    }
    content["end"] = _end_of(content, known.requests)
    who = parse_gt_role(target)
    return Document(
        SOURCE,
        f"{bead}@{event.at}",
        "sling_outcome",
        as_json(content),
        role=who.role if who else "all",
        rig=(who.rig or "") if who else "",
        bead_id=bead,
        at=event.at,
    )


def _between(events: list[Event], start: str, end: str) -> list[Event]:
    """Those of a list in order of time from ``start`` to before ``end``."""
    first = bisect_left(events, start, key=lambda e: e.at)
    return events[first : bisect_left(events, end, key=lambda e: e.at)]


def _agent_end(fields: Mapping[str, str], start: str, end: str) -> dict[str, str]:
    """How the worker called its end, if its agent bead still speaks of this sling."""
    at = utc(fields.get("completion_time", ""))
    if not at or not start <= at < end:
        return {}
    return {key: fields[key] for key in _AGENT_FIELDS if key in fields}


def _end_of(content: Mapping[str, Any], requests: Mapping[str, Mapping[str, Any]]) -> str:
    """One word for how the sling ended; ``unknown`` where nothing is on record."""
    reasons = [str(requests[id].get("close_reason", "")) for id in content["merge_requests"]]
    for reason in ("merged", "rejected", "conflict", "superseded"):
        if any(reason in one.lower() for one in reasons):
            return reason
    if content["agent_bead"].get("exit_type"):
        return str(content["agent_bead"]["exit_type"]).lower()
    for key, word in (("done", "done"), ("unhooked", "unhooked"), ("given_again", "given again")):
        if content[key]:
            return word
    return "unknown"


# -- merge requests and agent beads -----------------------------------------------------------------


def _merge_requests(town: Town, known: _Known) -> Iterator[Document | Kept | Trouble]:
    """A document for each merge request; notes them, and how agents called their ends, in ``known``."""
    before = stored(town, SOURCE, "merge_request")
    asked = 0
    for place in databases(town):
        try:
            for bead in place.bd.labelled("gt:agent"):
                fields = fields_of(str(bead.get("description", "")))
                known.agents[_agent_of(str(bead["id"]), fields)] = fields
            beads = place.bd.labelled("gt:merge-request")
        except FinetuneError as error:
            reason = "bd_missing" if isinstance(error, BdMissing) else "bd_failed"
            yield Trouble(f"{place.rig or '.'}/.beads ({error})", reason)
            continue
        for bead in beads:
            id = str(bead.get("id"))
            facts = _facts(bead, {})
            old = before.pop(id, {})
            if old.get("status") == "closed" and old.get("updated_at") == facts["updated_at"]:
                known.requests[id] = old
                yield Kept(id)
                continue
            if asked < QUESTIONS:
                asked += 1
                try:
                    facts = _facts(bead, _status(town, place, id))
                except FinetuneError as error:  # its own bead tells most of it
                    missing = isinstance(error, UserError)
                    asked = QUESTIONS if missing else asked
                    yield Trouble(f"{id} ({error})", "gt_missing" if missing else "gt_failed")
            known.requests[id] = facts
            yield _request_document(place, id, facts)
    known.requests |= before
    yield from (Kept(id) for id in before)


def _status(town: Town, place: Database, id: str) -> Mapping[str, Any]:
    """What ``gt mq status`` says of a merge request."""
    answer = gt_json(["mq", "status", id, "--json"], town, place.folder)
    return answer if isinstance(answer, dict) else {}


def _facts(bead: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a merge request's own fields, and gt where it was asked, say of it."""
    fields = fields_of(str(bead.get("description", "")))
    names = ("branch", "target", "source_issue", "worker", "rig", "merge_commit", "commit_sha")
    facts: dict[str, Any] = {name: str(answer.get(name) or fields.get(name) or "") for name in names}
    reason = answer.get("close_reason") or fields.get("close_reason") or bead.get("close_reason") or ""
    status = str(answer.get("status") or bead.get("status", ""))
    times = {name: utc(str(bead.get(name))) for name in ("created_at", "updated_at", "closed_at")}
    return {**facts, **times, "status": status, "close_reason": str(reason), "title": bead.get("title", "")}


def _request_document(place: Database, id: str, facts: Mapping[str, Any]) -> Document:
    return Document(
        SOURCE,
        id,
        "merge_request",
        as_json(facts),
        role="refinery",
        rig=place.rig,
        bead_id=str(facts["source_issue"]) or id,
        at=str(facts["updated_at"]),
    )


def _agent_of(id: str, fields: Mapping[str, str]) -> str:
    """The address of an agent bead: ``dm-demo-polecat-nux`` with role polecat and rig demo."""
    role, rig = fields.get("role_type", ""), fields.get("rig", "")
    name = id.partition(f"-{role}-")[2]
    match role:
        case "polecat" | "crew" if rig and name:
            return f"{rig}/{'polecats' if role == 'polecat' else 'crew'}/{name}"
        case "witness" | "refinery" if rig:
            return f"{rig}/{role}"
    return role
