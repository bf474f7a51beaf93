"""Which agent gt starts for a role, and our entries in ``settings/config.json``.

The order is that of gt's ``resolveRoleAgentConfigCore``: the dog rule, GT_COST_TIER, the rig's role_agents,
the town's role_agents, the rig's ``runtime`` and ``agent``, the town's ``default_agent``, ``claude``. gt
reads settings that are not JSON as if they were not there; so does the resolution, with a warning.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from . import edits, json_text
from .root import Town, read_json

_PRESETS = {
    "claude": "claude",
    "gemini": "gemini",
    "codex": "codex",
    "cursor": "cursor-agent",
    "auggie": "auggie",
    "amp": "amp",
    "opencode": "opencode",
    "copilot": "copilot",
    "pi": "pi",
    "omp": "omp",
    "vibe": "vibe",
    "groq-compound": "claude",
}
_TIERS: dict[str, dict[str, str]] = {
    "standard": {"boot": "claude-haiku", "dog": "claude-haiku"},
    "economy": {
        **dict.fromkeys(("mayor", "witness", "refinery"), "claude-sonnet"),
        **dict.fromkeys(("deacon", "boot", "dog"), "claude-haiku"),
    },
    "budget": {
        **dict.fromkeys(("mayor", "polecat", "crew"), "claude-sonnet"),
        **dict.fromkeys(("deacon", "witness", "refinery", "boot", "dog"), "claude-haiku"),
    },
    "custom-groq-opus": dict.fromkeys(
        ("deacon", "witness", "refinery", "polecat", "boot", "dog"), "groq-compound"
    ),
    "custom-groq-sonnet": {
        "mayor": "claude-sonnet",
        **dict.fromkeys(("deacon", "witness", "refinery", "polecat", "crew", "boot", "dog"), "groq-compound"),
    },
}
# gt defines a tier's agents only in that tier; "standard" defines none, so its names are not found.
_TIER_DEFINES = {
    "economy": {"claude-sonnet", "claude-haiku"},
    "budget": {"claude-sonnet", "claude-haiku"},
    "custom-groq-opus": {"groq-compound"},
    "custom-groq-sonnet": {"claude-sonnet", "groq-compound"},
}


@dataclass(frozen=True)
class Resolution:
    """What gt would start: the agent's name, and the file and key that decide it (no file: gt itself)."""

    agent: str
    file: Path | None
    key: str
    warnings: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str:
        """``/town/settings/config.json: role_agents.deacon``, or the key alone."""
        return f"{self.file}: {self.key}" if self.file else self.key


@dataclass(frozen=True)
class _Layers:
    """The settings that take part: of the town, of the rig, and the names that agents.json adds."""

    town_file: Path
    town: dict[str, Any]
    rig_file: Path | None
    rig: dict[str, Any]
    registry: dict[str, str]
    warnings: tuple[str, ...]

    def custom(self, name: str) -> dict[str, Any] | None:
        """The ``agents`` entry of that name, the rig's before the town's."""
        for settings in (self.rig, self.town):
            entry = (settings.get("agents") or {}).get(name)
            if isinstance(entry, dict):
                return entry
        return None

    def is_claude(self, name: str) -> bool | None:
        """Whether the agent of that name is Claude to gt; None where there is no such agent."""
        entry = self.custom(name)
        if entry is None:
            return name == "claude" if name in _PRESETS or name in self.registry else None
        if entry.get("provider"):
            return entry["provider"] == "claude"
        command = str(entry.get("command") or "claude")
        return Path(command).stem == "claude"

    def problem(self, name: str) -> str | None:
        """Why gt would pass over this name in role_agents; None where it takes it."""
        if self.custom(name) is not None:
            return None
        command = _PRESETS.get(name) or self.registry.get(name)
        if command is None:
            return f"agent {name!r} is not defined"
        return None if shutil.which(command) else f"agent {name!r}: {command!r} is not on PATH"


def rig_settings_file(town: Town, rig: str) -> Path:
    """``<rig>/settings/config.json``."""
    return town.root / rig / "settings" / "config.json"


