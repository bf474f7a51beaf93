"""Source ``convoys``: each convoy with what it tracks and how its own status changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import FinetuneError, UserError
from ...town.gt import gt_json
from ...town.root import Town
from ...town.times import utc
from ..sources import Document, Kept, Trouble
from .databases import as_json, databases, stored
from .lifecycle import as_objects, from_events, from_history, merged, read_interactions

SOURCE = "convoys"
_PASSING = ("worker", "worker_age", "blocked")
"""What changes while one looks."""


def convoys(town: Town) -> Iterator[Document | Kept | Trouble]:
    """All convoys of the town, open and closed. A town without beads has none."""
    places = [place for place in databases(town) if not place.rig]
    if not places:
        return
    known = stored(town, SOURCE, "convoy")
    place = places[0]
    try:
        answer = gt_json(["convoy", "list", "--all", "--json"], town, town.root)
        recorded = from_events(place.bd.events()) if place.bd.on_server else None
    except FinetuneError as error:
        yield Trouble(f"convoys ({error})", "gt_missing" if isinstance(error, UserError) else "gt_failed")
        yield from (Kept(key) for key in known)
        return
    said = read_interactions([place.beads_dir / "interactions.jsonl"]).changes
    for one in answer or ():
        id = str(one["id"])
        facts = _facts(one)
        before = known.get(id, {})
        if recorded is None and before.get("convoy") == facts:
            yield Kept(id)
            continue
        try:
            changes = from_history(place.bd.history(id)) if recorded is None else recorded.get(id, [])
        except FinetuneError as error:
            yield Trouble(f"{id} ({error})", "bd_failed")
            yield from [Kept(id)] if before else []
            continue
        life = merged(changes, said.get(id, ()))
        content = {"convoy": facts, "transitions": as_objects(life)}
        at = life[-1].at if life else utc(str(one.get("created_at")))
        yield Document(SOURCE, id, "convoy", as_json(content), role="mayor", bead_id=id, at=at)


def _facts(one: Mapping[str, Any]) -> dict[str, Any]:
    """A convoy as gt lists it, without what changes from moment to moment."""
    tracked = [
        {k: v for k, v in bead.items() if k not in _PASSING}
        for bead in one.get("tracked") or ()
        if isinstance(bead, dict)
    ]
    return {**one, "tracked": sorted(tracked, key=lambda bead: str(bead.get("id")))}
