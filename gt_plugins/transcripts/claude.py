"""Reader of Claude Code's session files, ``<projects>/<folder>/<session>.jsonl``.

There is no specification of the format and it changes with each release, so nothing here insists: a line
that is not understood is kept or counted, never fatal. What is known (client 2.1.197):

* one content block per ``assistant`` line; lines of one reply share ``message.id`` and repeat its usage;
* tool results are ``user`` lines, joined by ``tool_use_id``; a prompt typed while the agent works is an
  ``attachment`` of type ``queued_command``;
* what a hook printed into the context is an ``attachment`` of type ``hook_success``; over 10,000 characters
  it is a preview and a file below ``<session>/tool-results/``, which is read in its place;
* ``isSidechain`` lines, and files ``<session>/subagents/agent-<id>.jsonl``, are subagents: sessions of
  their own with a parent;
* a file can hold lines of a second session id (resumed by an older client): those are that session's.

Left out on purpose: ``toolUseResult`` (the tool result again), signatures of thinking blocks, and the data
of images and documents, which cannot be scrubbed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..town.accounts import config_dirs
from ..town.root import Town
from .fields import name as _name
from .fields import order_of_time as _order_of_time
from .fields import safe_id as _safe_id
from .fields import seconds as _seconds
from .fields import string as _string
from .fields import text as _text
from .fields import time as _time
from .graph import Kind, Node, order
from .lines import first_lines, parse_line, read_objects
from .model import Block, Session, Turn
from .sources import Head, TranscriptSource, scan

HEAD_BYTES = 256 * 1024
HEAD_LINES = 50
HOOK_OUTPUT_BYTES = 1024 * 1024
SYNTHETIC = "<synthetic>"
"""The model name of replies that the client wrote itself (API errors)."""

_KNOWN_LINES = frozenset(
    """system summary ai-title custom-title file-history-snapshot queue-operation attachment progress mode
    permission-mode last-prompt pr-link agent-setting agent-name continued-in turn_end tag""".split()
)
_KNOWN_BLOCKS = frozenset("text thinking redacted_thinking tool_use tool_result image document".split())
_BOOKKEEPING = frozenset(
    "uuid parentUuid logicalParentUuid sessionId timestamp cwd version gitBranch userType entrypoint "
    "isSidechain agentId slug requestId".split()
)
_META = frozenset({"isMeta", "isCompactSummary", "isVisibleInTranscriptOnly", "isApiErrorMessage"})
"""Flags of lines that the client wrote itself."""
_PERSISTED = re.compile(r"<persisted-output>\s.*?saved to: ([^\n]+)\n", re.DOTALL)


@hookimpl
def gt_transcript_sources() -> Sequence[TranscriptSource]:
    return [TranscriptSource("claude", find, head, read, read_all, roots)]


def roots(town: Town) -> list[Path]:
    """Projects folders of the user's own configuration and of every account that the town names."""
    folders = {os.path.realpath(home): home / "projects" for home in reversed(config_dirs(town))}
    return list(reversed(folders.values()))


def find(folder: Path) -> Iterator[Path]:
    """Session files below a projects folder, subagents' included, in a fixed order.

    A folder that cannot be listed is yielded itself, so that it is counted and the others are still found.
    """
    for project in scan(folder):
        if isinstance(project, Path):
            yield project
        elif project.is_dir():
            yield from _in_project(Path(project.path))


def _in_project(folder: Path) -> Iterator[Path]:
    for entry in scan(folder):
        if isinstance(entry, Path):
            yield entry
        elif entry.name.endswith(".jsonl"):
            if not entry.name.startswith("rollout-"):  # those are codex's
                yield Path(entry.path)
        elif entry.is_dir():
            for inner in scan(Path(entry.path, "subagents")):
                if isinstance(inner, Path):
                    yield inner
                elif inner.name.endswith(".jsonl"):
                    yield Path(inner.path)


def head(path: Path) -> Head | None:
    """Session id and working folder from the first lines; reads on only until both are known."""
    session_id = cwd = ""
    with path.open("rb", buffering=0) as handle:
        for count, raw in enumerate(first_lines(handle, HEAD_BYTES)):
            for line in parse_line(raw, Counter()):
                session_id = session_id or _text(line, "sessionId")
                cwd = cwd or _text(line, "cwd")
            if (session_id and cwd) or count + 1 >= HEAD_LINES:
                break
    return Head(_safe_id(session_id), cwd) if session_id or cwd else None


