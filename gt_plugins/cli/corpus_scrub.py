"""``gt corpus scrub`` and ``gt corpus rescrub``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FinetuneError, UserError
from .common import JsonOption, TownOption, checked_town, print_json

if TYPE_CHECKING:
    from ..corpus.scrub.engine import Scrubber


def register(app: typer.Typer) -> None:
    """Mount the commands on ``gt corpus``."""
    app.command()(scrub)
    app.command()(rescrub)


def scrub(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file, a folder, or - for standard input.")],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="A new file or folder, or - for standard output.")
    ],
    report: Annotated[
        Path | None, typer.Option("--report", help="Write counts by type and layer here.")
    ] = None,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Replace secrets and personal data by typed surrogates; needs no town, and uses one's key inside it."""
    if json and target == "-":
        raise UserError("--json and - both want standard output; use --report FILE")
    from ..corpus.scrub.files import check_paths, scrub_path
    from ..durable import write_json

    check_paths(source, target)
    if report is not None and report.is_dir():
        raise UserError(f"{report}: a folder; name a file for --report")
    found = scrub_path(_scrubber(town), source, target)
    if report is not None:
        write_json(report, found.to_json())
    if json:
        print_json(found.to_json())
    elif target != "-":
        rows = [(kind, str(n)) for kind, n in sorted(found.replaced.items(), key=lambda kv: (-kv[1], kv[0]))]
        rows += [(f"skipped: {why}", str(n)) for why, n in sorted(found.skipped.items())]
        _print_rows(f"{found.files} files, {found.bytes} bytes", rows)


def _scrubber(town: Path | None) -> Scrubber:
    """The town's scrubber where there is one, so that surrogates agree; else one of this machine alone."""
    from ..corpus.scrub.engine import Scrubber, scrubber_for
    from ..corpus.scrub.policy import standalone_policy
    from ..town.root import find_town

    if town is not None:
        return scrubber_for(find_town(town))
    try:
        place = find_town()
    except UserError:
        return Scrubber(standalone_policy())
    return scrubber_for(place)


def rescrub(
    everything: Annotated[bool, typer.Option("--all", help="Also rows of the present policy.")] = False,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Scrub stored rows again whose policy version is not the present one."""
    from ..corpus.scrub.rescrub import rescrub as run_rescrub

    found = run_rescrub(checked_town(town), everything=everything)
    if json:
        print_json(found.to_json())
    else:
        rows = [(name, str(getattr(found, name))) for name in ("rescrubbed", "changed", "current")]
        rows += [(f"replaced: {kind}", str(n)) for kind, n in found.replaced.items()]
        _print_rows(f"{found.rows} rows, policy {found.policy}", rows)
        for folder in found.datasets:
            print(f"build again: {folder}")
    if found.failed:
        raise FinetuneError(f"{len(found.failed)} rows could not be scrubbed and keep their old policy")


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    from .tables import print_table

    print(title)
    if rows:
        print_table(("what", "count"), rows)
