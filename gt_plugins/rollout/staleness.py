"""What a version was trained to follow, as hashes, and whether the town still says the same.

A signal is named ``<kind>:<roles or *>:<what>``; one of another role does not make a version stale. The
trainer records :func:`signals` in a version's manifest, ``gt model stale`` compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..registry.versions import Version
from ..settings import resource
from ..town.roles import ROLES, role_of
from ..town.root import Town

_MOST_BYTES = 4_000_000


@dataclass(frozen=True)
class Staleness:
    """How a version stands to its town; ``known`` is False where its manifest has no signals."""

    version: Version
    known: bool
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether anything that it was trained on is different now."""
        return bool(self.changed or self.added or self.removed)


@hookimpl
def gt_staleness_signals(town: Town) -> dict[str, str]:
    """The conventions of a town: CLAUDE.md files, formulas, directives, formula overlays, role files."""
    return {name: _digest(path) for name, path in _conventions(town) if path.is_file()}


def _conventions(town: Town) -> Iterator[tuple[str, Path]]:
    """(signal, file). A formula that names no role is work for polecats and crew; ours are no conventions."""
    ours = {path.name for path in resource("formulas").glob("*.formula.toml")}
    yield "conventions:*:CLAUDE.md", town.root / "CLAUDE.md"
    for rig, folder in town.rigs().items():
        yield f"conventions:*:{rig}/CLAUDE.md", folder / "mayor" / "rig" / "CLAUDE.md"
    for path in sorted(town.formulas_dir.glob("*.formula.toml")):
        name = path.name.removesuffix(".formula.toml")
        if path.name not in ours:
            role = role_of(name)
            yield f"formula:{'polecat+crew' if role == '*' else role}:{name}", path
    for rig, folder in (("", town.root), *town.rigs().items()):
        for kind, places in (("directive", "directives"), ("overlay", "formula-overlays"), ("role", "roles")):
            for path in sorted((folder / places).glob("*")) if (folder / places).is_dir() else []:
                what = f"{rig}/{path.name}" if rig else path.name
                yield f"{kind}:{role_of(path.stem)}:{what}", path


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.sha256(handle.read(_MOST_BYTES)).hexdigest()


def signals(town: Town, role: str) -> dict[str, str]:
    """Every plugin's signals that concern a role: what the trainer records as ``meta["signals"]``."""
    from ..plugins import answers

    found: dict[str, str] = {}
    for offered in answers("gt_staleness_signals", town=town):
        found.update(offered)
    return {name: found[name] for name in sorted(found) if _concerns(name, role)}


def _concerns(name: str, role: str) -> bool:
    """A signal that names this role, or none. A third party's name without colons concerns every role."""
    parts = name.split(":", 2)
    roles = parts[1].split("+") if len(parts) == 3 else []
    return role in roles or not any(r in ROLES for r in roles)


def compare(town: Town, version: Version) -> Staleness:
    """A version against its town as it is now."""
    recorded: Any = (version.manifest.get("meta") or {}).get("signals")
    if not isinstance(recorded, dict):
        return Staleness(version, known=False)
    now = signals(town, version.role)
    return Staleness(
        version,
        known=True,
        changed=tuple(n for n in recorded if n in now and now[n] != recorded[n]),
        added=tuple(n for n in now if n not in recorded),
        removed=tuple(n for n in recorded if n not in now),
    )
