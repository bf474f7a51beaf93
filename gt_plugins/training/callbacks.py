"""The built-in listeners of a training job, and the group that calls every listener without harm.

``metrics.jsonl`` in the job's folder has one line per step (what ``gt model jobs`` follows and the report
draws); ``heartbeat.json`` says that the trainer lives and where it stands. Listeners of third parties are
called by the same group: what they raise is said once and training goes on without them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..durable import append_line, read_lines, write_json
from .job import Job, TrainCallbacks
from .metrics import Board

METRICS = "metrics.jsonl"
HEARTBEAT = "heartbeat.json"
HEARTBEAT_EVERY = 5.0


class Listener:
    """A TrainCallbacks that ignores everything: override what you want to hear."""

    def on_start(self) -> None:
        """Training begins, or goes on after a resume."""

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """An optimizer step is done."""

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        """A step was skipped because its loss or gradient was not finite."""

    def on_state(self, state: str) -> None:
        """The trainer does something else for a while, or trains on."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint is on disk, whole."""

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        """The held-out rows were looked at."""

    def on_end(self, state: str) -> None:
        """Training ended: done, failed, or ready."""


class MetricsWriter(Listener):
    """One JSON line per step. A power cut may lose those since the last checkpoint; a kill -9 loses none."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / METRICS
        self._clock = clock

    def _write(self, event: str, fields: dict[str, Any], *, sync: bool) -> None:
        record = {"event": event, "at": round(self._clock(), 3)} | {k: _number(v) for k, v in fields.items()}
        append_line(self.path, record, sync=sync)

    def on_start(self) -> None:
        self._write("start", {"pid": os.getpid()}, sync=True)

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self._write("step", {"step": step} | metrics, sync=False)

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        self._write("nan", {"step": step} | metrics, sync=True)

    def on_checkpoint(self, path: Path) -> None:
        self._write("checkpoint", {"name": path.name}, sync=True)

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        self._write("eval", {"step": step} | metrics, sync=True)

    def on_end(self, state: str) -> None:
        self._write("end", {"state": state}, sync=True)


class Heartbeat(Listener):
    """``heartbeat.json``: process, step and time; rewritten at most every few seconds."""

    def __init__(
        self, folder: Path, every: float = HEARTBEAT_EVERY, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = folder / HEARTBEAT
        self._every, self._clock = every, clock
        self._last = -math.inf
        self._step = 0

    def _beat(self, state: str, *, now: bool) -> None:
        at = self._clock()
        if now or at - self._last >= self._every or at < self._last:
            self._last = at
            write_json(self.path, {"pid": os.getpid(), "step": self._step, "at": at, "state": state})

    def on_start(self) -> None:
        self._beat("training", now=True)

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self._step = step
        self._beat("training", now=False)

    def on_state(self, state: str) -> None:
        self._beat(state, now=True)

    def on_checkpoint(self, path: Path) -> None:
        self._beat("checkpointing", now=True)

    def on_end(self, state: str) -> None:
        self._beat(state, now=True)


class BoardWriter(Listener):
    """The same figures for TensorBoard, where tensorboardX is installed."""

    def __init__(self, folder: Path) -> None:
        self._board = Board(folder)

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self._board.write(step, metrics)

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        self._board.write(step, metrics, "heldout")

    def on_end(self, state: str) -> None:
        self._board.close()


class CallbackGroup:
    """Calls every listener in turn; one that raises is said once, by name, and called again next time.

    A listener may not stop a training run that took hours: to stop one, the trainer itself raises.
    """

    def __init__(self, listeners: Iterable[TrainCallbacks], say: Callable[[str], None] | None = None) -> None:
        self.listeners = list(listeners)
        self.say = say or (lambda line: print(line, file=sys.stderr))
        self._said: set[tuple[int, str]] = set()

    def _call(self, what: str, *args: Any) -> None:
        for listener in self.listeners:
            try:
                hears = getattr(listener, what, None)  # a listener may be older than what there is to hear
                if hears is not None:
                    hears(*args)
            except Exception as error:
                key = (id(listener), what)
                if key not in self._said:
                    self._said.add(key)
                    name = f"{type(listener).__module__}.{type(listener).__qualname__}"
                    text = " ".join(str(error).split())
                    self.say(f"{name}.{what} failed, training goes on: {type(error).__name__}: {text}")

    def on_start(self) -> None:
        self._call("on_start")

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self._call("on_step", step, dict(metrics))

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        self._call("on_nan", step, dict(metrics))

    @contextmanager
    def during(self, state: str) -> Iterator[None]:
        """Tell that the trainer is in ``state`` for the length of a block, and then trains on."""
        self._call("on_state", state)
        yield
        self._call("on_state", "training")

    def on_checkpoint(self, path: Path) -> None:
        self._call("on_checkpoint", path)

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        self._call("on_eval", step, dict(metrics))

    def on_end(self, state: str) -> None:
        self._call("on_end", state)


@hookimpl
def gt_train_callbacks(job: Job) -> Sequence[TrainCallbacks]:
    """Metrics, heartbeat and TensorBoard's files in the job's folder."""
    return [MetricsWriter(job.folder), Heartbeat(job.folder), *_board(job)]


def _board(job: Job) -> list[TrainCallbacks]:
    return [BoardWriter(job.folder)] if importlib.util.find_spec("tensorboardX") else []


def listeners_of(job: Job, *own: TrainCallbacks, say: Callable[[str], None] | None = None) -> CallbackGroup:
    """The group for a job: ``own`` first, then the built-in listeners and every plugin's.

    A plugin that fails to make its listeners is said and left out, as one that fails later is."""
    from ..plugins import implementations

    group = CallbackGroup(own, say)
    for one in implementations("gt_train_callbacks"):
        try:
            group.listeners += [*(one(job=job) or ())]
        except Exception as error:
            group.say(f"{one.name}: gt_train_callbacks failed, training goes on: {error!r}")
    return group


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The steps of a job in order, each once: after a resume the later run of a step counts."""
    steps = {}
    for record in read_lines(folder / METRICS):
        if record.get("event") == "step" and isinstance(record.get("step"), int):
            steps[record["step"]] = record
    return [steps[step] for step in sorted(steps)]


def _number(value: Any) -> Any:
    """JSON knows no NaN: a reader in another language must be able to read the line."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool | None):
        return value
    if hasattr(value, "item"):
        return _number(value.item())
    return str(value)
