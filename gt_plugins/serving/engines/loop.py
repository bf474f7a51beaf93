"""The decoding loop that every engine shares: forced tokens in one step, the rest one by one, greedy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ...errors import NonRetriableError

if TYPE_CHECKING:
    import numpy as np

    from ..grammar import Matcher
    from .drafts import Drafts


class Reader(Protocol):
    """What an engine's model can do for the loop; it remembers what it has read."""

    def read(self, tokens: Sequence[int], wanted: int) -> np.ndarray:
        """Read tokens; logits [wanted, vocabulary] (float32) after each of the last ``wanted`` of them."""

    def unread(self, count: int) -> None:
        """Forget the last ``count`` tokens that were read."""


class Ahead:
    """A reply in the making: what has been given out, and what the model has read ahead of it.

    A draft is read together with the tokens that wait. As long as the reply goes on as drafted, the logits
    are there already; where it does not, the rest of the draft is forgotten.
    """

    def __init__(self, reader: Reader, ids: Sequence[int], drafts: Drafts | None) -> None:
        self._reader, self._drafts = reader, drafts
        self._waiting = list(ids)
        self._draft: list[int] = []
        self._right = 0
        self._rows: np.ndarray | None = None

    def logits(self) -> np.ndarray:
        """Logits [vocabulary] after everything so far."""
        if self._waiting or self._rows is None:
            self._draft = self._drafts.guess() if self._drafts is not None else []
            self._right = 0
            self._rows = self._reader.read([*self._waiting, *self._draft], len(self._draft) + 1)
            self._waiting = []
        return self._rows[self._right]

    def give(self, token: int) -> None:
        """The reply goes on with a token."""
        if self._drafts is not None:
            self._drafts.add(token)
        if self._right < len(self._draft) and self._draft[self._right] == token:
            self._right += 1
            return
        self.drop()
        self._waiting.append(token)

    def drop(self) -> None:
        """Forget what was read ahead and did not come."""
        if self._draft and self._drafts is not None:
            self._drafts.judge(self._right, len(self._draft))
            if self._right < len(self._draft):
                self._reader.unread(len(self._draft) - self._right)
        self._draft = []


def decode(
    reader: Reader,
    ids: Sequence[int],
    matcher: Matcher | None,
    max_tokens: int,
    end_ids: frozenset[int],
    drafts: Drafts | None = None,
) -> Iterator[int]:
    """Reply ids as ``Engine.generate`` promises them, after ``ids`` that are still to be read (at least one).

    What the grammar leaves no choice about (the JSON around a command) is read together with what is
    already waiting, so it costs no step of its own; so is what ``drafts`` expects. Neither changes a reply.
    """
    ahead = Ahead(reader, ids, drafts)
    try:
        yield from _tokens(ahead, matcher, max_tokens, end_ids)
    finally:
        ahead.drop()


def _tokens(ahead: Ahead, matcher: Matcher | None, max_tokens: int, end_ids: frozenset[int]) -> Iterator[int]:
    made = 0
    while made < max_tokens:
        for token in matcher.forced() if matcher is not None else ():
            if made >= max_tokens:
                return
            made += 1
            matcher.consume(token)  # type: ignore[union-attr]
            ahead.give(token)
            yield token
            if token in end_ids:
                return
        if matcher is not None and matcher.stopped:
            yield min(end_ids)
            return
        if made >= max_tokens:
            return
        token = _pick(ahead.logits(), matcher, end_ids)
        made += 1
        if matcher is not None and token not in end_ids:
            matcher.consume(token)
        ahead.give(token)
        yield token
        if token in end_ids:
            return


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
