"""The stock prime that a role would get now, asked of the real gt from outside its session.

Not with ``--hook``, so that no session is recorded. For polecat and crew with ``--dry-run``, because a plain
prime takes the identity's lock, which a session at work may hold; such a prime has no memories and no mail.
For the patrol roles gt makes a patrol where there is none, whatever the flags: so does this.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import FinetuneError, UserError
from ..town.gt import run_gt
from ..town.roles import Identity, check_role
from ..town.root import Town

SECONDS = 60.0
_LOCKED = ("polecat", "crew")
_IN_RIG = ("witness", "refinery", "polecat", "crew")


@dataclass(frozen=True)
class Place:
    """Where a role's sessions run and what gt calls them."""

    identity: Identity
    gt_role: str
    folder: Path


def place_of(town: Town, role: str, rig: str | None = None, name: str | None = None) -> Place:
    """Where a role lives. Raises UserError where rig or name are needed and not told, or not there."""
    check_role(role)
    if role not in _IN_RIG:
        return _town_place(town, role, name)
    chosen = rig or _only("rig", sorted(town.rigs()), "--rig")
    if chosen not in town.rigs():
        raise UserError(f"no rig {chosen!r}; the town has {', '.join(sorted(town.rigs())) or 'none'}")
    base = town.root / chosen
    if role in ("witness", "refinery"):
        folder = base / role / "rig" if (base / role / "rig").is_dir() else base / role
        return _there(Place(Identity(role, chosen), f"{chosen}/{role}", folder))
    above = base / ("crew" if role == "crew" else "polecats")
    who = name or _only(role, _folders(above), "--name")
    folder = above / who / chosen if (above / who / chosen).is_dir() else above / who
    return _there(Place(Identity(role, chosen, who), f"{chosen}/{above.name}/{who}", folder))


def _town_place(town: Town, role: str, name: str | None) -> Place:
    if role == "dog":
        who = name or _only("dog", [x for x in _folders(town.root / "deacon/dogs") if x != "boot"], "--name")
        return _there(Place(Identity("dog", None, who), "dog", town.root / "deacon/dogs" / who))
    folder = town.root / ("deacon/dogs/boot" if role == "boot" else role)
    return _there(Place(Identity(role), "deacon/boot" if role == "boot" else role, folder))


def _there(place: Place) -> Place:
    if not place.folder.is_dir():
        raise UserError(f"{place.folder}: not there; the town has no {place.gt_role}")
    return place


def _folders(above: Path) -> list[str]:
    if not above.is_dir():
        return []
    return sorted(p.name for p in above.iterdir() if p.is_dir() and not p.name.startswith("."))


def _only(what: str, names: list[str], option: str) -> str:
    if len(names) == 1:
        return names[0]
    raise UserError(f"which {what}? Say {option}: {', '.join(names)}" if names else f"the town has no {what}")


def ask_stock(town: Town, place: Place) -> str:
    """The stock prime for a place. Raises FinetuneError where gt fails or says nothing."""
    identity = place.identity
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("GT_POLECAT", "GT_CREW", "GT_RIG"))}
    environ["GT_ROLE"] = place.gt_role
    if identity.rig:
        environ["GT_RIG"] = identity.rig
    if identity.name and identity.role in _LOCKED:
        environ[f"GT_{identity.role.upper()}"] = identity.name
    environ["PWD"] = str(place.folder)
    flags = ["--dry-run"] if identity.role in _LOCKED else []
    done = run_gt(["prime", *flags], place.folder, SECONDS, environ=environ)
    if done.code or not done.out.strip():
        said = (done.err or done.out).strip().split("\n")[-1]
        raise FinetuneError(f"gt prime for {place.gt_role}: exit {done.code}: {said or 'it printed nothing'}")
    return done.out
