"""The normal form of a conversation, from a live request's body or from a captured session.

Both ways end in the same :class:`Conversation`, so that what a model is trained on is what it will be
asked. What the client adds on its own (billing header, reminders, listings of skills and agents) is left
out of both, and counted. The prime is what stands between ``<gt-prime …>`` and ``</gt-prime>``: our
SessionStart hook prints it, and for training it is made from the stock prime by the same function.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..transcripts.shell import command_of

if TYPE_CHECKING:
    from ..roles.profile import Profile
    from ..transcripts.model import Session, Turn

Block = Mapping[str, Any]

_PRIME = re.compile(r"<gt-prime\b[^>]*>\n?(.*?)\n?</gt-prime>", re.DOTALL)
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_HOOK_OUTPUT = re.compile(r"^SessionStart[^\n]{0,80}hook")


@dataclass(frozen=True)
class Tool:
    """A tool in the short form that is rendered: its name and the parameters it must be given."""

    name: str
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Message:
    """One side's turn: blocks of type text, tool_use or tool_result."""

    role: Literal["user", "assistant"]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Conversation:
    """What a model is to see: system prompt, tools, prime, messages; ``schema`` asks for such JSON."""

    system: str
    tools: tuple[Tool, ...]
    prime: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def upto(self, index: int) -> Conversation:
        """The same conversation with the messages before ``index`` only."""
        return Conversation(
            self.system, self.tools, self.prime, self.messages[:index], self.schema, self.counts
        )


def from_request(body: Mapping[str, Any]) -> Conversation:
    """The conversation of a ``/v1/messages`` body as the client sends it.

    ``role: "system"`` messages and reminders carry the hooks' output: the last prime found in any of them
    is the prime. Raises ValueError naming the key that has not the form of such a body.
    """
    counts: Counter[str] = Counter()
    prime = ""
    messages: list[Message] = []
    for index, raw in enumerate(_checked_messages(body)):
        blocks = _as_blocks(raw["content"], f"messages.{index}.content")
        found = _last_prime(blocks)
        prime = found if found is not None else prime
        if raw["role"] == "system":
            counts["system message"] += 1
            continue
        kept = tuple(_clean(blocks, counts))
        if kept:
            messages.append(Message(raw["role"], kept))
    return Conversation(
        _system_text(body.get("system"), counts),
        _tools(body.get("tools")),
        prime,
        _merged(messages),
        _schema(body),
        dict(counts),
    )


def from_session(session: Session, profile: Profile, prime: str) -> Conversation:
    """The conversation that a deployed role would have had in a captured session.

    ``profile`` gives system prompt and tools, ``prime`` the slim text without its tags. Hooks' output and
    lines that the client wrote itself are left out, as they are from a live request. The shell of another
    client (codex, opencode) is Bash.
    """
    counts: Counter[str] = Counter()
    messages: list[Message] = []
    for turn in session.turns:
        if turn.role == "hook" or turn.meta:
            counts[f"{turn.role} turn" if turn.role == "hook" else "meta turn"] += 1
            continue
        kept = tuple(_clean(map(_as_deployed, turn.blocks), counts))
        if kept:
            messages.append(Message(turn.role, kept))
    tools = tuple(Tool(name, _REQUIRED.get(name, ())) for name in profile.tools)
    return Conversation(profile.system, tools, prime.strip(), _merged(messages), None, dict(counts))


def _as_deployed(block: Block) -> Block:
    """A shell call of another client as the deployed client would make it."""
    command = command_of(block)
    if not command or block.get("name") == "Bash":
        return block
    return {**block, "name": "Bash", "input": {"command": command}}


def prime_of(turns: Iterable[Turn]) -> str:
    """The text that ``gt prime`` put into a session (the last one), empty where there was none."""
    text = ""
    for turn in turns:
        if turn.role == "hook" and turn.hook.startswith(("SessionStart", "PreCompact")):
            joined = "\n".join(str(b.get("text", "")) for b in turn.blocks)
            if "role:" in joined or "# " in joined:
                text = joined
    return text


_REQUIRED = {"Bash": ("command",), "Read": ("file_path",)}


