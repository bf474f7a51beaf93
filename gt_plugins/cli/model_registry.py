"""``gt model list|show|diff|verify|journal|alias|prune``: looking at the registry and keeping it small."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, ModelsOption, print_json

if TYPE_CHECKING:
    from ..registry.journal import State
    from ..registry.versions import Version

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL[:V]", help="MODEL, MODEL:v2 or MODEL@live.")]


def register(app: typer.Typer) -> None:
    """Mount these commands."""
    app.command("list")(list_versions)
    app.command("show")(show)
    app.command("diff")(diff)
    app.command("verify")(verify_command)
    app.command("journal")(journal)
    app.command("alias")(alias)
    app.command("prune")(prune)


def _home(models: Path | None) -> Path:
    from ..settings import models_home

    return models_home(models)


def list_versions(
    model: Annotated[str, typer.Argument(help="Only this model.", show_default=False)] = "",
    role: Annotated[str, typer.Option("--role", help="Only models of this role.", show_default=False)] = "",
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every version: its role, its score, and where it is live."""
    from ..registry.journal import fold
    from ..registry.versions import all_versions, resolve

    home = _home(models)
    state = fold(home)
    if model:
        resolve(home, model, state=state)
    chosen = [v for v in all_versions(home, state) if model in ("", v.model) and role in ("", v.role)]
    if as_json:
        print_json([_entry(v, state) for v in chosen])
        return
    _print_versions(home, chosen, state)


def _print_versions(home: Path, chosen: list[Version], state: State) -> None:
    import sys

    from .tables import print_table

    names = _standing(state)
    rows = []
    for version in chosen:
        score = worst_score(state, version)
        rows.append(
            [
                version.ref,
                version.role,
                "-" if score is None else two(score),
                " ".join(names.get((version.model, version.version), [])) or "-",
                version.created[:16].replace("T", " "),
                version.base,
            ]
        )
    if rows:
        print_table(["VERSION", "ROLE", "SCORE", "STANDS AS", "CREATED", "BASE"], rows)
    else:
        print(f"no versions in {home}")
    if state.problems:
        print(f"{len(state.problems)} journal lines could not be used: gt model verify", file=sys.stderr)


def two(score: float) -> str:
    """A score with two decimals, rounded down: 0.899 is not 0.90."""
    from ..evaluation.gate_text import floor2

    return floor2(score)


def worst_score(state: State, version: Version) -> float | None:
    """The worst of the version's newest results per suite, as journaled; None where there is none.

    Results that came through the endpoint go first: the others are shown only where there is no such one.
    """
    entries = state.evaluated.get((version.model, version.version), [])
    served = [e for e in entries if e.served] or entries
    newest = {entry.suite: entry.score for entry in served}
    scores = [-math.inf if math.isnan(s) else s for s in newest.values()]
    worst = min(scores, default=None)
    return math.nan if worst == -math.inf else worst


def _standing(state: State) -> dict[tuple[str, str], list[str]]:
    """(model, version) → ``live:deacon``, ``previous:deacon``, ``@alias``."""
    from os.path import basename

    towns = {town for town, _ in state.stacks}
    found: dict[tuple[str, str], list[str]] = {}
    for word, table in (("live", state.live), ("previous", state.previous)):
        for (town, role), entry in table.items():
            where = f"@{basename(town)}" if len(towns) > 1 else ""
            found.setdefault((entry.model, entry.version), []).append(f"{word}:{role}{where}")
    for (model, name), version in state.aliases.items():
        found.setdefault((model, version), []).append(f"@{name}")
    return found