def read(path: Path) -> Session:
    """The file's main session. Raises OSError where it cannot be read."""
    return read_all(path)[0]


def read_all(path: Path) -> list[Session]:
    """Every session in the file, the main one first (without turns where no line is of use)."""
    counts: Counter[str] = Counter()
    lines = _Lines(path, counts)
    main = lines.main_id()
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in lines.nodes.values():
        groups[lines.group(node, main)].append(node)
    first = (main, lines.own_agent)
    found = [_session(lines, first, groups.pop(first, []), counts)]
    for key in sorted(groups):
        found.append(_session(lines, key, groups[key], Counter()))
    return found


@dataclass(slots=True)
class _Line:
    """What a node keeps of its line."""

    type: str
    session_id: str
    agent: str
    sidechain: bool
    at: str
    cwd: str
    version: str
    meta: bool
    model: str
    usage: dict[str, int]
    blocks: tuple[Block, ...]
    hook: str = ""


class _Lines:
    """The whole file as nodes (uuid → newest line with it) and the names that stand in it."""

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        self.path = path
        self.counts = counts
        self.nodes: dict[str, Node] = {}
        self.ids: Counter[str] = Counter()
        self.last: str = ""
        self.own_agent = _safe_id(path.stem) if path.stem.startswith("agent-") else ""
        for index, line in enumerate(read_objects(path, counts)):
            self._take(index, line)

    def main_id(self) -> str:
        """The session id this file is about: its name if lines carry that, else the most frequent one."""
        stem = self.path.stem
        if self.ids and not (stem in self.ids and not self.own_agent):
            stem = max(self.ids, key=lambda i: (self.ids[i], i))
        return _safe_id(stem)

    def group(self, node: Node, main: str) -> tuple[str, str]:
        """(session id, agent) of a node; the agent is empty for the main conversation."""
        line: _Line = node.value
        if self.own_agent:
            return (main, self.own_agent)
        session = _safe_id(line.session_id) if line.session_id else main
        if not line.sidechain:
            return (session, "")
        return (session, f"agent-{_safe_id(line.agent or self._top(node))}")

    def _top(self, node: Node) -> str:
        """The uuid at the top of a sidechain that carries no agent id."""
        seen = {node.uuid}
        while True:
            above = self.nodes.get(node.parent)
            if above is None or not above.value.sidechain or above.uuid in seen:
                return min(seen) if above is not None and above.uuid in seen else node.uuid
            seen.add(above.uuid)
            node = above

    def _take(self, index: int, line: dict[str, Any]) -> None:
        kind_name = _string(line.get("type"))
        session_id = _string(line.get("sessionId"))
        uuid = _string(line.get("uuid"))
        if kind_name in ("user", "assistant") and type(line.get("message")) is not dict:
            self.counts["no_message"] += 1
            return
        if not uuid and kind_name in _KNOWN_LINES:
            self.counts[f"line:{kind_name}"] += 1
            return
        if session_id:
            self.ids[session_id] += 1
        if not uuid:
            uuid = "line-" + hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:24]
            self.counts["no_uuid"] += 1
        if uuid in self.nodes:
            self.counts["rewritten"] += 1
        self.nodes[uuid] = self._node(index, uuid, kind_name, line)

    def _node(self, index: int, uuid: str, kind_name: str, line: dict[str, Any]) -> Node:
        message = line["message"] if kind_name in ("user", "assistant") else {}
        kept = self._kept(kind_name, line, message)
        uses: list[str] = []
        answers: list[str] = []
        for block in kept.blocks:
            if block.get("type") == "tool_use":
                uses.append(_string(block.get("id")))
            elif block.get("type") == "tool_result":
                answers.append(_string(block.get("tool_use_id")))
        kind: Kind = "note"
        if kind_name == "assistant":
            kind = "assistant"
        elif kind_name == "user":
            kind = "result" if answers else "prompt"
        return Node(
            uuid=uuid,
            parent=_string(line.get("parentUuid")) or _string(line.get("logicalParentUuid")),
            kind=kind,
            index=index,
            time=_seconds(kept.at),
            message_id=_string(message.get("id")),
            uses=tuple(filter(None, uses)) if kind == "assistant" else (),
            answers=tuple(filter(None, answers)) if kind == "result" else (),
            answers_line=_string(line.get("sourceToolAssistantUUID")) if kind == "result" else "",
            value=kept,
        )

    def _kept(self, kind_name: str, line: dict[str, Any], message: dict[str, Any]) -> _Line:
        blocks, hook, meta = self._content(kind_name, line)
        model = _string(message.get("model")) if kind_name == "assistant" else ""
        if not meta:
            meta = model == SYNTHETIC or any(line[flag] is True for flag in _META & line.keys())
        return _Line(
            type=kind_name,
            session_id=_string(line.get("sessionId")),
            agent=_string(line.get("agentId")),
            sidechain=line.get("isSidechain") is True,
            at=_time(line),
            cwd=_string(line.get("cwd")),
            version=_name(_string(line.get("version"))),
            meta=meta,
            model="" if model == SYNTHETIC else _name(model),
            usage=_usage(message.get("usage")),
            blocks=blocks,
            hook=hook,
        )

    def _content(self, kind_name: str, line: dict[str, Any]) -> tuple[tuple[Block, ...], str, bool]:
        """(blocks, hook, meta) of a line."""
        if kind_name in ("user", "assistant"):
            return tuple(self._blocks(line["message"].get("content"))), "", False
        if kind_name == "attachment":
            return self._attachment(line.get("attachment"))
        if kind_name in _KNOWN_LINES:
            self.counts[f"line:{kind_name}"] += 1
            return (), "", True
        name = _name(kind_name) or "none"
        self.counts[f"type:{name}"] += 1
        rest = {k: v for k, v in line.items() if k not in _BOOKKEEPING}
        return ({"type": "unknown", "line": rest},), f"type:{name}", True

    def _attachment(self, value: Any) -> tuple[tuple[Block, ...], str, bool]:
        attachment = value if isinstance(value, dict) else {}
        name = _text(attachment, "type")
        if name in ("hook_success", "hook_additional_context"):
            hook = _name(_text(attachment, "hookName") or _text(attachment, "hookEvent")) or "hook"
            blocks = self._blocks(attachment.get("content"))
            whole = [self._whole_output(b, attachment) for b in blocks if b.get("text")]
            return tuple(whole), hook, False
        if name == "queued_command":
            return tuple(self._blocks(attachment.get("prompt"))), "", attachment.get("isMeta") is True
        self.counts[f"attachment:{_name(name) or 'none'}"] += 1
        return (), "", True

    def _whole_output(self, block: Block, attachment: dict[str, Any]) -> Block:
        """A hook's text; where the client kept a preview, the whole from its file or the record itself."""
        found = _PERSISTED.match(block["text"])
        if found is None:
            return block
        text = persisted_text(self.path, found.group(1).strip())
        if text is None:
            text = _text(attachment, "stdout") or None
        self.counts["persisted" if text is not None else "persisted:missing"] += 1
        return block if text is None else {"type": "text", "text": text}

    def _blocks(self, content: Any) -> list[Block]:
        """Content as a list of blocks: plain text becomes one, what is no block is counted."""
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if content else []
        blocks: list[Block] = []
        for item in content if isinstance(content, list) else ():
            if isinstance(item, str):
                blocks.append({"type": "text", "text": item})
            elif isinstance(item, dict):
                blocks.append(self._block(item))
            else:
                self.counts["block:odd"] += 1
        return blocks

    def _block(self, block: dict[str, Any]) -> Block:
        name = _string(block.get("type"))
        if name not in _KNOWN_BLOCKS:
            self.counts[f"block:{_name(name) or 'none'}"] += 1
        if name in ("image", "document"):
            self.counts[name] += 1
            source = block.get("source")
            media = _name(_text(source, "media_type")) if isinstance(source, dict) else ""
            return {"type": name, "source": {"type": "omitted", "media_type": media}}
        if name == "redacted_thinking":
            return {"type": name}
        if name == "tool_result" and isinstance(block.get("content"), list):
            return {**block, "content": self._blocks(block["content"])}
        return {k: v for k, v in block.items() if k != "signature"} if "signature" in block else block


