"""What a scrub layer is: the types that third-party plugins of ``gt_scrub_layers`` also use.

A layer finds; it never replaces. The engine resolves overlaps and asks for a surrogate of the hit's kind,
so that every layer gets stable, typed surrogates for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import FinetuneError

SEPARATOR = "\n\x00\n"
"""Stands between values when several are scanned in one call; no hit may reach across it."""


class ScrubError(FinetuneError):
    """A value could not be scrubbed; it must not be stored. The message never quotes the value."""


@dataclass(frozen=True, slots=True)
class Hit:
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
