"""Reader of codex's session files, ``$CODEX_HOME/sessions/YYYY/MM/DD/rollout-<time>-<id>.jsonl``.

Written against codex 0.171.0 and against the forms of older versions:

* a line is ``{timestamp, ordinal?, type, payload}``; the first is ``session_meta`` (id, cwd, version). A fork
  or subagent has its origin's ``session_meta`` and lines after its own: those with an ordinal below
  ``subagent_history_start_ordinal`` are its parent's and are left out;
* ``response_item`` is what went to the model and came from it. ``event_msg`` tells the same to the screen, so
  of it only token counts and rewinds are used (and what was said, where no item says it);
* ``turn_context`` names the model from there on;
* older files have bare items without an envelope, after a first line with id and time; the oldest are one
  JSON object, ``{session, items}``;
* cold files are compressed, ``.jsonl.zst``, and archived ones lie in ``archived_sessions``.

Left out on purpose: encrypted reasoning, image data, the base instructions (the client's own system prompt),
and the history that a compaction repeats.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .. import hookimpl
from ..town.root import Town
from . import fields
from .lines import MAX_LINE, first_lines, objects, parse_line
from .model import Block, Session
from .sources import Head, TranscriptSource, scan
from .turns import Turns

HEAD_BYTES = 1024 * 1024
HEAD_LINES = 50

_FILE = re.compile(r"rollout-.*\.(jsonl|jsonl\.zst|json)")
_FILE_ID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.json")
_CWD = re.compile(r"<cwd>([^<\n]+)</cwd>|^Current working directory: ([^\n]+)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"^(?:Exit code:|Process exited with code) (-?\d+)$", re.MULTILINE)
_CLIENTS_OWN = (
    "<environment_context>",
    "<user_instructions>",
    "<turn_aborted>",
    "<skill>",
    "<INSTRUCTIONS>",
    "# AGENTS.md instructions for ",
)
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})
_SERVER_CALLS = frozenset({"web_search_call"})
_SILENT = frozenset(
    "compaction compaction_summary context_compaction compaction_trigger ghost_snapshot "
    "additional_tools".split()
)
_ITEMS = (
    frozenset({"message", "reasoning", "agent_message", "image_generation_call"})
    | _CALLS
    | _OUTPUTS
    | _SERVER_CALLS
    | _SILENT
)
_LINES = frozenset(
    "session_meta turn_context world_state token_usage_record inter_agent_communication "
    "inter_agent_communication_metadata session_state state".split()
)


@hookimpl
def gt_transcript_sources() -> Sequence[TranscriptSource]:
    return [TranscriptSource("codex", find, head, read, None, roots)]


def roots(town: Town) -> list[Path]:
    """Live and archived sessions below CODEX_HOME, else ``~/.codex``."""
    home = Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex").expanduser()
    return [home / "sessions", home / "archived_sessions"]


def find(folder: Path) -> Iterator[Path]:
    """Session files at any depth below a folder, in a fixed order; of a file and its compressed form one."""
    entries = scan(folder)
    names = {entry.name for entry in entries}
    for entry in entries:
        if isinstance(entry, Path):
            yield entry
        elif entry.is_dir(follow_symlinks=False):
            yield from find(Path(entry.path))
        elif _FILE.fullmatch(entry.name) and entry.name.removesuffix(".zst") not in names - {entry.name}:
            yield Path(entry.path)


def head(path: Path) -> Head | None:
    """Session id (a subagent's: its parent's) and working folder from the first lines."""
    meta: Mapping[str, Any] = {}
    cwd = ""
    with _opened(path) as handle:
        for line in _first_objects(path, handle):
            kind, payload = _opened_envelope(line)
            if kind == "session_meta" and not meta:
                meta = payload
            cwd = cwd or fields.text(payload, "cwd") or (_cwd_in(payload) if kind == "message" else "")
            if meta and cwd:
                break
    if not meta and not cwd:
        return None
    own, parent = _ids(path, meta)
    return Head(parent or own, cwd)


def _first_objects(path: Path, handle: BinaryIO) -> Iterator[dict[str, Any]]:
    if path.suffix == ".json":
        yield from _whole(handle, Counter())
        return
    for raw in itertools.islice(first_lines(handle, HEAD_BYTES), HEAD_LINES):
        yield from parse_line(raw, Counter())


def read(path: Path) -> Session:
    """The session in a file. Raises OSError where it cannot be read."""
    counts: Counter[str] = Counter()
    with _opened(path) as handle:
        lines = _whole(handle, counts) if path.suffix == ".json" else objects(handle, counts)
        rollout = _Rollout(counts)
        try:
            for line in lines:
                rollout.take(line)
        except EOFError:  # a compressed file that is cut off
            counts["torn"] += 1
    return rollout.session(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, a compressed one's as they were. Raises OSError, for a broken compression too."""
    with path.open("rb", buffering=0) as raw:
        if path.suffix != ".zst":
            yield raw if path.suffix == ".json" else io.BufferedReader(raw)  # type: ignore[misc]
            return
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as plain:
                yield io.BufferedReader(plain)  # type: ignore[type-var]
        except zstandard.ZstdError:
            raise OSError(errno.EIO, "is no whole zstd file", str(path)) from None