def persisted_text(transcript: Path, named: str) -> str | None:
    """The output that a client moved to ``<session>/tool-results/``; None unless it lies in that folder.

    The folder may have moved with the projects folder, so only the file's name is taken from the record;
    links that lead out of the session's folder are not followed.
    """
    folder = os.path.realpath(transcript.with_suffix("") / "tool-results")
    path = os.path.realpath(os.path.join(folder, os.path.basename(named)))
    if os.path.dirname(path) != folder:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as handle:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return handle.read(HOOK_OUTPUT_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _session(lines: _Lines, key: tuple[str, str], nodes: list[Node], counts: Counter[str]) -> Session:
    """One session of a file from its nodes."""
    session_id, agent = key
    ordered = order(nodes)
    if ordered.branches:
        counts["branch"] += ordered.branches
        counts["branch_lines"] += ordered.abandoned
    build = _Build(counts)
    for unit in ordered.units:
        build.add(unit)
    live = [node.value for unit in ordered.units for node in unit]
    build.count_unpaired()
    times = [t for t in (line.at for line in live) if t]
    return Session(
        id=f"{session_id}.{agent}" if agent else session_id,
        source="claude",
        turns=tuple(build.turns),
        cwd=next((line.cwd for line in live if line.cwd), ""),
        client_version=next((line.version for line in reversed(live) if line.version), ""),
        models=tuple(dict.fromkeys(t.model for t in build.turns if t.model)),
        started=min(times, key=_order_of_time, default=""),
        ended=max(times, key=_order_of_time, default=""),
        parent=session_id if agent else "",
        counts=dict(sorted(counts.items())),
        usage=dict(sorted(build.usage.items())),
    )


@dataclass
class _Build:
    """Units into turns, with calls and results paired."""

    counts: Counter[str]
    turns: list[Turn] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)
    calls: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def add(self, unit: list[Node]) -> None:
        first: _Line = unit[0].value
        if unit[0].kind == "assistant":
            self._reply(unit)
        elif unit[0].kind in ("prompt", "result"):
            self._turn(unit[0], first, "user", self._results_once(first.blocks))
        elif first.hook:
            self._turn(unit[0], first, "hook", first.blocks)
        elif first.type == "attachment":
            self._turn(unit[0], first, "user", first.blocks)

    def _turn(self, node: Node, line: _Line, role: Any, blocks: tuple[Block, ...]) -> None:
        if blocks:
            name = _safe_id(node.uuid)
            self.turns.append(Turn(name, role, blocks, line.at, line.model, line.hook, line.meta))

    def _reply(self, unit: list[Node]) -> None:
        blocks: list[Block] = []
        for node in unit:
            for block in node.value.blocks:
                if block in blocks:
                    self.counts["repeated_block"] += 1
                    continue
                blocks.append(block)
                if block.get("type") == "tool_use":
                    self.calls.add(_text(block, "id"))
        lines: list[_Line] = [node.value for node in unit]
        self.usage.update(max((line.usage for line in lines), key=lambda u: u.get("output_tokens", 0)))
        model = next((line.model for line in lines if line.model), "")
        if blocks:
            name = _safe_id(unit[0].message_id or unit[0].uuid)
            meta = any(line.meta for line in lines)
            self.turns.append(Turn(name, "assistant", tuple(blocks), lines[0].at, model, "", meta))

    def _results_once(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Blocks without results of a call that has one already (a resumed session repeats them)."""
        kept = []
        for block in blocks:
            call = _text(block, "tool_use_id") if block.get("type") == "tool_result" else ""
            if call and call in self.answered:
                self.counts["repeated_result"] += 1
                continue
            if call:
                self.answered.add(call)
            kept.append(block)
        return tuple(kept)

    def count_unpaired(self) -> None:
        for name, missing in (("call", self.calls - self.answered), ("result", self.answered - self.calls)):
            if missing:
                self.counts[f"unpaired_{name}"] += len(missing)


def _usage(value: Any) -> dict[str, int]:
    if not value or type(value) is not dict:
        return {}
    wanted = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return {k: value[k] for k in wanted if type(value.get(k)) is int and value[k] > 0}
