"""``gt-plugins uninstall``: leave the town as it was before the install.

To the byte where nobody else touched a file since, else by taking out what is ours. The corpus and the
models stay unless ``purge``; what all towns of the user share stays until the last of them is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import FinetuneError
from ..town import edits
from ..town.accounts import config_dirs
from ..town.bd import GT_STATUSES, Bd
from ..town.root import Town
from ..training.job import DONE, STATES, jobs, progress
from . import pieces, record, schedule
from .install import Report, drop_own_dir

GT_STATUSES_SET = ".beads/.gt-statuses-configured"
"""gt's own note, in a town, that its statuses are in beads."""


def uninstall(town: Town, purge: bool = False) -> Report:
    """Leave ``town``. Raises UserError before anything is changed where a file is broken; a role that cannot
    be rolled back stops it too, since its agent would be left pointing at nothing."""
    known_town, known_user = record.load_town(town), record.load_user()
    others = [Town(Path(t)) for t in known_user.towns if t != str(town.root)]
    shared, kept = _no_longer_needed(known_user.placed, others)
    pieces.check_readable([*shared, *known_town.placed])
    done = _roll_back(town)
    notes = _beads(town, known_town)
    schedule.stop(town, known_town.placed)
    for piece in reversed([*shared, *known_town.placed]):
        (notes if (line := _take_back(piece)).startswith("left") else done).append(line)
    _forget(town, record.UserRecord(kept, tuple(str(t.root) for t in others)), shared)
    done += _purge(town) if purge else []
    for folder in (town.finetune_dir, town.corpus_dir, town.checkpoints_dir):
        drop_own_dir(folder)
    if not purge:
        notes += _what_stays(town)
    if others:
        notes.append(f"the gt shim stays for {', '.join(str(t.root) for t in others)}")
    return Report(tuple(done), tuple(notes))


def _no_longer_needed(
    placed: Sequence[record.Placed], others: Sequence[Town]
) -> tuple[list[record.Placed], tuple[record.Placed, ...]]:
    """Of the shared pieces, those that no other town needs, and those that stay."""
    if not others:
        return list(placed), ()
    needed = {(f / "settings.json").resolve() for town in others for f in config_dirs(town)}
    free = [p for p in placed if p.kind == pieces.CLIENT and p.edit.path not in needed]
    return free, tuple(p for p in placed if p not in free)


def _roll_back(town: Town) -> list[str]:
    """Every deployed role back to the stock agent."""
    from ..rollout.deploy import rollback_all

    return [f"rolled back: {role}" for role in rollback_all(town, by="gt-plugins uninstall")]


def _take_back(piece: record.Placed) -> str:
    how = pieces.take_back(piece)
    if how == "left":
        return f"left, because it was changed since the install: {piece.edit.path}"
    hint = " (an open shell still looks for it there until `hash -r`)" if piece.kind == pieces.SHIM else ""
    return f"{how}: {piece.edit.path}{hint}"


def _beads(town: Town, known: record.TownRecord) -> list[str]:
    """Close open job beads and give beads its custom statuses back; what fails is told and stops nothing."""
    if not record.installed(town) or not pieces.has_beads(town):
        return []
    bd = Bd(town.root)
    notes = _close_jobs(town, bd)
    try:
        now = bd.custom_statuses()
        left = statuses_left(now, known.statuses, (town.root / GT_STATUSES_SET).exists())
        if left != now:
            bd.set_custom_statuses(left)
    except FinetuneError as error:
        notes.append(f"beads: statuses of training jobs not removed ({error})")
    return notes


def statuses_left(now: Sequence[str], before: Sequence[str] | None, gt_set_its_own: bool) -> list[str]:
    """Of beads' custom statuses those that stay: what was there before, and what others added since.

    gt's own two came with ours where none were set; they go again unless gt has asked for them meanwhile.
    """
    ours = set(STATES)
    if before is not None and not gt_set_its_own:
        ours |= set(GT_STATUSES)
    ours -= set(before or ())
    return [status for status in now if status.partition(":")[0] not in ours]


def _close_jobs(town: Town, bd: Bd) -> list[str]:
    """Close the beads of jobs that are not done, so that nothing waits for them for ever."""
    told = [progress(job) for job in jobs(town.checkpoints_dir)]
    beads = [t.bead for t in told if t.bead and t.state != DONE]
    try:
        for bead in beads:
            bd.close(bead, "abandoned: gastown-finetune was uninstalled")
    except FinetuneError as error:
        return [f"beads: open jobs not closed ({error})"]
    return [f"beads: closed {len(beads)} open job(s)"] if beads else []


def _forget(town: Town, left: record.UserRecord, taken: Iterable[record.Placed]) -> None:
    """Drop this town's record, and the user's with the last town."""
    record.town_file(town).unlink(missing_ok=True)
    if left.towns:
        edits.write(record.user_edit(left))
        return
    record.user_file().unlink(missing_ok=True)
    made = {folder for piece in taken for folder in piece.edit.made_dirs}
    edits.remove_dirs(sorted(made, key=len))


def _purge(town: Town) -> list[str]:
    done = []
    for folder in (town.corpus_dir, town.checkpoints_dir, town.finetune_dir):
        if folder.exists():
            shutil.rmtree(folder)
            done.append(f"deleted: {folder}")
    return done


def _what_stays(town: Town) -> list[str]:
    folders = [f for f in (town.corpus_dir, town.checkpoints_dir, town.finetune_dir) if f.exists()]
    if not folders:
        return []
    return [f"kept: {', '.join(map(str, folders))} (delete them with gt-plugins uninstall --purge)"]
