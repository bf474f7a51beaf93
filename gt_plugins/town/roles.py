"""The roles of a town and how a session's role and rig are told from GT_ROLE or its working folder.

Facts from gt's source (``cmd/role.go``, ``config/env.go``): GT_ROLE is ``mayor``, ``deacon``,
``deacon/boot``, ``dog``, ``<rig>/witness``, ``<rig>/refinery``, ``<rig>/polecats/<name>``,
``<rig>/crew/<name>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
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


def role_of(name: str) -> str:
    """The role that a formula's or directive's name speaks of; ``*`` where it speaks of none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((role for role in ROLES if role in words), "*")


@lru_cache(maxsize=1024)
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


def address_of(identity: Identity) -> str:
    """The address by which gt knows an agent: ``demo/polecats/nux``, ``demo/witness``, ``deacon``."""
    match identity:
        case Identity("boot"):
            return "deacon/boot"
        case Identity("dog", _, name) if name:
            return f"deacon/dogs/{name}"
        case Identity("polecat", rig, name) if rig and name:
            return f"{rig}/polecats/{name}"
        case Identity("crew", rig, name) if rig and name:
            return f"{rig}/crew/{name}"
        case Identity(role, rig) if rig:
            return f"{rig}/{role}"
    return identity.role


def address(text: str) -> str:
    """An agent's address in its one form, empty for none; ``demo/nux`` is a polecat, as for gt."""
    identity = parse_gt_role(text) or parse_gt_role(text.lower())
    if identity is not None:
        return address_of(identity)
    parts = [p for p in text.strip().strip("/").split("/") if p]
    return f"{parts[0]}/polecats/{parts[1]}" if len(parts) == 2 else ""


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
