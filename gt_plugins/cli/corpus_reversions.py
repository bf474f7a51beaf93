"""``gt corpus reversions``: conventions that went back on themselves, and what the operator says of them."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import JsonOption, TownOption, checked_town, new_app, print_json

if TYPE_CHECKING:
    from ..corpus.reversions import Reversion
    from ..corpus.scrub.engine import Scrubber
    from ..town.root import Town

By = Annotated[str, typer.Option("--by", help="Who decides.", show_default="the user")]
Reason = Annotated[str, typer.Option("--reason", help="Why.")]
Ref = Annotated[str, typer.Argument(metavar="ID", help="A reversion, or the start of its id.")]

app = new_app("reversions", "Conventions that went back to an earlier version: review them.")


def register(parent: typer.Typer) -> None:
    """Mount the commands on ``gt corpus``."""
    parent.add_typer(app)


@app.command("list")
def show_list(
    all: Annotated[bool, typer.Option("--all", help="Those that are decided too.")] = False,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """List what waits for a decision and what it changed; until then neither version trains."""
    from ..corpus.reversions import OPEN, changes, reversions
    from ..corpus.store import Store, exists
    from .tables import print_table, printable

    place = checked_town(town)
    found: list[Reversion] = []
    diffs: dict[str, list[str]] = {}
    if exists(place):
        with Store(place) as store:
            found = reversions(store, None if all else OPEN)
            diffs = {one.id: changes(store, place, one, _scrub_for(place)) for one in found}
    if json:
        print_json([one.to_json() | {"diff": diffs[one.id]} for one in found])
        return
    if not found:
        print("no convention went back" if all else "none waits for a decision; --all lists the decided ones")
        return
    columns = ("id", "document", "kind", "state", "detected")
    print_table(columns, [(one.id, one.key, one.kind, one.state, one.detected_at) for one in found])
    for one in found:
        print(f"\n{one.id}: {one.message}")
        for line in diffs[one.id] or ["(what it changed is known no more: a text was purged)"]:
            print(f"    {printable(line)}")


def _scrub_for(town: Town) -> Callable[[str], str]:
    """Scrubs a text that stands in the repository alone; the slow scrubber is made when it is needed."""
    made: list[Scrubber] = []

    def scrub(text: str) -> str:
        from ..corpus.scrub.engine import scrubber_for

        if not made:
            made.append(scrubber_for(town))
        return made[0].text(text)[0]

    return scrub


@app.command()
def confirm(
    ref: Ref, by: By = "", reason: Reason = "", town: TownOption = None, json: JsonOption = False
) -> None:
    """It was meant: add the explicit corpus entry and let both versions train."""
    from ..corpus import reversions

    _decide(reversions.confirm, ref, by, reason, town, json)


@app.command()
def reject(
    ref: Ref, by: By = "", reason: Reason = "", town: TownOption = None, json: JsonOption = False
) -> None:
    """It was a mistake: the new version does not train."""
    from ..corpus import reversions

    _decide(reversions.reject, ref, by, reason, town, json)


def _decide(
    decide: Callable[..., Reversion], ref: str, by: str, reason: str, town: Path | None, json: bool
) -> None:
    from ..corpus.scrub.engine import scrubber_for
    from ..corpus.store import Store, exists

    place = checked_town(town)
    if not exists(place):
        raise UserError(f"{ref!r}: nothing was collected yet; run `gt corpus collect`")
    clean, _ = scrubber_for(place).text(reason)
    with Store(place) as store:
        decided = decide(store, ref, by or _user(), clean)
    if json:
        print_json(decided.to_json())
    else:
        print(f"{decided.id}: {decided.state} by {decided.by}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"
