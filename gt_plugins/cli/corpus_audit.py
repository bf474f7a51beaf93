"""``gt corpus audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import JsonOption, TownOption, checked_town, print_json

if TYPE_CHECKING:
    from ..corpus.audit.report import AuditReport, Rate
    from ..town.root import Town


def register(app: typer.Typer) -> None:
    """Mount the command on ``gt corpus``."""
    app.command()(audit)


def audit(
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many stored rows to look at.")] = 50,
    since: Annotated[
        str, typer.Option("--since", help="Only rows captured since: 7d, 36h, 2w or a date.")
    ] = "",
    history: Annotated[bool, typer.Option("--history", help="Show earlier audits, scan nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", hidden=True)] = False,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Look for what scrubbing missed or replaced without need in a sample of stored rows."""
    from ..corpus.audit.report import series
    from ..corpus.audit.run import audit as run_audit
    from ..corpus.audit.run import parse_since
    from ..town.root import find_town

    start = parse_since(since)
    if quiet:
        _quiet(find_town(town), sample, start)
        return
    place = checked_town(town)
    if history:
        _print_history(place, json)
        return
    if json:
        report = run_audit(place, sample=sample, since=start)
        print_json({**report.to_json(), "audits": sum(1 for _ in series(place))})
        return
    _print(run_audit(place, sample=sample, since=start))


def _quiet(town: Town, sample: int, since: str) -> None:
    """The timer's run: its result, or the kind of its failure, is a line in ``.corpus/log``."""
    from ..corpus.audit.run import audit as run_audit
    from ..corpus.store import now
    from ..durable import append_line
    from ..errors import FinetuneError

    log = town.corpus_dir / "log"
    try:
        report = run_audit(town, sample=sample, since=since)
    except UserError as error:  # nothing is stored yet
        if town.corpus_dir.is_dir():
            append_line(log, {"at": now(), "audit": str(error)})
        return
    except Exception as error:
        message = str(error) if isinstance(error, FinetuneError) else ""
        append_line(log, {"at": now(), "audit": "failed", "error": type(error).__name__, "message": message})
        raise
    append_line(log, {"at": now(), "audit": report.entry()})


def _print_history(town: Town, json: bool) -> None:
    from ..corpus.audit.report import series
    from .tables import print_table

    entries = list(series(town))
    if json:
        print_json({"audits": entries})
        return
    if not entries:
        print("no audit yet; `gt corpus audit` makes one")
        return
    rows = [
        (e["at"], str(e["sampled"]), _share(e["any_miss"]), _share(e["over_redaction"]), str(e["reversions"]))
        for e in entries
    ]
    print_table(("at", "rows", "rows with a suspected miss", "needless replacements", "reversions"), rows)


def _share(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})" if rate["of"] else "none judged"


def _print(report: AuditReport) -> None:
    from dataclasses import asdict

    from .tables import print_table

    window = f" captured since {report.since}" if report.since else ""
    print(f"{report.sampled} of {report.rows} rows{window}, {report.characters} characters")
    print(f"rows with a suspected miss: {_share(asdict(report.any_miss))}")
    over = _share(asdict(report.over_redaction))
    print(f"replaced without need: {over}; {report.judged} of the sampled sessions still have their file")
    rows = _rates("missed, by the rules", report.missed_by_rules)
    rows += _rates("missed, by other detectors", report.missed_by_independent)
    rows += _rates("replaced without need", report.over_redacted)
    if rows:
        print_table(("what", "type", "count", "rate", "95 % interval"), rows)
    for place in report.places[:20]:
        turn = f", turn {place.turn}" if place.turn else ""
        print(f"look at: gt corpus show {place.row}{turn}: {place.kind} ({place.by})")
    if len(report.places) > 20:
        print(f"and {len(report.places) - 20} more places; --json lists them")
    if report.outdated:
        print(f"{report.outdated} rows are of another policy; gt corpus rescrub renews them")
    for found in report.reversions:
        print(f"reversion {found.get('id', '')}: {found.get('key', '')}; gt corpus reversions list")
    for ref in report.failed:
        print(f"could not be looked at: {ref}")


def _rates(what: str, rates: object) -> list[tuple[str, str, str, str, str]]:
    found: dict[str, Rate] = dict(rates)  # type: ignore[call-overload]
    return [
        (what, kind, f"{r.count} of {r.of}", f"{r.rate:.3f}", f"{r.low:.3f} to {r.high:.3f}")
        for kind, r in found.items()
    ]
