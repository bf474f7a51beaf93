"""An example as one line of JSON, in the form that other trainers read too, and back.

``messages`` and ``tools`` are as OpenAI, transformers' chat templates and TRL have them: the system prompt
with the slim prime below it, then turns of user, assistant (with ``tool_calls``) and tool. ``supervision``
says what of them carries loss and what kind of thing it is; a reply without any has ``weight`` 0.
Our own reading back gives the conversation that training renders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...rendering.conversation import Block, Conversation, Message, Tool, call_json
from .example import DECISION, Example, Origin

ERROR = "Error: "
"""Begins the result of a call that failed, as in a rendered request."""
_DECIDED = re.compile(r'\{"reason": (?P<reason>"(?:[^"\\]|\\.)*"), "action": (?P<action>"(?:[^"\\]|\\.)*")\}')


def to_row(example: Example) -> dict[str, Any]:
    """The line of an example."""
    c = example.conversation
    parts = [p for p in (c.system, c.prime) if p]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
    supervision: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for index, message in enumerate(c.messages):
        if message.role == "user":
            messages += _asked(message, names)
            continue
        reply = _replied(message, names)
        if index in example.silent:
            reply["weight"] = 0
        else:
            last = index == len(c.messages) - 1
            supervision += _spans(reply, len(messages), example.kind, last)
        messages.append(reply)
    origin = example.origin
    return {
        "id": example.id,
        "kind": example.kind,
        "role": example.role,
        "session": example.session,
        "beads": list(example.beads),
        "outcome": example.outcome,
        "models": list(example.models),
        "started": origin.started,
        "rig": origin.rig,
        "client": f"{origin.reader} {origin.client}".strip(),
        "policy": origin.policy,
        "actions": list(example.actions),
        "messages": messages,
        "tools": [_schema(tool) for tool in c.tools],
        "supervision": supervision,
        "prime_chars": len(c.prime),
    }


def _asked(message: Message, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A user's turn: each result of a tool as a message of its own, texts that stand together as one."""
    texts: list[str] = []
    for block in message.blocks:
        if block.get("type") == "text":
            texts.append(str(block["text"]))
            continue
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}
            texts = []
        failed = bool(block.get("is_error"))
        call = str(block.get("tool_use_id", ""))
        content = f"{ERROR if failed else ''}{block.get('content', '')}"
        result = {"role": "tool", "tool_call_id": call, "name": names.get(call, ""), "content": content}
        yield result | ({"is_error": True} if failed else {})
    if texts:
        yield {"role": "user", "content": "\n".join(texts)}


def _replied(message: Message, names: dict[str, str]) -> dict[str, Any]:
    """An assistant's turn; notes in ``names`` which call is which tool's."""
    text = "\n".join(str(b["text"]) for b in message.blocks if b.get("type") == "text")
    calls = [b for b in message.blocks if b.get("type") == "tool_use"]
    reply: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        reply["tool_calls"] = [_call(b) for b in calls]
    names.update({str(b.get("id", "")): str(b["name"]) for b in calls})
    return reply


def _call(block: Block) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": block["input"]}
    return {"id": str(block.get("id", "")), "type": "function", "function": function}


def _spans(reply: Mapping[str, Any], at: int, kind: str, last: bool) -> Iterator[dict[str, Any]]:
    """What of a reply carries loss: characters ``start`` to ``end`` of its ``content``, or of a call as it is
    rendered. Types: reason and action of a decision, text before a call, final answer, tool_call."""
    text = reply["content"]
    decided = _DECIDED.fullmatch(text) if kind == DECISION else None
    if decided is not None:
        for name in ("reason", "action"):
            start, end = decided.span(name)
            yield _span(at, "content", 0, name, start, end)
    elif text:
        final = last and "tool_calls" not in reply
        yield _span(at, "content", 0, "final" if final else "text", 0, len(text))
    for number, call in enumerate(reply.get("tool_calls", ())):
        function = call["function"]
        size = len(call_json({"name": function["name"], "input": function["arguments"]}))
        yield _span(at, "tool_calls", number, "tool_call", 0, size)


def _span(message: int, part: str, index: int, kind: str, start: int, end: int) -> dict[str, Any]:
    span = {"message": message, "part": part, "index": index}
    return span | {"type": kind, "start": start, "end": end}


def _schema(tool: Tool) -> dict[str, Any]:
    """A tool as templates want it. All that is known of it is its name and what it must be given."""
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in tool.required},
        "required": list(tool.required),
    }
    function = {"name": tool.name, "description": f"The client's tool {tool.name}.", "parameters": parameters}
    return {"type": "function", "function": function}


# -- back --------------------------------------------------------------------------------------------


def from_row(value: Mapping[str, Any]) -> Example:
    """The inverse of :func:`to_row`, but for what only cards need. Raises KeyError, TypeError or ValueError
    where a line is no example."""
    rows = list(value["messages"])
    told = value.get("supervision")
    taught = range(len(rows)) if told is None else {span["message"] for span in told}
    first = len(rows)
    system, prime = _head(rows, int(value["prime_chars"]))
    messages: list[Message] = []
    silent = []
    for at, row in enumerate(rows, first - len(rows)):
        if row["role"] == "assistant":
            if row.get("weight") == 0 or (at not in taught and (row.get("content") or row.get("tool_calls"))):
                silent.append(len(messages))
            messages.append(Message("assistant", tuple(_reply_blocks(row))))
        elif messages and messages[-1].role == "user":
            messages[-1] = Message("user", (*messages[-1].blocks, _user_block(row)))
        else:
            messages.append(Message("user", (_user_block(row),)))
    tools = tuple(
        Tool(t["function"]["name"], _names(t["function"]["parameters"]["required"])) for t in value["tools"]
    )
    reader, _, client = value["client"].partition(" ")
    return Example(
        id=value["id"],
        kind=value["kind"],
        role=value["role"],
        session=value["session"],
        beads=tuple(value["beads"]),
        outcome=value["outcome"],
        tuned=False,
        models=tuple(value["models"]),
        conversation=Conversation(system, tools, prime, tuple(messages)),
        silent=tuple(silent),
        actions=tuple(value["actions"]),
        origin=Origin(value["started"], "", value["rig"], reader, client, value["policy"]),
    )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("what a tool requires is no list of names")
    return tuple(value)


def _head(rows: list[dict[str, Any]], prime_chars: int) -> tuple[str, str]:
    """System prompt and prime; takes their message off ``rows``."""
    if not rows or rows[0]["role"] != "system":
        return "", ""
    text = str(rows.pop(0)["content"])
    if not prime_chars:
        return text, ""
    return text[:-prime_chars].removesuffix("\n\n"), text[-prime_chars:]


def _user_block(row: Mapping[str, Any]) -> Block:
    if row["role"] == "user":
        return {"type": "text", "text": row["content"]}
    failed = bool(row.get("is_error"))
    content = row["content"].removeprefix(ERROR) if failed else row["content"]
    called = row["tool_call_id"]
    return {"type": "tool_result", "tool_use_id": called, "content": content, "is_error": failed}


def _reply_blocks(row: Mapping[str, Any]) -> Iterator[Block]:
    if row["content"]:
        yield {"type": "text", "text": row["content"]}
    for call in row.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        yield {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}
