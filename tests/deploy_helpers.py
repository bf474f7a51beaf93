"""A stand-in for the agent client and for the endpoint, and a town in which versions can be deployed."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLIENT = """#!/bin/sh
{ for a in "$@"; do printf '%s\\0' "$a"; done; printf '\\0'; env; } >"${RECORD:?}"
"""


def make_client(folder: Path) -> Path:
    """A ``claude`` that writes its arguments and environment into the file that RECORD names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "claude"
    path.write_text(CLIENT)
    path.chmod(0o755)
    return path


def recorded(path: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the last start."""
    args, _, lines = path.read_text().rpartition("\0\0")
    pairs = [line.partition("=") for line in lines.splitlines() if "=" in line]
    return args.split("\0"), {name: value for name, _, value in pairs}


@contextmanager
def endpoint(port: int, models: list[str], delay: float = 0.0, status: int = 200) -> Iterator[list[str]]:
    """Something that answers ``/health`` on ``port``; yields the headers it was sent."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            seen.append(str(self.headers))
            time.sleep(delay)
            body = json.dumps({"status": "ok", "models": models}).encode()
            with suppress(BrokenPipeError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
