"""Who takes which batches. Pure functions.

A swarm walks one plan of batches together: at each border of a round the peers that are there deal out what
is left, like cards. So a swarm of three learns from as many tokens as one peer with the same plan, in a
third of the steps, and when a peer dies the others take over what would have been its share from the next
border on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Deal:
    """What one peer has to do from a border on: batches of the common plan, in order, up to the plan's end.

    ``stretch`` of them are done before the next border, where the cards are dealt anew."""

    batches: tuple[int, ...]
    stretch: int
    done_then: int
    """Batches of the plan that the swarm has dealt out at the next border."""


def deal(done: int, total: int, peers: Sequence[str], me: str, sync_steps: int) -> Deal:
    """The share of ``me`` among ``peers`` (in any order), of a plan of which ``done`` of ``total`` are
    dealt."""
    order = sorted(set(peers) | {me})
    mine = tuple(range(min(total, done + order.index(me)), total, len(order)))
    return Deal(mine, min(sync_steps, len(mine)), min(total, done + len(order) * sync_steps))


def agreed(mine: int, others: Sequence[int], most: int) -> int:
    """A number that peers announced, as the lower median says, but not further than ``most`` from our own.

    So peers whose view of the swarm differed for a moment come together again, and one that lies cannot
    make the rest train for ever or stop at once."""
    return max(mine - most, min(mine + most, lower_median([mine, *others])))


def lower_median(values: Sequence[N]) -> N:
    """The middle one; of two the smaller. Raises IndexError for none."""
    return sorted(values)[(len(values) - 1) // 2]
