"""What every command line shares: exceptions to exit codes, one JSON document, the --town option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .exits import fail, leave, print_json

__all__ = ["JsonOption", "ModelsOption", "TownOption", "fail", "new_app", "print_json", "run"]

TownOption = Annotated[
    Path | None, typer.Option("--town", help="The town's root folder.", show_default=False)
]
ModelsOption = Annotated[
    Path | None, typer.Option("--models", help="The models folder (GT_MODELS_HOME, ~/.models).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def new_app(name: str, help: str) -> typer.Typer:
    """A typer application as all of ours are: no completion, plain tracebacks, usage on no arguments."""
    return typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: typer.Typer) -> NoReturn:
    """Run an application; see :func:`gt_plugins.cli.exits.leave`. Raises SystemExit always."""
    leave(app)
