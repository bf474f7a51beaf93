"""Artifacts of a town that are no sessions: convention documents and formulas (hook ``gt_corpus_sources``).

A source yields documents as they are; ``collect`` scrubs them and stores what is new. Files are read only
where their real path lies in the town, so that a link into somebody's home is not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .. import hookimpl
from ..town.roles import identity_from_cwd
from ..town.root import Town

CONVENTION_NAMES = ("CLAUDE.md", "AGENTS.md", "CLAUDE.local.md")
DOCUMENT_BYTES = 4 * 1024 * 1024
FORMULA_SUFFIXES = (".formula.toml", ".formula.json")


@dataclass(frozen=True)
class Document:
    """One artifact or record. ``key`` names it within its source (a path below the town, an id)."""

    source: str
    key: str
    corpus_type: str
    content: str
    role: str = "all"
    rig: str = ""
    session_id: str = ""
    bead_id: str = ""
    at: str = ""
    """When it was written, RFC 3339 in UTC; empty where unknown."""
    model: str = ""
    client_version: str = ""


@dataclass(frozen=True)
class CorpusSource:
    """A named source; ``collect(town)`` yields every document that it has at present.

    A file that cannot be read is yielded as a :class:`Trouble` and counted, and the rest goes on."""

    name: str
    collect: Callable[[Town], Iterable[Document | Trouble]]


@dataclass(frozen=True)
class Trouble:
    """Something that could not be collected: what, and a reason that is counted."""

    key: str
    reason: str


@hookimpl
def gt_corpus_sources(town: Town) -> Sequence[CorpusSource]:
    return [CorpusSource("conventions", conventions), CorpusSource("formulas", formulas)]


def corpus_sources(town: Town) -> list[CorpusSource]:
    """All registered sources, built-ins first."""
    from ..plugins import answers

    return [source for sources in answers("gt_corpus_sources", town=town) for source in sources]


def conventions(town: Town) -> Iterator[Document | Trouble]:
    """CLAUDE.md and AGENTS.md of the town, its rigs and every working folder; of equal links the first."""
    seen: set[str] = set()
    for folder in _working_folders(town):
        for name in CONVENTION_NAMES:
            yield from _document(town, folder / name, "conventions", "convention_doc", seen)


def formulas(town: Town) -> Iterator[Document | Trouble]:
    """Formulas in the town's own folder."""
    seen: set[str] = set()
    for path in sorted(town.formulas_dir.glob("*")) if town.formulas_dir.is_dir() else ():
        if path.name.endswith(FORMULA_SUFFIXES):
            yield from _document(town, path, "formulas", "formula", seen)


def _working_folders(town: Town) -> list[Path]:
    """Folders in which agents of this town work, the town's root first."""
    root = town.root
    folders = [root, root / "mayor", root / "deacon", *_inside(root / "deacon/dogs")]
    for rig in town.rigs().values():
        folders += [rig, rig / "mayor/rig", rig / "witness", rig / "refinery", rig / "refinery/rig"]
        for group in ("crew", "polecats"):
            for member in _inside(rig / group):
                folders += [member, *_inside(member)]
    return folders


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _document(
    town: Town, path: Path, source: str, corpus_type: str, seen: set[str]
) -> Iterator[Document | Trouble]:
    real = os.path.realpath(path)
    if real in seen or not os.path.lexists(path):
        return
    seen.add(real)
    key = path.relative_to(town.root).as_posix()
    if not Path(real).is_relative_to(os.path.realpath(town.root)):
        yield Trouble(key, "outside")
        return
    try:
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):
            yield Trouble(key, "no_file")
            return
        if status.st_size > DOCUMENT_BYTES:
            yield Trouble(key, "huge")
            return
        content = Path(real).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        yield Trouble(key, "binary")
        return
    except OSError:
        yield Trouble(key, "unreadable")
        return
    at = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    yield Document(source, key, corpus_type, content, rig=_rig(town, path), at=at)


def _rig(town: Town, path: Path) -> str:
    """The rig that a file belongs to; empty for the town's own."""
    first = path.relative_to(town.root).parts[0]
    identity = identity_from_cwd(town, path)
    return first if first in town.rigs() else (identity.rig or "" if identity else "")
