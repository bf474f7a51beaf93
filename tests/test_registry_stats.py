"""Wilson, exact McNemar and the paired interval against published values and brute force."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins.errors import NonRetriableError
from gt_plugins.evaluation.result import CaseResult, EvalResult
from gt_plugins.evaluation.stats import mcnemar_exact, paired, paired_interval, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_matches_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n, 1.959964) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_holds_the_share(k: int, extra: int) -> None:
    n = k + extra
    low, high = wilson(k, n)
    assert 0.0 <= low <= high <= 1.0
    if n:
        assert low <= k / n <= high


def test_wilson_refuses_what_is_no_share() -> None:
    for k, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="no share"):
            wilson(k, n)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 1, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (2, 10, 158 / 4096),
        (10, 2, 158 / 4096),
    ],
)
def test_mcnemar_exact_known_values(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p, rel=1e-12)


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_the_sum_over_all_outcomes(b: int, c: int) -> None:
    n = b + c
    extreme = abs(b - c)
    hits = sum(abs(2 * sum(flips) - n) >= extreme for flips in product((0, 1), repeat=n)) if n <= 12 else None
    if hits is not None:
        assert mcnemar_exact(b, c) == pytest.approx(min(1.0, hits / 2**n))
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_with_many_cases_stays_finite() -> None:
    assert 0.0 <= mcnemar_exact(100, 4000) < 1e-300
    assert mcnemar_exact(2000, 2000) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


def test_paired_interval_by_hand() -> None:
    low, high = paired_interval(20, 5, 100)
    p, q = 21 / 102, 6 / 102
    half = 1.96 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert (low, high) == pytest.approx((p - q - half, p - q + half))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_is_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    one, other = paired(pairs), paired([(b, a) for a, b in pairs])
    assert one.difference == -other.difference
    assert one.p == other.p
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.low <= one.high


def test_a_result_scores_groups_and_compares_only_common_cases() -> None:
    def result(version: str, answers: dict[str, bool]) -> EvalResult:
        rows = [CaseResult(k, k[0], "a", "a" if ok else "b", ok) for k, ok in answers.items()]
        return EvalResult.from_cases("m", version, "s", rows, served=True)

    tuned = result("v2", {"a1": True, "a2": True, "b1": False, "b2": True})
    base = result("v1", {"a1": False, "a2": False, "b1": False, "zz": True})
    assert tuned.score == 0.75
    assert tuned.groups == {"a": 1.0, "b": 0.5}
    versus = tuned.against(base)
    assert (versus.n, versus.only_first, versus.only_second, versus.p) == (3, 2, 0, 0.5)
    assert EvalResult.from_json(tuned.to_json()) == tuned


@pytest.mark.parametrize("value", [None, [], {}, {"model": "m"}, {"cases": 3}, {"score": "x"}])
def test_what_is_no_result_is_said_to_be_none(value: object) -> None:
    with pytest.raises(NonRetriableError, match="not an evaluation result"):
        EvalResult.from_json(value)
    with pytest.raises(ValueError, match="at least one case"):
        EvalResult.from_cases("m", "v1", "s", [])
