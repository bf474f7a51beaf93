"""Writes session files as codex 0.171 does: envelopes with ordinals, calls with arguments in a string."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)
THREAD = "01a20000-0000-7000-8000-000000000001"
CHILD = "01a20000-0000-7000-8000-000000000002"


class Rollout:
    """Lines of one session; each method appends one."""

    def __init__(self, cwd: str | Path, thread: str = THREAD, **meta: Any) -> None:
        self.thread = thread
        self.lines: list[dict[str, Any]] = []
        known = {"id": thread, "session_id": thread, "cwd": str(cwd), "cli_version": "0.171.0"}
        self.line("session_meta", {**known, "source": "cli", "model_provider": "x", **meta})
        self.line("turn_context", {"cwd": str(cwd), "model": "gpt-x"})

    def line(self, kind: str, payload: dict[str, Any], **more: Any) -> None:
        at = START + timedelta(seconds=len(self.lines))
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        ordinal = len(self.lines)
        self.lines.append({"timestamp": stamp, "ordinal": ordinal, "type": kind, "payload": payload} | more)

    def item(self, kind: str, **fields: Any) -> None:
        self.line("response_item", {"type": kind, **fields})

    def event(self, kind: str, **fields: Any) -> None:
        self.line("event_msg", {"type": kind, **fields})

    def user(self, text: str) -> None:
        self.item("message", role="user", content=[{"type": "input_text", "text": text}])
        self.event("user_message", message=text)

    def say(self, text: str) -> None:
        self.item("message", role="assistant", content=[{"type": "output_text", "text": text}])
        self.event("agent_message", message=text)

    def call(self, call: str, command: str) -> None:
        self.item("function_call", name="exec_command", arguments=json.dumps({"cmd": command}), call_id=call)

    def result(self, call: str, output: Any) -> None:
        self.item("function_call_output", call_id=call, output=output)

    def text(self) -> str:
        return "".join(json.dumps(line) + "\n" for line in self.lines)

    def write(self, folder: Path, suffix: str = ".jsonl") -> Path:
        path = folder / "2026/03/01" / f"rollout-2026-03-01T08-00-00-{self.thread}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.text().encode()
        if suffix.endswith(".zst"):
            import zstandard

            data = zstandard.ZstdCompressor().compress(data)
        path.write_bytes(data)
        return path


def codex_patrol(cwd: str | Path, thread: str = THREAD, word: str = "patrol", **meta: Any) -> Rollout:
    """A plain session: instructions, prompt, one call with its result, a last word."""
    script = Rollout(cwd, thread, **meta)
    script.item("message", role="developer", content=[{"type": "input_text", "text": "sandbox rules"}])
    script.user(f"<environment_context>\n  <cwd>{cwd}</cwd>\n</environment_context>")
    script.user(f"Start your {word}.")
    script.item(
        "reasoning", summary=[{"type": "summary_text", "text": f"look at {word}"}], encrypted_content="Z"
    )
    script.call("call_1", f"gt hook {word}")
    script.result("call_1", f"Exit code: 0\nOutput:\nresult of {word}\n")
    script.say(f"{word} done")
    return script
