"""The Messages API as the agent client speaks it: request checks, replies, events, errors.

Only what the client sends and reads; fields that we do not know are ignored, as the API itself promises
to grow by new ones. Everything here is plain data in and out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .responder import Reply

Body = Mapping[str, Any]
Event = dict[str, Any]

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    529: "overloaded_error",
}


class ApiError(Exception):
    """An answer that is an error, with its HTTP status and a message that holds none of the prompt."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> dict[str, Any]:
        """The error in the API's form."""
        kind = KINDS.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


def parse_body(raw: bytes) -> dict[str, Any]:
    """A request's JSON object. Raises ApiError 400."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError(400, "the request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the request body is not a JSON object")
    return body


def check_request(body: Body, *, counting: bool = False) -> None:
    """Raise ApiError 400 naming the field that has the wrong form; ``counting`` needs no max_tokens."""
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise ApiError(400, "model: a string is needed")
    limit = body.get("max_tokens")
    if limit is None and not counting:
        raise ApiError(400, "max_tokens: Field required")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ApiError(400, "max_tokens: a whole number of at least 1 is needed")
    _check_system(body.get("system"))
    _check_messages(body.get("messages"))
    _check_tools(body.get("tools"))
    choice = body.get("tool_choice")
    if choice is not None and not (isinstance(choice, dict) and isinstance(choice.get("type"), str)):
        raise ApiError(400, "tool_choice: an object with a type is needed")
    _check_output(body.get("output_config"))
    if not isinstance(body.get("stream", False), bool):
        raise ApiError(400, "stream: true or false is needed")


def _check_system(system: Any) -> None:
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list) or not all(_is_text(block) for block in system):
        raise ApiError(400, "system: a string or a list of text blocks is needed")


def _is_text(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: a list of at least one message is needed")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ApiError(400, f"{where}.role: must be user, assistant or system")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise ApiError(400, f"{where}.content: a string or a list of blocks is needed")
        for place, block in enumerate(content):
            _check_block(f"{where}.content.{place}", block)


def _check_block(where: str, block: Any) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise ApiError(400, f"{where}.type: Field required")
    if block["type"] == "text" and not isinstance(block.get("text"), str):
        raise ApiError(400, f"{where}.text: a string is needed")
    if block["type"] == "tool_use" and not (
        isinstance(block.get("name"), str) and isinstance(block.get("input", {}), dict)
    ):
        raise ApiError(400, f"{where}: a tool_use block needs a name and an input object")
    if block["type"] == "tool_result" and not isinstance(block.get("content", ""), str | list | None):
        raise ApiError(400, f"{where}.content: a string or a list of blocks is needed")


def _check_tools(tools: Any) -> None:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise ApiError(400, "tools: a list is needed")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not tool["name"]:
            raise ApiError(400, f"tools.{index}.name: a string is needed")


def _check_output(output: Any) -> None:
    if output is None:
        return
    form = output.get("format") if isinstance(output, dict) else 0
    if form is None:
        return
    if not isinstance(form, dict):
        raise ApiError(400, "output_config.format: an object is needed")
    if form.get("type") == "json_schema" and not isinstance(form.get("schema"), dict):
        raise ApiError(400, "output_config.format.schema: an object is needed")


def message_id() -> str:
    """A fresh id for a message, in the API's form."""
    return f"msg_{secrets.token_hex(12)}"


def message(reply: Reply, model: str, identity: str) -> dict[str, Any]:
    """A whole reply as the JSON of a Message."""
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(reply.blocks),
        "stop_reason": reply.stop_reason,
        "stop_sequence": None,
        "usage": usage(reply.input_tokens, reply.output_tokens),
    }


def usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Token counts with the cache fields that the client adds up."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


class EventStream:
    """The events of one streamed reply: text as it comes, tool calls whole.

    ``begin``, then ``text`` for each piece, then ``finish`` with the whole reply, whose first block must
    begin with the text that was given out.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._sent = ""

    def begin(self, input_tokens: int) -> Iterator[Event]:
        start = message(Reply((), "", input_tokens, 1), self._model, message_id())
        yield {"type": "message_start", "message": {**start, "stop_reason": None}}
        yield {"type": "ping"}

    def text(self, piece: str) -> Iterator[Event]:
        if not self._sent:
            yield _start(0, {"type": "text", "text": ""})
        self._sent += piece
        yield _delta(0, {"type": "text_delta", "text": piece})

    def finish(self, reply: Reply) -> Iterator[Event]:
        blocks = list(reply.blocks)
        if self._sent:
            first = str(blocks.pop(0)["text"]) if blocks and blocks[0]["type"] == "text" else self._sent
            rest = first[len(self._sent) :] if first.startswith(self._sent) else ""
            if rest:
                yield _delta(0, {"type": "text_delta", "text": rest})
            yield _stop(0)
        for index, block in enumerate(blocks, start=1 if self._sent else 0):
            yield from _whole(index, block)
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": reply.stop_reason, "stop_sequence": None},
            "usage": usage(reply.input_tokens, reply.output_tokens),
        }
        yield {"type": "message_stop"}


def _whole(index: int, block: Mapping[str, Any]) -> Iterator[Event]:
    if block["type"] == "text":
        yield _start(index, {"type": "text", "text": ""})
        yield _delta(index, {"type": "text_delta", "text": block["text"]})
    else:
        yield _start(index, {**block, "input": {}})
        arguments = json.dumps(block["input"], ensure_ascii=False)
        yield _delta(index, {"type": "input_json_delta", "partial_json": arguments})
    yield _stop(index)


def _start(index: int, block: Mapping[str, Any]) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: Mapping[str, Any]) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _stop(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


def sse(events: Iterable[Event]) -> bytes:
    """Events as server-sent events."""
    lines = [f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events]
    return "".join(lines).encode("utf-8")
