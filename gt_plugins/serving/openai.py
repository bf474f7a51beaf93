"""A thin ``/v1/chat/completions``: other tools' requests as ours, and our replies as theirs.

Evaluation harnesses and editors speak this form. It is a translation and nothing more: the same model,
grammar and fence answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .anthropic import ApiError
from .responder import Reply

_REASONS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
_DEFAULT_MAX = 1024


def to_messages(body: Mapping[str, Any]) -> dict[str, Any]:
    """A chat-completions body as a Messages body. Raises ApiError 400 naming what is wrong."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ApiError(400, "messages: a list of messages is needed")
    system = [_text(m.get("content")) for m in messages if m.get("role") in ("system", "developer")]
    out: dict[str, Any] = {
        "model": body.get("model"),
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_MAX,
        "messages": [_message(m) for m in messages if m.get("role") not in ("system", "developer")],
        "stream": body.get("stream", False),
    }
    if system:
        out["system"] = "\n\n".join(system)
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise ApiError(400, "tools: a list is needed")
    if tools:
        out["tools"] = [_tool(t) for t in tools]
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        named = form.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        out["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return out


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(c.get("text", "")) for c in content if isinstance(c, dict))
    return "" if content is None else str(content)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if role == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": str(message.get("tool_call_id", "")),
            "content": _text(message.get("content")),
        }
        return {"role": "user", "content": [result]}
    blocks: list[dict[str, Any]] = []
    if _text(message.get("content")):
        blocks.append({"type": "text", "text": _text(message.get("content"))})
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ApiError(400, "tool_calls: a list is needed")
    blocks += [_use(call) for call in calls]
    return {"role": role, "content": blocks}


def _use(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ApiError(400, "tool_calls: a function is needed")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError):
        raise ApiError(400, "tool_calls.function.arguments: not JSON") from None
    return {
        "type": "tool_use",
        "id": str(call.get("id", "")),
        "name": str(function.get("name", "")),
        "input": arguments if isinstance(arguments, dict) else {},
    }


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise ApiError(400, "tools: only functions are understood")
    return {"name": function.get("name"), "input_schema": function.get("parameters") or {}}


def completion(reply: Reply, model: str, identity: str) -> dict[str, Any]:
    """A whole reply as a chat completion."""
    return {
        "id": identity,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **_content(reply)},
                "finish_reason": _REASONS[reply.stop_reason],
            }
        ],
        "usage": {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.input_tokens + reply.output_tokens,
        },
    }


def _content(reply: Reply) -> dict[str, Any]:
    text = "\n".join(b["text"] for b in reply.blocks if b["type"] == "text")
    calls = [
        {
            "id": b["id"],
            "type": "function",
            "function": {"name": b["name"], "arguments": json.dumps(b["input"], ensure_ascii=False)},
        }
        for b in reply.blocks
        if b["type"] == "tool_use"
    ]
    return {"content": text or None, **({"tool_calls": calls} if calls else {})}


class ChunkStream:
    """The chunks of one streamed completion: text as it comes, tool calls whole, then ``[DONE]``."""

    def __init__(self, model: str, identity: str) -> None:
        self._model = model
        self._identity = identity
        self._sent = 0

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, piece: str) -> bytes:
        self._sent += len(piece)
        return self._chunk({"content": piece})

    def finish(self, reply: Reply) -> Iterator[bytes]:
        content = _content(reply)
        rest = (content.pop("content") or "")[self._sent :]
        if rest:
            yield self._chunk({"content": rest})
        if "tool_calls" in content:
            calls = [{"index": i, **call} for i, call in enumerate(content["tool_calls"])]
            yield self._chunk({"tool_calls": calls})
        yield self._chunk({}, _REASONS[reply.stop_reason])
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        value = {
            "id": self._identity,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
