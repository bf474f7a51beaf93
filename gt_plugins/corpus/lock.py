"""One sweep at a time: an advisory lock that the system lets go when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..durable import PRIVATE_FILE
from ..town.root import Town

LOCK_NAME = "sweep.lock"
"""Below ``.corpus``; :mod:`gt_plugins.corpus.capture` looks at it too."""


@contextmanager
def sweep_lock(town: Town, wait: float) -> Iterator[bool]:
    """Hold the lock for the block; the block is told whether it was got within ``wait`` seconds."""
    town.own_dir(town.corpus_dir)
    fd = os.open(town.corpus_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        os.fchmod(fd, PRIVATE_FILE)
        yield _taken(fd, time.monotonic() + wait)
    finally:
        os.close(fd)


def _taken(fd: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
