"""An endpoint inside this process, on a free loopback port, for as long as a block runs.

Evaluation scores what ships through it, the demo shows it, the teacher drives the real client with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import FinetuneError

if TYPE_CHECKING:
    from starlette.applications import Starlette

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


@contextmanager
def served_locally(app: Starlette, port: int = 0) -> Iterator[str]:
    """Serve an application from a thread; gives its URL. Raises FinetuneError where it does not start."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="endpoint", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{_port(server, thread)}"
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)


def _port(server: object, thread: threading.Thread) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > deadline:
            raise FinetuneError("the endpoint did not start on 127.0.0.1")
        time.sleep(0.01)
    servers = getattr(server, "servers", [])
    return int(servers[0].sockets[0].getsockname()[1])
