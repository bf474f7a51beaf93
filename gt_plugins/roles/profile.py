"""A role's profile, read from four small files that travel with every version and every deployment.

``system.txt``    the system prompt in place of the client's own
``actions.toml``  ``[actions.<name>]`` description and ``commands``: the command patterns of a decision
``fence.toml``    ``tools`` and ``[[allow]]`` name and pattern: what the role may run, nothing else
``rules.md``      must-keep rules for its slim prime

A pattern is a regular expression that has to match the whole command. Patterns name the characters that
they admit, and none admits ``; | & $ ` < >`` or a line break, so a match can never be two commands.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..settings import read_toml
from ..town.roles import ROLES

FILES = ("system.txt", "actions.toml", "fence.toml", "rules.md")
SHIPPED = Path(__file__).parent
SEEN = "seen"
"""The group of a fence's pattern that must stand in what the model was shown."""


@dataclass(frozen=True)
class Action:
    """A decision that a role can take, and the commands by which it is seen to take it."""

    name: str
    description: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class AllowRule:
    """One kind of command that a role may run."""

    name: str
    pattern: str


@dataclass(frozen=True)
class Profile:
    """A role's files as values."""

    role: str
    folder: Path
    system: str
    tools: tuple[str, ...]
    actions: tuple[Action, ...]
    allow: tuple[AllowRule, ...]
    rules: str

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.actions)

    @cached_property
    def _actions(self) -> list[tuple[str, re.Pattern[str]]]:
        return [(a.name, re.compile(c)) for a in self.actions for c in a.commands]

    @cached_property
    def _allowed(self) -> list[re.Pattern[str]]:
        return [re.compile(rule.pattern) for rule in self.allow]

    def action_of(self, command: str) -> str | None:
        """The decision that a command carries out, None for a command that only looks."""
        for name, pattern in self._actions:
            if pattern.match(command.strip()):
                return name
        return None

    def allows(self, command: str, seen: Collection[str] | None = None) -> bool:
        """Whether the role may run this command: some rule matches all of it. ``seen``: what its group of
        this name may hold; None: anything."""
        matches = (pattern.fullmatch(command) for pattern in self._allowed)
        return any(m and (seen is None or m.groupdict().get(SEEN) in (None, *seen)) for m in matches)


def has_profile(role: str) -> bool:
    """Whether a profile is shipped for this role."""
    return (SHIPPED / role / "fence.toml").is_file()


def check_tunable(role: str) -> str:
    """``role`` if a model can be tuned for it. Raises UserError naming those for which one can."""
    if has_profile(role):
        return role
    known = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/fence.toml")))
    if role in ROLES:
        raise UserError(f"no profile for role {role!r}: it cannot be tuned; there is one for {known}")
    raise UserError(f"unknown role {role!r}; a model can be tuned for {known}")


def load_profile(role: str, folder: Path | None = None) -> Profile:
    """The profile of a role, from ``folder`` or as shipped.

    Raises UserError naming file and key where one is missing or a pattern is no regular expression."""
    where = folder or SHIPPED / check_tunable(role)
    if not (where / "fence.toml").is_file():
        raise UserError(in_file(where / "fence.toml", "", f"no profile for role {role!r}", "restore it"))
    fence = read_toml(where / "fence.toml")
    profile = Profile(
        role=role,
        folder=where,
        system=_text(where / "system.txt").strip(),
        tools=_tools(where / "fence.toml", fence.get("tools", ["Bash"])),
        actions=_actions(where / "actions.toml"),
        allow=_rules(where / "fence.toml", fence.get("allow", [])),
        rules=_text(where / "rules.md").strip(),
    )
    if not any(rule.name == "escalate" for rule in profile.allow):
        raise UserError(in_file(where / "fence.toml", "allow", "no rule named escalate", "add the way out"))
    return profile


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(in_file(path, "", "not there", "restore it from the version")) from None
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "save it as UTF-8")) from None


def _tools(path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(tool, str) for tool in value):
        raise UserError(in_file(path, "tools", "not a list of names", 'write tools = ["Bash"]'))
    return tuple(value)


def _actions(path: Path) -> tuple[Action, ...]:
    if not path.is_file():
        raise UserError(in_file(path, "", "not there", "restore it from the version"))
    found = read_toml(path).get("actions", {})
    if not isinstance(found, dict):
        raise UserError(in_file(path, "actions", "not a table", "write [actions.<name>]"))
    return tuple(_action(path, name, value) for name, value in found.items())


def _rules(path: Path, value: Any) -> tuple[AllowRule, ...]:
    if not isinstance(value, list):
        raise UserError(in_file(path, "allow", "not a list of rules", "write [[allow]]"))
    return tuple(_rule(path, index, rule) for index, rule in enumerate(value))


def _pattern(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(in_file(path, key, "not a string", "write a regular expression in quotes"))
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(in_file(path, key, f"no regular expression ({error})", "mend it")) from None
    return value


def _action(path: Path, name: str, value: Any) -> Action:
    if not isinstance(value, dict) or not isinstance(value.get("commands"), list):
        raise UserError(in_file(path, f"actions.{name}", "no list of commands", 'write commands = ["…"]'))
    commands = tuple(_pattern(path, f"actions.{name}.commands", c) for c in value["commands"])
    return Action(name, str(value.get("description", "")), commands)


def _rule(path: Path, index: int, value: Any) -> AllowRule:
    if not isinstance(value, dict) or "pattern" not in value:
        raise UserError(in_file(path, f"allow[{index}]", "no pattern", 'write name = "…" and pattern = "…"'))
    return AllowRule(
        str(value.get("name", index)), _pattern(path, f"allow[{index}].pattern", value["pattern"])
    )
