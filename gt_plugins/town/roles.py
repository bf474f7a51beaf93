"""The roles of a town and how a session's role and rig are told from GT_ROLE or its working folder.

Facts from gt's source (``cmd/role.go``, ``config/env.go``): GT_ROLE is ``mayor``, ``deacon``,
``deacon/boot``, ``dog``, ``<rig>/witness``, ``<rig>/refinery``, ``<rig>/polecats/<name>``,
``<rig>/crew/<name>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .root import Town

ROLES = ("mayor", "deacon", "boot", "witness", "refinery", "polecat", "crew", "dog")
ROLLOUT_ORDER = ("deacon", "boot", "witness", "polecat", "crew")
TOWN_LEVEL = ("mayor", "deacon", "boot", "dog")


@dataclass(frozen=True)
class Identity:
    """Who a session is: role, rig (None for town-level roles), name (polecats, crew, dogs)."""

    role: str
    rig: str | None = None
    name: str | None = None


def check_role(role: str) -> str:
    """``role`` if a town has it. Raises UserError naming those it has."""
    if role not in ROLES:
        raise UserError(f"unknown role {role!r}; a town has {', '.join(ROLES)}")
    return role


def parse_gt_role(value: str) -> Identity | None:
    """Identity from a GT_ROLE or an event's ``role`` or ``actor``; None if unknown."""
    parts = [p for p in value.strip().strip("/").split("/") if p]
    match parts:
        case ["deacon", "boot"] | ["boot"]:
            return Identity("boot")
        case ["deacon", "dogs", name]:
            return Identity("boot") if name == "boot" else Identity("dog", None, name)
        case [("mayor" | "deacon" | "dog") as role]:
            return Identity(role)
        case [("witness" | "refinery" | "polecat" | "crew") as role]:
            return Identity(role)
        case [rig, ("witness" | "refinery") as role]:
            return Identity(role, rig)
        case [rig, ("polecats" | "polecat"), name]:
            return Identity("polecat", rig, name)
        case [rig, "crew", name]:
            return Identity("crew", rig, name)
    return None


def identity_from_cwd(town: Town, cwd: Path) -> Identity | None:
    """Identity from a working folder inside the town; None outside it or where no role lives."""
    try:
        parts = cwd.relative_to(town.root).parts
    except ValueError:
        return None
    match parts:
        case ("mayor", *_):
            return Identity("mayor")
        case ("deacon", "dogs", "boot", *_):
            return Identity("boot")
        case ("deacon", "dogs", name, *_):
            return Identity("dog", None, name)
        case ("deacon", *_):
            return Identity("deacon")
        case (rig, ("witness" | "refinery") as role, *_):
            return Identity(role, rig)
        case (rig, "polecats", name, *_):
            return Identity("polecat", rig, name)
        case (rig, "crew", name, *_):
            return Identity("crew", rig, name)
    return None
