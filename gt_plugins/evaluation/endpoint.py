"""A version behind an endpoint of its own for the length of an evaluation: the real one, on loopback."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import FinetuneError

if TYPE_CHECKING:
    from ..serving.client import EndpointClient
    from ..serving.responder import Responder


@contextmanager
def local_endpoint(responder: Responder, name: str) -> Iterator[EndpointClient]:
    """Serve ``responder`` in a thread on a free port; gives a client for it.

    Raises FinetuneError where it does not come up within ten seconds."""
    import uvicorn

    from ..serving.app import make_app
    from ..serving.client import EndpointClient

    token = secrets.token_hex(16)
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(responder, token, [name]), log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise FinetuneError("the endpoint for the evaluation did not come up")
            time.sleep(0.01)
        with EndpointClient(f"http://127.0.0.1:{bound.getsockname()[1]}", token) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        bound.close()
