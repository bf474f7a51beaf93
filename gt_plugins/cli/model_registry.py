"""``gt model list|show|diff|verify|journal|alias|prune``: looking at the registry and keeping it small."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, ModelsOption, print_json

if TYPE_CHECKING:
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
    from .model_list import list_versions as listing

    listing(_home(models), model, role, as_json)


def show(ref: ModelArgument, models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """Show one version: its files, what it was trained on, how it was scored, where it is live."""
    from ..registry.evals import entry_problem
    from ..registry.journal import fold
    from ..registry.versions import resolve
    from .model_list import entry

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
    document = entry(version, state) | {"results": results, "manifest": version.manifest}
    if as_json:
        print_json(document)
        return
    _print_version(version, document)


def _print_version(version: Version, document: dict[str, Any]) -> None:
    from ..registry.compare import flat
    from .model_list import two

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
    from .model_list import two

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
    if not found:
        print(f"no events{f' of {model}' if model else ''} in {_home(models)}")
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
