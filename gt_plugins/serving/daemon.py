"""The endpoint in the background: one process per served model, known by a small state file.

``serve.json`` beside the role's files (or under ``<models>/.serve/``) holds pid, address and model; the
child writes it once it listens. Before anything is signalled the pid is checked to be such a process of
ours, since a pid lives on as somebody else's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..durable import PRIVATE_FILE, private_dir, write_json
from ..errors import FinetuneError, UserError
from ..town.root import read_json
from .client import EndpointClient

MODULE = "gt_plugins.run_inference"
STATE = "serve.json"
LOG = "serve.log"
_LARGEST_LOG = 5 * 1024 * 1024
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Running:
    """An endpoint in the background, as its state file tells."""

    pid: int
    url: str
    ref: str
    """``MODEL:VERSION``."""
    token_file: str


def write_state(path: Path, running: Running) -> None:
    """Written by the child when it listens."""
    write_json(path, asdict(running))


def read_state(path: Path) -> Running | None:
    """What the state file says, None where there is none. Raises UserError where it is broken."""
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        return Running(int(value["pid"]), str(value["url"]), str(value["ref"]), str(value["token_file"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not an endpoint's state; remove it") from None


def running(path: Path) -> Running | None:
    """The endpoint of a state file if its process still runs; a stale file is removed."""
    state = read_state(path)
    if state is None:
        return None
    if is_ours(state.pid):
        return state
    path.unlink(missing_ok=True)
    return None


def is_ours(pid: int) -> bool:
    """Whether a process of that id runs our module (a zombie does not)."""
    return MODULE in command_of(pid).split()


def command_of(pid: int) -> str:
    """A process's command line, '' where there is none."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            return ""
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def start(state: Path, arguments: Sequence[str], *, timeout: float = 120.0) -> Running:
    """Start ``node0-inference`` detached and wait until it answers.

    ``arguments`` are the serve command's own; ``state`` is where the child is to write its state, its log
    goes beside it. The child's first line of error is raised as FinetuneError where it ends before that.
    """
    private_dir(state.parent)
    state.unlink(missing_ok=True)
    log = state.with_name(LOG if state.name == STATE else f"{state.stem}.log")
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.unlink()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    begin = os.fstat(descriptor).st_size
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, *arguments, "--state", str(state)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(descriptor)
    return _wait(child, state, log, begin, timeout)


def _wait(child: subprocess.Popen[bytes], state: Path, log: Path, begin: int, timeout: float) -> Running:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise FinetuneError(f"the endpoint did not start: {_last_words(log, begin)}")
        found = read_state(state)
        if found is not None and answers(found):
            return found
        time.sleep(0.05)
    child.terminate()
    raise FinetuneError(f"the endpoint did not answer within {timeout:.0f} s; see {log}")


def answers(found: Running) -> bool:
    """Whether the endpoint says that it is well."""
    with EndpointClient(found.url) as client:
        return client.health(timeout=2.0)


def _last_words(log: Path, begin: int) -> str:
    """The child's error line, else its last one."""
    with log.open("rb") as handle:
        handle.seek(begin)
        lines = [line.strip() for line in handle.read().decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"see {log}"])[-1]


def stop(state: Path) -> Running | None:
    """End the endpoint of a state file and wait for it; None where none runs.

    Raises FinetuneError where it does not end."""
    found = running(state)
    if found is None:
        return None
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(found.pid, kind)
        except ProcessLookupError:
            break
        if _gone(found.pid):
            break
    else:
        raise FinetuneError(f"process {found.pid} does not end")
    state.unlink(missing_ok=True)
    return found


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        if not is_ours(pid):
            return True
        time.sleep(0.05)
    return False
