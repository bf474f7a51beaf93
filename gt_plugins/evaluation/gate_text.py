"""How scores and thresholds are printed: two decimals, never so that a refused score looks like enough."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

_CENT = Decimal("0.01")


def floor2(score: float) -> str:
    """``score`` with two decimals, rounded down; ``nan`` where it is no number."""
    return _round(score, ROUND_FLOOR)


def ceil2(threshold: float) -> str:
    """``threshold`` with two decimals, rounded up."""
    return _round(threshold, ROUND_CEILING)


def _round(value: float, how: str) -> str:
    if not math.isfinite(value):
        return str(value)
    # repr gives the shortest decimal that is this float, so 0.29 stays 0.29 and is not 0.28.
    return str(Decimal(repr(float(value))).quantize(_CENT, rounding=how))
