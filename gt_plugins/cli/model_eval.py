"""``gt model eval``: run a version's suites and store what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from .common import JsonOption, ModelsOption, print_json

if TYPE_CHECKING:
    from ..evaluation.result import CaseResult, EvalResult
    from ..registry.versions import Version


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("eval")(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL[:V]", help="MODEL, MODEL:v2 or MODEL@live.")],
    suite: Annotated[str, typer.Option("--suite", help="One suite, or a .jsonl file of cases.")] = "",
    against: Annotated[str, typer.Option("--against", help="MODEL:V to compare with, case by case.")] = "",
    against_base: Annotated[bool, typer.Option("--against-base", help="Compare with the base too.")] = False,
    choice: Annotated[bool, typer.Option("--choice", help="Choice scoring: a diagnostic.")] = False,
    endpoint: Annotated[str, typer.Option("--endpoint", help="URL of one that runs; a diagnostic.")] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="Its token.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="llama.cpp or transformers.")] = "",
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a version on the suites of its role, through an endpoint as it will be served."""
    from ..evaluation import evaluate as evaluation
    from ..registry import evals
    from ..registry.versions import resolve
    from ..settings import models_home
    from ..training.adapter import quiet_libraries

    quiet_libraries()
    home = models_home(models)
    version = resolve(home, model)
    other = resolve(home, against) if against else None
    token = _token(token_file) if token_file else ""
    results = []
    for chosen in evaluation.suites_for(version.role, suite):
        with Bar(chosen.name, len(chosen.cases()), quiet=as_json) as bar:
            if endpoint:
                result = evaluation.evaluate_at(version, chosen, endpoint, token, bar)
            elif choice:
                result = evaluation.evaluate_choice(version, chosen, engine, bar)
            else:
                result = evaluation.evaluate(version, chosen, engine, bar)
        if other is not None:
            result = evaluation.compare(other.ref, result, _other(home, other, chosen, as_json))
        if against_base:
            with Bar("base", len(chosen.cases()), quiet=as_json) as bar:
                result = evaluation.compare("base", result, evaluation.evaluate_base(version, chosen, bar))
        evals.store(home, version, result)
        results.append(result)
    if as_json:
        print_json([r.to_json() for r in results])
    else:
        for result in results:
            print(summary(result))


def _token(path: Path) -> str:
    """The token in a file. Raises UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {problem} (--token-file)") from None


def _other(home: Path, other: Version, suite: Any, quiet: bool) -> EvalResult:
    """The other side's stored result on the suite, or a fresh one."""
    from ..evaluation import evaluate as evaluation
    from ..registry import evals

    stored = evals.latest(home, other, suite.name, served=True)
    if stored is not None:
        return stored
    if other.role not in suite.roles:
        raise UserError(f"{other.ref} is for {other.role}, which suite {suite.name} is not for")
    with Bar(other.ref, len(suite.cases()), quiet=quiet) as bar:
        return evaluation.evaluate(other, suite, told=bar)


class Bar:
    """Progress over a suite's cases, with the share that is right so far."""

    def __init__(self, name: str, total: int, quiet: bool) -> None:
        from .progress import Stages

        self.name, self.total = name, total
        self.done = self.right = 0
        self.stages = Stages(enabled=not quiet)

    def __enter__(self) -> Bar:
        self.stages.__enter__()
        return self

    def __exit__(self, *gone: Any) -> None:
        self.stages.__exit__(*gone)

    def __call__(self, case: CaseResult) -> None:
        self.done += 1
        self.right += case.correct
        self.stages.update(self.name, self.done, self.total, f"{self.right / self.done:.2f} right")


def summary(result: EvalResult) -> str:
    """A few lines for a person."""
    from ..evaluation.gate_text import floor2

    how = "as served" if result.served else "diagnostic"
    who = f"{result.model}:{result.version}" if result.version else result.model
    lines = [
        f"{who} on {result.suite}: {floor2(result.score)} "
        f"({result.low:.2f} to {result.high:.2f}, {result.n} cases, {how}, {result.engine})"
    ]
    lines += [f"  {name}: {share:.2f}" for name, share in result.groups.items() if name]
    for name, row in result.versus.items():
        lines.append(
            f"  against {name}: {row['score']:.2f}, difference {row['difference']:+.2f} "
            f"({row['low']:+.2f} to {row['high']:+.2f}), p {row['p']:.2g}"
        )
    return "\n".join(lines)
