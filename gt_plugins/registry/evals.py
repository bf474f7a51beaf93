"""Evaluation results: files that are only ever added, each hashed in the journal.

``<models>/<model>/evals/<version>-<suite>-<n>.json``. A file that does not match the journal's hash does
not count, and an older result does not stand in for it: what was measured last is unknown then.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

from ..durable import private_dir, write_bytes
from ..errors import NonRetriableError, UserError, in_file
from ..evaluation.result import EvalResult
from .journal import Evaluated, State, fold, locked, now, record
from .versions import Version, check_model_name

_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")


def store(home: Path, version: Version, result: EvalResult) -> Path:
    """Add a result and journal its hash; returns the file. Raises UserError where it is another version's."""
    if (result.model, result.version) != (version.model, version.version):
        raise UserError(f"a result of {result.model}:{result.version} cannot be stored with {version.ref}")
    check_model_name(version.model)
    result = result if result.at else replace(result, at=now())
    folder = private_dir(home / version.model / "evals")
    stem = f"{version.version}-{_UNSAFE.sub('_', result.suite) or 'suite'}"
    with locked(home):
        path = folder / f"{stem}-{_next(folder, stem)}.json"
        data = (json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n").encode()
        write_bytes(path, data)
        record(
            home,
            "evaluated",
            model=version.model,
            version=version.version,
            suite=result.suite,
            file=path.relative_to(home).as_posix(),
            sha256=hashlib.sha256(data).hexdigest(),
            score=result.score if math.isfinite(result.score) else None,
            n=result.n,
            served=result.served,
            engine=result.engine,
        )
    return path


def _next(folder: Path, stem: str) -> int:
    numbers = [p.stem.removeprefix(f"{stem}-") for p in folder.glob(f"{stem}-*.json")]
    return max((int(n) for n in numbers if n.isdecimal()), default=0) + 1


def latest(
    home: Path, version: Version, suite: str, *, served: bool | None = None, state: State | None = None
) -> EvalResult | None:
    """The newest result of a suite, or None where there is none or its file is not what was journaled.

    ``served=True`` looks only at results that came through the endpoint.
    """
    entry = latest_entry(home, version, suite, served=served, state=state)
    if entry is None or entry_problem(home, entry):
        return None
    return load(home, entry)


def latest_entry(
    home: Path, version: Version, suite: str, *, served: bool | None = None, state: State | None = None
) -> Evaluated | None:
    """The journal's newest entry of a suite, its file unread."""
    state = fold(home) if state is None else state
    found = [
        entry
        for entry in state.evaluated.get((version.model, version.version), [])
        if entry.suite == suite and (served is None or entry.served == served)
    ]
    return found[-1] if found else None


def entry_problem(home: Path, entry: Evaluated) -> str:
    """Why an entry's file does not count; empty where it does."""
    path = home / entry.file
    try:
        data = path.read_bytes()
    except OSError:
        return in_file(path, "", "is gone", "run the suite again")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        return in_file(path, "", "is not what the journal says was measured", "run the suite again")
    return ""


def load(home: Path, entry: Evaluated) -> EvalResult:
    """An entry's result. Raises NonRetriableError naming the file where it is not one."""
    path = home / entry.file
    try:
        return EvalResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, NonRetriableError) as error:
        raise NonRetriableError(in_file(path, "", str(error), "run the suite again")) from None


def verify_evals(home: Path, version: Version, state: State) -> list[str]:
    """What is wrong with a version's stored results, one line each."""
    entries = state.evaluated.get((version.model, version.version), [])
    return [problem for entry in entries if (problem := entry_problem(home, entry))]
