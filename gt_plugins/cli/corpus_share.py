"""``gt corpus share``: a rig's sessions to and from other towns that work on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import JsonOption, TownOption, checked_town, new_app, print_json

if TYPE_CHECKING:
    from ..corpus.share.exchange import Exchange

app = new_app("share", "Share a rig's sessions with other towns that work on it; opt-in, signed.")


def register(parent: typer.Typer) -> None:
    """Mount the commands."""
    parent.add_typer(app)


@app.command()
def key(town: TownOption = None, as_json: JsonOption = False) -> None:
    """Show this town's public key, for share.trust in the others' rig settings."""
    from ..corpus.share.keys import public_key

    made = public_key(checked_town(town))
    print_json({"key": made}) if as_json else print(made)


@app.command("export")
def export_(
    rig: Annotated[str, typer.Option("--rig", help="The rig whose sessions go out.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.")],
    role: Annotated[str | None, typer.Option("--role", help="Only this role's.")] = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a rig's sessions, scrubbed anew, into a signed bundle."""
    from ..corpus.share.exchange import export
    from ..town.roles import check_role

    if role is not None:
        check_role(role)
    done = export(checked_town(town), rig, out.absolute(), role)
    if as_json:
        print_json(done.to_json())
        return
    print(f"{done.path}: {done.sessions} sessions of rig {done.rig}, bundle {done.bundle[:12]}")
    _print_counts(done)


@app.command("import")
def import_(
    bundle: Annotated[Path, typer.Argument(help="A bundle that another town wrote.")],
    rig: Annotated[str | None, typer.Option("--rig", help="Our name for the rig, where it differs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count, store nothing.")] = False,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the sessions of a bundle, scrubbed by our own policy; all that may come in, or none."""
    from ..corpus.share.exchange import import_bundle

    done = import_bundle(checked_town(town), bundle.absolute(), rig, dry_run)
    if as_json:
        print_json(done.to_json())
        return
    would = "would come" if dry_run else "came"
    some = done.came["new"] + done.came["updated"]
    print(f"{some or 'no'} sessions of rig {done.rig} {would} in from {done.sender}", end=": ")
    print(", ".join(f"{count} {what}" for what, count in done.came.items()))
    _print_counts(done)


def _print_counts(done: Exchange) -> None:
    from .tables import print_table

    rows = [(f"left out: {why}", str(count)) for why, count in done.skipped.items()]
    rows += [(f"redacted: {kind}", str(count)) for kind, count in done.redactions.items()]
    if rows:
        print_table(("what", "count"), rows)
