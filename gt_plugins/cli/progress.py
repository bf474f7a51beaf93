"""Live lines on stderr for long work; nothing but plain notes where stderr is no terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..training.callbacks import Listener


def note(text: str) -> None:
    """A line for the person at the terminal, if there still is one; stdout stays for results.

    Training of hours must not fail because whoever read its words is gone."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Stages:
    """Named stages with a bar each; a note at every tenth where there is no terminal."""

    def __init__(self, enabled: bool = True) -> None:
        self._live = enabled and sys.stderr.isatty()
        self._enabled = enabled
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Stages:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:>12}"),
                BarColumn(30),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
                TextColumn("{task.fields[words]}"),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, stage: str, done: int, total: int, words: str = "") -> None:
        """Where a stage stands."""
        if self._progress is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=total, words="")
            self._progress.update(self._tasks[stage], completed=done, total=total, words=words)
        elif self._enabled:
            tenth = 10 * done // max(1, total)
            if tenth > self._told.get(stage, -1):
                self._told[stage] = tenth
                note(f"{stage}: {done}/{total} {words}".rstrip())


class TrainingLine(Listener):
    """A listener of training that shows step, loss and speed."""

    def __init__(self, enabled: bool = True) -> None:
        self._stages = Stages(enabled)
        self._recent: list[float] = []
        self._heldout = ""

    def __enter__(self) -> TrainingLine:
        self._stages.__enter__()
        return self

    def __exit__(self, *gone: Any) -> None:
        self._stages.__exit__(*gone)

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """See ``TrainCallbacks.on_step``."""
        self._recent = [*self._recent[-19:], metrics["loss"]]
        loss = sum(self._recent) / len(self._recent)
        words = f"loss {loss:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s{self._heldout}"
        self._stages.update("training", step, metrics["steps"], words)

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        """See ``TrainCallbacks.on_eval``."""
        self._heldout = f"  held-out {metrics['heldout_loss']:.3f}"

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        """See ``TrainCallbacks.on_nan``."""
        note(f"step {step} was skipped: loss {metrics['loss']}, gradient {metrics['grad_norm']}")
