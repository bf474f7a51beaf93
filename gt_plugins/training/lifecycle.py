"""A job's states, kept in its own journal first and told to beads afterwards, by a thread of its own.

``transition`` appends to the journal and returns; nothing that bd does (hang, fail, be gone) reaches the
trainer. The thread gives bd the states in order, each with retries, and notes in the journal which ones bd
has. What bd did not take stays there and is replayed when the job is resumed, or by ``replay_pending``.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..durable import append_line, parse_json, private_dir, write_json
from ..errors import NonRetriableError, UserError, call_with_retries
from ..town.bd import Bd, BdError
from ..town.root import Town
from .callbacks import Listener
from .job import DONE, STATES, Job, jobs, progress
from .process import children_seconds, mark

if TYPE_CHECKING:
    from filelock import BaseFileLock

BEFORE_TRAINING = ("corpus_validating", "ready")
TITLE = "Fine-tune {role} on {base}"
DESCRIPTION = (
    "A training job of gt model train. The trainer itself sets its states: do not work on this bead.\n"
    "Folder: .checkpoints/{id}. When it failed: gt model train {role} --resume, or close it."
)


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def bd_for(town: Town) -> Bd | None:
    """The town's bd for a trainer, or None where there is none; a call that steps back has time."""
    bd = Bd(town.root, timeout=300.0)
    return bd if bd.available() else None


