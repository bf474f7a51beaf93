"""Which adapters may be averaged, and their mean. Pure functions of what was fetched.

One NaN makes every average NaN, one huge adapter drowns all the others, and an average cannot be taken
apart again. So each adapter is looked at before it counts, and left out whole if it is wrong: with numbers
that are not finite, or with a norm (of its weights, or of their change since the last averaging) many times
that of the median peer. The median is the lower one, so that of two peers the larger cannot excuse itself.
A peer can claim any number of tokens, so none counts for more than twice the median.

What this does not catch is a peer that lies within the norms: for that there is the allow-list before, and
the evaluation gate after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .deal import lower_median

if TYPE_CHECKING:
    from torch import Tensor

MOST_WEIGHT = 2.0
"""Times the median number of tokens that one peer may count for."""
MOST_GROWN = 20.0
"""Times the norm of a fresh adapter that a trained one may have, for a peer that joins and has no other to
compare with. LoRA's B begins at zero, and its length grows to some times that of A at most."""


@dataclass(frozen=True)
class Offer:
    """A peer's adapter, with the tokens that it learned from since the last averaging."""

    tensors: Mapping[str, Tensor]
    tokens: int


@dataclass(frozen=True)
class Sifted:
    """The offers that may be averaged, and why the others were dropped, both by peer."""

    kept: dict[str, Offer]
    dropped: dict[str, str]


def sift(
    offers: Mapping[str, Offer],
    reference: Mapping[str, Tensor] | None,
    norm_factor: float,
    fresh: Mapping[str, Tensor] | None = None,
) -> Sifted:
    """Drop what may not be averaged. ``reference`` is the last average, where there is one; ``fresh`` an
    adapter as it is before training, of a peer that takes over what the others have reached: the median of
    those that it meets says nothing where they are few.

    Offers have the same names and shapes (``exchange.unpack`` has seen to it)."""
    dropped = {peer: problem for peer, offer in offers.items() if (problem := _not_finite(offer.tensors))}
    kept = {peer: offer for peer, offer in offers.items() if peer not in dropped}

    def sift_out(what: str, norms: Mapping[str, float], factor: float, usual: float, whose: str) -> None:
        for peer, length in norms.items():
            if 0 < factor * usual < length:
                dropped[peer] = f"the norm of {what} is {length:.3g}, more than {factor:g} times {whose}"
                del kept[peer]

    def norms(base: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        return {peer: norm(offer.tensors, base) for peer, offer in kept.items()}

    if fresh is not None:
        sift_out("its weights", norms(), MOST_GROWN, norm(fresh), "a fresh one's")
    bases = [("its weights", None), ("its change since the last averaging", reference)]
    for what, base in bases if reference is not None else bases[:1]:
        if found := norms(base):
            sift_out(what, found, norm_factor, lower_median(list(found.values())), "the median")
    return Sifted(kept, dropped)


def mean(offers: Mapping[str, Offer]) -> dict[str, Tensor]:
    """The mean of adapters by their tokens, in double precision, back in their own type.

    Raises ValueError where there is none."""
    import torch

    if not offers:
        raise ValueError("no adapters to average")
    shares = weights({peer: offer.tokens for peer, offer in offers.items()})
    first = next(iter(offers.values())).tensors
    made = {}
    for name, tensor in first.items():
        total = torch.zeros(tensor.shape, dtype=torch.float64)
        for peer in sorted(offers):  # every peer adds in the same order and gets the same bits
            total += offers[peer].tensors[name].to(torch.float64) * shares[peer]
        made[name] = total.to(tensor.dtype)
    return made


def weights(tokens: Mapping[str, int]) -> dict[str, float]:
    """Each peer's share of a mean, by tokens, none above twice the median; equal where nobody has any.

    Where most have none (the plan's last rows go to a few) the median is that of those who have."""
    counts = {peer: max(0, n) for peer, n in tokens.items()}
    some = [n for n in counts.values() if n]
    cap = float(MOST_WEIGHT * (lower_median([*counts.values()]) or lower_median(some or [0])))
    capped = {peer: min(float(n), cap) for peer, n in counts.items()}
    total = sum(capped.values())
    return {peer: (n / total if total else 1.0 / len(capped)) for peer, n in capped.items()}


def norm(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor] | None = None) -> float:
    """The Euclidean norm over all tensors together, of their difference to ``base`` where that is given."""
    squares = 0.0
    for name, tensor in tensors.items():
        moved = tensor.double() if base is None else tensor.double() - base[name].double()
        squares += float((moved * moved).sum())
    return math.sqrt(squares)


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    import torch

    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            return f"{name}: {bad} of {tensor.numel()} numbers are not finite"
    return ""
