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
from gt_plugins.corpus.dataset import Dataset, Example, Verdict
from gt_plugins.corpus.store import StoredSession
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.sessions import Written, write_sessions
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn

KEEP: Callable[[Example], Verdict | None] = lambda _: None  # noqa: E731


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


def stored(found: Session, outcome: str = "unknown", tuned: bool = False) -> StoredSession:
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


def build(
    *found: StoredSession,
    suite: Iterable[str] = (),
    filters: Callable[[Example], Verdict | None] = KEEP,
    slim: Callable[[str], str] = lambda stock: f"slim of {len(stock)}",
) -> tuple[list[Example], Counter[str], str]:
    return dataset.build(found, load_profile("deacon"), slim, suite, filters)


def write(folder: Path, examples: list[Example], **more: Any) -> Dataset:
    options = {"drops": {}, "prime": "You watch.", "budget": "tiny"} | more
    return dataset.write(folder, "deacon", examples, **options)


def renamed(example: Example, name: str) -> Example:
    return replace(example, session=name, id=f"{name}/{example.kind}", beads=())


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))
