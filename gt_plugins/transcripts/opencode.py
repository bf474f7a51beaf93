"""Reader of opencode's sessions, from its database, its older JSON files and ``opencode export``.

Written against opencode 1.18.33 and against the forms of other versions (:mod:`.opencode_files` says where
they lie). A message has parts: text, reasoning, tools with their results in them, and bookkeeping. A reply of
several steps becomes several turns, so that each result stands after the call it answers and before what the
model then said. A session that another one started is a subagent: ``<root>.<session>``, with ``parent`` set.

Left out on purpose: data of files and images, snapshots, patches, and what was undone (``revert``), which is
counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..town.root import Town
from . import fields, opencode_files
from .model import Block, Session
from .opencode_files import Message, Record
from .sources import Head, TranscriptSource
from .turns import Turns

_SILENT = frozenset("step-start step-finish snapshot patch agent compaction retry".split())
_SWITCHES = frozenset({"agent-switched", "model-switched"})


@hookimpl
def gt_transcript_sources() -> Sequence[TranscriptSource]:
    find, state = opencode_files.find, opencode_files.state
    return [TranscriptSource("opencode", find, head, read, None, roots, state)]


def roots(town: Town) -> list[Path]:
    """The data folder, ``$XDG_DATA_HOME/opencode``, else ``~/.local/share/opencode``; and OPENCODE_DB."""
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    data = Path(share) / "opencode"
    named = os.environ.get("OPENCODE_DB", "")
    database = data / named if named and named != ":memory:" else data
    return [data] if database.parent == data or database == data else [data, database]


def head(path: Path) -> Head | None:
    """Session id (a subagent's: its root's) and working folder."""
    record = opencode_files.head(path)
    if record is None:
        return None
    own = fields.text(record.info, "id") or path.stem
    return Head(fields.safe_id(record.root or own), fields.text(record.info, "directory"))


def read(path: Path) -> Session:
    """The session at a path. Raises OSError where it cannot be read."""
    counts: Counter[str] = Counter()
    record = opencode_files.read(path, counts)
    own = fields.safe_id(fields.text(record.info, "id") or path.stem)
    root = fields.safe_id(record.root)
    build = _Build(counts)
    for message in _live(record, counts):
        build.message(message)
    return build.turns.session(
        id=f"{root}.{own}" if root else own,
        source="opencode",
        parent=root,
        cwd=fields.text(record.info, "directory"),
        client_version=fields.name(fields.text(record.info, "version")),
        usage={name: number for name, number in sorted(build.usage.items()) if number},
    )


def _live(record: Record, counts: Counter[str]) -> Iterable[Message]:
    """The messages without those that the user took back and did not go on from."""
    revert = fields.table(record.info, "revert")
    from_message, from_part = fields.text(revert, "messageID"), fields.text(revert, "partID")
    ids = [message.id for message in record.messages]
    if from_message not in ids:
        return record.messages
    place = ids.index(from_message)
    kept = list(record.messages[:place])
    parts = record.messages[place].parts
    part_ids = [fields.text(part, "id") for part in parts]
    if from_part in part_ids:
        first = record.messages[place]
        kept.append(Message(first.id, first.info, parts[: part_ids.index(from_part)]))
    counts["branch"] += 1
    counts["branch_lines"] += len(record.messages) - place
    return kept


@dataclass
class _Build:
    """Messages into turns."""

    counts: Counter[str]
    turns: Turns = field(init=False)
    usage: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.turns = Turns(self.counts)

    def message(self, message: Message) -> None:
        self.turns.end_reply()
        role = fields.text(message.info, "role")
        at = fields.time_of_millis(fields.table(message.info, "time").get("created"))
        if role == "user":
            self._user(message, at)
        elif role == "assistant":
            self._assistant(message, at)
        elif role in _SWITCHES:
            self.counts[f"line:{role}"] += 1
        else:
            name = fields.name(role) or "none"
            self.counts[f"type:{name}"] += 1
            line = {**message.info, "parts": [dict(part) for part in message.parts]}
            self.turns.note(message.id, f"type:{name}", [{"type": "unknown", "line": line}], at, meta=True)

    def _user(self, message: Message, at: str) -> None:
        own: list[Block] = []
        clients: list[Block] = []
        for part in message.parts:
            block = self._block(part)
            if block is not None:
                (clients if part.get("synthetic") is True else own).append(block)
        self.turns.hear(message.id, own, at)
        self.turns.hear(f"{message.id}-client" if own else message.id, clients, at, meta=True)

    def _assistant(self, message: Message, at: str) -> None:
        info = message.info
        model = fields.name(
            fields.text(info, "modelID") or fields.text(fields.table(info, "model"), "modelID")
        )
        meta = info.get("summary") is True
        error = fields.table(info, "error")
        if error:
            self.counts[f"error:{fields.name(fields.text(error, 'name')) or 'none'}"] += 1
        self._count_tokens(fields.table(info, "tokens"))
        results: list[tuple[str, str, Any, str, bool]] = []
        for part in message.parts:
            if fields.text(part, "type") == "step-start":
                self._answer(results)
            if fields.text(part, "type") == "tool":
                block, result = self._tool(message.id, part)
                results += [result] if result is not None else []
            else:
                found = self._block(part)
                if found is None:
                    continue
                block = found
            self.turns.say(message.id, block, at, model, meta)
        self._answer(results)

    def _answer(self, results: list[tuple[str, str, Any, str, bool]]) -> None:
        for result in results:
            self.turns.answer(*result)
        results.clear()

    def _tool(
        self, message_id: str, part: Mapping[str, Any]
    ) -> tuple[Block, tuple[str, str, Any, str, bool] | None]:
        """(call, result) of a tool part; no result while the tool runs, or where it was cut short."""
        call = fields.text(part, "callID") or fields.text(part, "id")
        state = fields.table(part, "state")
        given = state.get("input")
        block: Block = {
            "type": "tool_use",
            "id": call,
            "name": fields.text(part, "tool"),
            "input": given if isinstance(given, dict) else {},
        }
        attached = state.get("attachments")
        if isinstance(attached, list):
            self.counts["document"] += len(attached)
        status = fields.text(state, "status")
        if status not in ("completed", "error"):
            return block, None
        failed = status == "error"
        content = fields.text(state, "error" if failed else "output")
        at = fields.time_of_millis(fields.table(state, "time").get("end"))
        return block, (f"{message_id}-{call}", call, content, at, failed)

    def _block(self, part: Mapping[str, Any]) -> Block | None:
        """A part that is no tool as a block; None where it is bookkeeping, which is counted."""
        kind = fields.text(part, "type")
        if kind == "text":
            if part.get("ignored") is True:
                self.counts["ignored"] += 1
                return None
            return {"type": "text", "text": part["text"]} if fields.text(part, "text") else None
        if kind == "reasoning":
            said = fields.text(part, "text")
            return {"type": "thinking", "thinking": said} if said else {"type": "redacted_thinking"}
        if kind == "subtask":
            return {"type": "text", "text": fields.text(part, "prompt")}
        if kind == "file":
            media = fields.text(part, "mime")
            what = "image" if media.startswith("image/") else "document"
            self.counts[what] += 1
            return {"type": what, "source": {"type": "omitted", "media_type": fields.name(media)}}
        if kind in _SILENT:
            self.counts[f"line:{kind}"] += 1
            return None
        self.counts[f"block:{fields.name(kind) or 'none'}"] += 1
        return {"type": "unknown", "line": dict(part)}

    def _count_tokens(self, tokens: Mapping[str, Any]) -> None:
        cache = fields.table(tokens, "cache")
        self.usage["input_tokens"] += fields.count(tokens, "input")
        self.usage["output_tokens"] += fields.count(tokens, "output")
        self.usage["cache_read_input_tokens"] += fields.count(cache, "read")
        self.usage["cache_creation_input_tokens"] += fields.count(cache, "write")