def _whole(handle: BinaryIO, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The oldest form, one object, as the lines it would have now."""
    raw = handle.read(MAX_LINE + 1)
    if len(raw) > MAX_LINE:
        counts["huge"] += 1
        return
    for value in parse_line(raw, counts):
        yield {"type": "session_meta", "payload": dict(fields.table(value, "session"))}
        items = value.get("items")
        yield from (item for item in (items if isinstance(items, list) else ()) if isinstance(item, dict))


def _opened_envelope(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(type, payload) of a line; a ``response_item`` is its payload's own type, a bare item its own."""
    kind, payload = fields.text(line, "type"), line.get("payload")
    if not kind:
        kind = "session_meta" if "id" in line else fields.text(line, "record_type")
        return kind, line
    if not isinstance(payload, Mapping):
        return kind, line
    if kind == "response_item":
        return fields.text(payload, "type") or "none", payload
    return kind, payload


def _ids(path: Path, meta: Mapping[str, Any]) -> tuple[str, str]:
    """(own id, parent's id) of a rollout; the parent is empty for a session that nobody spawned."""
    found = _FILE_ID.search(path.name)
    own = fields.safe_id(fields.text(meta, "id") or (found.group(1) if found else path.name.split(".")[0]))
    source = meta.get("source")
    spawned = isinstance(source, Mapping) and "subagent" in source
    spawned = spawned or fields.text(meta, "thread_source") == "subagent"
    by_thread = fields.table(fields.table(source, "subagent"), "thread_spawn")
    parent = fields.text(meta, "parent_thread_id") or fields.text(by_thread, "parent_thread_id")
    if not (spawned or parent):
        return own, ""
    tree = fields.safe_id(fields.text(meta, "session_id"))
    return own, tree if tree and tree != own else fields.safe_id(parent)


def _cwd_in(payload: Mapping[str, Any]) -> str:
    """The working folder as an older client told the model."""
    for item in payload.get("content") or () if isinstance(payload.get("content"), list) else ():
        found = _CWD.search(fields.text(item, "text"))
        if found:
            return (found.group(1) or found.group(2)).strip()
    return ""


class _Rollout:
    """The lines of one file, one after the other."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.turns = Turns(counts)
        self.meta: Mapping[str, Any] = {}
        self.cwd = self.model = self.at = self.id = ""
        self.usage: Mapping[str, Any] = {}
        self.spoken: set[str] = set()
        """Who speaks in response items: user, assistant; and what the client said in a user's place."""
        self.shown: list[tuple[int, str, str, str, str]] = []
        """(place, role, id, text, time) of what only the screen was told, as far as we know yet."""

    def take(self, line: Mapping[str, Any]) -> None:
        kind, payload = _opened_envelope(line)
        if self._inherited(line):
            self.counts["inherited"] += 1
            return
        self.at = fields.time(line) or fields.time(payload)
        self.id = fields.text(payload, "id") or _hash(line)
        if kind == "session_meta":
            self._meta(payload)
        elif kind == "turn_context":
            self.model = fields.name(fields.text(payload, "model")) or self.model
            self.cwd = self.cwd or fields.text(payload, "cwd")
        elif kind == "compacted":
            self._compacted(payload)
        elif kind == "event_msg":
            self._event(payload)
        elif kind in _ITEMS:
            self._item(kind, payload)
        elif kind in _LINES:
            self.counts[f"line:{kind}"] += 1
        else:
            self._unknown(kind, line)

    def _inherited(self, line: Mapping[str, Any]) -> bool:
        ordinal = line.get("ordinal")
        start = self.meta.get("subagent_history_start_ordinal")
        start = start or fields.table(self.meta, "history_base").get("end_ordinal_exclusive")
        return type(ordinal) is int and type(start) is int and 0 < ordinal < start

    def _meta(self, payload: Mapping[str, Any]) -> None:
        if self.meta:
            self.counts["line:session_meta"] += 1
            return
        self.meta = payload
        self.cwd = fields.text(payload, "cwd") or self.cwd
        self.model = fields.name(fields.text(payload, "model"))

    def _compacted(self, payload: Mapping[str, Any]) -> None:
        self.counts["compacted"] += 1
        if fields.text(payload, "message"):
            self.turns.hear(self.id, [_said(fields.text(payload, "message"))], self.at, meta=True)

    def _event(self, payload: Mapping[str, Any]) -> None:
        kind = fields.name(fields.text(payload, "type")) or "none"
        self.counts[f"event:{kind}"] += 1
        if kind == "token_count":
            self.usage = fields.table(fields.table(payload, "info"), "total_token_usage") or self.usage
        elif kind == "thread_rolled_back":
            self.turns.take_back(fields.count(payload, "num_turns"))
        elif kind in ("user_message", "agent_message") and fields.text(payload, "message"):
            self.turns.end_reply()
            role = "user" if kind == "user_message" else "assistant"
            said = fields.text(payload, "message")
            self.shown.append((len(self.turns.turns), role, self.id, said, self.at))

    def _item(self, kind: str, item: Mapping[str, Any]) -> None:
        if kind == "message":
            self._message(item)
        elif kind == "agent_message":
            self.turns.hear(self.id, self._blocks(item.get("content")), self.at, meta=True)
        elif kind == "reasoning":
            self._say(self._thought(item))
        elif kind in _CALLS:
            self._say(_call(kind, item))
        elif kind in _OUTPUTS:
            content, error = self._output(item)
            self.turns.answer(self.id, fields.text(item, "call_id"), content, self.at, error)
        elif kind in _SERVER_CALLS:
            action = item.get("action")
            name = kind.removesuffix("_call")
            self._say({"type": "server_tool_use", "id": self.id, "name": name, "input": action or {}})
        elif kind == "image_generation_call":
            self.counts["image"] += 1
            self._say({"type": "image", "source": {"type": "omitted", "media_type": ""}})
        else:
            self.counts[f"line:{kind}"] += 1

    def _say(self, block: Block) -> None:
        self.turns.say(self.id, block, self.at, self.model)

    def _message(self, item: Mapping[str, Any]) -> None:
        role = fields.text(item, "role")
        blocks = self._blocks(item.get("content"))
        if role == "assistant":
            self.spoken.add(role)
            for block in blocks:
                self._say(block)
            return
        hook = _hook_of(item)
        if hook:
            self.turns.note(self.id, hook, blocks, self.at)
            return
        self.cwd = self.cwd or _cwd_in(item)
        own, others = _by_author(role, item, blocks)
        self.spoken |= {"user"} if own else {str(block.get("text", "")) for block in others}
        self.turns.hear(f"{self.id}-client" if own else self.id, others, self.at, meta=True)
        self.turns.hear(self.id, own, self.at)

    def _blocks(self, content: Any) -> list[Block]:
        if isinstance(content, str):
            return [_said(content)] if content else []
        blocks: list[Block] = []
        for item in content if isinstance(content, list) else ():
            kind = fields.text(item, "type")
            if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
                blocks.append(_said(fields.text(item, "text")))
            elif kind in ("input_image", "image"):
                self.counts["image"] += 1
                blocks.append({"type": "image", "source": {"type": "omitted", "media_type": ""}})
            elif isinstance(item, str):
                blocks.append(_said(item))
            else:
                self.counts[f"block:{fields.name(kind) or 'none'}"] += 1
                blocks.append({"type": "unknown", "line": item})
        return blocks

    def _thought(self, item: Mapping[str, Any]) -> Block:
        parts = [*self._blocks(item.get("summary")), *self._blocks(item.get("content"))]
        texts = [block["text"] for block in parts if block["type"] == "text" and block["text"]]
        return (
            {"type": "thinking", "thinking": "\n\n".join(texts)} if texts else {"type": "redacted_thinking"}
        )

    def _output(self, item: Mapping[str, Any]) -> tuple[Any, bool]:
        """(content, whether it is an error's) of a tool's output, in each of its forms."""
        output = item.get("output", item.get("tools"))
        if isinstance(output, Mapping):
            return self._text_output(fields.text(output, "content"), output.get("success") is False)
        if isinstance(output, str):
            return self._text_output(output, False)
        return self._blocks(output), False

    def _text_output(self, output: str, failed: bool) -> tuple[str, bool]:
        if output.startswith('{"'):
            try:
                value = json.loads(output)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict) and isinstance(value.get("output"), str) and "metadata" in value:
                code = fields.table(value, "metadata").get("exit_code")
                return value["output"], failed or code not in (0, None)
        code_line = _EXIT_CODE.search(output[:400])
        return output, failed or (code_line is not None and code_line.group(1) != "0")

    def _unknown(self, kind: str, line: Mapping[str, Any]) -> None:
        name = fields.name(kind) or "none"
        self.counts[f"type:{name}"] += 1
        rest = {k: v for k, v in line.items() if k not in ("timestamp", "ordinal", "type", "metadata")}
        self.turns.note(
            self.id, f"type:{name}", [{"type": "unknown", "line": rest}], fields.time(line), meta=True
        )

    def session(self, path: Path) -> Session:
        self.turns.end_reply()
        for place, role, id, said, at in reversed(self.shown):
            if not {role, said} & self.spoken:
                self._insert(place, role, id, said, at)
        own, parent = _ids(path, self.meta)
        return self.turns.session(
            id=f"{parent}.{own}" if parent else own,
            source="codex",
            parent=parent,
            cwd=self.cwd,
            client_version=fields.name(fields.text(self.meta, "cli_version")),
            usage=_usage(self.usage),
        )

    def _insert(self, place: int, role: str, id: str, said: str, at: str) -> None:
        alone = Turns(Counter())
        if role == "user":
            alone.hear(id, [_said(said)], at)
        else:
            alone.say(id, _said(said), at, self.model)
        alone.end_reply()
        self.turns.turns[place:place] = alone.turns


