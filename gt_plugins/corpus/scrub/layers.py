"""What a scrub layer is: the types that third-party plugins of ``gt_scrub_layers`` also use.

A layer finds; it never replaces. The engine resolves overlaps and asks for a surrogate of the hit's kind,
so that every layer gets stable, typed surrogates for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import FinetuneError

SEPARATOR = "\n\x00\n"
"""Stands between values when several are scanned in one call; no hit may reach across it."""


class ScrubError(FinetuneError):
    """A value could not be scrubbed; it must not be stored. The message never quotes the value."""


class Hit(NamedTuple):
    """``text[start:end]`` must go; ``kind`` names what it is (``github_token``, ``email`` …)."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Exact:
    """A known value to be replaced wherever it stands. ``repr`` hides it: tracebacks print reprs."""

    value: str = field(repr=False)
    kind: str
    """``user``, ``person``, ``email``, ``host``, ``secret``, ``denied``."""
    fold: bool = False
    """Match whatever the case of ASCII letters."""
    word: bool = True
    """Match only where no letter or digit joins it at either end."""


@dataclass(frozen=True)
class Policy:
    """What a scrubber works by. Two policies of one ``version`` treat a text alike but for live values."""

    version: str
    key: bytes = field(repr=False)
    """Key of the surrogates; see :func:`gt_plugins.corpus.scrub.policy.load_key`."""
    exact: tuple[Exact, ...] = field(default=(), repr=False)
    deny: tuple[str, ...] = field(default=(), repr=False)
    """The operator's own list: gone wherever it occurs, whatever its case."""
    allow: tuple[str, ...] = field(default=(), repr=False)
    """Kept whatever a layer says: the value itself, what lies inside it, addresses of that domain."""


@dataclass(frozen=True)
class Layer:
    """One scrub layer. Layers run in the order of ``order``; the built-in ones are 10, 20 and 30."""

    name: str
    order: int
    find: Callable[[str], list[Hit]]
    """Hits in a text, in any order, overlaps allowed. The text may hold several values with
    :data:`SEPARATOR` between them."""
    find_keyed: Callable[[str, str], list[Hit]] | None = None
    """``(key, value)`` of a JSON object, asked for where the key alone may make the value sensitive."""
    version: str = ""
    """Part of the policy version: change it when the layer finds more, and stored rows are scrubbed again."""
    keywords: tuple[str, ...] = ()
    """``find`` is asked only about values in which one of these stands, whatever the case of ASCII letters;
    with none it is asked about every value."""

    def __post_init__(self) -> None:
        if isinstance(self.keywords, str) or not all(self.keywords):
            raise ValueError(f"layer {self.name}: keywords are a tuple of words, none of them empty")


def prefiltered(layer: Layer) -> Callable[[str], list[Hit]]:
    """The ``find`` of a layer; where the layer names keywords, for values that hold one alone."""
    if not layer.keywords:
        return layer.find
    from .scan import Automaton, haystack

    machine = Automaton(k.encode("latin-1", "replace").lower().decode("latin-1") for k in layer.keywords)

    def find(text: str) -> list[Hit]:
        found: list[Hit] = []
        done = 0
        for _, start, end in machine.hits(haystack(text).folded):
            if start < done:
                continue
            begin = text.rfind(SEPARATOR, 0, start) + 1
            begin += len(SEPARATOR) - 1 if begin else 0
            stop = text.find(SEPARATOR, end)
            done = stop if stop >= 0 else len(text)
            found += [Hit(begin + h.start, begin + h.end, h.kind) for h in layer.find(text[begin:done])]
        return found

    return find
