"""Processes that read and scrub session files for a long sweep, while the sweep itself alone writes.

What a helper needs (policy, what is known of the town) reaches it through a pipe and never a file. Results
come back a few files ahead at most, so that memory stays bounded. A helper whose sweep is gone ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType

from ..transcripts.sources import Head, TranscriptSource
from .belonging import Belonging, Hint
from .reading import FileRead, Reader, Task, asked, few_collections, read_here
from .scrub.engine import Scrubber
from .scrub.layers import Policy

MOST = 4
_AHEAD = 6
_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""A forked helper has the compiled rules and all imports already; a new one needs half a second for them. It
uses nothing else of what it was born with, least of all the store."""
_WATCH_SECONDS = 2.0


def helper_count() -> int:
    """One for each processor that this process may use beside its own, four at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, usable - 1)


class Helpers:
    """A context manager; :meth:`add` files, and leave the block for the rest of the results.

    The process that adds files reads as well, while helpers start and whenever they have enough to do."""

    def __init__(self, reader: Reader, policy: Policy, count: int) -> None:
        self._reader = reader
        self._limit = count * _AHEAD
        self._waiting: deque[tuple[Task, Future[FileRead]]] = deque()
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context(_METHOD),
            initializer=_start,
            initargs=(policy, reader.belonging, reader.purged, os.getpid()),
        )

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._take_one()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def add(self, task: Task) -> None:
        """Have a file read, here where every helper has one waiting; takes the results that are there."""
        while self._waiting and self._waiting[0][1].done():
            self._take_one()
        if len(self._waiting) >= self._limit:
            read_here(self._reader, task)
            return
        try:
            future = self._pool.submit(_read, task.source.name, task.path, task.head, task.hint)
        except BrokenProcessPool:
            read_here(self._reader, task)
            return
        self._waiting.append((task, future))

    def _take_one(self) -> None:
        task, future = self._waiting.popleft()
        try:
            result = future.result()
        except OSError as error:
            task.failed(error)
        except BrokenProcessPool:
            read_here(self._reader, task)  # a helper was killed
        else:
            task.then(result)


# --- in the helper

_state: dict[str, tuple[Reader, dict[str, TranscriptSource]]] = {}


def _start(policy: Policy, belonging: Belonging, purged: Collection[str], sweep: int) -> None:
    from ..transcripts.sources import transcript_sources

    threading.Thread(target=_end_with, args=(sweep,), daemon=True).start()
    sources = {source.name: source for source in transcript_sources()}
    _state["reader"] = (Reader(belonging, purged, Scrubber(policy)), sources)


def _end_with(sweep: int) -> None:
    """A sweep that is killed closes no pipe that a helper would notice."""
    while os.getppid() == sweep:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _read(name: str, path: Path, head: Head | None, hint: Hint) -> FileRead:
    reader, sources = _state["reader"]
    with few_collections():
        return reader.read(asked(sources[name].sessions, path), path, head, hint)
