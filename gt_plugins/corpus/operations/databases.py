"""The beads databases of a town: its own, and that of every rig, each once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...settings import load_settings
from ...town.bd import Bd
from ...town.root import Town
from ..store import Store, exists

INFRA_TYPES = frozenset(
    "agent rig role message convoy queue slot event gate molecule merge-request wisp".split()
)
INFRA_LABELS = frozenset(
    """gt:agent gt:rig gt:role gt:message gt:queue gt:channel gt:group gt:escalation gt:convoy
    gt:merge-request gt:merge-slot gt:sling-context gt:wisp type:plugin-run""".split()
)
INFRA_FLAGS = ("ephemeral", "is_template", "pinned")


@dataclass(frozen=True)
class Database:
    """One beads database; ``rig`` is empty for the town's own."""

    rig: str
    folder: Path
    bd: Bd

    @property
    def beads_dir(self) -> Path:
        """Its ``.beads`` folder, gt's redirect followed."""
        return _resolved(self.folder / ".beads")


def databases(town: Town) -> list[Database]:
    """The town's database and those of its rigs that may be captured, as far as they are there."""
    excluded = load_settings(town).exclude_rigs
    found: dict[Path, Database] = {}
    for rig, folder in [("", town.root), *_rig_folders(town)]:
        beads = _resolved(folder / ".beads")
        if rig not in excluded and is_database(beads):
            found.setdefault(beads, Database(rig, folder, Bd(folder, timeout=60.0)))
    return list(found.values())


def is_database(beads: Path) -> bool:
    """Whether a ``.beads`` folder holds a database, and not formulas alone."""
    return (beads / "metadata.json").is_file()


def is_work(bead: dict[str, Any]) -> bool:
    """Whether a bead is somebody's work, and none of the beads by which a town runs itself."""
    id = str(bead.get("id", ""))
    labels = {str(label) for label in bead.get("labels") or ()}
    return not (
        bead.get("issue_type") in INFRA_TYPES
        or labels & INFRA_LABELS
        or any(bead.get(flag) for flag in INFRA_FLAGS)
        or bead.get("status") == "pinned"
        or id.endswith("-role")
        or "-rig-" in id
        or "-wisp-" in id
    )


def fields_of(description: str) -> dict[str, str]:
    """gt's own ``key: value`` lines in a description; ``null`` and empty ones left out."""
    found: dict[str, str] = {}
    for line in description.splitlines():
        key, colon, value = line.strip().partition(":")
        key, value = key.strip().lower().replace("-", "_"), value.strip()
        if colon and value not in ("", "null") and key.isidentifier():
            found.setdefault(key, value)
    return found


def stored(town: Town, source: str, corpus_type: str) -> dict[str, dict[str, Any]]:
    """Key → the content that is stored of a source's present documents of one type."""
    if not exists(town):
        return {}
    with Store(town) as store:
        found = {}
        for _, one in store.documents(source, current=True):
            if one.document.corpus_type == corpus_type:
                found[one.document.key] = parsed(one.document.content)
        return found


def parsed(content: str) -> dict[str, Any]:
    """A document's JSON object, empty where it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def as_json(value: Any) -> str:
    """A document's content: the same value, the same text."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str)


def _rig_folders(town: Town) -> Iterator[tuple[str, Path]]:
    """Where bd is to be called for each rig: where its route points, else where gt puts its beads."""
    routes = _routes(town)
    for rig, folder in town.rigs().items():
        known = [town.root / path for path in routes if path.split("/")[0] == rig]
        for place in (*known, folder / "mayor" / "rig", folder):
            if (place / ".beads").is_dir() and place.resolve().is_relative_to(town.root.resolve()):
                yield rig, place
                break


def _routes(town: Town) -> list[str]:
    try:
        text = (town.root / ".beads" / "routes.jsonl").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [path for line in text.splitlines() if isinstance(path := parsed(line).get("path"), str)]


def _resolved(beads: Path) -> Path:
    """A ``.beads`` folder, or where its ``redirect`` file leads."""
    try:
        target = (beads / "redirect").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return beads.resolve()
    return (beads.parent / target).resolve() if target else beads.resolve()
