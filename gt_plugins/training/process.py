"""Is the process that a file names still the one that wrote it? A number alone may have gone to another."""

from __future__ import annotations

import os
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


def _stat(pid: int, index: int) -> str:
    """A field of /proc/PID/stat after the name (proc(5): the state is 0, the start time 19)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[index]
    except (OSError, IndexError):
        return ""
