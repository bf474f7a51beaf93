"""What became of what was met before, as much of it as a number of characters allows."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 8 << 20
"""Characters that one memory holds, with something for each entry."""
_ENTRY = 120


class Memory(dict[K, V]):
    """A dictionary to be filled by :meth:`keep`; it forgets everything when it is full."""

    def __init__(self) -> None:
        super().__init__()
        self._held = 0

    def keep(self, key: K, value: V, characters: int) -> None:
        """Remember an entry of so many characters, unless it is more than all that may be held."""
        cost = _ENTRY + characters
        if self._held + cost > MOST:
            self.clear()
            self._held = 0
        if cost <= MOST:
            self[key] = value
            self._held += cost
