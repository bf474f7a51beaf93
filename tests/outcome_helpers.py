"""Small towns whose records are written by hand: events, warrants, and sessions with one decision."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from rendering_helpers import answered, called, said

from gt_plugins.corpus.outcomes.deeds import Deed
from gt_plugins.corpus.outcomes.judge import DecisionOutcome, Windows, judge
from gt_plugins.corpus.outcomes.records import TownRecords, read_records
from gt_plugins.corpus.store import Store
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NUX = "demo/polecats/nux"


def clock(minutes: float) -> str:
    """So many minutes after noon, as gt writes it."""
    return (NOON + timedelta(minutes=minutes)).isoformat(timespec="seconds").replace("+00:00", "Z")


def log(town: Town, minutes: float, kind: str, actor: str = "gt", **payload: Any) -> None:
    """One event, so many minutes after noon."""
    line = {"ts": clock(minutes), "source": "gt", "type": kind, "actor": actor, "payload": payload}
    with town.events_file.open("a") as handle:
        handle.write(json.dumps(line) + "\n")


def span(town: Town, first: float = -600, last: float = 3000) -> None:
    """Records that reach from ``first`` to ``last``, with nothing in them that matters."""
    log(town, first, "boot", rig="town")
    log(town, last, "boot", rig="town")


def warrant(town: Town, target: str, filed: float, executed: float | None = None) -> None:
    """A warrant's file as gt leaves it."""
    (town.root / "warrants").mkdir(exist_ok=True)
    value: dict[str, Any] = {"id": "warrant-1", "target": target, "filed_at": clock(filed)}
    if executed is not None:
        value |= {"executed": True, "executed_at": clock(executed)}
    (town.root / "warrants" / f"{target.replace('/', '_')}.warrant.json").write_text(json.dumps(value))


def deed(kind: str, target: str = NUX, minutes: float = 0, **more: Any) -> Deed:
    at = (NOON + timedelta(minutes=minutes)).timestamp()
    return Deed("s1", "c1", at, "deacon", "deacon", kind, kind, target, **more)


def label(town: Town, one: Deed, **more: Any) -> DecisionOutcome:
    """The label of a deed by the town's records as they stand."""
    return judge(one, records(town, **more), Windows())


def records(town: Town, **more: Any) -> TownRecords:
    return read_records(town, **more)


def session(
    *steps: tuple[float, str, str],
    id: str = "s1",
    role: str = "deacon",
    rig: str = "",
    name: str = "",
    failed: bool = False,
) -> Session:
    """A session of (minutes after noon, command, what it printed)."""
    turns = []
    for index, (minutes, command, printed) in enumerate(steps):
        call = called(command, f"toolu_{id}_{index}")
        turns.append(Turn(f"a{index}", "assistant", (said("So."), call), at=clock(minutes), model="m1"))
        answer = answered(printed, call["id"]) | {"is_error": failed}
        turns.append(Turn(f"r{index}", "user", (answer,), at=clock(minutes + 0.1)))
    times = {"started": clock(steps[0][0] - 1), "ended": clock(steps[-1][0] + 1)}
    return Session(id, "claude", tuple(turns), models=("m1",), role=role, rig=rig, name=name, **times)


def put(store: Store, *sessions: Session) -> None:
    """Store sessions as a sweep would."""
    for one in sessions:
        store.add_session(one, policy="p1", consent="Ann", source_hash=f"h-{one.id}", file=one.id)
