"""The ``gt`` shim in our per-user folder, and the line that puts it first on PATH.

The folder is ``~/.local/share/gastown-finetune`` (XDG_DATA_HOME respected), one for all towns of a user:
``bin/gt`` is ``hooks/gt.sh`` byte for byte, ``shim.state`` the three lines that it reads.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..settings import resource
from ..town import gt
from .pieces import SHIM, SHIM_STATE, nothing, whole
from .record import Placed, place

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ShimState:
    """The lines of ``shim.state``: the real gt (empty: to be found on PATH), our Python, our package."""

    real: str
    python: str
    package: str


def shim_path() -> Path:
    """Our ``gt``."""
    return gt.shim_dir() / "gt"


def shipped_shim() -> str:
    """The shim as this version ships it."""
    return (resource("hooks") / "gt.sh").read_text(encoding="utf-8")


def read_state() -> ShimState | None:
    """What the shim reads; None where there is no such file."""
    try:
        lines = gt.shim_state().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return ShimState(*[*lines, "", "", ""][:3])


def pieces(known: Iterable[Placed]) -> list[Placed]:
    """Shim and state as install writes them. A real gt that is recorded and still there is kept."""
    known = list(known)
    real = gt.recorded_gt() or gt.gt_on_path()
    state = f"{real or ''}\n{sys.executable}\n{PACKAGE}\n"
    return [
        place(SHIM, shim_path(), partial(whole, shipped_shim()), known, nothing, mode=0o755, keep_mode=False),
        place(SHIM_STATE, gt.shim_state(), partial(whole, state), known, nothing, keep_mode=False),
    ]


def shellenv(shell: str) -> str:
    """The line to ``eval``: our folder first on PATH, once, however often it is evaluated."""
    folder = str(gt.shim_dir())
    if shell == "fish":
        return f"fish_add_path --global --prepend --move --path {shlex.quote(folder)}"
    quoted = shlex.quote(folder)
    return f'case "$PATH:" in {quoted}:*) ;; *) export PATH={quoted}:"$PATH" ;; esac'


def first_on_path() -> Path | None:
    """The ``gt`` that a shell with our PATH runs."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder or ".") / "gt"
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None
