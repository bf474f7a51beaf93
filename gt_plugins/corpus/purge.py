"""Purge: what was captured of a session, or before a date, is gone: rows, free pages, index, datasets, spool.

The model versions that were trained on it are named; they still know what they learned, and removing them is
the operator's decision. A purged session is not captured again, though its transcript may still be there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import FinetuneError, RetriableError, UserError, in_file
from ..settings import models_home
from ..town.root import Town
from .lock import sweep_lock
from .share.rows import bundles_with
from .store import Store

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class PurgeResult:
    """What is gone, and which model versions were trained on it."""

    sessions: tuple[str, ...]
    documents: int
    datasets: tuple[str, ...]
    spool: int
    index: bool
    """The retrieval index was dropped, where there was one: it may hold text of what is gone."""
    versions: tuple[str, ...]
    bundles: tuple[str, ...] = ()
    """Bundles in which it went to others: ask them to purge it too."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def purge(town: Town, session: str | None = None, before: str | None = None) -> PurgeResult:
    """Delete one session (with its subagents) or all that ended before a date.

    What can be found again only through the rows (dataset folders) goes first, so that a purge that was
    killed, or could not empty the log because somebody was reading, can be run again. Raises UserError for a
    wrong session or date, before anything is deleted.
    """
    if (session is None) == (before is None):
        raise UserError("say what to purge: --session ID or --before DATE")
    limit = _moment(before) if before is not None else ""
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise RetriableError("a sweep is running; purge when it is done")
        with Store(town) as store:
            spooled = _spooled(town)
            ids = _sessions(store, session, limit, set(spooled.values()))
            versions = store.versions_trained_on(ids)
            bundles = bundles_with(store, ids)
            datasets = store.datasets_with(ids)
            for folder in datasets:
                _remove_folder(town, folder)
            index = town.corpus_dir / "index"
            had_index = index.is_dir()
            if had_index:
                shutil.rmtree(index)
            entries = [path for path, name in spooled.items() if name in ids]
            for path in entries:
                path.unlink(missing_ok=True)
            for folder in datasets:
                store.forget_dataset(folder)
            documents = sum(_documents(store, session_id) for session_id in ids)
            store.delete_sessions(ids)
            documents += store.delete_documents(limit) if limit else 0
            store.compact()
    folders = tuple(sorted(map(str, datasets)))
    return PurgeResult(
        tuple(ids), documents, folders, len(entries), had_index, tuple(versions), tuple(bundles)
    )


def _documents(store: Store, session_id: str) -> int:
    """How many documents go with a session."""
    rows = store.query("SELECT count(*) AS k FROM documents WHERE session_id = ?", session_id)
    return int(rows[0]["k"])


def _moment(text: str) -> str:
    """A date (its midnight in UTC) or an RFC 3339 time, in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        raise UserError(f"--before {text!r}: no date; write 2026-01-31 or 2026-01-31T12:00:00Z") from None


def _sessions(store: Store, session: str | None, limit: str, spooled: set[str]) -> list[str]:
    """Ids of the sessions meant, with their subagents."""
    if session is None:
        return store.session_ids(before=limit)
    if session in spooled | store.purged() and session not in store.session_ids(session):
        return [session]
    main = store.resolve_session(session)
    return [i for i in store.session_ids(main) if i == main or i.startswith(f"{main}.")]


def _spooled(town: Town) -> dict[Path, str]:
    """Spool entry → its session id."""
    found: dict[Path, str] = {}
    for path in sorted(town.spool_dir.glob("*.json")) if town.spool_dir.is_dir() else ():
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("session_id"), str):
            found[path] = record["session_id"]
    return found


def _remove_folder(town: Town, folder: Path) -> None:
    """Delete a dataset folder; never one that holds the town, the home or the models folder."""
    if folder.is_symlink() or not folder.is_dir():
        return
    real = folder.resolve()
    for precious in (town.root, Path.home(), models_home(), Path.cwd()):
        if precious.resolve().is_relative_to(real):
            problem = f"was registered as a dataset but holds {precious}"
            raise FinetuneError(in_file(folder, "", problem, "remove the dataset's files by hand"))
    shutil.rmtree(folder)
