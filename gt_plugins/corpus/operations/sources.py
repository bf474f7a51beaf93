"""The sources of operational records (hook ``gt_corpus_sources``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ... import hookimpl
from ...town.root import Town
from ..sources import CorpusSource, Document, Kept, Trouble

Records = Callable[[Town], Iterator[Document | Kept | Trouble]]


@hookimpl
def gt_corpus_sources(town: Town) -> Sequence[CorpusSource]:
    return [
        CorpusSource("beads", _beads),
        CorpusSource("slings", _slings),
        CorpusSource("convoys", _convoys),
    ]


def _beads(town: Town) -> Iterator[Document | Kept | Trouble]:
    from .beads import beads

    return beads(town)


def _slings(town: Town) -> Iterator[Document | Kept | Trouble]:
    from .slings import slings

    return slings(town)


def _convoys(town: Town) -> Iterator[Document | Kept | Trouble]:
    from .convoys import convoys

    return convoys(town)
