"""Guessing how a reply goes on, so that a model reads several of its tokens in one step.

Agents repeat themselves: a patrol's reply has the shape of the one before and the names that stand in its
prompt. What followed the same few tokens the last time is taken as a draft; the model reads the whole draft
at once and keeps what it would have written itself. The idea is prompt lookup decoding (Saxena, 2023:
https://github.com/apoorvumang/prompt-lookup-decoding) with recent replies added; the draft grows while it is
right and shrinks where it is wrong, so a model that never repeats itself loses next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LONGEST = 15
"""Tokens of a draft; with the one that waits they stay below what counts as a prompt's step."""
_MATCHES = (6, 3, 2)
"""How many tokens must be the same, tried in this order: a longer match is a better guess."""
_KEPT = 2_048
"""Tokens of recent replies that are remembered, each after its prompt's end: replies begin alike."""


class Drafts:
    """Drafts for one engine, reply after reply. Not for use from two threads at once."""

    def __init__(self) -> None:
        self._replies: deque[int] = deque(maxlen=_KEPT)
        self._length = LONGEST // 2
        self.begin((), 0)

    def begin(self, prompt: Sequence[int], room: int) -> None:
        """A new reply after ``prompt``, which may have ``room`` tokens at most."""
        import numpy as np

        lead = prompt[-_MATCHES[0] :]
        known = [*prompt[: len(prompt) - len(lead)], *self._replies, *lead]
        self._replies.extend(lead)
        self._size = len(known)
        self._last = self._size + room - 1
        self._history = np.empty(self._size + _KEPT, dtype=np.int64)
        self._history[: self._size] = known

    def add(self, token: int) -> None:
        """The reply goes on with a token."""
        import numpy as np

        if self._size == len(self._history):
            self._history = np.concatenate([self._history, np.empty(_KEPT, dtype=np.int64)])
        self._history[self._size] = token
        self._size += 1
        self._replies.append(token)

    def guess(self) -> list[int]:
        """What followed the latest tokens when they last stood together, [] where they never did."""
        history = self._history[: self._size]
        most = min(self._length, self._last - self._size)
        for length in _MATCHES if most > 0 else ():
            followed = _followed(history, length)
            if len(followed):
                enough = followed[followed <= self._size - most]
                at = int(enough[-1] if len(enough) else followed[0])
                return [int(token) for token in history[at : at + most]]
        return []

    def judge(self, right: int, drafted: int) -> None:
        """How much of a draft was right: the next one is as long and a little longer."""
        self._length = min(LONGEST, right + 2) if right < drafted else min(LONGEST, 2 * max(drafted, 2))


def _followed(history: np.ndarray, length: int) -> np.ndarray:
    """Every place that the text's final ``length`` tokens stand before, but for its end."""
    import numpy as np

    starts = len(history) - length
    if starts <= 0:
        return np.empty(0, dtype=np.int64)
    fits = history[:starts] == history[-length]
    for offset in range(1, length):
        fits &= history[offset : starts + offset] == history[offset - length]
    return np.flatnonzero(fits) + length
