"""Rows of token ids → batches: alike in length, in an order drawn from the seed, resumable by number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rendering.render import Row

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Indices into the rows that make one optimizer step."""

    epoch: int
    rows: tuple[int, ...]


def plan_batches(rows: Sequence[Row], batch_tokens: int, epochs: float, seed: int) -> list[Batch]:
    """Every step of a run, in order; the same for the same arguments, so a run resumes at any step.

    Rows are shuffled, those alike in length are brought together within stretches of many rows (little
    padding where they are padded, still mixed), cut into batches of at most ``batch_tokens`` tokens, and the
    batches are shuffled."""
    import random

    steps: list[Batch] = []
    for epoch in range(math.ceil(epochs)):
        rng = random.Random(f"{seed}/{epoch}")
        order = list(range(len(rows)))
        rng.shuffle(order)
        stretch = 256
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch], key=lambda i: len(rows[i].ids))
            batches += _cut(part, rows, batch_tokens)
        rng.shuffle(batches)
        share = min(1.0, epochs - epoch)
        steps += [Batch(epoch, b) for b in batches[: max(1, round(len(batches) * share))]]
    return steps


def _cut(order: list[int], rows: Sequence[Row], batch_tokens: int) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    tokens = 0
    for index in order:
        length = len(rows[index].ids)
        if current and tokens + length > batch_tokens:
            batches.append(tuple(current))
            current, tokens = [], 0
        current.append(index)
        tokens += length
    return [*batches, tuple(current)] if current else batches


def collate(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, labels, mask), each int64 [batch, length]; labels are -100 outside the supervised spans."""
    import torch

    length = max(len(r.ids) for r in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    labels = torch.full((len(rows), length), -100, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        size = len(row.ids)
        ids[i, :size] = torch.tensor(row.ids, dtype=torch.long)
        mask[i, :size] = 1
        for start, end in row.spans:
            labels[i, start:end] = ids[i, start:end]
    return ids, labels, mask
