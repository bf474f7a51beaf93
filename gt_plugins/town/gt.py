"""The real ``gt``: where it is, and running it.

``gt-plugins install`` puts a ``gt`` of ours first on PATH and records where the real one is, in a file of
three lines: the real gt, our Python, our package. Nothing here ever answers with a shim: not with ours, not
with a copy of it elsewhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FinetuneError, RetriableError, UserError
from .root import Town

SHIM_MAGIC = b"gastown-finetune shim"
"""Stands in the second line of every copy of our shim."""


@dataclass(frozen=True)
class GtResult:
    """One finished run: exit code, what it printed, and how long it took in seconds."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float


def attach_home() -> Path:
    """Our per-user folder: ``$XDG_DATA_HOME/gastown-finetune``, else ``~/.local/share/gastown-finetune``."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base).expanduser().absolute() / "gastown-finetune"


def shim_dir() -> Path:
    """The folder to put first on PATH; it holds our ``gt`` and nothing else."""
    return attach_home() / "bin"


def shim_state() -> Path:
    """The three lines that the shim reads: real gt, our Python, our package's folder."""
    return attach_home() / "shim.state"


def is_shim(path: Path) -> bool:
    """True for our shim, wherever a copy of it stands."""
    try:
        with path.open("rb") as handle:
            return SHIM_MAGIC in handle.read(200)
    except OSError:
        return False


def recorded_gt() -> Path | None:
    """The real gt as recorded, if it is still there and can be run."""
    try:
        line = shim_state().read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, UnicodeDecodeError):
        return None
    return Path(line) if line and _is_gt(Path(line)) else None


def gt_on_path(search: str | None = None) -> Path | None:
    """The first ``gt`` on PATH (or on ``search``) that is no shim of ours; None where there is none."""
    for folder in (os.environ.get("PATH", "") if search is None else search).split(os.pathsep):
        path = Path(folder or ".").absolute() / "gt"
        if _is_gt(path):
            return path
    return None


def real_gt(town: Town | None = None) -> Path:
    """The real gt: as recorded by install, else the first on PATH. Raises UserError where there is none.

    One gt serves all towns of a user, so ``town`` makes no difference; callers name theirs all the same.
    """
    found = recorded_gt() or gt_on_path()
    if found is None:
        raise UserError("gt: not found on PATH; install Gas Town, or put its folder on PATH")
    return found


def run_gt(
    args: Sequence[str],
    cwd: Path,
    timeout: float = 60.0,
    *,
    stdin: bytes | None = None,
    environ: Mapping[str, str] | None = None,
) -> GtResult:
    """Run the real gt and return what it did, whatever its exit code.

    It runs in a process group of its own, which is killed when ``timeout`` seconds are over. Raises UserError
    where there is no gt, RetriableError on the time-out.
    """
    command = [str(real_gt()), *args]
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=None if environ is None else dict(environ),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        raise RetriableError(f"gt {' '.join(args)}: no answer in {timeout:g} s; stopped") from None
    except BaseException:
        _kill_group(process)
        raise
    return GtResult(
        tuple(command),
        process.returncode,
        out.decode("utf-8", "replace"),
        err.decode("utf-8", "replace"),
        time.monotonic() - begun,
    )


def gt_json(args: Sequence[str], town: Town, cwd: Path, timeout: float = 60.0) -> Any:
    """What a gt command with ``--json`` answers, run as nobody in particular.

    Raises UserError where there is no gt, RetriableError at the deadline, FinetuneError with gt's own words
    where it fails or answers in no JSON.
    """
    from .bd import clean_environment, error_text, parse_output

    environ = clean_environment(cwd, os.environ)
    kept = {k: v for k, v in environ.items() if k not in ("BEADS_DIR", "BEADS_ACTOR", "GT_ROLE")}
    done = run_gt(args, cwd, timeout, environ=kept | {"GT_TOWN_ROOT": str(town.root)})
    what = f"gt {' '.join(args[:2])}"
    if done.code != 0:
        raise FinetuneError(f"{what}: {error_text(done.out, done.err) or f'exit code {done.code}'}")
    try:
        return parse_output(done.out)
    except ValueError:
        raise FinetuneError(f"{what} did not answer in JSON") from None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _is_gt(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK) and not is_shim(path)
