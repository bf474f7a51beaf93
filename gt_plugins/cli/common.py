"""What every command line shares: exceptions to exit codes, one JSON document, the --town option."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..errors import FinetuneError, GateRefused

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
    """Run an application; what a person can mend is one line on stderr and the exception's exit code.

    Raises SystemExit always.
    """
    try:
        app()
    except GateRefused as error:
        # A verdict is no error: its message stands alone on its line, word for word.
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except FinetuneError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        fail(f"{error.filename or 'operating system'}: {error.strerror or error}", 1)
    raise SystemExit(0)


def fail(message: str, code: int) -> NoReturn:
    """Print ``error: message`` on stderr and leave with ``code``."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def print_json(value: Any) -> None:
    """The one JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
