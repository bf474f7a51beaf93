"""MonitorWorker: a thread that watches a running job and says when it is degraded, has failed, or is well.

It listens to the trainer's own callbacks (never to logs) and judges at intervals: a step that does not
come, steps far slower than they were, a loss that runs away, memory that runs out, peers that are lost.
The judging is a pure function of what was seen, so that it is tested without a clock.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .callbacks import Listener

T = TypeVar("T")

WELL, DEGRADED, FAILED = "well", "degraded", "failed"


@dataclass(frozen=True)
class Limits:
    """When to worry. Factors compare with the median of what the job itself did before."""

    stall_seconds: float = 120.0
    stall_factor: float = 20.0
    dead_seconds: float = 1800.0
    slow_factor: float = 4.0
    loss_factor: float = 3.0
    loss_floor: float = 0.5
    memory_fraction: float = 0.95
    warm_up_steps: int = 10


@dataclass(frozen=True)
class Sight:
    """What the monitor sees at one moment."""

    now: float
    last_sign: float
    step_seconds: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    memory: float | None = None
    """Used share of memory, 0 to 1."""
    peers: tuple[int, int] | None = None
    """How many peers are there, and how many are wanted."""


@dataclass(frozen=True)
class Verdict:
    """How the job is, and why."""

    state: str = WELL
    reason: str = ""


class Reporter(Protocol):
    """What a monitor reports to; a JobLifecycle is one."""

    def degrade(self, reason: str) -> None: ...

    def recover(self, reason: str = "") -> None: ...

    def fail(self, reason: str) -> None: ...


def judge(sight: Sight, limits: Limits) -> Verdict:
    """Judge one moment: the worst thing seen, the most urgent first."""
    silent = sight.now - sight.last_sign
    if silent > limits.dead_seconds:
        return Verdict(FAILED, f"no step for {silent:.0f} s")
    if sight.peers is not None and sight.peers[0] == 0 and sight.peers[1] > 0:
        return Verdict(DEGRADED, f"all {sight.peers[1]} peers are lost")
    usual = statistics.median(sight.step_seconds) if sight.step_seconds else 0.0
    if silent > max(limits.stall_seconds, limits.stall_factor * usual):
        return Verdict(DEGRADED, f"no step for {silent:.0f} s (usually {usual:.1f} s)")
    if sight.memory is not None and sight.memory > limits.memory_fraction:
        return Verdict(DEGRADED, f"{sight.memory:.0%} of the memory is used")
    if sight.peers is not None and sight.peers[0] < sight.peers[1]:
        return Verdict(DEGRADED, f"{sight.peers[1] - sight.peers[0]} of {sight.peers[1]} peers are lost")
    return _slow(sight, limits) or _running_away(sight, limits) or Verdict()


def _slow(sight: Sight, limits: Limits) -> Verdict | None:
    """The last three steps against those before: one slow step is a checkpoint, three are a trend."""
    before, last = sight.step_seconds[:-3], sight.step_seconds[-3:]
    if len(before) < limits.warm_up_steps:
        return None
    usual = statistics.median(before)
    if min(last) > limits.slow_factor * usual:
        return Verdict(DEGRADED, f"steps take {min(last):.1f} s, before it was {usual:.1f} s")
    return None


def _running_away(sight: Sight, limits: Limits) -> Verdict | None:
    """The last five losses against the best five in a row; small losses may jump."""
    losses = [loss for loss in sight.losses if math.isfinite(loss)]
    if len(losses) < limits.warm_up_steps + 5:
        return None
    means = [statistics.fmean(losses[i : i + 5]) for i in range(len(losses) - 4)]
    best, now = min(means[:-1]), means[-1]
    if now > limits.loss_factor * best and now - best > limits.loss_floor:
        return Verdict(DEGRADED, f"the loss runs away: {now:.2f}, it was {best:.2f}")
    return None


@dataclass
class _Seen:
    last_sign: float
    last_step: float | None = None
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=100))


class MonitorWorker(Listener):
    """Watches in a thread of its own and reports each change once; a listener of the job it watches."""

    def __init__(
        self,
        report: Reporter,
        limits: Limits | None = None,
        *,
        every: float = 5.0,
        memory: Callable[[], float | None] | None = None,
        peers: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._limits, self._every = report, limits or Limits(), every
        self._memory, self._peers, self._clock = memory or memory_share, peers, clock
        self._seen = _Seen(clock())
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._verdict = Verdict()
        self._thread: threading.Thread | None = None

    # -- what it hears ------------------------------------------------------------------------------

    def on_start(self) -> None:
        with self._lock:
            self._seen = _Seen(self._clock())
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="job-monitor", daemon=True)
            self._thread.start()

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        now = self._clock()
        with self._lock:
            seen = self._seen
            if seen.last_step is not None:
                seen.step_seconds.append(now - seen.last_step)
            seen.last_step = seen.last_sign = now
            loss = metrics.get("loss")
            if isinstance(loss, int | float):
                seen.losses.append(float(loss))

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        self._alive()

    def on_checkpoint(self, path: Path) -> None:
        self._alive()

    def _alive(self) -> None:
        """A sign of life that says nothing about the speed of steps."""
        with self._lock:
            self._seen.last_sign = self._clock()
            self._seen.last_step = None

    def on_end(self, state: str) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._every + 1.0)
            self._thread = None

    # -- what it says -------------------------------------------------------------------------------

    def look(self) -> Verdict:
        """Judge now, and report if that is news."""
        memory, peers = _asked(self._memory), _asked(self._peers)
        with self._lock:
            seen = self._seen
            times, losses = tuple(seen.step_seconds), tuple(seen.losses)
            sight = Sight(self._clock(), seen.last_sign, times, losses, memory, peers)
        before, self._verdict = self._verdict, judge(sight, self._limits)
        if self._verdict.state != before.state:
            match self._verdict.state:
                case "failed":
                    self._report.fail(self._verdict.reason)
                case "degraded":
                    self._report.degrade(self._verdict.reason)
                case _:
                    self._report.recover(f"well again (it was: {before.reason})")
        return self._verdict

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                self.look()
            except ValueError:
                return  # the job was done between the look and the report


def _asked(source: Callable[[], T | None] | None) -> T | None:
    """A figure from outside; one that cannot be had is unknown, and no reason to stop watching."""
    try:
        return source() if source else None
    except Exception:
        return None


def memory_share() -> float | None:
    """The used share of this machine's memory, or None where the system does not tell (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    amounts = {line.partition(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    try:
        return 1.0 - int(amounts["MemAvailable"]) / int(amounts["MemTotal"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None
