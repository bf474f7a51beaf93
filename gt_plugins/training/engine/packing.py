"""Rows → one sequence without padding: positions start anew in each row, and no row sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...rendering.render import Row

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Packed:
    """``length`` tokens of several rows, one after the other.

    ``ids`` and ``positions`` are int64 [length]; ``bounds`` are the rows' starts and the end, int32
    [rows + 1], with ``longest`` the longest row. Where ``at`` says (int64 [supervised], ascending) the next
    token is ``wanted`` (int64 [supervised])."""

    ids: torch.Tensor
    positions: torch.Tensor
    bounds: torch.Tensor
    lengths: tuple[int, ...]
    at: torch.Tensor
    wanted: torch.Tensor

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def to(self, device: str) -> Packed:
        """The same on another device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            bounds=self.bounds.to(device),
            at=self.at.to(device),
            wanted=self.wanted.to(device),
        )


def pack(rows: Sequence[Row]) -> Packed:
    """Rows of any lengths as one sequence. A row's first token is never wanted: nothing comes before it."""
    import numpy as np
    import torch

    lengths = tuple(len(row.ids) for row in rows)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    ids = torch.from_numpy(np.concatenate([np.asarray(row.ids, dtype=np.int64) for row in rows]))
    positions = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))
    bounds = torch.from_numpy(starts.astype(np.int32))
    at = [
        begin + np.arange(max(1, start), end) - 1
        for begin, row in zip(starts, rows, strict=False)
        for start, end in row.spans
    ]
    where = torch.from_numpy(np.concatenate(at or [np.zeros(0, dtype=np.int64)]))
    return Packed(ids, positions, bounds, lengths, where, ids[where + 1])


def pieces(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Cut the rows of a step into packs of at most ``most`` tokens, in order; a longer row stands alone."""
    packs: list[list[Row]] = []
    size = 0
    for row in rows:
        if not packs or (most and size + len(row.ids) > most):
            packs.append([])
            size = 0
        packs[-1].append(row)
        size += len(row.ids)
    return packs
