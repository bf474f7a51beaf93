"""The registry's journal: append-only lines, and the state that is their fold.

``<models>/journal.jsonl`` is the one truth about what was registered, evaluated, aliased, deployed,
rolled back and pruned. Nothing is ever rewritten, so the history of what was live where stays. A torn or
foreign line (a crash, an editor) is passed over, kept in ``State.problems`` and shown by
``gt model verify``. Readers take no lock; whoever reads and then writes does so inside :func:`locked`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..durable import append_line, private_dir
from ..errors import RetriableError

LOCK_SECONDS = 60.0

Key = tuple[str, str]
"""(model, version), (model, alias) or (town root, role)."""


@dataclass(frozen=True)
class Registered:
    """A version as the journal knows it, without opening its folder."""

    model: str
    version: str
    role: str
    base: str
    created: str
    manifest_sha256: str
    bytes: int = 0


@dataclass(frozen=True)
class Evaluated:
    """One stored evaluation: where its file stands and what it must hash to."""

    suite: str
    file: str
    sha256: str
    score: float
    served: bool
    at: str


@dataclass(frozen=True)
class Deployed:
    """What a role of a town was given; ``rigs`` is empty for the whole town."""

    model: str
    version: str
    rigs: tuple[str, ...] = ()
    at: str = ""
    by: str = ""
    forced: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Problem:
    """A journal line that could not be used; ``line`` counts from 1."""

    line: int
    problem: str


@dataclass
class State:
    """The fold of a journal. ``stacks`` holds, per (town, role), what is live last and what was before it."""

    versions: dict[Key, Registered] = field(default_factory=dict)
    pruned: set[Key] = field(default_factory=set)
    aliases: dict[Key, str] = field(default_factory=dict)
    evaluated: dict[Key, list[Evaluated]] = field(default_factory=dict)
    stacks: dict[Key, list[Deployed]] = field(default_factory=dict)
    beads: dict[tuple[str, str, str], str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lines: int = 0

    @property
    def live(self) -> dict[Key, Deployed]:
        """(town, role) → what is live there."""
        return {key: stack[-1] for key, stack in self.stacks.items() if stack}

    @property
    def previous(self) -> dict[Key, Deployed]:
        """(town, role) → what was live there before and would come back on a rollback."""
        return {key: stack[-2] for key, stack in self.stacks.items() if len(stack) > 1}

    def models(self) -> list[str]:
        """The models that have a version, in the order in which they first appeared."""
        return list(dict.fromkeys(model for model, _ in self.versions))


def journal_path(home: Path) -> Path:
    """The journal of a models folder."""
    return home / "journal.jsonl"


def town_key(root: Path | str) -> str:
    """How a town is named in the journal: its real path, so that a link to it is the same town."""
    return os.path.realpath(root)


def now() -> str:
    """The time as the journal writes it: RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def locked(home: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the models folder's lock, so that no other process writes between a read and a write.

    May be nested in one thread. Raises RetriableError when another process keeps it for ``seconds``.
    """
    from filelock import FileLock, Timeout

    private_dir(home)
    lock = FileLock(home / ".lock", mode=0o600, is_singleton=True)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise RetriableError(f"{home}: another process holds the registry; try again") from None
    try:
        yield
    finally:
        lock.release()


def record(home: Path, event: str, **fields: Any) -> dict[str, Any]:
    """Append one event under the lock and return it. ``at`` is added; fields must be JSON values."""
    line = {"at": now(), "event": event, **fields}
    with locked(home):
        append_line(journal_path(home), line)
    return line


def events(home: Path) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """(line number, event) of a journal; a line that is no event comes as a Problem."""
    import orjson  # a long life's journal is most of what `gt model list` does

    path = journal_path(home)
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            if not raw.strip():
                continue
            try:
                value = orjson.loads(raw)
            except ValueError:
                yield number, Problem(number, "not a whole JSON line (torn write?)")
                continue
            if isinstance(value, dict) and isinstance(value.get("event"), str):
                yield number, value
            else:
                yield number, Problem(number, "not an event")


def fold(home: Path) -> State:
    """The state of a models folder: one read of its journal, nothing else is opened."""
    state = State()
    for number, event in events(home):
        state.lines = number
        if isinstance(event, Problem):
            state.problems.append(event)
            continue
        apply = _APPLY.get(event["event"])
        if apply is None:
            continue
        try:
            apply(state, event)
        except (KeyError, TypeError, ValueError) as error:
            state.problems.append(Problem(number, f"{event['event']} without a usable {error}"))
    return state


def _text(event: dict[str, Any], key: str) -> str:
    value = event[key]
    if not isinstance(value, str) or not value:
        raise ValueError(key)
    return value


def _registered(state: State, event: dict[str, Any]) -> None:
    model, version = _text(event, "model"), _text(event, "version")
    state.pruned.discard((model, version))
    state.versions[model, version] = Registered(
        model,
        version,
        _text(event, "role"),
        _text(event, "base"),
        str(event.get("created") or event.get("at") or ""),
        _text(event, "manifest_sha256"),
        int(event.get("bytes") or 0),
    )


def _evaluated(state: State, event: dict[str, Any]) -> None:
    entry = Evaluated(
        _text(event, "suite"),
        _text(event, "file"),
        _text(event, "sha256"),
        float(event["score"]) if event.get("score") is not None else float("nan"),
        event.get("served") is True,
        str(event.get("at") or ""),
    )
    state.evaluated.setdefault((_text(event, "model"), _text(event, "version")), []).append(entry)


def _aliased(state: State, event: dict[str, Any]) -> None:
    key = (_text(event, "model"), _text(event, "alias"))
    if event.get("version"):
        state.aliases[key] = _text(event, "version")
    else:
        state.aliases.pop(key, None)


def _deployment(event: dict[str, Any]) -> Deployed:
    return Deployed(
        _text(event, "model"),
        _text(event, "version"),
        tuple(str(rig) for rig in event.get("rigs") or ()),
        str(event.get("at") or ""),
        str(event.get("by") or ""),
        event.get("forced") is True,
        str(event.get("reason") or ""),
    )


def _deployed(state: State, event: dict[str, Any]) -> None:
    entry = _deployment(event)
    stack = state.stacks.setdefault((_text(event, "town"), _text(event, "role")), [])
    if stack and (stack[-1].model, stack[-1].version) == (entry.model, entry.version):
        stack[-1] = entry
    else:
        stack.append(entry)


def _rolled_back(state: State, event: dict[str, Any]) -> None:
    stack = state.stacks.setdefault((_text(event, "town"), _text(event, "role")), [])
    if not event.get("to_model"):
        stack.clear()
        return
    target = (_text(event, "to_model"), _text(event, "to_version"))
    while stack and (stack[-1].model, stack[-1].version) != target:
        stack.pop()
    if not stack:
        stack.append(Deployed(*target, at=str(event.get("at") or "")))


def _pruned(state: State, event: dict[str, Any]) -> None:
    key = (_text(event, "model"), _text(event, "version"))
    state.versions.pop(key, None)
    state.pruned.add(key)


def _mirrored(state: State, event: dict[str, Any]) -> None:
    key = (_text(event, "town"), _text(event, "model"), _text(event, "version"))
    state.beads[key] = _text(event, "bead")


_APPLY = {
    "registered": _registered,
    "evaluated": _evaluated,
    "aliased": _aliased,
    "deployed": _deployed,
    "rolled_back": _rolled_back,
    "pruned": _pruned,
    "mirrored": _mirrored,
}
