"""An endpoint of two OpenAI protocols that says the same to all: one shell command, then a last word."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMAND = "echo hello-from-tool"
LAST_WORD = "All seen."
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


class Handler(BaseHTTPRequestHandler):
    """Streams; knows ``/responses`` (codex) and ``/chat/completions`` (opencode)."""

    def log_message(self, *_: Any) -> None:
        """Tests print nothing."""

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [], "models": []}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        events = responses(body) if "responses" in self.path else completions(body)
        self._send("text/event-stream", events)

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def responses(body: dict[str, Any]) -> str:
    """The events of one turn of the Responses API."""
    names = [tool.get("name") for tool in body.get("tools", [])]
    if any(str(item.get("type", "")).endswith("_output") for item in body.get("input", [])):
        content = [{"type": "output_text", "text": LAST_WORD}]
        items = [{"type": "message", "id": "msg_2", "role": "assistant", "content": content}]
    else:
        key = "cmd" if "exec_command" in names else "command"
        name = next(n for n in ("exec_command", "shell_command", "shell") if n in names)
        given = json.dumps({key: COMMAND})
        summary = [{"type": "summary_text", "text": "I should look."}]
        items = [
            {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "Z"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": given},
        ]
    usage = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    events = [{"type": "response.created", "response": {"id": "r"}}]
    events += [
        {"type": "response.output_item.done", "output_index": i, "item": x} for i, x in enumerate(items)
    ]
    events.append({"type": "response.completed", "response": {"id": "r", "usage": usage}})
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def completions(body: dict[str, Any]) -> str:
    """The chunks of one turn of the Chat Completions API."""
    tools = [tool["function"]["name"] for tool in body.get("tools", [])]
    asked = any(message.get("role") == "tool" for message in body["messages"])
    if asked or "bash" not in tools:
        deltas: list[tuple[dict[str, Any], str | None]] = [
            ({"role": "assistant", "content": LAST_WORD}, None)
        ]
        deltas.append(({}, "stop"))
    else:
        given = json.dumps({"command": COMMAND, "description": "say hello"})
        function = {"name": "bash", "arguments": given}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        deltas = [({"role": "assistant", "content": "Looking."}, None), ({"tool_calls": [call]}, None)]
        deltas.append(({}, "tool_calls"))
    known = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub", "usage": USAGE}
    chunks = [
        known | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas
    ]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


@contextlib.contextmanager
def scripted() -> Iterator[str]:
    """The address of such an endpoint, for as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
