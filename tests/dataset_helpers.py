"""Sessions of the example town in a corpus, and small sessions made by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpus_helpers import capture, consented
from rendering_helpers import answered, called, said

from gt_plugins.corpus import dataset
from gt_plugins.corpus.dataset import Built, Dataset, Example, Options, split
from gt_plugins.corpus.store import StoredSession
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.sessions import Written, write_sessions
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn


def played(town: Town, projects: Path, role: str = "deacon", decisions: int = 12) -> list[Written]:
    """The teacher's sessions, captured into the town's corpus."""
    found = write_sessions(consented(town), projects, role, decisions)
    capture(town, projects)
    return found


def session(
    *steps: tuple[str, str, str],
    name: str = "s1",
    beads: tuple[str, ...] = (),
    started: str = "2026-03-01T08:00:00Z",
    prime: str = "# Deacon Context\n\nrole:deacon",
) -> Session:
    """A session of (what is said, command, its result); a step without a command only says something."""
    turns = [Turn("h", "hook", (said(prime),), hook="SessionStart:startup")] if prime else []
    turns.append(Turn("u", "user", (said("Begin."),)))
    for index, (text, command, result) in enumerate(steps):
        call = called(command, f"toolu_{name}_{index}")
        blocks = [said(text)] if text else []
        turns.append(
            Turn(f"a{index}", "assistant", tuple([*blocks, call] if command else blocks), model="m1")
        )
        if command:
            turns.append(Turn(f"r{index}", "user", (answered(result, call["id"]),)))
    return Session(name, "claude", tuple(turns), models=("m1",), started=started, role="deacon", beads=beads)


def stored(found: Session, outcome: str = "good", tuned: bool = False) -> StoredSession:
    return StoredSession(found, "p1", "Ann", outcome, "2026-03-02T00:00:00Z", tuned=tuned)


NUDGE = ("It waits. So I nudge it.", "gt nudge demo/polecats/nux 'go on'", "Nudged")
PATROL = (
    ("", "gt hook", "Nothing on hook"),
    ("", "cat reports/01.txt", "nux is idle for 50 minutes"),
    NUDGE,
    ("", "cat reports/02.txt", "slit has no session and unpushed work"),
    (
        '{"reason": "slit is dead", "action": "x"}',
        "bd create 'save work of slit' -t task -l gt:cleanup",
        "dm-1",
    ),
    ("Patrol done.", "", ""),
)


def build(*found: StoredSession, slim: Callable[[str], str] | None = None, **options: Any) -> Built:
    """The dataset of some sessions; ``options`` are those of ``Options``."""
    make = slim or (lambda stock: f"slim of {len(stock)}")
    return dataset.build(found, load_profile("deacon"), make, Options(**options))


def every(built: Built) -> list[Example]:
    """The examples of both sides."""
    return [*built.train, *built.heldout]


def of(examples: Iterable[Example], **more: Any) -> Built:
    """A dataset of these examples, whatever they are."""
    found = tuple(examples)
    sides = split(found)
    options = {"prime": "You watch.", "drops": Counter(), "split": sides, "facts": {}} | more
    train, rest = (tuple(e for e in found if sides.sides[e.session] == side) for side in ("train", "heldout"))
    return Built(train=train, heldout=rest, **options)


def write(folder: Path, examples: Iterable[Example], **more: Any) -> Dataset:
    return dataset.write(folder, "deacon", of(examples, **more))


def renamed(example: Example, name: str) -> Example:
    return replace(example, session=name, id=f"{name}/{example.kind}", beads=())


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))
