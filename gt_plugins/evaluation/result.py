"""What an evaluation found: every case, the score with its interval, and the comparisons that were made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import NonRetriableError
from .stats import Paired, paired, wilson


@dataclass(frozen=True)
class CaseResult:
    """One case: what was expected, what came, and whether that counts as right."""

    id: str
    group: str
    expected: str
    got: str
    correct: bool


@dataclass(frozen=True)
class EvalResult:
    """One run of one suite on one version.

    ``score`` is the fraction of cases that were right, ``low`` and ``high`` its 95 % Wilson interval.
    ``served``: the answers came through the endpoint with grammar and fence, as they will in the town;
    only such a result counts at the gate. ``versus`` holds paired comparisons by name of the other side.
    """

    model: str
    version: str
    suite: str
    score: float
    n: int
    low: float
    high: float
    cases: tuple[CaseResult, ...] = ()
    engine: str = ""
    served: bool = False
    groups: dict[str, float] = field(default_factory=dict)
    versus: dict[str, Any] = field(default_factory=dict)
    at: str = ""

    @classmethod
    def from_cases(
        cls,
        model: str,
        version: str,
        suite: str,
        cases: Iterable[CaseResult],
        *,
        engine: str = "",
        served: bool = False,
        versus: Mapping[str, Any] | None = None,
        at: str = "",
    ) -> EvalResult:
        """Score ``cases``: over all, and per group. Raises ValueError where there is none."""
        rows = tuple(cases)
        if not rows:
            raise ValueError("an evaluation needs at least one case")
        right = sum(row.correct for row in rows)
        low, high = wilson(right, len(rows))
        groups: dict[str, list[bool]] = {}
        for row in rows:
            groups.setdefault(row.group, []).append(row.correct)
        shares = {name: sum(hits) / len(hits) for name, hits in groups.items()}
        score = right / len(rows)
        return cls(
            model,
            version,
            suite,
            score,
            len(rows),
            low,
            high,
            rows,
            engine,
            served,
            shares,
            dict(versus or {}),
            at,
        )

    def against(self, other: EvalResult) -> Paired:
        """Paired comparison over the cases that both answered; positive where this one is better."""
        theirs = {row.id: row.correct for row in other.cases}
        return paired((row.correct, theirs[row.id]) for row in self.cases if row.id in theirs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> EvalResult:
        """The inverse of :meth:`to_json`; unknown keys are left out. Raises NonRetriableError."""
        try:
            known = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
            names = CaseResult.__dataclass_fields__
            known["cases"] = tuple(
                CaseResult(**{k: v for k, v in row.items() if k in names}) for row in value.get("cases", ())
            )
            known["score"] = math.nan if known["score"] is None else float(known["score"])
            return cls(**known)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NonRetriableError(f"not an evaluation result ({error})") from None
