"""The real agent client against our endpoint: a turn with a tool, streaming, and the title it asks for."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.serving.app import make_app
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import Body, ScriptResponder

pytestmark = pytest.mark.live
TOKEN = "a-token-of-sixteen"
MODEL = "gt-ft-deacon"
SYSTEM = "You are the deacon of a Gas Town."


@dataclass
class Session:
    """A home, a working folder and an endpoint for one run of the client."""

    client: str
    home: Path
    url: str
    bodies: list[Body] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "IS_SANDBOX": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
        }

    @property
    def words(self) -> list[str]:
        """The command as a deployed role's wrapper gives it."""
        settings = self.home / "settings.json"
        options = ["--model", MODEL, "--settings", str(settings), "--setting-sources", "user"]
        options += ["--tools", "Bash", "--strict-mcp-config", "--disable-slash-commands"]
        return [self.client, *options, "--dangerously-skip-permissions", "--system-prompt", SYSTEM]


def script(body: Body) -> list[dict[str, Any]]:
    if not body.get("tools"):
        return [{"type": "text", "text": json.dumps({"title": "Say hello"})}]
    if not any(m["role"] == "assistant" for m in body["messages"]):
        call = {"type": "tool_use", "name": "Bash", "input": {"command": "echo from-the-$((40+2))-tool"}}
        return [{"type": "text", "text": "Looking."}, call]
    return [{"type": "text", "text": "All done."}]


@pytest.fixture
def session(client: str, tmp_path: Path) -> Iterator[Session]:
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    state = {"hasCompletedOnboarding": True, "bypassPermissionsModeAccepted": True, "theme": "dark"}
    (home / ".claude.json").write_text(json.dumps({**state, "projects": {str(home / "work"): trusted}}))
    (home / "token").write_text(TOKEN)
    session = Session(client, home, "")

    def recorded(body: Body) -> list[dict[str, Any]]:
        session.bodies.append(body)
        return script(body)

    with served_locally(make_app(ScriptResponder("script", recorded), TOKEN, [MODEL])) as url:
        session.url = url
        settings = {"apiKeyHelper": f"cat {home / 'token'}", "env": {"ANTHROPIC_BASE_URL": url}}
        (home / "settings.json").write_text(json.dumps(settings))
        yield session


def test_a_turn_with_a_tool(session: Session) -> None:
    done = subprocess.run(
        [*session.words, "-p", "say hello", "--output-format", "stream-json", "--verbose"],
        cwd=session.work,
        env=session.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["result"] == "All done." and lines[-1]["num_turns"] == 2
    first, second = session.bodies[0], session.bodies[-1]
    assert first["stream"] is True and [t["name"] for t in first["tools"]] == ["Bash"]
    assert any(SYSTEM in block["text"] for block in first["system"])
    said = [b for m in second["messages"] for b in m["content"] if isinstance(b, dict)]
    assert any(b.get("type") == "tool_result" and "from-the-42-tool" in str(b["content"]) for b in said)


def test_an_interactive_session_gets_its_title(session: Session) -> None:
    def titled() -> bool:
        return any((b.get("output_config") or {}).get("format") for b in session.bodies)

    prompt = (
        "Look around in this folder, tell what you find there, and then say hello."  # short ones get none
    )
    with in_terminal(session, prompt):
        wait_for(lambda: titled() and len(session.bodies) >= 3)
    title = next(b for b in session.bodies if (b.get("output_config") or {}).get("format"))
    assert not title.get("tools") and title["output_config"]["format"]["type"] == "json_schema"
    assert list(title["output_config"]["format"]["schema"]["properties"]) == ["title"]


class in_terminal:
    """The client in a terminal of its own, ended at the end of the block."""

    def __init__(self, session: Session, prompt: str) -> None:
        self._session, self._prompt = session, prompt

    def __enter__(self) -> None:
        controller, terminal = pty.openpty()
        self._child = subprocess.Popen(
            [*self._session.words, self._prompt],
            cwd=self._session.work,
            env=self._session.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        threading.Thread(target=_drain, args=(controller,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        os.killpg(self._child.pid, signal.SIGTERM)
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(10)


def _drain(descriptor: int) -> None:
    """Read what the client draws, so that it never waits for its terminal."""
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        os.close(descriptor)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the client did not ask in time"
        time.sleep(0.05)
