"""What every command line shares: exceptions to exit codes, one JSON document, the --town option."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from ..errors import UserError
from .exits import fail, leave, print_json

if TYPE_CHECKING:
    from ..town.root import Town

__all__ = [
    "JsonOption",
    "ModelsOption",
    "TownOption",
    "checked",
    "checked_town",
    "fail",
    "new_app",
    "print_json",
    "run",
]

AnyTown = TypeVar("AnyTown", bound="Town")
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


def checked_town(path: Path | None) -> Town:
    """The town that is meant, checked. Raises UserError where there is none, and as ``checked`` does."""
    from ..town.root import find_town

    return checked(find_town(path))


def checked(town: AnyTown) -> AnyTown:
    """A town whose settings and list of rigs were looked over, before any work begins.

    Raises UserError naming file and line or key of what is broken."""
    from ..settings import load_settings

    load_settings(town)
    town.rigs()
    return town


def run(app: typer.Typer) -> NoReturn:
    """Run an application; see :func:`gt_plugins.cli.exits.leave`. Raises SystemExit always."""
    leave(lambda: _run(app))


def _run(app: typer.Typer) -> int:
    """The exit code of a command line. Raises UserError, in one line, for one that is no use of ``app``."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        raise UserError("stopped at the question; nothing was changed") from None
    except typer.TyperException as error:
        wrong = " ".join(error.format_message().split()).rstrip(".")
        if not wrong:  # nothing was asked for, and the help that is printed then is the answer
            return error.exit_code
        command = getattr(getattr(error, "ctx", None), "command_path", Path(sys.argv[0]).name)
        wrong = f"{wrong[0].lower()}{wrong[1:]}{'' if wrong.endswith('?') else ';'}"
        raise UserError(f"{wrong} `{command} --help` shows the usage") from None
    return code if isinstance(code, int) else 0
