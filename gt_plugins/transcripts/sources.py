"""What a reader of agents' session files offers to the sweep (hook ``gt_transcript_sources``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..town.root import Town
from .model import Session


@dataclass(frozen=True)
class Head:
    """What the first lines of a session file tell; a field is empty where they do not tell it."""

    session_id: str
    cwd: str


@dataclass(frozen=True)
class FileState:
    """What changes when a session does: a file's size, time of change (ns) and inode, or what stands for
    them."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class TranscriptSource:
    """One client's session files.

    ``find(folder)`` yields the session files below a projects folder, and a folder that it cannot list.
    ``head(path)`` reads no more than the lines that tell whose session it is, because files of the operator's
    other projects get no further than this; None where the file is no session. ``read(path)`` gives the
    file's main session and ``read_all(path)``, where there is one, also those of its sidechains.
    ``roots(town)`` are the folders to search when the operator names none.

    A client that keeps sessions in a database has no file for each. Its ``find`` yields a path below the
    database for each session, and ``state(path)`` takes the place of the file's own; it raises
    FileNotFoundError where the session is gone.
    """

    name: str
    find: Callable[[Path], Iterable[Path]]
    head: Callable[[Path], Head | None]
    read: Callable[[Path], Session]
    read_all: Callable[[Path], Sequence[Session]] | None = None
    roots: Callable[[Town], Sequence[Path]] | None = None
    state: Callable[[Path], FileState] | None = None

    def sessions(self, path: Path) -> Sequence[Session]:
        """Every session in a file: the main one and its sidechains."""
        return self.read_all(path) if self.read_all is not None else [self.read(path)]


def scan(folder: Path) -> Sequence[os.DirEntry[str] | Path]:
    """A folder's entries by name; nothing where there is no such folder, itself where it is closed to us."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        return [folder]


def transcript_sources() -> list[TranscriptSource]:
    """All registered readers, built-ins first."""
    from ..plugins import answers

    return [source for sources in answers("gt_transcript_sources") for source in sources]
