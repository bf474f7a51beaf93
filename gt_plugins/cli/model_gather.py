"""``gt model gather``: what several peers or processes left, as one adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import JsonOption, ModelsOption, TownOption, print_json


def register(app: typer.Typer) -> None:
    """Mount this command."""
    app.command("gather")(gather)


def gather(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="PART...", help="Jobs (folders, or ids of the town's), checkpoints, part files."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the adapter to this folder; no version is made.")
    ] = None,
    job: Annotated[
        Path | None, typer.Option("--job", help="A job of theirs, for part files outside a job's folder.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Where the base is here (as the jobs have it).")] = "",
    model: Annotated[str, typer.Option("--model", help="Name of the model (gt-ft-ROLE).")] = "",
    wait: Annotated[
        float, typer.Option("--wait", min=0.0, help="Seconds to wait for parts that are not there yet.")
    ] = 0.0,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge what peers of a swarm left into one adapter, and register it as the model's next version."""
    from ..settings import models_home
    from ..training import gathered
    from ..training.adapter import quiet_libraries
    from .progress import note

    quiet_libraries()
    found = gathered.plan([_part(name, town, wait) for name in parts], job, base)
    made = gathered.gather_in_time(found, wait, note)
    version = folder = None
    if out is None:
        version = gathered.register_gathered(made, found, models_home(models), model).ref
    else:
        folder = str(out.absolute())
        gathered.write_adapter(made, found, out.absolute())
    if as_json:
        print_json({"version": version, "out": folder} | gathered.told(made))
    else:
        for part in made.parts:
            print(f"{part.path}: {part.kind}, {part.tokens:,} tokens")
        print(f"{version or folder}: one adapter of {len(made.parts)} parts")


def _part(name: str, town: Path | None, wait: float) -> Path:
    """A path, or the folder of the town's job of that id; one that is waited for need not be there yet."""
    from ..errors import UserError
    from ..training.jobs import pick
    from .common import checked_town

    path = Path(name).expanduser().absolute()
    if path.exists() or wait:
        return path
    if "/" in name:
        raise UserError(f"{name}: no such file or folder; --wait waits for one")
    place = checked_town(town)
    try:
        return pick(place.checkpoints_dir, name).folder
    except UserError as error:
        raise UserError(f"{name}: no such file or folder here, and no job's id ({error})") from None
