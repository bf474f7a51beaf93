"""Training and held-out sessions: apart in time, and apart by task.

The newest tenth of the sessions, by when they began, is held out, so that what is asked of a model lies after
what it learnt from. A session from before that moment whose task (a bead, or the session that it is a
subagent of) was worked on after it goes to neither side: its end is known on the other one. Where times tell
nothing (fewer than five sessions, or all of one moment) one task in ten is held out, by a hash of its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .example import Example

HELD_OUT_SHARE = 10
TRAIN, HELD_OUT, LEAKS = "train", "heldout", "leaks"


@dataclass(frozen=True)
class Split:
    """``sides`` says of each session where it goes: TRAIN, HELD_OUT, or LEAKS for neither."""

    by: str
    """``time`` or ``hash``."""
    cutoff: str
    """Held-out sessions began then or later (RFC 3339, UTC); empty where the split is by hash."""
    sides: Mapping[str, str]


def split(examples: Iterable[Example]) -> Split:
    """Which session goes where."""
    tasks: dict[str, set[str]] = {}
    started: dict[str, str] = {}
    for example in examples:
        tasks.setdefault(example.session, set()).update(example.tasks)
        started[example.session] = example.origin.started
    cutoff = _cutoff(sorted(started.values()))
    if cutoff:
        late = {task for session, at in started.items() if at >= cutoff for task in tasks[session]}
        sides = {
            session: HELD_OUT if at >= cutoff else LEAKS if tasks[session] & late else TRAIN
            for session, at in started.items()
        }
        return Split("time", cutoff, sides)
    return Split("hash", "", {session: _side_by_hash(found) for session, found in tasks.items()})


def _cutoff(times: list[str]) -> str:
    """The moment from which on about a tenth of the sessions began, empty where no moment parts them."""
    wanted = round(len(times) / HELD_OUT_SHARE + 1e-9)
    if not wanted or times[0] == times[-1]:
        return ""
    at = times[-wanted]
    if at > times[0]:
        return at
    return next(t for t in times if t > times[0])


def _side_by_hash(tasks: set[str]) -> str:
    sides = {held_out(task) for task in tasks}
    return LEAKS if len(sides) > 1 else HELD_OUT if sides == {True} else TRAIN


def held_out(task: str) -> bool:
    """Whether a task stays out of training by its name: one in ten, always the same."""
    return int(hashlib.sha256(task.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0
