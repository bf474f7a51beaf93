"""One session file into what may be stored: judged, joined to role and beads, scrubbed.

Nothing here touches the store, so that it can be done in a process of its own (:mod:`.helpers`).
"""

from __future__ import annotations

import errno
import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..town.roles import Identity
from ..transcripts.model import Session
from ..transcripts.sources import Head, TranscriptSource
from .belonging import STORED, Belonging, Hint
from .names import scrub_names
from .packing import canonical
from .session_row import SessionRow, row_of

T = TypeVar("T")
_COLLECT_AFTER = 200_000
"""So many more objects than before."""


class Scrubs(Protocol):
    """What capturing needs of a scrubber (:mod:`gt_plugins.corpus.scrub.engine`)."""

    @property
    def policy(self) -> Any: ...

    def text(self, text: str) -> tuple[str, Counter[str]]: ...

    def session(self, session: Session) -> tuple[Session, Counter[str]]: ...


@dataclass(frozen=True)
class Ready:
    """A session that may go into the store."""

    row: SessionRow
    source_hash: str
    redactions: Mapping[str, int]
    identity_rank: int

    @property
    def names(self) -> set[str]:
        """The session's id and its parent's, as they are stored."""
        return {self.row.columns["id"], self.row.columns["parent"]}


@dataclass(frozen=True)
class FileRead:
    """What a file gave: sessions to store, the verdict on the file, and what is to be counted."""

    ready: Sequence[Ready]
    verdict: str
    left_out: Sequence[str] = ()
    """Verdicts on the sessions that are not stored."""
    notes: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()


def source_hash(session: Session) -> str:
    """Hash of a session as read, before anything is scrubbed or added."""
    return hashlib.sha256(canonical(session)).hexdigest()


def asked(reader: Callable[[Path], T], path: Path) -> T:
    """What a reader says of a path; a reader that fails counts as a file that cannot be read."""
    try:
        return reader(path)
    except OSError:
        raise
    except Exception as error:  # a reader may be a third party's; its message may quote the text
        raise OSError(errno.EIO, f"its reader failed ({type(error).__name__})", str(path)) from None


@contextmanager
def few_collections() -> Iterator[None]:
    """Within the block Python looks for cycles rarely: sessions are large and have none."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True)
class Task:
    """A file to read, and what to do with the result."""

    source: TranscriptSource
    path: Path
    head: Head | None
    hint: Hint
    then: Callable[[FileRead], None]
    failed: Callable[[OSError], None]


def read_here(reader: Reader, task: Task) -> None:
    """Read a file in this process."""
    try:
        sessions = asked(task.source.sessions, task.path)
    except OSError as error:
        task.failed(error)
        return
    task.then(reader.read(sessions, task.path, task.head, task.hint))


@dataclass(frozen=True)
class Reader:
    """Judges and scrubs the sessions of files for one sweep."""

    belonging: Belonging
    purged: Collection[str]
    scrubber: Scrubs

    def read(self, sessions: Sequence[Session], path: Path, head: Head | None, hint: Hint) -> FileRead:
        """The sessions of ``path`` that may be stored, scrubbed; and the verdict on the file."""
        ready: list[Ready] = []
        verdicts: list[str] = []
        notes: Counter[str] = Counter()
        problems: list[str] = []
        for session in sessions:
            if not session.turns:
                notes.update({k: n for k, n in session.counts.items() if k.isidentifier()})
                continue
            cwd = session.cwd or (head.cwd if head else "") or hint.cwd
            verdict = self.belonging.judge(session.parent or session.id, cwd, hint)
            if verdict == STORED:
                item = self._scrubbed(session, cwd, hint)
                if item is None:
                    problems.append(f"{path}: a session could not be scrubbed")
                    verdict = f"unscrubbable:{self.scrubber.policy.version}"
                elif not item.names.union((session.parent, session.id)).isdisjoint(self.purged):
                    verdict = "purged"
                else:
                    ready.append(item)
                    continue
            verdicts.append(verdict)
        if not ready and not verdicts:
            return FileRead((), "empty", ("empty",), notes, problems)
        unscrubbable = [v for v in verdicts if v.startswith("unscrubbable")]
        verdict = (unscrubbable or ([STORED] if ready else verdicts))[0]
        return FileRead(ready, verdict, verdicts, notes, problems)

    def _scrubbed(self, session: Session, cwd: str, hint: Hint) -> Ready | None:
        """A session with its identity, scrubbed; None where that fails: then it is not stored."""
        identity, rank = self.belonging.identity(session.parent or session.id, cwd, hint)
        who = identity or Identity("")
        beads = self.belonging.beads(identity, session)
        known = replace(session, role=who.role, rig=who.rig or "", name=who.name or "", beads=beads)
        scrubber = self.scrubber
        try:
            digest = source_hash(session)
            scrubbed, redactions = scrubber.session(known)
            scrubbed = scrub_names(scrubbed, lambda name: scrubber.text(name)[0])
        except Exception:  # a layer may be a third party's; its message may quote the text
            return None
        return Ready(row_of(scrubbed), digest, dict(redactions), rank)