def _checked_messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: a list of at least one message is needed")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ValueError(f"messages.{index}.role: must be user, assistant or system")
        if not isinstance(message.get("content"), str | list):
            raise ValueError(f"messages.{index}.content: must be a string or a list of blocks")
    return messages


def _as_blocks(content: Any, where: str) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError(f"{where}: must be a string or a list of blocks")
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            raise ValueError(f"{where}.{index}: must be a block, that is an object with a type")
        if block.get("type") == "tool_use" and not isinstance(block.get("input") or {}, dict):
            raise ValueError(f"{where}.{index}.input: must be an object")
    return content


def prime_in(text: str) -> str:
    """What stands between the tags of the last prime in a text, empty where there is none."""
    return _last_prime([{"type": "text", "text": text}]) or ""


def _last_prime(blocks: Iterable[Block]) -> str | None:
    found = None
    for block in blocks:
        if block.get("type") == "text":
            for match in _PRIME.finditer(str(block.get("text", ""))):
                found = match.group(1).strip()
    return found


def _clean(blocks: Iterable[Block], counts: Counter[str]) -> Iterable[Block]:
    """The blocks a model sees; reminders, thinking, images and hook output are left out and counted."""
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            raw = str(block.get("text", ""))
            text = _REMINDER.sub("", raw)
            if text != raw:
                counts["reminder"] += 1
            if _HOOK_OUTPUT.match(text):
                counts["hook output"] += 1
                continue
            text = _PRIME.sub("", text).strip()
            if text:
                yield {"type": "text", "text": text}
        elif kind == "tool_use":
            given = block.get("input")
            yield {
                "type": "tool_use",
                "id": block.get("id", ""),
                "name": str(block.get("name", "")),
                "input": given if isinstance(given, dict) else {},
            }
        elif kind == "tool_result":
            yield {
                "type": "tool_result",
                "tool_use_id": block.get("tool_use_id", ""),
                "content": result_text(block),
                "is_error": bool(block.get("is_error")),
            }
        else:
            counts[f"block:{kind}"] += 1


def result_text(block: Block) -> str:
    """The text of a tool_result, whose content may be a string or blocks; a prime in it loses its tags."""
    content = block.get("content")
    if isinstance(content, list):
        parts = [str(b.get("text", "")) for b in content if isinstance(b, dict) and b.get("type") == "text"]
        content = "\n".join(parts)
    text = "" if content is None else str(content)
    return _PRIME.sub(r"\1", _REMINDER.sub("", text)).strip()


def _merged(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Neighbours of the same role as one message: chat templates want the roles to alternate."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, merged[-1].blocks + message.blocks)
        else:
            merged.append(message)
    return tuple(merged)


def _system_text(system: Any, counts: Counter[str]) -> str:
    """The system prompt without the client's billing header, whose value changes from call to call."""
    texts = []
    for block in _as_blocks("" if system is None else system, "system"):
        text = str(block.get("text", ""))
        if text.startswith("x-anthropic-"):
            counts["billing header"] += 1
        elif text.strip():
            texts.append(text.strip())
    return "\n\n".join(texts)


def _tools(raw: Any) -> tuple[Tool, ...]:
    if raw is not None and not isinstance(raw, list):
        raise ValueError("tools: must be a list")
    return tuple(_tool(t, f"tools.{index}") for index, t in enumerate(raw or ()))


def _tool(raw: Any, where: str) -> Tool:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise ValueError(f"{where}.name: must be a string")
    schema = raw.get("input_schema")
    required = schema.get("required") if isinstance(schema, dict) else None
    return Tool(raw["name"], tuple(str(r) for r in required) if isinstance(required, list) else ())


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that the reply must keep to, None where the request asks for none."""
    output = _object(body.get("output_config"), "output_config")
    key = "output_config.format" if output.get("format") else "output_format"
    form = _object(output.get("format") or body.get("output_format"), key)
    if form.get("type") != "json_schema":
        return None
    if not isinstance(form.get("schema"), dict):
        raise ValueError(f"{key}.schema: must be an object")
    return dict(form["schema"])


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{where}: must be an object")
    return value or {}


def call_json(block: Block) -> str:
    """A tool_use block as the JSON that stands inside ``<tool_call>``."""
    return json.dumps({"name": block["name"], "arguments": block["input"]}, ensure_ascii=False)
