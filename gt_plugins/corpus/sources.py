"""What a source of artifacts and records yields (hook ``gt_corpus_sources``).

A source yields documents as they are; :mod:`.collect` scrubs them and stores what is new. The built-in ones
are in :mod:`.artifacts` (files), :mod:`.formulas` and :mod:`.primes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..town.root import Town


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

    A file that cannot be read is yielded as a :class:`Trouble` and counted, and the rest goes on. What is
    known to be as it was stored, or cannot be asked at the moment, is yielded as :class:`Kept`."""

    name: str
    collect: Callable[[Town], Iterable[Document | Kept | Trouble]]


@dataclass(frozen=True)
class Kept:
    """A document that stays as it is stored, under the key under which it is."""

    key: str


@dataclass(frozen=True)
class Trouble:
    """Something that could not be collected: what, and a reason that is counted."""

    key: str
    reason: str


def corpus_sources(town: Town) -> list[CorpusSource]:
    """All registered sources, built-ins first."""
    from ..plugins import answers

    return [source for sources in answers("gt_corpus_sources", town=town) for source in sources]
