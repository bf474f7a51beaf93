"""Suites of decision cases: evidence, the actions allowed, and what counts as right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..sim.suite_text import decision_question, decision_schema


@dataclass(frozen=True)
class Case:
    """One situation. Any of ``expected`` is right; ``group`` is for the figures, not for the score."""

    id: str
    group: str
    evidence: str
    allowed: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """Cases that a role can be held to; ``required`` ones stand before every deploy of these roles."""

    name: str
    roles: tuple[str, ...]
    required: bool
    cases: Callable[[], Sequence[Case]]
    description: str = ""


def decision_body(
    model: str, system: str, prime: str, case: Case, *, max_tokens: int = 256
) -> dict[str, Any]:
    """A case as a ``/v1/messages`` body, as the gate asks it and as decision examples are taught."""
    return {
        "model": model,
        "max_tokens": max_tokens,
        "system": system,
        "messages": [
            {"role": "system", "content": f"<gt-prime>\n{prime}\n</gt-prime>"},
            {"role": "user", "content": decision_question(case.evidence, case.allowed)},
        ],
        "output_config": {"format": {"type": "json_schema", "schema": decision_schema(case.allowed)}},
    }


def all_suites() -> list[Suite]:
    """Every suite that plugins offer, built-ins first. Raises UserError where two share a name."""
    from ..plugins import all_answers

    suites = [s for offered in all_answers("gt_eval_suites") for s in offered]
    names = [s.name for s in suites]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two plugins offer a suite named {name!r}; disable one with GT_PLUGINS_DISABLE")
    return suites


def find_suite(name: str, role: str) -> Suite:
    """A suite by name, or one from a JSONL file. Raises UserError naming those there are."""
    path = Path(name)
    if path.suffix == ".jsonl" or path.is_file():
        return suite_from_file(path, role)
    suites = all_suites()
    for suite in suites:
        if suite.name == name:
            return suite
    raise UserError(
        f"no suite named {name!r}; there are {', '.join(s.name for s in suites)}, or a .jsonl file"
    )


def suite_from_file(path: Path, role: str) -> Suite:
    """A suite from a file with one case per line: id, evidence, allowed, expected (one or a list), group.

    It is called as the file is, with its ending, so that its results are never a required suite's.
    Raises UserError naming file, line and key."""
    if not path.is_file():
        problem = "a folder, not a suite file" if path.is_dir() else "no such suite file"
        raise UserError(in_file(path, "", problem, "give a .jsonl file with one case per line"))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "save it as UTF-8")) from None
    cases = [_case(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise UserError(in_file(path, "", "no cases in it", "write one JSON object per line"))
    often = Counter(case.id for case in cases)
    if twice := [name for name, count in often.items() if count > 1]:
        raise UserError(in_file(path, "id", f"{twice[0]!r} is there twice", "a comparison goes by ids"))
    return Suite(path.name, (role,), False, lambda: cases, f"from {path}")


def _case(path: Path, number: int, line: str) -> Case:
    where = f"line {number}"
    try:
        value: Mapping[str, Any] = json.loads(line)
    except ValueError as error:
        raise UserError(in_file(path, where, f"not JSON ({error})", "")) from None
    if not isinstance(value, dict):
        raise UserError(in_file(path, where, "not a JSON object", ""))
    expected: Any = value.get("expected")
    expected = [expected] if isinstance(expected, str) else expected
    allowed: Any = value.get("allowed")
    if not isinstance(value.get("evidence"), str):
        raise UserError(in_file(path, f"{where}: evidence", "must be a string", ""))
    for key, found in (("allowed", allowed), ("expected", expected)):
        if not isinstance(found, list) or not found or not all(isinstance(v, str) for v in found):
            raise UserError(in_file(path, f"{where}: {key}", "must be a list of action names", ""))
    if not set(expected) <= set(allowed):
        raise UserError(in_file(path, f"{where}: expected", "is not among the allowed actions", ""))
    return Case(
        str(value.get("id", number)),
        str(value.get("group", "")),
        value["evidence"],
        tuple(allowed),
        tuple(expected),
    )
