"""The jobs of a town as an operator sees them: what each is doing, and detaching, following, stopping one.

What is told comes from the job's own folder (journal, metrics, heartbeat), so it works without bd, from any
shell, while the job runs and after it.

A detached job must outlive the agent that started it. gt ends a session by going down its tree of
processes, and a terminal by its group; so the job is started by a process that ends at once (nobody's
child any more), as a session of its own, with a log instead of a terminal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..durable import PRIVATE_FILE, parse_json, private_dir, read_lines
from ..errors import FinetuneError, UserError
from .callbacks import HEARTBEAT, METRICS
from .job import DONE, Job, jobs, load_job, progress
from .process import alive, mark

LOG = "log.txt"
ENDED = (DONE, "failed", "interrupted", "ready")
"""States of a job that nobody runs."""

_LAUNCH = """
import os, subprocess, sys
log, argv = sys.argv[1], sys.argv[2:]
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
print(subprocess.Popen(argv, **streams, start_new_session=True, cwd="/").pid, flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class JobView:
    """A job now. Times are seconds since the epoch; ``seconds_left`` is None where nobody can tell."""

    id: str
    role: str
    base: str
    state: str
    reason: str
    running: bool
    pid: int | None
    step: int
    steps: int | None
    loss: float | None
    heldout_loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    started: float | None
    updated: float | None
    bead: str | None
    waiting: int
    """States that beads have not got yet."""
    bd_seconds: float
    """Processor time of bd's calls so far; they run beside the training."""
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def views(checkpoints: Path, role: str = "") -> list[JobView]:
    """The jobs below a checkpoints folder, the newest first."""
    found = [view(job) for job in jobs(checkpoints) if not role or job.role == role]
    return found[::-1]


def view(job: Job) -> JobView:
    """One job as its folder tells it."""
    told, pid = progress(job), running_pid(job)
    state = told.state
    if pid is None and state not in (DONE, "failed", "ready"):
        state = "interrupted"
    records = list(read_lines(job.folder / METRICS))
    steps = [r for r in records if r.get("event") == "step" and isinstance(r.get("step"), int)]
    looks = [r for r in records if r.get("event") == "eval"]
    last = steps[-1] if steps else {}
    total = last.get("steps")
    return JobView(
        job.id,
        job.role,
        job.base,
        state,
        told.reason,
        pid is not None,
        pid,
        int(last.get("step", 0)),
        total if isinstance(total, int) else None,
        _number(last.get("loss")),
        _number(looks[-1].get("heldout_loss")) if looks else None,
        _number(last.get("tokens_per_second")),
        _left(steps) if pid is not None else None,
        _number(records[0].get("at")) if records else None,
        told.at or None,
        job.bead,
        0 if told.local else len(told.pending),
        round(told.bd_seconds, 3),
        str(job.folder),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _left(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds to the end at the pace of the last steps."""
    recent = steps[-20:]
    if len(recent) < 2 or not isinstance(recent[-1].get("steps"), int):
        return None
    pace = (recent[-1]["at"] - recent[0]["at"]) / max(1, recent[-1]["step"] - recent[0]["step"])
    return max(0.0, pace * (recent[-1]["steps"] - recent[-1]["step"]))


def running_pid(job: Job) -> int | None:
    """The process that trains a job now, by the role's holder file; None where nobody does."""
    try:
        holder = parse_json((job.folder.parent / f".{job.role}.json").read_text(encoding="utf-8"))
        pid = int(holder["pid"])
        mine = holder["job"] == job.id
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if mine and alive(pid, str(holder.get("mark", ""))) else None


def pick(checkpoints: Path, name: str = "", *, running: bool = False) -> Job:
    """The job that is meant: an id, its beginning or its end, a role (its newest), or without a name the only
    one that runs, else the newest.

    Raises UserError where there is none, or more than one begins or ends like that."""
    found = list(jobs(checkpoints))
    if not found:
        raise UserError(f"no jobs in {checkpoints}")
    if name:
        exact = [j for j in found if j.id == name] or [j for j in found if j.role == name][-1:]
        begun = exact or [j for j in found if j.id.startswith(name) or j.id.endswith(name)]
        if len(begun) > 1:
            raise UserError(f"{name!r} is the beginning or the end of {len(begun)} jobs; give more of it")
        if not begun:
            raise UserError(f"no job {name!r}; `gt model jobs` lists them")
        return begun[0]
    live = [j for j in found if running_pid(j) is not None]
    if len(live) > 1:
        raise UserError(f"{len(live)} jobs are running; name one of {', '.join(j.id for j in live)}")
    if running and not live:
        raise UserError("no job is running")
    return live[0] if live else found[-1]


# -- detaching --------------------------------------------------------------------------------------


def detach(job: Job, argv: Sequence[str]) -> int:
    """Start ``argv`` so that it outlives whoever calls, its output in the job's log; returns its process id.

    Raises FinetuneError where it cannot be started."""
    log = private_dir(job.folder) / LOG
    log.touch(PRIVATE_FILE)
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", _LAUNCH, str(log), *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FinetuneError(f"the job could not be detached: {words}")
    return int(done.stdout)


def wait_begun(job: Job, pid: int, known: int, seconds: float = 60.0) -> bool:
    """Wait until the detached process holds the job; False where that takes longer. ``known``: states in the
    job's journal before it was started.

    Raises FinetuneError with its last words where it ended before."""
    born = mark(pid)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if running_pid(job) == pid:
            return True
        if not alive(pid, born):
            now = progress(job)
            if now.next_seq > known and now.state in (DONE, "ready"):
                return True  # it was quick
            raise FinetuneError(f"job {job.id} ended at once: {last_words(job)}")
        time.sleep(0.1)
    return False


def last_words(job: Job) -> str:
    """The last line of a detached job's log."""
    try:
        lines = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("error: ") if lines else f"nothing in {job.folder / LOG}"


# -- following and stopping -------------------------------------------------------------------------


def follow(job: Job, every: float = 0.5) -> Iterator[dict[str, Any]]:
    """The records of a job's metrics from the beginning, and new ones as they come, until it has ended."""
    path, at = job.folder / METRICS, 0
    while True:
        ended = running_pid(job) is None  # before reading: what it wrote last is read then
        if path.exists():
            with path.open("rb") as handle:
                handle.seek(at)
                raw = handle.read()
            whole = raw.rpartition(b"\n")[0]
            at += len(whole) + 1 if whole else 0
            yield from _records(whole)
        if ended:
            return
        time.sleep(every)


def _records(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.splitlines():
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def stop(job: Job, seconds: float = 300.0, kill: bool = False) -> JobView:
    """Ask a job to save its state and end, and wait until it has. With ``kill`` one that has not ended by
    then is killed; ``--resume`` goes on from its last checkpoint.

    Raises UserError where nobody runs it, FinetuneError where it has not ended in time."""
    pid = running_pid(job)
    if pid is None:
        raise UserError(f"job {job.id} is not running; it is {view(job).state}")
    born = mark(pid)
    os.kill(pid, signal.SIGTERM)
    if not _gone(pid, born, seconds):
        if not kill:
            raise FinetuneError(
                f"job {job.id} (process {pid}) has not ended in {seconds:.0f} s; it ends after the step at "
                "hand, or give --kill"
            )
        os.kill(pid, signal.SIGKILL)
        _gone(pid, born, 10.0)
    return view(load_job(job.folder))


def _gone(pid: int, born: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(pid, born):
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)
    return True


def heartbeat(job: Job) -> dict[str, Any]:
    """The job's last sign of life: pid, step, at, state; {} where there is none."""
    try:
        value = parse_json((job.folder / HEARTBEAT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
