"""Writes session files as Claude Code 2.1 does, for tests: one block per line, uuids, parents, times."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)
SESSION = "11111111-2222-4333-8444-555555555555"


class Transcript:
    """Lines of one session; a method appends one and returns its uuid; ``tip`` is the next one's parent."""

    def __init__(self, cwd: str | Path, session: str = SESSION, model: str = "claude-x") -> None:
        self.session = session
        self.cwd = str(cwd)
        self.model = model
        self.lines: list[dict[str, Any]] = []
        self.tip: str | None = None
        self.count = 0

    def line(self, **fields: Any) -> str:
        self.count += 1
        uuid = f"{self.session[:8]}-0000-4000-8000-{self.count:012d}"
        at = START + timedelta(seconds=self.count)
        record = {
            "parentUuid": self.tip,
            "isSidechain": False,
            "uuid": uuid,
            "timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "cwd": self.cwd,
            "sessionId": self.session,
            "version": "2.1.197",
            **fields,
        }
        self.lines.append(record)
        self.tip = record["uuid"]
        return self.tip

    def prompt(self, text: str, **fields: Any) -> str:
        return self.line(type="user", message={"role": "user", "content": text}, **fields)

    def block(self, message_id: str, block: dict[str, Any], **fields: Any) -> str:
        usage = {"input_tokens": 10, "output_tokens": 5}
        message = {
            "id": message_id,
            "role": "assistant",
            "model": self.model,
            "content": [block],
            "usage": usage,
        }
        return self.line(type="assistant", message=message, **fields)

    def say(self, text: str, message_id: str = "", **fields: Any) -> str:
        return self.block(message_id or f"msg_{self.count}", {"type": "text", "text": text}, **fields)

    def call(self, call_id: str, command: str, message_id: str = "", **fields: Any) -> str:
        block = {"type": "tool_use", "id": call_id, "name": "Bash", "input": {"command": command}}
        return self.block(message_id or f"msg_{self.count}", block, **fields)

    def result(self, call_id: str, text: str, **fields: Any) -> str:
        block = {"type": "tool_result", "tool_use_id": call_id, "content": text, "is_error": False}
        return self.line(type="user", message={"role": "user", "content": [block]}, **fields)

    def hook(self, name: str, content: str, **fields: Any) -> str:
        attachment = {"type": "hook_success", "hookName": name, "content": content}
        return self.line(type="attachment", attachment=attachment, **fields)

    def noise(self) -> None:
        """What stands at the head of real files."""
        self.lines.append({"type": "mode", "mode": "normal", "sessionId": self.session})
        self.lines.append({"type": "last-prompt", "leafUuid": "x", "sessionId": self.session})

    def text(self) -> str:
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def write(self, folder: Path, name: str = "") -> Path:
        path = folder / f"{name or self.session}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text())
        return path


def patrol(cwd: str | Path, session: str = SESSION, steps: int = 2, word: str = "patrol") -> Transcript:
    """A plain session: prime, prompt, ``steps`` tool calls with results, a last word."""
    script = Transcript(cwd, session)
    script.noise()
    script.hook("SessionStart:startup", f"# Prime of {word}")
    script.prompt(f"Start your {word}.")
    for step in range(steps):
        script.say(f"step {step} of {word}", f"msg_{session[:4]}_{step}")
        script.call(f"toolu_{session[:4]}_{step}", f"gt hook {step}", f"msg_{session[:4]}_{step}")
        script.result(f"toolu_{session[:4]}_{step}", f"result {step} of {word}")
    script.say(f"{word} done")
    return script
