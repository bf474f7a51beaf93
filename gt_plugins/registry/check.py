"""Is the registry sound? Journal lines, every version's files, every stored result, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .evals import verify_evals
from .journal import fold, journal_path
from .versions import adopt_orphans, all_versions, orphans, resolve, verify


def check_registry(home: Path, ref: str = "", *, adopt: bool = False) -> dict[str, Any]:
    """``{"versions", "results", "lines", "problems": [line], "adopted": [ref]}``; ``ref`` limits it.

    Raises UserError where ``ref`` names nothing.
    """
    adopted = adopt_orphans(home) if adopt else []
    state = fold(home)
    if not ref:
        chosen = all_versions(home, state)
    elif ":" in ref or "@" in ref:
        chosen = [resolve(home, ref, state=state)]
    else:
        model = resolve(home, ref, state=state).model
        chosen = [v for v in all_versions(home, state) if v.model == model]
    problems = [f"{journal_path(home)}: line {p.line}: {p.problem}" for p in state.problems]
    for path in [] if ref else orphans(home, state):
        problems.append(f"{path}: a whole version that the journal does not know; gt model verify --adopt")
    results = 0
    for version in chosen:
        problems += verify(version)
        problems += verify_evals(home, version, state)
        results += len(state.evaluated.get((version.model, version.version), []))
    return {
        "versions": len(chosen),
        "results": results,
        "lines": state.lines,
        "problems": problems,
        "adopted": [v.ref for v in adopted],
    }
