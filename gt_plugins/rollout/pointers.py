"""The pointer of a role: one agents entry and one role_agents key in gt's settings, and the way back.

Before anything is written, the role is resolved as gt would with the pointer in place, so that a deploy
that gt would pass over is refused with the override's name. What stood there is remembered in
``.finetune/pointers.json``, oldest first; taking one back that is not the newest takes the newer ones back
too and sets them again, so that in whatever order roles are rolled back the file ends as it began.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..durable import write_json
from ..errors import UserError, in_file
from ..settings import read_toml
from ..town.agents import (
    AgentChange,
    Resolution,
    resolve_role_agent,
    restore,
    rig_settings_file,
    set_agent_entry,
)
from ..town.edits import FileEdit
from ..town.roles import TOWN_LEVEL
from ..town.root import Town, read_json
from .deployed import alias_for

_STOCK_START = "claude --dangerously-skip-permissions"
_RESOLVING_KEYS = ("type", "version", "default_agent", "role_agents", "crew_agents", "worker_agents", "agent")


@dataclass(frozen=True)
class Pointer:
    """A pointer of ours: of which role, in which rig's settings (empty: the town's), and gt's file before.

    ``change`` is AgentChange.record(); it is complete only when ``done``. A pointer that is not done stems
    from a deploy that was killed and holds what stood there, so that it can be taken back all the same.
    """

    role: str
    rig: str
    change: dict[str, Any]
    done: bool = True


def read_pointers(town: Town) -> list[Pointer]:
    """Every pointer of ours in a town, oldest first. Raises UserError where the record is broken."""
    path = _path(town)
    if not path.is_file():
        return []
    try:
        return [Pointer(**entry) for entry in read_json(path)["pointers"]]
    except (KeyError, TypeError):
        raise UserError(in_file(path, "", "not a record of pointers", "restore it from a copy")) from None


def _write(town: Town, pointers: list[Pointer]) -> None:
    if pointers:
        write_json(_path(town), {"pointers": [asdict(p) for p in pointers]})
    else:
        _path(town).unlink(missing_ok=True)


def _path(town: Town) -> Path:
    return town.finetune_dir / "pointers.json"


def settings_file(town: Town, rig: str) -> Path:
    """gt's settings file that holds the pointer."""
    return rig_settings_file(town, rig) if rig else town.gt_settings_file


def set_pointer(town: Town, role: str, rig: str, entry: dict[str, Any], *, point: bool) -> None:
    """Set the agents entry of a role and, with ``point``, its role_agents key; nothing where both stand.

    Raises UserError where gt's file is broken.
    """
    alias = alias_for(role)
    mine = [p for p in read_pointers(town) if (p.role, p.rig) == (role, rig)]
    document = _document(settings_file(town, rig))
    pointed = (document.get("role_agents") or {}).get(role)
    stands = (document.get("agents") or {}).get(alias) == entry and (pointed == alias or not point)
    if mine and mine[0].done and stands:
        return
    if mine:
        take_back(town, role, rig)
        document = _document(settings_file(town, rig))
    others = read_pointers(town)
    intent = _intent(settings_file(town, rig), document, role, entry, point)
    _write(town, [*others, Pointer(role, rig, intent.record(), done=False)])
    change = set_agent_entry(town, alias, entry, role=role if point else None, rig=rig or None)
    _write(town, [*others, Pointer(role, rig, change.record())])


def take_back(town: Town, role: str, rig: str | None = None) -> list[Path]:
    """Take a role's pointers (of one rig, or all) out of gt's files again; returns the files.

    Raises UserError where one of the files is no longer JSON.
    """
    pointers = read_pointers(town)
    mine = [p for p in pointers if p.role == role and rig in (None, p.rig)]
    files = []
    for pointer in reversed(mine):
        index = pointers.index(pointer)
        file = settings_file(town, pointer.rig)
        newer = [p for p in pointers[index + 1 :] if settings_file(town, p.rig) == file]
        for other in reversed(newer):
            restore(AgentChange.from_record(other.change))
        restore(AgentChange.from_record(pointer.change))
        again = {id(other): _set_again(town, other) for other in newer}
        pointers = [again.get(id(p), p) for p in pointers if p is not pointer]
        files.append(file)
    _write(town, pointers)
    return files


def _set_again(town: Town, pointer: Pointer) -> Pointer:
    change = AgentChange.from_record(pointer.change)
    done = set_agent_entry(town, change.alias, change.entry, role=change.role, rig=pointer.rig or None)
    return replace(pointer, change=done.record(), done=True)


def _intent(
    path: Path, document: dict[str, Any], role: str, entry: dict[str, Any], point: bool
) -> AgentChange:
    """What a change will be, for a crash before it is known to the byte: enough to take it back by keys."""
    alias = alias_for(role)
    agents, role_agents = document.get("agents") or {}, document.get("role_agents") or {}
    edit = FileEdit(path, path.exists(), 0o644, "", "?", ())
    return AgentChange(alias, role if point else None, entry, agents.get(alias), role_agents.get(role), edit)


def _document(path: Path) -> dict[str, Any]:
    """gt's settings as they stand. Raises UserError naming file, line or key where they are broken."""
    document = read_json(path) if path.exists() else {}
    for key in ("agents", "role_agents"):
        if not isinstance(document.get(key, {}), dict):
            raise UserError(in_file(path, key, "not a JSON object", "mend or remove it"))
    return document


