"""The sweep: find sessions of this town, read, scrub and store what is new.

First the spool (what ``gt-hook session-end`` noted), then the projects folders of every reader. A file that
has not changed since it was last looked at is not opened. Of a file that is not the town's only its head is
read. One transaction holds the sessions of a file and the note that it was seen (of many small files one
together); a spool entry goes only after that, so a kill at any point costs work, never a session.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..settings import load_settings
from ..town.root import Town
from ..transcripts.sources import Head, TranscriptSource, transcript_sources
from . import consent as consents
from .belonging import STORED, Belonging, Hint, is_path
from .lock import sweep_lock
from .reading import FileRead, Reader, Ready, Scrubs, Task, asked, few_collections, read_here
from .store import Seen, Store, key_of

SPOOL_PATIENCE = 24 * 3600.0
"""Seconds for which a spool entry waits for a transcript that is not there or cannot be read."""
WAIT_FOR_OTHER = 600.0
MARKS = 256
"""Files that are not ours are noted so many at a time."""
TAKEN_FILES, TAKEN_BYTES = 128, 4 << 20
"""Files that were read are stored so many, or so much, at a time."""
HELPED_FROM = 24 << 20
"""Less than so many bytes is read by the sweep itself: helpers take a while to start."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did. ``skipped`` counts files and sessions by reason, ``notes`` what readers met."""

    captured: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    redactions: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    busy: bool = False
    """Another sweep held the lock; it does what was asked for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sweep(
    town: Town,
    projects: Path | None = None,
    spool_only: bool = False,
    *,
    sources: Sequence[TranscriptSource] | None = None,
    scrubber: Scrubs | None = None,
    progress: Progress | None = None,
) -> SweepReport:
    """Capture what is new. ``projects`` takes the place of the clients' own projects folders.

    Raises UserError without consent or with broken settings (nothing is read then), FinetuneError on a full
    disk or a damaged corpus (what was committed stays, the rest comes with the next sweep).
    """
    consents.require(town)
    _real_folder.cache_clear()
    with few_collections():
        return _swept(town, projects, spool_only, _Sweep(town, sources, scrubber, progress))


def _swept(town: Town, projects: Path | None, spool_only: bool, run: _Sweep) -> SweepReport:
    """Go on until no spool entry is left that this sweep has not dealt with."""
    first = True
    while first or run.pending():
        with sweep_lock(town, 0.0 if spool_only else WAIT_FOR_OTHER) as held:
            if not held:
                return run.report(busy=True)
            with Store(town) as store:
                run.open(store)
                run.drain_spool()
                if first and not spool_only:
                    run.walk(projects)
                if spool_only:
                    store.index_waiting()
                store.record_sweep({**run.report().to_json(), "problems": len(run.problems)})
        first = False
    return run.report()


def file_key(path: Path | str) -> str:
    """The name under which the corpus knows a file; it does not tell the path."""
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.islink(path):
        return key_of(os.path.realpath(path))
    return key_of(os.path.join(_real_folder(folder), name))


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _state(source: TranscriptSource, path: Path) -> Seen | None:
    """A session file as it is now, without a verdict; None for what is no file. Raises OSError."""
    if source.state is not None:
        found = asked(source.state, path)
        return Seen(found.size, found.mtime_ns, found.inode, "")
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise PermissionError(errno.EACCES, "the folder cannot be listed")
    if not stat.S_ISREG(status.st_mode):
        return None
    return Seen(status.st_size, status.st_mtime_ns, status.st_ino, "")


def _looked_at(source: TranscriptSource, path: Path) -> tuple[str, Seen | None]:
    """The key of a file and what :func:`_state` says of it: of a plain file by one call of the system."""
    if source.state is None:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            folder, name = os.path.split(path)
            key = key_of(os.path.join(_real_folder(folder), name))
            return key, Seen(status.st_size, status.st_mtime_ns, status.st_ino, "")
    return file_key(path), _state(source, path)


def _is_still(source: TranscriptSource, path: Path, mark: Seen) -> bool:
    """Whether a file is as it was before it was read."""
    try:
        return _alike(_state(source, path), mark)
    except OSError:
        return False


def _alike(one: Seen | None, other: Seen | None) -> bool:
    """Whether size, time and inode are the same."""
    return one is not None and other is not None and one[:3] == other[:3]


class _Sweep:
    """State of one sweep."""

    def __init__(
        self,
        town: Town,
        sources: Sequence[TranscriptSource] | None,
        scrubber: Scrubs | None,
        progress: Progress | None,
    ) -> None:
        settings = load_settings(town)
        self.town = town
        self.consent = consents.as_text(settings.consent)
        self.belonging = Belonging(town, settings.exclude_rigs)
        self.sources = list(sources) if sources is not None else transcript_sources()
        self.progress = progress
        self.counted: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.redactions: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.handled: set[str] = set()
        self.again: set[str] = set()
        self.marks: dict[str, Seen] = {}
        self.taken: list[tuple[str, Seen, FileRead]] = []
        self.taken_bytes = 0
        self._scrubber = scrubber
        self._reader: Reader | None = None
        self._plain = sources is None and scrubber is None
        self._later: list[tuple[int, Task]] | None = None
        """While files are looked at before any is read: those to read, with their sizes."""

    def open(self, store: Store) -> None:
        """Learn what the corpus knows already."""
        self.store = store
        self.seen = store.seen_files()
        self.purged = store.purged()
        self.weak = store.weak_identities()
        self._reader = None

    @property
    def reader(self) -> Reader:
        """Made when first needed, as the scrubber is."""
        if self._reader is None:
            self._reader = Reader(self.belonging, self.purged, self.scrubber)
        return self._reader

    @property
    def scrubber(self) -> Scrubs:
        """Made when first needed: its libraries take a second to import."""
        if self._scrubber is None:
            from .scrub.engine import scrubber_for

            self._scrubber = scrubber_for(self.town)
        return self._scrubber

    def report(self, busy: bool = False) -> SweepReport:
        return SweepReport(
            captured=self.counted["captured"],
            updated=self.counted["updated"],
            unchanged=self.counted["unchanged"],
            skipped=dict(sorted(self.skipped.items())),
            redactions=dict(sorted(self.redactions.items())),
            notes=dict(sorted(self.notes.items())),
            problems=tuple(self.problems),
            busy=busy,
        )

    # Where files come from ----------------------------------------------------------------------------

    def pending(self) -> list[Path]:
        """Spool entries that this sweep has not dealt with, oldest first."""
        if not self.town.spool_dir.is_dir():
            return []
        found = os.scandir(self.town.spool_dir)
        names = sorted(e.name for e in found if e.name.endswith(".json") and e.is_file())
        fresh = [n for n in names if n not in self.handled and not n.startswith(".")]
        return [self.town.spool_dir / name for name in fresh]

    def drain_spool(self) -> None:
        """Deal with entries until none is new: sessions end while this runs."""
        while entries := self.pending():
            for entry in entries:
                self.handled.add(entry.name)
                done = self._spool_entry(entry)
                self._store_taken()
                if done:
                    entry.unlink(missing_ok=True)
        self._write_marks()

    def _spool_entry(self, entry: Path) -> bool:
        """Deal with one entry; False where it must wait for a later sweep."""
        try:
            record = json.loads(entry.read_bytes())
            path = Path(record["path"])
            hint = Hint(str(record.get("gt_role", "")), str(record.get("cwd", "")))
            old = time.time() - entry.stat().st_mtime > SPOOL_PATIENCE
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.skipped["spool_entry"] += 1
            return True
        self._tell_plugins(record)
        source = next((s for s in self.sources if s.name == record.get("source", "claude")), None)
        if source is None or not path.is_absolute() or not is_path(str(path)):
            self.skipped["spool_entry"] += 1
            return True
        return self._file(source, path, hint) or old

    def _tell_plugins(self, record: dict[str, Any]) -> None:
        """Call ``gt_session_shutdown``, only where a third party's plugin could be listening."""
        from importlib.metadata import entry_points

        from ..plugins import ENTRY_POINTS, plugin_manager

        if not entry_points(group=ENTRY_POINTS):
            return
        names = ("session_id", "cwd", "reason", "gt_role")
        payload = {"hook_event_name": "SessionEnd", "transcript_path": record["path"]}
        payload |= {name: record.get(name, "") for name in names}
        try:
            plugin_manager().hook.gt_session_shutdown(session=payload)
        except Exception as error:
            self.problems.append(f"a plugin's gt_session_shutdown failed: {type(error).__name__}")

    def walk(self, projects: Path | None) -> None:
        """Every file of every reader; then those that turned out to have more of a session than another."""
        found: dict[str, tuple[TranscriptSource, Path]] = {}
        for source in self.sources:
            folders = [projects] if projects is not None else source.roots(self.town) if source.roots else []
            for folder in folders:
                self._find(source, Path(os.path.realpath(folder)), found)
        later: list[tuple[int, Task]] = []
        self._later = later
        for source, path in found.values():
            self._file(source, path, Hint())
        self._later = None
        self._read_all(later, len(found))
        for source, path in found.values():
            if self.again and file_key(path) in self.again:
                self._file(source, path, Hint())
        self._store_taken()
        self._write_marks()
        if self.progress is not None:
            self.progress(len(found), len(found))

    def _read_all(self, tasks: Sequence[tuple[int, Task]], files: int) -> None:
        """Read files, with helpers where there is much to read; only in the plain case."""
        if not tasks:
            return
        much = self._plain and sum(size for size, _ in tasks) > HELPED_FROM
        with ExitStack() as at_end:
            read: Callable[[Task], None] = partial(read_here, self.reader)
            if much:
                from . import helpers  # brings multiprocessing

                if count := helpers.helper_count():
                    read = at_end.enter_context(helpers.Helpers(self.reader, self.scrubber.policy, count)).add
            for number, (_, task) in enumerate(tasks, files - len(tasks)):
                if self.progress is not None:
                    self.progress(number, files)
                read(task)
        self._store_taken()

    def _find(
        self, source: TranscriptSource, folder: Path, found: dict[str, tuple[TranscriptSource, Path]]
    ) -> None:
        try:
            for path in asked(lambda place: list(source.find(place)), folder):
                found.setdefault(str(path), (source, path))
        except OSError as error:
            self._trouble(Path(error.filename or folder), error)

    # One file -----------------------------------------------------------------------------------------

    def _file(self, source: TranscriptSource, path: Path, hint: Hint) -> bool:
        """Look at one file; False where it could not be read and may be later."""
        try:
            key, state = _looked_at(source, path)
            if state is None:
                self.skipped["no_file"] += 1
                return True
            seen = self.seen.get(key)
            if seen is not None and _alike(seen, state) and not self._look_again(seen, hint):
                self._count(seen.verdict, "unchanged")
                return True
            self._changed(source, path, key, state, hint)
        except FileNotFoundError:
            self.skipped["missing"] += 1
            return False
        except OSError as error:
            self._trouble(path, error)
            return False
        return True

    def _trouble(self, path: Path, error: OSError) -> None:
        self.skipped["unreadable"] += 1
        self.problems.append(f"{path}: {error.strerror or type(error).__name__}")

    def _not_read(self, path: Path, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            self.skipped["missing"] += 1
        else:
            self._trouble(path, error)

    def _count(self, verdict: str, stored_as: str) -> None:
        if verdict == STORED:
            self.counted[stored_as] += 1
        else:
            self.skipped[verdict.partition(":")[0]] += 1

    def _look_again(self, seen: Seen, hint: Hint) -> bool:
        """Whether what is known now changes the verdict on an unchanged file."""
        kind, _, detail = seen.verdict.partition(":")
        match kind:
            case "foreign":
                return seen.session_key in self.belonging.event_keys
            case "excluded":
                return detail not in self.belonging.exclude_rigs
            case "unscrubbable":
                return bool(detail != self.scrubber.policy.version)
            case "stored" if seen.session_key in self.weak:
                return self.belonging.surer(seen.session_key, hint, self.weak[seen.session_key])
        return False

    def _changed(self, source: TranscriptSource, path: Path, key: str, state: Seen, hint: Hint) -> None:
        """A new or changed file: judge it by its head, and only then read it."""
        head = asked(source.head, path)
        verdict = self._judge(head, hint)
        mark = state._replace(session_key=key_of(head.session_id) if head else "")
        if verdict != STORED:
            self._count(verdict, "")
            self._mark_later(key, mark._replace(verdict=verdict))
            return
        then = partial(self._take, source, path, key, mark)
        if self._later is None:
            then(self.reader.read(asked(source.sessions, path), path, head, hint))
        else:
            task = Task(source, path, head, hint, then, partial(self._not_read, path))
            self._later.append((state.size, task))

    def _take(self, source: TranscriptSource, path: Path, key: str, mark: Seen, found: FileRead) -> None:
        """Have what a file gave stored, soon."""
        for verdict in found.left_out:
            self._count(verdict, "")
        self.notes.update(found.notes)
        self.problems.extend(found.problems)
        if not _is_still(source, path, mark):
            self.notes["changed_while_read"] += 1  # what was noted is how it was before: the next sweep looks
        self.taken.append((key, mark._replace(verdict=found.verdict), found))
        self.taken_bytes += mark.size
        if len(self.taken) >= TAKEN_FILES or self.taken_bytes >= TAKEN_BYTES:
            self._store_taken()

    def _store_taken(self) -> None:
        """Store what files gave, and the notes that they were seen, in one transaction."""
        added: list[tuple[Ready, str]] = []
        if not self.taken:
            return
        with self.store.transaction():
            for key, seen, found in self.taken:
                added += [(item, self._add(item, key)) for item in found.ready]
                self.store.mark_file(key, seen)
        self.taken.clear()
        self.taken_bytes = 0
        for item, status in added:
            self.counted[status] += 1
            self.notes.update(item.row.counts)
            self.redactions.update(item.redactions if status != "unchanged" else {})

    def _mark_later(self, key: str, seen: Seen) -> None:
        """Note a file that is not ours, many in one transaction: a note that is lost costs one more look."""
        self.marks[key] = seen
        if len(self.marks) >= MARKS:
            self._write_marks()

    def _write_marks(self) -> None:
        with self.store.transaction():
            for key, seen in self.marks.items():
                self.store.mark_file(key, seen)
        self.marks.clear()

    def _judge(self, head: Head | None, hint: Hint) -> str:
        if head is None:
            return "empty"
        if head.session_id in self.purged:
            return "purged"
        return self.belonging.judge(head.session_id, head.cwd or hint.cwd, hint)

    def _add(self, item: Ready, key: str) -> str:
        added = self.store.add_row(
            item.row,
            policy=self.scrubber.policy.version,
            consent=self.consent,
            source_hash=item.source_hash,
            redactions=item.redactions,
            file=key,
            identity_rank=item.identity_rank,
        )
        if added.reread:
            self.store.forget_file(added.reread)
            self.seen.pop(added.reread, None)
            self.again.add(added.reread)
        return "unchanged" if added.status == "elsewhere" else added.status
