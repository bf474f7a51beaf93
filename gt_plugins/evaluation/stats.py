"""The few statistics that a gate needs, exact where that is cheap; no scipy.

Sources: Wilson 1927 (score interval); McNemar's test in its exact binomial form; Bonett and Price 2012
(interval of a paired difference, "Adjusted Wald with Laplace").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z95 = 1.96


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval of a share of ``k`` in ``n``, within 0 to 1; (0, 1) where nothing was counted.

    Raises ValueError unless 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no share")
    if n == 0:
        return 0.0, 1.0
    share = k / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    low = 0.0 if k == 0 else max(0.0, (middle - spread) / scale)
    high = 1.0 if k == n else min(1.0, (middle + spread) / scale)
    return low, high


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p that two answerers are equally good, from the cases on which they differ.

    ``b`` cases only the first had right, ``c`` only the second. Twice the smaller binomial tail at 1/2,
    at most 1. Raises ValueError for a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError("counts cannot be negative")
    n = b + c
    tail, term = 0, 1
    for i in range(min(b, c) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2**n)


@dataclass(frozen=True)
class Paired:
    """Two answerers on the same ``n`` cases: ``difference`` in score (first minus second), interval, p."""

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def paired(pairs: Iterable[tuple[bool, bool]], z: float = Z95) -> Paired:
    """Compare two answerers case by case. Raises ValueError without a case."""
    n = b = c = 0
    for first, second in pairs:
        n += 1
        b += bool(first) and not second
        c += bool(second) and not first
    if n == 0:
        raise ValueError("no case was answered by both")
    low, high = paired_interval(b, c, n, z)
    return Paired(n, b, c, (b - c) / n, low, high, mcnemar_exact(b, c))


def paired_interval(b: int, c: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval of the paired difference (b - c) / n, within -1 to 1. Raises ValueError unless b + c <= n."""
    if min(b, c) < 0 or b + c > n:
        raise ValueError(f"{b} and {c} of {n} are no counts")
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    middle = first - second
    spread = z * math.sqrt((first + second - middle * middle) / (n + 2))
    return max(-1.0, middle - spread), min(1.0, middle + spread)