def check_effect(
    town: Town, role: str, rig: str | None, entry: dict[str, Any], environ: Mapping[str, str] | None = None
) -> list[str]:
    """Would gt start our agent with the pointer in place? Returns notes on workers that keep their own.

    Raises UserError naming the override where the pointer would have no effect in some rig, and where a
    settings file is broken.
    """
    rigs: list[str | None] = [None] if role in TOWN_LEVEL else ([rig] if rig else list(town.rigs()))
    for path in (town.gt_settings_file, *(rig_settings_file(town, r) for r in rigs if r)):
        _document(path)
    _check_start_commands(town, role, rigs)
    if role == "polecat":
        return []
    notes: list[str] = []
    with _scratch(town, rigs, role, rig, entry) as scratch:
        for name in rigs:
            found = resolve_role_agent(scratch, role, name, environ=environ)
            if found.agent != alias_for(role):
                place = _decided_by(found, scratch, town)
                where = f"in rig {name}" if name else "in this town"
                raise UserError(
                    f"{role} {where} would not change: {place} decides for {found.agent!r}; remove that first"
                )
            for worker in _workers(town, role, name):
                own = resolve_role_agent(scratch, role, name, worker=worker, environ=environ)
                if own.agent != alias_for(role):
                    notes.append(f"{name}/crew/{worker} keeps {own.agent}: {_decided_by(own, scratch, town)}")
    return notes


def _decided_by(found: Resolution, scratch: Town, town: Town) -> str:
    return found.decided_by.replace(str(scratch.root), str(town.root))


def _workers(town: Town, role: str, rig: str | None) -> list[str]:
    folder = town.root / str(rig) / "crew"
    if role != "crew" or not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


@contextmanager
def _scratch(
    town: Town, rigs: list[str | None], role: str, rig: str | None, entry: dict[str, Any]
) -> Iterator[Town]:
    """A town of nothing but the settings that decide about agents, with the pointer in place.

    Only names and commands are copied: an agent's environment and arguments may hold a token.
    """
    with tempfile.TemporaryDirectory(prefix="gt-ft-") as folder:
        root = Path(folder)
        for name in ("", *(r for r in rigs if r)):
            source, target = town.root / name / "settings", root / name / "settings"
            target.mkdir(parents=True)
            for file in ("config.json", "agents.json"):
                if (source / file).is_file():
                    slim = _without_values(_tolerant(source / file))
                    (target / file).write_text(json.dumps(slim), encoding="utf-8")
        scratch = Town(root)
        slim = {key: entry[key] for key in ("provider", "command")}
        set_agent_entry(scratch, alias_for(role), slim, role=role, rig=rig)
        yield scratch


def _tolerant(path: Path) -> dict[str, Any]:
    """A file as gt reads it: one that is not JSON is as good as missing."""
    try:
        return read_json(path)
    except UserError:
        return {}


def _without_values(document: dict[str, Any]) -> dict[str, Any]:
    kept = {key: document[key] for key in _RESOLVING_KEYS if key in document}
    for table in ("agents", "runtime"):
        value = document.get(table)
        if isinstance(value, dict):
            entries = {"": value} if table == "runtime" else value
            slim = {
                name: {k: e[k] for k in ("provider", "command") if k in e}
                for name, e in entries.items()
                if isinstance(e, dict)
            }
            kept[table] = slim.get("", {}) if table == "runtime" else slim
    return kept


def _check_start_commands(town: Town, role: str, rigs: list[str | None]) -> None:
    """A role file's own start command beats the agents entry when gt's daemon restarts the role."""
    for folder in (town.root, *(town.root / r for r in rigs if r)):
        path = folder / "roles" / f"{role}.toml"
        session = read_toml(path).get("session", {})
        command = session.get("start_command", "") if isinstance(session, dict) else ""
        if command and str(command).removeprefix("exec ").strip() != _STOCK_START:
            raise UserError(
                in_file(
                    path, "session.start_command", f"would start {role} past the pointer", "remove it first"
                )
            )


def stock_agent(town: Town, role: str, rig: str | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments with which gt starts the role today, as an entry for ours, and notes on what differs.

    Our entry carries the stock agent's arguments, so that the wrapper can start just that agent.
    """
    notes: list[str] = []
    found = resolve_role_agent(town, role, rig)
    if found.agent == alias_for(role):
        before = [p.change for p in read_pointers(town) if p.role == role]
        name = (before[0].get("previous_role_agent") if before else None) or "claude"
    else:
        name = found.agent
    for other in town.rigs() if role not in TOWN_LEVEL and not rig else ():
        there = resolve_role_agent(town, role, other).agent
        if there not in (found.agent, alias_for(role)):
            notes.append(f"in rig {other} the stock agent is {there}; while ours is off or dead, {name} runs")
    entry: Any = None
    for path in (rig_settings_file(town, rig) if rig else None, town.gt_settings_file):
        if path is not None and path.exists() and entry is None:
            entry = (_document(path).get("agents") or {}).get(name)
    if not isinstance(entry, dict):
        if name != "claude":
            notes.append(
                f"the stock agent of {role} is {name}; while ours is off or dead, claude runs instead"
            )
        return {}, notes
    if entry.get("env"):
        keys = ", ".join(sorted(entry["env"]))
        notes.append(f"agent {name} has an environment ({keys}) that its stand-in will not have")
    return ({"args": entry["args"]} if isinstance(entry.get("args"), list) else {}), notes
