"""The gate before a deploy: every plugin's verdict must allow, and the first of them is the threshold.

A version's score is that of its worst required suite, as it was served; a result whose file is not what the
journal says does not count. A gate that fails to answer refuses: silence is no consent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hookimpl
from ..errors import GateRefused, UserError, in_file
from .gate_text import ceil2, floor2

if TYPE_CHECKING:
    from ..registry.versions import Version
    from ..settings import Settings
    from ..town.root import Town
    from .result import EvalResult

THRESHOLD = "threshold"


@dataclass(frozen=True)
class Candidate:
    """A version that wants to be deployed to a role, and what is known of it.

    ``required`` are the suites that the role must pass; ``results`` holds the newest intact result per
    suite as served, ``problems`` says per suite why there is none.
    """

    version: Version
    role: str
    threshold: float
    required: tuple[str, ...]
    results: dict[str, EvalResult]
    problems: dict[str, str] = field(default_factory=dict)
    town: Town | None = None
    home: Path | None = None

    @property
    def score(self) -> float | None:
        """The score of the worst required suite; None while one of them has no result that counts."""
        if not self.required or any(name not in self.results for name in self.required):
            return None
        scores = [self.results[name].score for name in self.required]
        return math.nan if any(math.isnan(s) for s in scores) else min(scores)


@dataclass(frozen=True)
class Verdict:
    """What one gate says; ``reason`` is one line for a person, needed where ``allow`` is False."""

    allow: bool
    gate: str
    reason: str = ""


class Refused(GateRefused):
    """A gate said no; ``verdicts`` are those of all gates."""

    def __init__(self, message: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(message)
        self.verdicts = tuple(verdicts)


@hookimpl
def gt_deploy_gates(candidate: Candidate) -> Verdict:
    """The threshold: the worst required suite must reach it."""
    ref = candidate.version.ref
    if not candidate.required:
        reason = (
            f"No suite is required for {candidate.role}, so nothing vouches for {ref}. "
            "Add one or override with --force-deploy."
        )
        return Verdict(False, THRESHOLD, reason)
    for name in candidate.required:
        if name not in candidate.results:
            why = candidate.problems.get(name, "it was never evaluated as served")
            reason = (
                f"Model {ref} has no score on suite {name}: {why}. "
                "Run eval suite or override with --force-deploy."
            )
            return Verdict(False, THRESHOLD, reason)
    score = candidate.score
    assert score is not None
    if score >= candidate.threshold:
        return Verdict(True, THRESHOLD, f"{floor2(score)} reaches {ceil2(candidate.threshold)}")
    reason = (
        f"Model score {floor2(score)} below threshold {ceil2(candidate.threshold)}. "
        "Run eval suite again or override with --force-deploy."
    )
    return Verdict(False, THRESHOLD, reason)


def candidate_for(home: Path, version: Version, role: str, town: Town, settings: Settings) -> Candidate:
    """What the gates judge, from the registry and the suites that plugins require for the role."""
    from ..registry import evals
    from ..registry.journal import fold

    state = fold(home)
    results: dict[str, EvalResult] = {}
    problems: dict[str, str] = {}
    required = required_suites(role)
    for name in required:
        entry = evals.latest_entry(home, version, name, served=True, state=state)
        if entry is None:
            if evals.latest_entry(home, version, name, state=state) is not None:
                problems[name] = "it was evaluated, but not as it is served"
            continue
        problem = evals.entry_problem(home, entry)
        if problem:
            problems[name] = problem
        else:
            results[name] = evals.load(home, entry)
    threshold = threshold_for(settings, role)
    return Candidate(version, role, threshold, required, results, problems, town, home)


def required_suites(role: str) -> tuple[str, ...]:
    """Names of the suites that plugins require for a role, each once, built-ins first."""
    from .suites import all_suites

    suites = all_suites()
    return tuple(dict.fromkeys(s.name for s in suites if s.required and role in s.roles))


def threshold_for(settings: Settings, role: str) -> float:
    """The role's own threshold (``[gate.roles] deacon = 0.95``), else the town's. Raises UserError."""
    gate: dict[str, Any] = settings.raw.get("gate") or {}
    roles = gate.get("roles", {})
    if not isinstance(roles, dict):
        raise UserError(in_file(settings.path, "gate.roles", "not a table", "write it as [gate.roles]"))
    value = roles.get(role, settings.threshold)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise UserError(
            in_file(settings.path, f"gate.roles.{role}", f"{value!r} is no fraction", "use 0.0 to 1.0")
        )
    return float(value)


def run_gates(candidate: Candidate) -> list[Verdict]:
    """Every gate's verdict, the threshold's first. A gate that raises or answers with none refuses."""
    from ..plugins import implementations

    verdicts = []
    for gate in implementations("gt_deploy_gates"):
        name = gate.name.rpartition(".")[2]
        try:
            verdict = gate(candidate=candidate)
        except Exception as error:
            verdicts.append(Verdict(False, name, f"Gate {name} failed ({type(error).__name__}: {error})."))
            continue
        if not isinstance(verdict, Verdict):
            verdict = Verdict(False, name, f"Gate {name} gave no verdict.")
        verdicts.append(verdict)
    return sorted(verdicts, key=lambda v: v.gate != THRESHOLD)


def check(verdicts: Sequence[Verdict]) -> None:
    """Raises Refused with the reasons of those that refuse, one per line."""
    refused = [v.reason or f"Gate {v.gate} refused." for v in verdicts if not v.allow]
    if refused:
        raise Refused("\n".join(refused), verdicts)