def _entry(version: Version, state: State) -> dict[str, Any]:
    """A version as one JSON object, from the journal alone."""
    key = (version.model, version.version)

    def where(table: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
        return [
            {"town": town, "role": role, "rigs": list(d.rigs), "at": d.at, "by": d.by, "forced": d.forced}
            for (town, role), d in table.items()
            if (d.model, d.version) == key
        ]

    score = worst_score(state, version)
    return {
        "model": version.model,
        "version": version.version,
        "role": version.role,
        "base": version.base,
        "created": version.created,
        "path": str(version.path),
        "bytes": version.bytes,
        "score": None if score is None or math.isnan(score) else score,
        "suites": {e.suite: e.score for e in state.evaluated.get(key, []) if not math.isnan(e.score)},
        "aliases": [name for (model, name), v in state.aliases.items() if (model, v) == key],
        "live": where(state.live),
        "previous": where(state.previous),
    }


def show(ref: ModelArgument, models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """Show one version: its files, what it was trained on, how it was scored, where it is live."""
    from ..registry.evals import entry_problem
    from ..registry.journal import fold
    from ..registry.versions import resolve

    home = _home(models)
    state = fold(home)
    version = resolve(home, ref, state=state)
    results = [
        {
            "suite": e.suite,
            "score": None if math.isnan(e.score) else e.score,
            "served": e.served,
            "at": e.at,
            "file": str(home / e.file),
            "problem": entry_problem(home, e) or None,
        }
        for e in state.evaluated.get((version.model, version.version), [])
    ]
    document = _entry(version, state) | {"results": results, "manifest": version.manifest}
    if as_json:
        print_json(document)
        return
    _print_version(version, document)


def _print_version(version: Version, document: dict[str, Any]) -> None:
    from ..registry.compare import flat

    print(f"{version.ref}  ({version.role}, base {version.base}, {version.created})")
    print(f"  in {version.path}, {version.bytes:,} bytes in {len(version.manifest.get('files', {}))} files")
    for word in ("live", "previous"):
        for place in document[word]:
            forced = ", forced past the gate" if place["forced"] else ""
            print(f"  {word} for {place['role']} in {place['town']} since {place['at']}{forced}")
    for name in document["aliases"]:
        print(f"  alias {version.model}@{name}")
    for result in document["results"]:
        score = "none" if result["score"] is None else two(result["score"])
        how = "as served" if result["served"] else "not as served"
        note = f"  DOES NOT COUNT: {result['problem']}" if result["problem"] else ""
        print(f"  {result['suite']}: {score} ({how}, {result['at']}){note}")
    for key, value in flat(version.manifest.get("meta") or {}).items():
        print(f"  {key} = {value}")


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="MODEL:V")],
    second: Annotated[str, typer.Argument(metavar="B", help="MODEL:V")],
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: what they were trained on, their files, and their answers case by case."""
    from ..registry.compare import compare
    from ..registry.versions import resolve

    home = _home(models)
    document = compare(home, resolve(home, first), resolve(home, second))
    if as_json:
        print_json(document)
        return
    a, b = document["a"], document["b"]
    for key, (one, other) in document["manifest"].items():
        print(f"{key}: {one} -> {other}")
    for name, change in document["files"].items():
        print(f"{name}: {change}")
    for suite, p in document["suites"].items():
        print(
            f"{suite}: {a} {two(p['a'])}, {b} {two(p['b'])}, difference {p['difference']:+.2f} "
            f"({p['low']:+.2f} to {p['high']:+.2f}), p = {p['p']:.3g}, {p['n']} cases"
        )
    if not (document["manifest"] or document["files"] or document["suites"]):
        print(f"{a} and {b} do not differ")


def verify_command(
    ref: Annotated[str, typer.Argument(metavar="MODEL[:V]", help="Only this.", show_default=False)] = "",
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Enter whole versions that the journal lacks.")
    ] = False,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the journal, and every file's and every result's hash; exit 1 where something is wrong."""
    from ..registry.check import check_registry

    report = check_registry(_home(models), ref, adopt=adopt)
    if as_json:
        print_json(report)
    else:
        for line in report["adopted"]:
            print(f"entered {line} into the journal")
        for line in report["problems"]:
            print(line)
        found = f"{len(report['problems'])} problems" if report["problems"] else "all sound"
        print(f"{report['versions']} versions, {report['results']} results, {report['lines']} lines: {found}")
    if report["problems"]:
        raise typer.Exit(1)


def journal(
    model: Annotated[str, typer.Argument(help="Only events of this model.", show_default=False)] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many events.")] = 50,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: who deployed, rolled back, forced or pruned what, when and why."""
    from ..registry.journal import Problem, events

    found = [
        e for _, e in events(_home(models)) if not isinstance(e, Problem) and model in ("", e.get("model"))
    ]
    if as_json:
        print_json(found[-last:])
        return
    for event in found[-last:]:
        words = [
            f"{k}={v}" for k, v in event.items() if k not in ("at", "event", "sha256", "manifest_sha256")
        ]
        print(f"{event.get('at', '')}  {event['event']}  {' '.join(w for w in words if not w.endswith('='))}")


def alias(
    ref: ModelArgument,
    name: Annotated[str, typer.Argument(help="The name, e.g. best.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the name away.")] = False,
    models: ModelsOption = None,
) -> None:
    """Give a version a name of your own: MODEL@NAME. A named version is never pruned."""
    from ..registry.versions import set_alias

    if remove:
        version = set_alias(_home(models), ref.partition(":")[0], None, remove=name)
        print(f"{version.model}@{name} is gone (it was {version.ref})")
    else:
        version = set_alias(_home(models), ref, name)
        print(f"{version.model}@{name} is {version.ref}")


def prune(
    model: Annotated[str, typer.Argument(help="The model.")],
    keep: Annotated[int, typer.Option("--keep", min=0, help="How many of the newest stay.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions; what is live, previous or has an alias stays in any case."""
    from ..registry import retention

    home = _home(models)
    done = retention.plan(home, model, keep) if dry_run else retention.prune(home, model, keep)
    if as_json:
        removed = [v.version for v in done.removed]
        print_json(
            {"model": model, "dry_run": dry_run, "removed": removed, "kept": done.kept, "bytes": done.bytes}
        )
        return
    for version in done.removed:
        print(f"{'would remove' if dry_run else 'removed'} {version.ref} ({version.bytes:,} bytes)")
    for name, why in done.kept.items():
        if why != "among the newest":
            print(f"kept {model}:{name}: {why}")
    print(f"{len(done.removed)} versions, {done.bytes:,} bytes {'would be' if dry_run else 'are'} free")
