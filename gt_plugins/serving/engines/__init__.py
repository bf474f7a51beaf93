"""Engines: what runs a model behind the endpoint. One protocol, found through the hook gt_serving_engines.

llama.cpp serves where a GGUF file and the package are there (that is what ships); transformers serves
everywhere else, so that nothing needs a compiler. Both work on the base's own tokenizer ids, mask with the
same grammars and share one decoding loop, so a reply differs only by quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import NonRetriableError, UserError

if TYPE_CHECKING:
    from ...rendering.render import Renderer
    from ..grammar import Matcher


class Engine(Protocol):
    """A loaded model. One generation at a time; the caller sees to that."""

    name: str
    renderer: Renderer
    context: int
    """Most tokens of prompt and reply together."""

    def generate(self, ids: Sequence[int], *, matcher: Matcher | None, max_tokens: int) -> Iterator[int]:
        """Reply token ids, greedy; the last one is an end token unless ``max_tokens`` came first.

        Closing the iterator stops the work after the current token."""

    def score(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """For each continuation the sum of its tokens' natural-log probabilities after ``ids``."""


@dataclass(frozen=True)
class EngineSource:
    """Where a model's parts lie. ``base``, a Hugging Face folder, always gives tokenizer and template."""

    base: Path
    adapter: Path | None = None
    gguf: Path | None = None
    lora_gguf: Path | None = None


@dataclass(frozen=True)
class EngineFactory:
    """How an engine is made; ``suits`` says whether it can load this source on this machine."""

    name: str
    available: Callable[[], bool]
    load: Callable[[EngineSource], Engine]
    suits: Callable[[EngineSource], bool] = lambda source: True


def engine_factories() -> list[EngineFactory]:
    """Every engine that plugins offer, built-ins first."""
    from ...plugins import answers

    return [factory for offered in answers("gt_serving_engines") for factory in offered]


def load_engine(
    source: EngineSource, prefer: str | None = None, factories: Sequence[EngineFactory] | None = None
) -> Engine:
    """The first engine that is available and suits the source, or the one named.

    Raises UserError for a name nobody offers or one that cannot be used here; NonRetriableError where
    nothing can load the source."""
    offered = list(factories if factories is not None else engine_factories())
    if prefer is not None:
        return _named(source, prefer, offered)
    for factory in offered:
        if factory.suits(source) and factory.available():
            return factory.load(source)
    names = ", ".join(f.name for f in offered) or "none"
    raise NonRetriableError(f"{source.base}: no engine can load this model here (engines: {names})")


def _named(source: EngineSource, prefer: str, offered: Sequence[EngineFactory]) -> Engine:
    for factory in offered:
        if factory.name != prefer:
            continue
        if not factory.available():
            raise UserError(f"engine {prefer!r} is not installed here; install the extra 'serve'")
        if not factory.suits(source):
            raise UserError(f"engine {prefer!r} cannot load {source.base}: the file it needs is not there")
        return factory.load(source)
    names = ", ".join(f.name for f in offered)
    raise UserError(f"no engine named {prefer!r}; there are {names}")
