"""The real gt at work for us: started at once, read when we are ready.

Without :mod:`subprocess` and threads, whose import takes longer than a short ``gt prime`` leaves room for.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence

MAX_BYTES = 8 * 1024 * 1024
"""Of stdout and stderr each; what is more is read and let go, so that the child never waits for us."""
_LOOK = 0.1
_GRACE = 1.0


class RealGt:
    """A child with our stdin; its stdout is kept, its stderr kept and passed on."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, out_end, 1), (os.POSIX_SPAWN_DUP2, err_end, 2)]
        try:
            # Python ignores SIGPIPE and a child would inherit that.
            self.pid = os.posix_spawn(
                command[0], list(command), environ, file_actions=actions, setsigdef=[signal.SIGPIPE]
            )
        except OSError:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        self.out, self.err = bytearray(), bytearray()
        self._open = {out: self.out, err: self.err}
        self._stderr = err
        self._status: int | None = None

    def ended(self) -> bool:
        """Whether it has exited; what it printed may still have to be read."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def finish(self) -> tuple[int, bytes, str]:
        """Exit code (128 + n for a signal), stdout, stderr as text.

        Something that gt left behind may hold the pipes open: a second after gt's end we go on."""
        try:
            until: float | None = None
            while self._open and (until is None or time.monotonic() < until):
                self._read(_LOOK)
                if until is None and self.ended():
                    until = time.monotonic() + _GRACE
            if self._status is None:
                self._status = os.waitpid(self.pid, 0)[1]
        except BaseException:
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)
            raise
        code = os.waitstatus_to_exitcode(self._status)
        return (
            (code if code >= 0 else 128 - code),
            bytes(self.out),
            bytes(self.err).decode("utf-8", "replace"),
        )

    def _read(self, seconds: float) -> None:
        """Wait for output, at most so long, and take what is there."""
        ready, _, _ = select.select(list(self._open), [], [], seconds)
        for pipe in ready:
            chunk = os.read(pipe, 65536)
            if not chunk:
                os.close(pipe)
                del self._open[pipe]
                continue
            kept = self._open[pipe]
            if len(kept) < MAX_BYTES:
                kept += chunk
            if pipe == self._stderr:
                os.write(2, chunk)
