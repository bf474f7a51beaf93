"""Source ``beads``: every work bead with its life, and the graph of what depends on what.

One ``bd export`` a database tells what is there. Where the events table is out of reach, ``bd history`` is
one process a bead, so only beads that changed are asked, and at most HISTORIES of them in one run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import FinetuneError
from ...town.bd import BdMissing
from ...town.roles import parse_gt_role
from ...town.root import Town
from ...town.times import utc
from ..sources import Document, Kept, Trouble
from .databases import Database, as_json, databases, is_work, stored
from .lifecycle import (
    Interactions,
    Transition,
    as_objects,
    from_events,
    from_history,
    merged,
    read_interactions,
    unknowns,
)

SOURCE = "beads"
HISTORIES = 300
_LEFT_OUT = ("dependency_count", "dependent_count", "comment_count", "_type", "dependencies", "comments")


@dataclass
class _Run:
    """What one collection knows: what is stored, what the interactions say, how many histories are left."""

    known: Mapping[str, dict[str, Any]]
    interactions: Interactions
    histories: int
    pending: int = 0
    troubles: list[Trouble] = field(default_factory=list)


def beads(town: Town) -> Iterator[Document | Kept | Trouble]:
    """Documents of all databases; of one that cannot be asked, what is stored of it stays."""
    places = databases(town)
    if not places:
        yield Trouble(".beads", "no_beads")
        return
    known = stored(town, SOURCE, "bead")
    graphs = stored(town, SOURCE, "dependency_graph")
    interactions = read_interactions(place.beads_dir / "interactions.jsonl" for place in places)
    run = _Run(known, interactions, HISTORIES)
    if run.interactions.broken:
        yield Trouble(".beads/interactions.jsonl", "broken_lines")
    for place in places:
        try:
            found = [bead for bead in place.bd.export() if is_work(bead)]
            recorded = _events(place, run)
        except FinetuneError as error:
            yield _trouble(place, error)
            yield from (Kept(key) for key, one in {**known, **graphs}.items() if one.get("rig") == place.rig)
            continue
        for bead in found:
            yield _bead(place, bead, recorded, run)
        yield from _graphs(place, found)
    yield from run.troubles
    if run.pending:
        yield Trouble(f"{run.pending} beads", "history_next_time")


def _trouble(place: Database, error: FinetuneError) -> Trouble:
    reason = "bd_missing" if isinstance(error, BdMissing) else "bd_failed"
    return Trouble(f"{place.rig or '.'}/.beads ({error})", reason)


def _events(place: Database, run: _Run) -> dict[str, list[Transition]] | None:
    """All changes that a server has on record; None where only histories tell."""
    if not place.bd.on_server:
        return None
    try:
        return from_events(place.bd.events())
    except BdMissing:
        raise
    except FinetuneError as error:
        run.troubles.append(_trouble(place, error))
        return None


def _bead(
    place: Database, bead: Mapping[str, Any], recorded: Mapping[str, list[Transition]] | None, run: _Run
) -> Document | Kept:
    id = str(bead["id"])
    said = run.interactions.changes.get(id, ())
    labels = run.interactions.labels.get(id, ())
    state = _state(bead, len(said), len(labels))
    before = run.known.get(id, {})
    if before.get("state") == state and before.get("complete"):
        return Kept(id)
    complete = True
    if recorded is not None:
        changes = recorded.get(id, [])
    elif run.histories > 0:
        run.histories -= 1
        changes, complete = _history(place, id, run)
    else:
        changes, complete = [], False
        run.pending += 1
    life = merged(changes, said)
    assignee = parse_gt_role(str(bead.get("assignee", "")))
    content = {
        "bead": {k: v for k, v in bead.items() if k not in _LEFT_OUT},
        "comments": bead.get("comments") or [],
        "depends_on": _edges(bead),
        "transitions": as_objects(life),
        "labels": as_objects(labels),
        "unknown": unknowns(bead, life, complete),
        "rig": place.rig,
        "state": state,
        "complete": complete,
    }
    return Document(
        SOURCE,
        id,
        "bead",
        as_json(content),
        role=assignee.role if assignee else "all",
        rig=place.rig,
        bead_id=id,
        at=utc(str(bead.get("updated_at"))),
    )


def _history(place: Database, id: str, run: _Run) -> tuple[list[Transition], bool]:
    try:
        return from_history(place.bd.history(id)), True
    except FinetuneError as error:
        run.troubles.append(Trouble(f"{id} ({error})", "bd_failed"))
        return [], False


def _state(bead: Mapping[str, Any], interactions: int, labels: int) -> str:
    """Changes when anything of a bead does."""
    said = as_json([bead, interactions, labels])
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:16]


def _edges(bead: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a bead depends on, by kind, in a steady order."""
    edges = [e for e in bead.get("dependencies") or () if isinstance(e, dict)]
    found = [{"on": str(e.get("depends_on_id")), "type": str(e.get("type")), "at": _at(e)} for e in edges]
    return sorted(found, key=lambda e: (e["on"], e["type"]))


def _at(edge: Mapping[str, Any]) -> str:
    return utc(str(edge.get("created_at")))


def _graphs(place: Database, found: list[dict[str, Any]]) -> Iterator[Document]:
    """One document for each part of the graph that hangs together, named by its first bead."""
    by_id = {str(bead["id"]): bead for bead in found}
    parts = {id: id for id in by_id}

    def root(id: str) -> str:
        while parts.setdefault(id, id) != id:
            parts[id] = id = parts[parts[id]]
        return id

    edges = [(id, edge) for id, bead in by_id.items() for edge in _edges(bead)]
    for id, edge in edges:
        first, second = sorted((root(id), root(edge["on"])))
        parts[second] = first
    for top in sorted({root(id) for id, _ in edges}):
        own = [(id, edge) for id, edge in edges if root(id) == top]
        members = sorted({id for id, _ in own} | {edge["on"] for _, edge in own})
        content = {
            "beads": [_member(id, by_id.get(id)) for id in members],
            "edges": [{"from": id, **edge} for id, edge in sorted(own, key=lambda e: (e[0], e[1]["on"]))],
            "rig": place.rig,
        }
        yield Document(
            SOURCE,
            f"graph/{top}",
            "dependency_graph",
            as_json(content),
            rig=place.rig,
            bead_id=top,
            at=max(edge["at"] for _, edge in own),
        )


def _member(id: str, bead: Mapping[str, Any] | None) -> dict[str, Any]:
    """A bead of the graph; one of another database, or of a town's own running, is known by its id alone."""
    if bead is None:
        return {"id": id}
    return {"id": id, "title": bead.get("title", ""), "type": bead.get("issue_type", "")}
