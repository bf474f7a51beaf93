"""``gt corpus dataset``: a role's training set from the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import JsonOption, TownOption, print_json

if TYPE_CHECKING:
    from ..corpus.dataset import Dataset


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("dataset")(dataset)


def dataset(
    role: Annotated[str, typer.Option("--role", help="deacon, boot, witness, polecat or crew.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    base: Annotated[str, typer.Option("--base", help="tiny, or a base's folder: sets the budget.")] = "tiny",
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a role's training set: whole sessions and single decisions, every drop counted."""
    from ..corpus.assemble import build_dataset
    from ..town.roles import check_role
    from ..town.root import find_town

    check_role(role)
    made = build_dataset(find_town(town), role, out.absolute(), base)
    if as_json:
        print_json({"folder": str(made.folder), **made.card})
    else:
        _print(made)
    if not made.train:
        raise UserError(f"no example of {role} was left to train on; see the drops above")


def _print(made: Dataset) -> None:
    from .tables import print_table

    rows = []
    for part, counts in made.card["examples"].items():
        rows += [[part, kind, str(n)] for kind, n in sorted(counts.items())]
    rows += [[part, "decisions asked", str(n)] for part, n in made.card["decisions"].items()]
    rows += [["dropped", reason, str(n)] for reason, n in made.card["drops"].items()]
    print_table(["PART", "KIND", "COUNT"], rows or [["train", "-", "0"]])
    print(f"{made.folder}  dataset {made.hash[:12]}  from {len(made.card['sessions'])} sessions")
