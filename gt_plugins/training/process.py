"""Processes: is the one that a file names still the one that wrote it, and what ours have used.

A number alone may have gone to another."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def mark(pid: int) -> str:
    """When a process began, in the system's own ticks; empty where that is not told (macOS) or it is gone."""
    return _stat(pid, 19)


def alive(pid: int, born: str = "") -> bool:
    """Whether the process runs and, where ``born`` says it, began then. One that has ended and only waits to
    be collected by its parent does not run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    now = mark(pid)
    return not (born and now and born != now) and _stat(pid, 0) != "Z"


def children_seconds() -> float:
    """Processor seconds of the children that this process has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _stat(pid: int, index: int) -> str:
    """A field of /proc/PID/stat after the name (proc(5): the state is 0, the start time 19)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[index]
    except (OSError, IndexError):
        return ""
