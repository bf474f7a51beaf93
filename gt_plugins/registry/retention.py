"""Pruning: which versions may go, and their removal, journaled before a byte is deleted.

What is live or previous in any town, and what carries an alias, stays whatever ``keep`` says. Stored
results stay too: they are small, and they are the history.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .journal import State, fold, locked, record
from .versions import Version, all_versions, check_model_name, resolve

_TRASH = ".pruned-"


@dataclass(frozen=True)
class Plan:
    """What a prune does; ``kept`` says why a version stays, ``bytes`` are those of ``removed``."""

    removed: tuple[Version, ...]
    kept: dict[str, str]
    bytes: int


def plan(home: Path, model: str, keep: int, state: State | None = None) -> Plan:
    """Which versions of ``model`` go when the newest ``keep`` stay. Raises UserError for an unknown model."""
    state = fold(home) if state is None else state
    check_model_name(model)
    resolve(home, model, state=state)
    mine = sorted((v for v in all_versions(home, state) if v.model == model), key=lambda v: -v.number)
    kept = {v.version: "among the newest" for v in mine[:keep]}
    for name, alias in protected(state, model).items():
        kept[name] = alias
    removed = tuple(v for v in mine if v.version not in kept)
    return Plan(removed, kept, sum(v.bytes for v in removed))


def protected(state: State, model: str) -> dict[str, str]:
    """Version → why it cannot be pruned: an alias, or live or previous for a role of some town."""
    found = {version: f"@{alias}" for (name, alias), version in state.aliases.items() if name == model}
    for word, table in (("previous", state.previous), ("live", state.live)):
        for (town, role), entry in table.items():
            if entry.model == model:
                found[entry.version] = f"{word} for {role} in {town}"
    return found


def prune(home: Path, model: str, keep: int) -> Plan:
    """Remove what :func:`plan` says. Raises UserError for an unknown model."""
    with locked(home):
        done = plan(home, model, keep)
        for version in done.removed:
            record(home, "pruned", model=version.model, version=version.version, bytes=version.bytes)
            if version.path.is_dir():
                os.rename(version.path, version.path.with_name(f"{_TRASH}{version.version}"))
        sweep(home, model)
    return done


def sweep(home: Path, model: str) -> None:
    """Delete what pruned versions left behind, also those of a prune that was killed half-way."""
    state = fold(home)
    for name in [v for m, v in state.pruned if m == model]:
        path = home / model / name
        if path.is_dir():
            os.rename(path, path.with_name(f"{_TRASH}{name}"))
    for path in (home / model).glob(f"{_TRASH}*"):
        shutil.rmtree(path)