def resolve_role_agent(
    town: Town,
    role: str,
    rig: str | None = None,
    *,
    worker: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolution:
    """The agent gt starts for ``role`` (in ``rig``; for the crew member ``worker``), and what decides it."""
    layers = _layers(town, rig)
    if role == "crew" and worker:
        named = _worker(layers, worker)
        if named is not None:
            return named
    own_platform = _non_claude(layers, role)
    if role == "dog" and not own_platform:
        return Resolution("claude-haiku", None, "gt's dog rule", layers.warnings)
    tier = (os.environ if environ is None else environ).get("GT_COST_TIER", "")
    if tier in _TIERS and not own_platform:
        tier_agent = _TIERS[tier].get(role, "")
        if not tier_agent:
            return _fallback(layers)
        if tier_agent in _TIER_DEFINES.get(tier, ()):
            return Resolution(tier_agent, None, f"GT_COST_TIER={tier}", layers.warnings)
    warnings = layers.warnings
    for file, settings in ((layers.rig_file, layers.rig), (layers.town_file, layers.town)):
        name = (settings.get("role_agents") or {}).get(role)
        if not name:
            continue
        problem = layers.problem(name)
        if problem is None:
            return Resolution(name, file, f"role_agents.{role}", warnings)
        warnings = (*warnings, f"{file}: role_agents.{role}: {problem}; gt passes over it")
    return _fallback(layers, warnings)


def _layers(town: Town, rig: str | None) -> _Layers:
    warnings: list[str] = []

    def read(path: Path | None, kind: str) -> dict[str, Any]:
        if path is None or not path.exists():
            return {}
        try:
            value = read_json(path)
        except UserError as error:
            warnings.append(f"{error} (gt takes the file as missing)")
            return {}
        if kind and value.get("type", kind) not in (kind, ""):
            warnings.append(f"{path}: type: not {kind!r} (gt takes the file as missing)")
            return {}
        return value

    rig_file = rig_settings_file(town, rig) if rig else None
    town_settings, rig_settings = read(town.gt_settings_file, ""), read(rig_file, "rig-settings")
    registry: dict[str, str] = {}
    for folder in (town.root, *((town.root / rig,) if rig else ())):
        for name, entry in (read(folder / "settings" / "agents.json", "").get("agents") or {}).items():
            registry[name] = str((entry or {}).get("command") or _PRESETS.get(name, name))
    return _Layers(town.gt_settings_file, town_settings, rig_file, rig_settings, registry, tuple(warnings))


def _worker(layers: _Layers, worker: str) -> Resolution | None:
    """The crew member's own agent: the rig's worker_agents, then the town's crew_agents."""
    for file, settings, table in (
        (layers.rig_file, layers.rig, "worker_agents"),
        (layers.town_file, layers.town, "crew_agents"),
    ):
        name = (settings.get(table) or {}).get(worker)
        if name and layers.problem(name) is None:
            return Resolution(name, file, f"{table}.{worker}", layers.warnings)
    return None


def _non_claude(layers: _Layers, role: str) -> bool:
    """gt's ``hasExplicitNonClaudeOverride``: a chosen agent of another platform beats tier and dog rule."""
    chosen = (
        (layers.rig.get("role_agents") or {}).get(role),
        (layers.town.get("role_agents") or {}).get(role),
        layers.rig.get("agent"),
        layers.town.get("default_agent"),
    )
    return any(name and layers.is_claude(name) is False for name in chosen)


def _fallback(layers: _Layers, warnings: tuple[str, ...] | None = None) -> Resolution:
    warnings = layers.warnings if warnings is None else warnings
    if isinstance(layers.rig.get("runtime"), dict):
        name = str(layers.rig["runtime"].get("provider") or layers.rig["runtime"].get("command") or "claude")
        return Resolution(name, layers.rig_file, "runtime", warnings)
    if layers.rig.get("agent"):
        return Resolution(layers.rig["agent"], layers.rig_file, "agent", warnings)
    if layers.town.get("default_agent"):
        return Resolution(layers.town["default_agent"], layers.town_file, "default_agent", warnings)
    return Resolution("claude", None, "gt's default", warnings)


@dataclass(frozen=True)
class AgentChange:
    """A done change of one settings file and what stood there before; JSON by ``record``/``from_record``."""

    alias: str
    role: str | None
    entry: dict[str, Any]
    previous_entry: dict[str, Any] | None
    previous_role_agent: str | None
    edit: edits.FileEdit

    def record(self) -> dict[str, Any]:
        """This change as JSON values."""
        return {
            "alias": self.alias,
            "role": self.role,
            "entry": self.entry,
            "previous_entry": self.previous_entry,
            "previous_role_agent": self.previous_role_agent,
            "edit": self.edit.record(),
        }

    @staticmethod
    def from_record(value: dict[str, Any]) -> AgentChange:
        """The change that ``record`` wrote."""
        return AgentChange(
            value["alias"],
            value["role"],
            value["entry"],
            value["previous_entry"],
            value["previous_role_agent"],
            edits.from_record(value["edit"]),
        )


def set_agent_entry(
    town: Town, alias: str, entry: dict[str, Any], *, role: str | None = None, rig: str | None = None
) -> AgentChange:
    """Set ``agents.<alias>`` and, with ``role``, point ``role_agents.<role>`` at it; all other keys stay.

    Writes the town's ``settings/config.json``, or with ``rig`` that rig's, in one atomic replace, and returns
    what :func:`restore` needs. Raises UserError where the file is not JSON of the expected shape, or has an
    entry of that name that carries an environment (it may hold a token, which we would have to remember).
    """
    path = rig_settings_file(town, rig) if rig else town.gt_settings_file
    before = edits.read_text(path)
    document = read_json(path) if before is not None else {}
    previous = json_text.get(document, ("agents", alias))
    if isinstance(previous, dict) and previous.get("env"):
        raise UserError(
            in_file(path, f"agents.{alias}.env", "an entry of ours has none", "rename that agent")
        )
    if before is None:
        kind = "rig-settings" if rig else "town-settings"
        start = json.dumps({"type": kind, "version": 1}, indent=2) + "\n"
    else:
        start = before
    try:
        steps = [start, json_text.set_member(start, ("agents", alias), entry)]
        if role is not None:
            steps.append(json_text.set_member(steps[-1], ("role_agents", role), alias))
    except json_text.NoSuchPlace as error:
        raise UserError(in_file(path, str(error), "not a JSON object", "mend or remove it")) from None
    edit = edits.plan(path, steps, before, mode=0o644)
    edits.write(edit)
    pointed = json_text.get(document, ("role_agents", role)) if role else None
    return AgentChange(alias, role, entry, previous, pointed, edit)


def restore(change: AgentChange) -> bool:
    """Take a change back: to the byte where nobody touched the file since, else only what is still ours.

    Returns True where the file is as it was to the byte. A role that has been pointed elsewhere since is
    left alone. Raises UserError where the file is no longer JSON.
    """
    if edits.undo(change.edit):
        return True
    path = change.edit.path
    text = edits.read_text(path)
    if text is None:
        return True
    document, start = read_json(path), text
    if change.role and json_text.get(document, ("role_agents", change.role)) == change.alias:
        text = _put(text, ("role_agents", change.role), change.previous_role_agent)
    text = _put(text, ("agents", change.alias), change.previous_entry)
    for key in ("role_agents", "agents"):
        if json_text.get(json.loads(text), (key,)) == {} and _made(change, key):
            text = json_text.remove_member(text, (key,))
    if not change.edit.existed and set(json.loads(text)) <= {"type", "version"}:
        path.unlink()
        edits.remove_dirs(change.edit.made_dirs)
    elif text != start:
        edits.write(edits.plan(path, [text], start))
    return False


def _put(text: str, path: tuple[str, str], value: Any) -> str:
    return json_text.remove_member(text, path) if value is None else json_text.set_member(text, path, value)


def _made(change: AgentChange, key: str) -> bool:
    """Whether our change brought that top-level key into the file."""
    return any(f'"{key}"' in splice.inserted for splice in change.edit.splices)