class JobLifecycle:
    """The states of one job. As a context manager it holds the role's lock, so that a role has one job.

    Leaving the block by an exception makes the job failed, with the reason; leaving it without ``done`` or
    by an interrupt makes it ready, to be resumed.
    """

    def __init__(
        self,
        town: Town | None,
        job: Job,
        bd: Bd | None = None,
        *,
        say: Callable[[str], None] = _on_stderr,
        retries: int = 3,
        retry_delay: float = 0.5,
        outage_pause: float = 15.0,
        close_timeout: float = 10.0,
        share: float = 0.005,
        clock: Callable[[], float] = time.monotonic,
        meter: Callable[[], float] = children_seconds,
    ) -> None:
        self.town = town
        self._job = job
        self._bd = bd
        self._say = say
        self._retries, self._retry_delay, self._outage_pause = retries, retry_delay, outage_pause
        self._close_timeout = close_timeout
        self._share, self._clock, self._opened = share, clock, clock()
        self._meter, self._spent = meter, 0.0
        self._passed: set[str] = set()
        self._state, self._before, self._seq = "new", "new", 0
        self._bead = job.bead
        self._asked_for_bead = False
        self._merged = False
        self._queue: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: BaseFileLock | None = None
        self._said: set[str] = set()

    # -- the caller's side --------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The job's state now: one of STATES, ``done``, or ``new``."""
        return self._state

    @property
    def job(self) -> Job:
        """The job, with its bead as soon as bd has given one."""
        return replace(self._job, bead=self._bead)

    @property
    def pending(self) -> int:
        """Transitions that bd has not taken yet."""
        with self._changed:
            return len(self._queue)

    def open(self) -> JobLifecycle:
        """Take the role's lock, read the journal, and begin to replay what bd has not got yet.

        Raises UserError where another job holds the role, or this job is done.
        """
        self._lock = _locked(self._job)
        try:
            self._load()
        except BaseException:
            self._unlock()
            raise
        if self._bd is None:
            where = f"the states of job {self._job.id} are kept in {self._job.journal} only"
            self._say(f"no bd, or no beads here: {where}")
        else:
            self.replay()
        return self

    def transition(
        self,
        state: str,
        reason: str = "",
        metadata: Mapping[str, Any] | None = None,
        *,
        tell: bool = True,
    ) -> None:
        """Go to ``state``; returns at once. The same state again with nothing to tell is no transition.
        Without ``tell`` the journal alone has it.

        Raises ValueError for a state that jobs do not have, or after ``done``.
        """
        if state not in STATES and state != DONE:
            raise ValueError(f"{state!r} is no state of a job; it has {', '.join((*STATES, DONE))}")
        with self._changed:
            if self._state == DONE:
                raise ValueError(f"job {self._job.id} is done")
            if state == self._state and not reason and not metadata:
                return
            record: dict[str, Any] = {"seq": self._seq, "state": state, "at": time.time()}
            if reason:
                record["reason"] = _one_line(reason)
            if metadata:
                record["metadata"] = {k: _plain(v) for k, v in metadata.items()}
            if not tell:
                record["quiet"] = True
            self._note(record)
            self._seq += 1
            if state != self._state:
                self._before, self._state = self._state, state
            if self._bd is not None and tell:
                self._queue.append(record)
                self._changed.notify_all()

    def passing(self, state: str, **metadata: Any) -> bool:
        """A state that comes and goes (a checkpoint, a look at the held-out rows); True if bd is told.

        The journal has every one. bd is told of the first of each kind, and of later ones while its calls'
        processor time is less than ``share`` of the job's time and none waits: a call costs a third of a
        second, and a tiny model writes a checkpoint every few seconds."""
        with self._changed:
            spent, waiting = self._spent, len(self._queue)
        cheap = not waiting and spent <= self._share * (self._clock() - self._opened)
        tell = state not in self._passed or cheap
        self._passed.add(state)
        self.transition(state, metadata=metadata if tell else None, tell=tell)
        return tell

    def step_back(self) -> None:
        """From here on bd has what the training leaves of the processors, until the job ends."""
        if self._bd is not None:
            self._bd.behind = True

    def note(self, **metadata: Any) -> None:
        """Tell beads something about the job (its last loss) without a change of state."""
        self.transition(self._state if self._state != "new" else "ready", metadata=metadata)

    @contextmanager
    def during(self, state: str, **metadata: Any) -> Iterator[None]:
        """Be in ``state`` for the length of a block, then back in the one before; not back if it raises."""
        before = self._state if self._state != "new" else "training"
        self.transition(state, metadata=metadata)
        yield
        if self._state == state:
            self.transition(before)

    def degrade(self, reason: str) -> None:
        """Something is lost that training can do without (peers, speed)."""
        if self._state != "degraded":
            self.transition("degraded", reason)

    def recover(self, reason: str = "") -> None:
        """Back from degraded: to training, or to the state before it where training has not begun.

        A passing state (syncing, checkpointing, evaluating) may have ended meanwhile, unheard: what the
        trainer does next is told when it does it."""
        if self._state == "degraded":
            self.transition(self._before if self._before in BEFORE_TRAINING else "training", reason)

    def done(self, reason: str, metadata: Mapping[str, Any] | None = None) -> None:
        """The job ended well: its bead is closed with this reason."""
        self.transition(DONE, reason, metadata)

    def fail(self, reason: str, metadata: Mapping[str, Any] | None = None) -> None:
        """The job failed: its bead stays open, in status failed."""
        self.transition("failed", reason, metadata)

    def replay(self) -> int:
        """Queue again what the journal holds and bd has not got; returns how many. ``open`` has called it."""
        if self._bd is None:
            return 0
        with self._changed:
            known = {r["seq"] for r in self._queue}
            missed = [r for r in progress(self._job).pending if r["seq"] not in known]
            self._queue.extendleft(reversed(missed))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="job-states", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(missed)

    def close(self, timeout: float | None = None) -> int:
        """Give bd a bounded time for what is queued, let the role go; returns how many bd did not get."""
        timeout = self._close_timeout if timeout is None else timeout
        self._closing.set()
        if self._bd is not None:
            self._bd.behind = False  # nothing is left to step back behind, and somebody waits
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None and self._bd is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._abandoned.set()
                self._bd.cancel()
                self._thread.join(3.0)
            self._thread = None
        left = self.pending
        if left:
            one, job = left == 1, self._job.id
            words = f"1 state of job {job} waits" if one else f"{left} states of job {job} wait"
            self._say(f"{words} in its journal; bd gets {'it' if one else 'them'} when it answers")
        self._unlock()
        return left

    def __enter__(self) -> JobLifecycle:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._state != DONE:
                if isinstance(error, Exception):
                    self.fail(public_reason(error))
                elif self._state not in ("failed", "new") and not (self._state == "ready" and error is None):
                    self.transition("ready", "interrupted; it can be resumed" if error else "stopped")
        finally:
            self.close()

    # -- the journal --------------------------------------------------------------------------------

    def _load(self) -> None:
        told = progress(self._job)
        if told.state == DONE:
            raise UserError(f"job {self._job.id} is done: {told.reason or 'nothing is left to do'}")
        self._state, self._seq = told.state, told.next_seq
        self._bead = told.bead or self._job.bead
        self._asked_for_bead = told.created
        if told.local != (self._bd is None):
            self._note({"bd": self._bd is not None})

    def _note(self, record: dict[str, Any]) -> None:
        """Append to the journal. A full disk stops checkpoints, and they say so: no reason to stop here.

        That bd has a state needs no fsync: sending it once more changes nothing."""
        try:
            append_line(self._job.journal, record, sync="sent" not in record)
        except OSError as error:
            self._say_once("journal", f"{self._job.journal}: {error.strerror or error}; states are not kept")

    def _unlock(self) -> None:
        if self._lock is not None:
            with suppress(OSError):
                _holder_path(self._job).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _say_once(self, topic: str, line: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            self._say(line)

    # -- the thread's side --------------------------------------------------------------------------

    def _work(self) -> None:
        while (record := self._next()) is not None:
            try:
                self._deliver(record)
            except NonRetriableError as error:
                if not self._abandoned.is_set():
                    self._say_once("gone", f"bd will not get the states of job {self._job.id}: {error}")
                return
            except Exception as error:
                self._say_once("outage", f"{_one_line(str(error))}; job {self._job.id} goes on without it")
                if self._closing.wait(self._outage_pause):
                    return

    def _deliver(self, record: dict[str, Any]) -> None:
        """One transition to bd with retries; it leaves the queue when the journal says that bd has it."""
        began, before = self._clock(), self._meter()
        try:
            call_with_retries(
                lambda: self._send(record), self._retries, self._retry_delay, sleep=self._pause_unless_closing
            )
        finally:
            used = self._meter() - before
            with self._changed:
                self._spent += used
        took = self._clock() - began
        self._note({"sent": record["seq"], "took": round(took, 3), "processor": round(used, 3)})
        self._said.discard("outage")
        with self._changed:
            self._queue.popleft()

    def _pause_unless_closing(self, seconds: float) -> None:
        self._closing.wait(seconds)

    def _next(self) -> dict[str, Any] | None:
        with self._changed:
            while not self._queue and not self._closing.is_set():
                self._changed.wait()
            return self._queue[0] if self._queue and not self._abandoned.is_set() else None

    def _send(self, record: dict[str, Any]) -> None:
        """One transition to bd. Sending one twice changes nothing, so a call that was cut off is repeated."""
        bd = self._bd
        assert bd is not None
        if self._abandoned.is_set():
            raise NonRetriableError("the time for it is over")
        if not self._merged:
            bd.merge_custom_statuses(STATES)
            self._merged = True
        state, reason = record["state"], record.get("reason", "")
        metadata = {"ft_state": state}
        for key, value in record.get("metadata", {}).items():
            metadata[f"ft_{key}"] = _PATH.sub(r"\1", value) if isinstance(value, str) else value
        if reason:
            reason = metadata["ft_reason"] = public_text(reason)
        bead = self._bead or self._new_bead(bd)
        try:
            if state == DONE:
                bd.set_metadata(bead, metadata)
                bd.close(bead, reason or "completed")
            else:
                bd.update_status(bead, state, metadata)
        except BdError:
            self._merged = False  # somebody may have replaced the list of statuses: merge it again
            raise

    def _new_bead(self, bd: Bd) -> str:
        """The job's bead. Where bd was asked before and its answer lost, it is looked for first."""
        job = self._job
        found = bd.find("ft_job", job.id) if self._asked_for_bead else []
        if not found:
            self._note({"creating": True})
            self._asked_for_bead = True
            base = Path(job.base).name or job.base
            bead = bd.create(
                TITLE.format(role=job.role, base=base),
                DESCRIPTION.format(id=job.id, role=job.role),
                {
                    "ft_job": job.id,
                    "ft_role": job.role,
                    "ft_base": base,
                    "ft_dataset": Path(job.dataset).name or job.dataset,
                },
                labels=("ft-job", f"ft-role-{job.role}"),
            )
        else:
            bead = str(found[0]["id"])
        self._bead = bead
        self._note({"bead": bead})
        return bead


class StateTeller(Listener):
    """The trainer's own callbacks as the job's states; a listener of the job."""

    def __init__(self, life: JobLifecycle) -> None:
        self._life = life
        self._loss = math.nan
        self._step = 0
        self._told = True

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """See ``TrainCallbacks.on_step``."""
        self._step = step
        loss = metrics.get("loss")
        if isinstance(loss, int | float) and math.isfinite(loss):
            self._loss = float(loss)

    def on_state(self, state: str) -> None:
        """Into a passing state with the last loss, and back from it as it came; degraded stays as it is."""
        if self._life.state in (DONE, "failed", "degraded"):
            return
        known = {} if math.isnan(self._loss) else {"loss": round(self._loss, 4), "step": self._step}
        if state != "training":
            self._told = self._life.passing(state, **known)
        elif self._life.state != "training":
            self._life.transition("training", tell=self._told)


def replay_pending(checkpoints: Path, bd: Bd, timeout: float = 10.0) -> int:
    """Give bd what it missed of jobs that nobody runs any more; returns how many states still wait.

    Jobs that ran without bd on purpose are left alone.
    """
    left, deadline = 0, time.monotonic() + timeout
    for job in jobs(checkpoints):
        told = progress(job)
        if not told.pending or told.local:
            continue
        if time.monotonic() > deadline:
            left += len(told.pending)
            continue
        silent = JobLifecycle(None, job, bd, say=lambda _line: None)
        with suppress(UserError):
            silent._lock = _locked(job)
            silent._bead, silent._asked_for_bead = told.bead, told.created
            silent.replay()
            left += silent.close(max(0.5, deadline - time.monotonic()))
    return left


def _locked(job: Job) -> BaseFileLock:
    """The lock of a role in a checkpoints folder. Raises UserError naming the job that holds it."""
    from filelock import FileLock, Timeout

    folder, holder = private_dir(job.folder).parent, _holder_path(job)
    lock = FileLock(folder / f".{job.role}.lock", timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(_taken(job.role, holder)) from None
    try:
        pid = os.getpid()
        write_json(holder, {"job": job.id, "pid": pid, "mark": mark(pid), "at": time.time()})
    except BaseException:
        lock.release()
        raise
    return lock


def _holder_path(job: Job) -> Path:
    return job.folder.parent / f".{job.role}.json"


def check_free(checkpoints: Path, role: str) -> None:
    """Raises UserError naming the job that trains this role now, if there is one."""
    from filelock import FileLock, Timeout

    lock = FileLock(private_dir(checkpoints) / f".{role}.lock", timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(_taken(role, checkpoints / f".{role}.json")) from None
    lock.release()


def _taken(role: str, holder: Path) -> str:
    return f"role {role} is being trained by {_holder(holder)}; wait for it or stop it first"


def _holder(path: Path) -> str:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        return f"job {value['job']} (process {value['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another job"


# -- what may be said in a bead ---------------------------------------------------------------------

_URL_USER = re.compile(r"(\w+://)[^/\s@]+@")
_PATH = re.compile(r"(?<![\w/.])(?:~|\.{0,2})/(?!/)[^\s:;,'\"()]*/([^\s:;,'\"()/]*)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_NAMED = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|authorization|bearer))"
    r"['\"]?\s*(?:[:=]\s*|\s+is\s+)(?:(?:bearer|basic)\s+)?\S+"
)
_KEY = re.compile(
    r"\b(?:sk|pk|rk|gh[opsu]|github_pat|xox[abprs]|glpat|hf|npm|pypi|AKIA|ASIA|eyJ)[-_]?[\w-]{8,}"
)
_OPAQUE = re.compile(r"(?=[A-Za-z+/=]*\d)(?=[\d+/=]*[A-Za-z])[A-Za-z0-9+/=]{16,}")


def public_reason(error: BaseException) -> str:
    """An exception as a bead may carry it for ever: its class and one line, without secrets and folders.

    Beads are in the town's history and may be pushed, so paths shrink to their last part, and whatever looks
    like a credential, an address or an opaque token goes.
    """
    text = public_text(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def public_text(text: str) -> str:
    """One line of text as a bead may carry it."""
    text = _URL_USER.sub(r"\1", _one_line(text))
    text = _EMAIL.sub("[email]", _PATH.sub(r"\1", text))
    text = _KEY.sub("[redacted]", _NAMED.sub(r"\1 [redacted]", text))
    return _OPAQUE.sub("[redacted]", text)


def _one_line(text: str, limit: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; not-a-number as text, since beads refuse it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