def _said(text: str) -> Block:
    return {"type": "text", "text": text}


def _call(kind: str, item: Mapping[str, Any]) -> Block:
    """A tool call; arguments come as JSON in a string, a custom tool's as plain text."""
    call = fields.text(item, "call_id") or fields.text(item, "id")
    if kind == "local_shell_call":
        return {"type": "tool_use", "id": call, "name": "local_shell", "input": item.get("action") or {}}
    name = fields.text(item, "name") or kind.removesuffix("_call")
    given = item.get("arguments", item.get("input"))
    if isinstance(given, str):
        try:
            value = json.loads(given)
        except (ValueError, RecursionError):
            value = None
        given = value if isinstance(value, dict) else {"input": given}
    return {"type": "tool_use", "id": call, "name": name, "input": given if isinstance(given, dict) else {}}


def _by_author(role: str, item: Mapping[str, Any], blocks: list[Block]) -> tuple[list[Block], list[Block]]:
    """(the user's blocks, the client's own) of a message in the user's place."""
    if role != "user":
        return [], blocks
    passed = fields.table(item, "internal_chat_message_metadata_passthrough")
    told = passed.get("content_item_metadata")
    authors = (
        [fields.text(fields.table(one, "provenance"), "type") for one in told]
        if isinstance(told, list)
        else []
    )
    own: list[Block] = []
    others: list[Block] = []
    for index, block in enumerate(blocks):
        author = authors[index] if index < len(authors) else ""
        clients = str(block.get("text", "")).lstrip().startswith(_CLIENTS_OWN)
        (others if clients or author not in ("", "user") else own).append(block)
    return own, others


def _hook_of(item: Mapping[str, Any]) -> str:
    """The name of the hook whose output a message carries; empty where it carries none."""
    passed = fields.table(item, "internal_chat_message_metadata_passthrough")
    told, kinds = passed.get("content_item_metadata"), passed.get("content_item_kinds")
    for index, one in enumerate(told if isinstance(told, list) else ()):
        if fields.table(one, "provenance").get("hook") is True:
            kind = kinds[index] if isinstance(kinds, list) and index < len(kinds) else ""
            return fields.name(kind if isinstance(kind, str) else "") or "hook"
    return ""


def _usage(total: Mapping[str, Any]) -> dict[str, int]:
    """The session's tokens; codex counts what came from its cache as input too."""
    cached = fields.count(total, "cached_input_tokens")
    found = {
        "input_tokens": max(0, fields.count(total, "input_tokens") - cached),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": fields.count(total, "cache_write_input_tokens"),
        "output_tokens": fields.count(total, "output_tokens"),
    }
    return {name: number for name, number in sorted(found.items()) if number}


def _hash(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, default=str)
    return "line-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]
