"""The decoding loop that every engine shares: forced tokens in one step, the rest one by one, greedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import NonRetriableError

if TYPE_CHECKING:
    import numpy as np

    from ..grammar import Matcher

Step = Callable[[list[int]], "np.ndarray"]
"""Feed tokens; give the logits [vocabulary] (float32) after the last of them."""


def decode(
    step: Step, ids: Sequence[int], matcher: Matcher | None, max_tokens: int, end_ids: frozenset[int]
) -> Iterator[int]:
    """Reply ids as ``Engine.generate`` promises them.

    What the grammar leaves no choice about (the JSON around a command) is fed together with what is
    already waiting, so it costs no step of its own.
    """
    end = min(end_ids)
    waiting, made = list(ids), 0
    while made < max_tokens:
        for token in matcher.forced() if matcher is not None else ():
            if made >= max_tokens:
                return
            made += 1
            matcher.consume(token)  # type: ignore[union-attr]
            yield token
            if token in end_ids:
                return
            waiting.append(token)
        if matcher is not None and matcher.stopped:
            yield end
            return
        if made >= max_tokens:
            return
        token = _pick(step(waiting), matcher, end_ids)
        made += 1
        if matcher is not None and token not in end_ids:
            matcher.consume(token)
        yield token
        if token in end_ids:
            return
        waiting = [token]


def _pick(logits: np.ndarray, matcher: Matcher | None, end_ids: frozenset[int]) -> int:
    """The likeliest token that may follow. Raises NonRetriableError where the logits are no numbers."""
    import numpy as np

    if matcher is None:
        best = int(logits.argmax())
    else:
        allowed = matcher.allowed()
        width = min(len(allowed), len(logits))
        masked = np.where(allowed[:width], logits[:width], -np.inf)
        best = int(masked.argmax())
        if not allowed[best]:
            raise NonRetriableError("grammar: nothing may follow here; this is a bug in the grammar")
    if np.isnan(logits[best]):
        raise NonRetriableError("the model gives NaN; its weights are damaged")
    return best


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    shared = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        shared += 1
    return shared


SMALL_MODEL = 100_000_000
"""Parameters below which a model's steps are so short that threads wait longer than they work."""
_FEW_TOKENS = 16


def threads_for(tokens: int, parameters: int) -> int:
    """Threads for a step of so many tokens: all cores for a large model, one for a small model's single
    token, and for its prompt as many as the machine has idle. On a machine that its agents keep busy, two
    threads that wait for each other several times a layer are slower than one by far."""
    cores = os.cpu_count() or 1
    if parameters >= SMALL_MODEL:
        return cores
    if tokens < _FEW_TOKENS:
        return 1
    return max(1, min(cores, cores + 1 - round(os.getloadavg()[0])))
