"""Asking a run to end: SIGTERM, SIGINT and SIGHUP mean "save after the step at hand, and go"."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stoppable(Protocol):
    """What can be asked to stop: a Trainer."""

    stop_asked: bool


@dataclass
class Stop:
    """Whether somebody asked, also before there was anybody to be asked."""

    asked: bool = False
    target: Stoppable | None = None

    def ask(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask now; the form is that of a signal handler."""
        self.asked = True
        if self.target is not None:
            self.target.stop_asked = True

    def attach(self, target: Stoppable) -> None:
        """From now on ``target`` is asked; at once where somebody already has."""
        self.target = target
        if self.asked:
            target.stop_asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals ask for a stop for the length of the block. In another thread than the main one there are no
    signals: whoever runs us there has its own way to stop."""
    stop = Stop()
    try:
        before = {number: signal.signal(number, stop.ask) for number in SIGNALS}
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
