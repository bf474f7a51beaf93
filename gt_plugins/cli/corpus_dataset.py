"""``gt corpus dataset``: a role's training set from the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import JsonOption, TownOption, checked_town, print_json

if TYPE_CHECKING:
    from ..corpus.assemble import Wanted
    from ..corpus.dataset import Dataset


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("dataset")(dataset)


def dataset(
    role: Annotated[str, typer.Option("--role", help="deacon, boot, witness, polecat or crew.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    format: Annotated[
        str, typer.Option("--format", help="chat (whole sessions), decision (single ones), or both.")
    ] = "both",
    base: Annotated[str, typer.Option("--base", help="tiny, or a base's folder: sets the budget.")] = "tiny",
    outcomes: Annotated[
        str, typer.Option("--outcomes", help="Outcomes that train, with commas between them, or all.")
    ] = "",
    tuned: Annotated[
        bool, typer.Option("--with-tuned", help="Take sessions of our own tuned models too.")
    ] = False,
    near: Annotated[
        float, typer.Option("--near", help="Similarity from which on examples repeat each other; 1: exact.")
    ] = 0.9,
    length: Annotated[
        str, typer.Option("--length", help="Too long: window (training's way), drop, trim or error.")
    ] = "window",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="What is too long; 0: the base's budget.", min=0)
    ] = 0,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a role's training set: whole sessions and single decisions, every drop counted."""
    from ..corpus.assemble import build_dataset
    from ..roles.profile import check_tunable

    check_tunable(role)
    wanted = _wanted(base, format, outcomes, tuned, near, length, max_tokens)
    made = build_dataset(checked_town(town), role, out.absolute(), base, wanted)
    if as_json:
        print_json({"folder": str(made.folder), **made.card})
    else:
        _print(made)
    if not made.train:
        unknown = any(reason.endswith("outcome unknown") for reason in made.card["drops"])
        mend = "; try `gt corpus collect`, `gt corpus label` or --outcomes good,unknown" if unknown else ""
        if not made.card["drops"]:
            raise UserError(f"the corpus has no session of {role}; see `gt corpus stats`")
        raise UserError(f"no example of {role} was left to train on; see the drops above{mend}")


def _wanted(
    base: str, format: str, outcomes: str, tuned: bool, near: float, length: str, max_tokens: int
) -> Wanted:
    """The options as values. Raises UserError naming the one that is wrong."""
    from ..corpus.assemble import Wanted
    from ..corpus.dataset import FORMATS
    from ..corpus.dataset.lengths import POLICIES
    from ..corpus.dataset.outcomes import DEFAULT, parse

    if format not in (*FORMATS, "both"):
        raise UserError(f"--format {format!r}: there are {', '.join(FORMATS)} and both")
    if length not in POLICIES:
        raise UserError(f"--length {length!r}: there are {', '.join(POLICIES)}")
    if not 0.5 <= near <= 1.0:
        raise UserError(f"--near {near}: a similarity from 0.5 to 1.0")
    return Wanted(
        base=base,
        formats=FORMATS if format == "both" else (format,),
        outcomes=parse(outcomes) if outcomes else DEFAULT,
        tuned=tuned,
        near=near,
        length=length,
        max_tokens=max_tokens,
    )


def _print(made: Dataset) -> None:
    from .tables import print_table

    card = made.card
    rows = []
    for part, counts in card["examples"].items():
        rows += [[part, kind, str(n)] for kind, n in sorted(counts.items())]
    rows += [[part, "decisions asked", str(n)] for part, n in card["decisions"].items()]
    rows += [["dropped", reason, str(n)] for reason, n in card["drops"].items()]
    twice, drawn = card["duplicates"], card["surrogates"]
    rows += [["checked", f"repetitions of {kind} kind", str(twice[kind])] for kind in ("exact", "near")]
    rows += [["checked", "surrogates drawn anew", str(drawn.get("surrogates", 0))]]
    print_table(["PART", "KIND", "COUNT"], rows)
    split = card["split"]
    if split["cutoff"]:
        print(f"held out is what began at {split['cutoff']} or later")
    print(f"{made.folder}  dataset {made.hash[:12]}  from {len(card['sessions'])} sessions")
