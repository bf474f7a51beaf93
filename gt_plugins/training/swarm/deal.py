"""Who learns from which rows. Pure functions.

A swarm walks one plan of batches together, as one peer would: the rows of a batch are dealt out like cards,
each peer makes a step of its own hand, and at the border of a round the adapters are averaged. So a swarm
makes as many steps as one peer with the same plan, each of them smaller, and learns from as many tokens.
Where a batch has fewer rows than there are peers, as many batches are taken together as give each one a row.
When a peer dies the others take over what would have been its share from the next border on.

A peer's gradient is noisier than that of the whole batch, and AdamW divides by the noise: the mean of K noisy
steps is about √K times shorter than one step of the whole batch. Where batches are taken together the steps
are fewer and the batch is K times larger, for which AdamW's rate grows by √K too (Malladi et al. 2022, "On
the SDEs and scaling rules for adaptive gradient algorithms"). Hence ``rate_factor``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..loader import Batch

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Deal:
    """What one peer has to do from a border on: its part of each step up to the plan's end.

    ``stretch`` of them are done before the next border, where the cards are dealt anew."""

    steps: tuple[Batch, ...]
    stretch: int
    done_then: int
    """Batches of the plan that the swarm has dealt out at the next border."""
    rate_factor: float
    """What the recipe's learning rate is multiplied by in this round."""


def deal(
    plan: Sequence[Batch],
    done: int,
    total: int,
    rows: int,
    peers: Sequence[str],
    me: str,
    sync_steps: int,
) -> Deal:
    """The share of ``me`` among ``peers`` (in any order), of a plan of which ``done`` of ``total`` are dealt.

    ``rows`` is how many a batch has as a rule. A plan of our own that is shorter begins again."""
    order = sorted(set(peers) | {me})
    mine, count, together = order.index(me), len(order), together_of(rows, len(order))
    steps: list[Batch] = []
    stretch = 0
    for number, start in enumerate(range(done, total, together)):
        batches = [plan[i % len(plan)] for i in range(start, min(total, start + together))]
        hand = [row for batch in batches for row in batch.rows][mine::count]
        if hand:
            steps.append(Batch(batches[0].epoch, tuple(hand)))
        if number < sync_steps:
            stretch = len(steps)
    return Deal(tuple(steps), stretch, min(total, done + together * sync_steps), math.sqrt(count))


def together_of(rows: int, peers: int) -> int:
    """How many batches make one step of a swarm: as many as give each peer a row."""
    return max(1, math.ceil(peers / max(1, rows)))


def usual_rows(plan: Sequence[Batch]) -> int:
    """How many rows the middle batch of a plan has; 1 for none."""
    return lower_median([len(batch.rows) for batch in plan]) if plan else 1


def agreed(mine: int, others: Sequence[int], most: int) -> int:
    """A number that peers announced, as the lower median says, but not further than ``most`` from our own.

    So peers whose view of the swarm differed for a moment come together again, and one that lies cannot
    make the rest train for ever or stop at once."""
    return max(mine - most, min(mine + most, lower_median([mine, *others])))


def lower_median(values: Sequence[N]) -> N:
    """The middle one; of two the smaller. Raises IndexError for none."""
    return sorted(values)[(len(values) - 1) // 2]
