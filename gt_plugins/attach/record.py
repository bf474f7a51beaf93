"""What install put where, so that uninstall can take it back.

Two records: ``<town>/.finetune/install.json`` for what stands in the town, and ``attached.json`` in our
per-user folder for what its towns share (the shim, the client's settings) with the list of these towns. They
hold hashes and our own insertions, never copies of other people's files. Both are written before the first
change, so that a crash in between leaves nothing unaccounted for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..town import edits
from ..town.gt import attach_home
from ..town.root import Town, read_json


@dataclass(frozen=True)
class Placed:
    """One file that install made or changed. ``extra``: what the kind needs besides the edit."""

    kind: str
    edit: edits.FileEdit
    extra: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """This piece as JSON values."""
        return {"kind": self.kind, "extra": list(self.extra), "edit": self.edit.record()}


@dataclass(frozen=True)
class TownRecord:
    """What stands in one town. ``statuses``: beads' custom statuses before ours, None where not known."""

    placed: tuple[Placed, ...] = ()
    at: str = ""
    statuses: tuple[str, ...] | None = None


@dataclass(frozen=True)
class UserRecord:
    """What all towns of the user share, and which towns they are."""

    placed: tuple[Placed, ...] = ()
    towns: tuple[str, ...] = ()


def town_file(town: Town) -> Path:
    """``<town>/.finetune/install.json``."""
    return town.finetune_dir / "install.json"


def user_file() -> Path:
    """``attached.json`` in our per-user folder."""
    return attach_home() / "attached.json"


def installed(town: Town) -> bool:
    """Whether install has run in this town and uninstall has not since."""
    return town_file(town).is_file()


def load_town(town: Town) -> TownRecord:
    """The town's record, empty where there is none. Raises UserError where it is broken."""
    value = _load(town_file(town))
    before = value.get("statuses")
    return TownRecord(_placed(town_file(town), value), str(value.get("at", "")), _names(before))


def load_user() -> UserRecord:
    """The user's record without the towns that are gone. Raises UserError where it is broken."""
    value = _load(user_file())
    towns = _names(value.get("towns")) or ()
    return UserRecord(_placed(user_file(), value), tuple(t for t in towns if installed(Town(Path(t)))))


def town_edit(town: Town, record: TownRecord) -> edits.FileEdit:
    """The write of a town's record."""
    value = {
        "version": 1,
        "at": record.at,
        "statuses": None if record.statuses is None else list(record.statuses),
        "placed": [p.record() for p in record.placed],
    }
    return _edit(town_file(town), value)


def user_edit(record: UserRecord) -> edits.FileEdit:
    """The write of the user's record."""
    value = {"version": 1, "towns": list(record.towns), "placed": [p.record() for p in record.placed]}
    return _edit(user_file(), value)


def place(
    kind: str,
    path: Path,
    make: Callable[[str | None], str],
    known: Iterable[Placed],
    clean: Callable[[str], str | None] = lambda text: text,
    *,
    mode: int = 0o600,
    keep_mode: bool = True,
) -> Placed:
    """Plan one file: ``make`` turns the text as it was before us (None: no file) into the text with us in it.

    ``known`` are the pieces of an earlier install: theirs is the text from before us. Where somebody changed
    the file since, ``clean`` takes out what is ours (None: the whole file is ours).
    """
    old = find(known, path)
    current = edits.read_text(path)
    before = _before(current, old, clean)
    edit = edits.plan(path, [make(before)], before, mode, keep_mode=keep_mode)
    if old is not None:
        edit = replace(edit, made_dirs=old.edit.made_dirs or edit.made_dirs)
    return Placed(kind, edit)


def find(known: Iterable[Placed], path: Path) -> Placed | None:
    """The piece at ``path``, links followed."""
    real = path.resolve()
    return next((p for p in known if p.edit.path == real), None)


def merged(new: Iterable[Placed], old: Iterable[Placed]) -> tuple[Placed, ...]:
    """The new pieces, and those of the old ones that the new ones do not replace."""
    fresh = tuple(new)
    paths = {p.edit.path for p in fresh}
    return fresh + tuple(p for p in old if p.edit.path not in paths)


def _before(current: str | None, old: Placed | None, clean: Callable[[str], str | None]) -> str | None:
    """The text without us; None where there would be no file."""
    if current is None or old is None:
        return current
    original = edits.original_text(old.edit, current)
    if original is None:
        original = clean(current)
    emptied = original is None or original.strip() in ("", "{}")
    return None if emptied and not old.edit.existed else original


def _load(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _placed(path: Path, value: dict[str, Any]) -> tuple[Placed, ...]:
    try:
        return tuple(
            Placed(p["kind"], edits.from_record(p["edit"]), tuple(p["extra"]))
            for p in value.get("placed", [])
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            in_file(
                path, "placed", "not as install wrote it", "restore it, or remove it and our entries by hand"
            )
        ) from None


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(str(v) for v in value) if isinstance(value, list) else None


def _edit(path: Path, value: dict[str, Any]) -> edits.FileEdit:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return edits.plan(path, [text], edits.read_text(path), 0o600, keep_mode=False)
