"""The learning rate over a run: a straight warm-up, then one of four ways down."""

from __future__ import annotations

import math


def rate_share(
    step: int, total: int, warmup: float, kind: str = "cosine", decay: float = 0.2, floor: float = 0.0
) -> float:
    """Share of the recipe's rate at a step counted from 0.

    ``cosine``: half a cosine from the warm-up to the end (Loshchilov and Hutter 2017, without restarts).
    ``wsd``: warm-up, stable, then a straight fall over the last ``decay`` of the steps (Hu et al. 2024,
    MiniCPM). ``linear``: a straight fall. ``constant``: none. All but the last end at ``floor``.
    """
    up = max(1, round(total * warmup))
    if step < up:
        return (step + 1) / up
    gone = (step - up) / max(1, total - up)
    match kind:
        case "constant":
            left = 1.0
        case "linear":
            left = 1.0 - gone
        case "wsd":
            down = min(total - up, max(1, round(total * decay)))
            left = min(1.0, (total - step) / max(1, down))
        case _:
            left = 0.5 * (1.0 + math.cos(math.pi * gone))
    return floor + (1.0 - floor) * left
