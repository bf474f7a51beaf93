"""``gt-plugins install``: check everything, then write everything, or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import FinetuneError
from ..settings import resource
from ..town import client_settings, edits
from ..town.bd import Bd
from ..town.root import Town
from ..training.job import STATES
from . import pieces, record, shim


@dataclass(frozen=True)
class Report:
    """What was done, one line each, and what the operator should know or still do."""

    done: tuple[str, ...]
    notes: tuple[str, ...] = ()


def install(town: Town, by: str | None) -> Report:
    """Attach to ``town``; ``by`` consents to the capture of its sessions, where nobody has before.

    None leaves the consent as it is (a repair).

    Running it again changes nothing that is as it should be. Raises UserError, before anything is written,
    where a file is not as expected; on OSError what was written is put back.
    """
    known_town, known_user = record.load_town(town), record.load_user()
    hook = client_settings.hook_executable()
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shared = [*shim.pieces(known_user.placed), *pieces.client_pieces(town, hook, known_user.placed)]
    formulas, notes = pieces.formula_pieces(town, known_town.placed)
    consent = pieces.consent_piece(town, by, now, known_town.placed) if by is not None else None
    own = [*formulas, *([consent] if consent else [])]
    notes += _cook_shipped(town)
    statuses, said = _statuses(town, known_town)
    town_record = record.TownRecord(record.merged(own, known_town.placed), known_town.at or now, statuses)
    towns = tuple(dict.fromkeys([*known_user.towns, str(town.root)]))
    user_record = record.UserRecord(record.merged(shared, known_user.placed), towns)
    _write(town, town_record, user_record, [*shared, *own])
    return Report(tuple(_summary(shared, own)), (*notes, *said, *_merge_statuses(town), *_hints()))


def _write(
    town: Town,
    town_record: record.TownRecord,
    user_record: record.UserRecord,
    placed: Sequence[record.Placed],
) -> None:
    """Records first: after a crash uninstall finds what may have been written."""
    fresh = not town.finetune_dir.exists()
    try:
        town.own_dir(town.finetune_dir)
        edits.write_all(
            [
                record.town_edit(town, town_record),
                record.user_edit(user_record),
                *(p.edit for p in placed if p.edit.text is not None),
            ]
        )
    except BaseException:
        if fresh:
            drop_own_dir(town.finetune_dir)
        raise


def drop_own_dir(folder: Path) -> None:
    """Remove one of our folders in a town where nothing but its ignore file is left in it."""
    ignore = folder / ".gitignore"
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= {".gitignore"}:
        ignore.unlink(missing_ok=True)
        folder.rmdir()


def _cook_shipped(town: Town) -> list[str]:
    """Ask bd whether our formulas are good; a note where it cannot say. Raises UserError where one is not."""
    if not pieces.has_beads(town):
        return ["formulas: not checked with bd cook (no bd on PATH, or the town has no beads)"]
    for name in pieces.shipped_formulas():
        said = pieces.cook(town, resource("formulas") / name)
        if said:
            return [f"formulas: not checked with bd cook ({said})"]
    return []


def _statuses(town: Town, known: record.TownRecord) -> tuple[tuple[str, ...] | None, list[str]]:
    """Beads' custom statuses as they were before us."""
    if known.statuses is not None or not pieces.has_beads(town):
        return known.statuses, []
    try:
        return tuple(Bd(town.root).custom_statuses()), []
    except FinetuneError as error:
        return None, [f"beads: custom statuses not read ({error})"]


def _merge_statuses(town: Town) -> list[str]:
    """Give beads the states of a training job; jobs do it again, so a failure here is only told."""
    if not pieces.has_beads(town):
        return []
    try:
        Bd(town.root).merge_custom_statuses(STATES)
    except FinetuneError as error:
        return [f"beads: statuses of training jobs not added ({error})"]
    return []


def _summary(shared: Sequence[record.Placed], own: Sequence[record.Placed]) -> list[str]:
    what = {
        pieces.SHIM: "gt shim",
        pieces.SHIM_STATE: "what the shim knows",
        pieces.CLIENT: "SessionEnd hook",
        pieces.FORMULA: "formula",
        pieces.CONSENT: "consent",
    }
    return [f"{what.get(p.kind, p.kind)}: {p.edit.path}" for p in (*shared, *own)]


def _hints() -> list[str]:
    state, notes = shim.read_state(), []
    if state is None or not state.real:
        notes.append("gt: not found on PATH; the shim looks for it again at each call")
    if shim.first_on_path() != shim.shim_path():
        notes.append(
            'gt shim: not first on PATH; add to your shell\'s profile: eval "$(gt-plugins shellenv)"'
        )
    return notes
