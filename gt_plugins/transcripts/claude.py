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
from operator import attrgetter
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..town.accounts import config_dirs
from ..town.root import Town
from .claude_record import Message, Record, Usage, decoded, record_of
from .fields import moment as _moment
from .fields import name as _name
from .fields import safe_id as _safe_id
from .fields import string as _string
from .fields import text as _text
from .graph import Kind, Node, order
from .lines import AT_ONCE, first_lines, lines_of, parse_line
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
_SAID = frozenset({"user", "assistant"})
_KNOWN_BLOCKS = frozenset("text thinking redacted_thinking tool_use tool_result image document".split())
_PLAIN_BLOCKS = ("text", "tool_use")
"""Kept as they are."""
_BOOKKEEPING = frozenset(
    "uuid parentUuid logicalParentUuid sessionId timestamp cwd version gitBranch userType entrypoint "
    "isSidechain agentId slug requestId".split()
)
_BY_TIME = attrgetter("time")
_NO_USAGE = Usage()
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
            record = decoded(raw)
            for known in [record] if record is not None else map(record_of, parse_line(raw, Counter())):
                session_id = session_id or known.session_id or ""
                cwd = cwd or known.cwd or ""
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
    groups: dict[tuple[str, str], list[_Line]] = defaultdict(list)
    for line in lines.by_uuid.values():
        groups[lines.group(line, main)].append(line)
    first = (main, lines.own_agent)
    found = [_session(lines, first, groups.pop(first, []), counts)]
    for key in sorted(groups):
        found.append(_session(lines, key, groups[key], Counter()))
    return found


class _Line(Node, kw_only=True, eq=False, gc=False):
    """A line that has its place in the graph, with what is kept of it."""

    record: Record
    at: str
    version: str
    meta: bool
    model: str
    blocks: tuple[Block, ...]
    hook: str

    @property
    def usage(self) -> Usage:
        message = self.record.message
        return (message.usage if message is not None else None) or _NO_USAGE


class _Lines:
    """The whole file (uuid → newest line with it) and the names that stand in it."""

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        self.path = path
        self.counts = counts
        self.by_uuid: dict[str, _Line] = {}
        self.ids: Counter[str] = Counter()
        self.safe_ids: dict[str, str] = {}
        self.tops: dict[str, str] = {}
        self.taken = 0
        self.own_agent = _safe_id(path.stem) if path.stem.startswith("agent-") else ""
        with open(path, "rb", buffering=AT_ONCE) as handle:
            for raw in lines_of(handle, counts):
                self._read(raw)

    def main_id(self) -> str:
        """The session id this file is about: its name if lines carry that, else the most frequent one."""
        stem = self.path.stem
        if self.ids and not (stem in self.ids and not self.own_agent):
            stem = max(self.ids, key=lambda i: (self.ids[i], i))
        return _safe_id(stem)

    def group(self, line: _Line, main: str) -> tuple[str, str]:
        """(session id, agent) of a line; the agent is empty for the main conversation."""
        if self.own_agent:
            return (main, self.own_agent)
        record = line.record
        session = self._safe(record.session_id) if record.session_id else main
        if record.is_sidechain is not True:
            return (session, "")
        return (session, f"agent-{_safe_id(record.agent_id or self._top(line))}")

    def _safe(self, session_id: str) -> str:
        if session_id not in self.safe_ids:
            self.safe_ids[session_id] = _safe_id(session_id)
        return self.safe_ids[session_id]

    def _top(self, line: _Line) -> str:
        """The uuid at the top of a sidechain that carries no agent id; of a cycle the least."""
        path: dict[str, int] = {}
        while line.uuid not in self.tops:
            path[line.uuid] = len(path)
            above = self.by_uuid.get(line.parent)
            if above is None or above.record.is_sidechain is not True:
                self.tops[line.uuid] = line.uuid
            elif above.uuid in path:
                self.tops[line.uuid] = min(list(path)[path[above.uuid] :])
            else:
                line = above
        top = self.tops[line.uuid]
        self.tops.update(dict.fromkeys(path, top))
        return top

    def _read(self, raw: bytes) -> None:
        """Take a line of the file: as a record at once, or object by object where anything in it is odd."""
        record = decoded(raw)
        if record is not None and (record.type in _KNOWN_LINES or (record.type in _SAID and record.uuid)):
            self._take(record, {})
        else:
            for line in parse_line(raw, self.counts, raw.endswith(b"\n")):
                self._take(record_of(line), line)

    def _take(self, record: Record, line: dict[str, Any]) -> None:
        """``line`` is the whole of it, where that is needed."""
        if record.type in _SAID and record.message is None:
            self.counts["no_message"] += 1
            return
        if not record.uuid and record.type in _KNOWN_LINES:
            self.counts[f"line:{record.type}"] += 1
            return
        if record.session_id:
            self.ids[record.session_id] += 1
        uuid = record.uuid
        if not uuid:
            try:
                named = json.dumps(line, sort_keys=True)
            except RecursionError:
                self.counts["nested"] += 1
                return
            uuid = "line-" + hashlib.sha256(named.encode()).hexdigest()[:24]
            self.counts["no_uuid"] += 1
        if uuid in self.by_uuid:
            self.counts["rewritten"] += 1
        self.by_uuid[uuid] = self._kept(uuid, record, line)
        record.drop_content()
        self.taken += 1

    def _kept(self, uuid: str, record: Record, line: dict[str, Any]) -> _Line:
        message = record.message if record.type in _SAID else None
        blocks, hook, meta = self._content(record, message, line)
        model = message.model or "" if message is not None and record.type == "assistant" else ""
        kind, uses, answers = _part(record.type, blocks)
        at, seconds = _moment(record.timestamp or "")
        return _Line(
            uuid=uuid,
            parent=record.parent,
            kind=kind,
            index=self.taken,
            time=seconds,
            message_id=message.id or "" if message is not None else "",
            uses=uses,
            answers=answers,
            answers_line=record.source_tool or "" if kind == "result" else "",
            record=record,
            at=at,
            version=_name(record.version or ""),
            meta=meta or model == SYNTHETIC or record.by_the_client,
            model="" if model == SYNTHETIC else _name(model),
            blocks=blocks,
            hook=hook,
        )

    def _content(
        self, record: Record, message: Message | None, line: dict[str, Any]
    ) -> tuple[tuple[Block, ...], str, bool]:
        """(blocks, hook, meta) of a line."""
        if message is not None:
            return tuple(self._blocks(message.content)), "", False
        if record.type == "attachment":
            return self._attachment(record.attachment)
        if record.type in _KNOWN_LINES:
            self.counts[f"line:{record.type}"] += 1
            return (), "", True
        name = _name(record.type or "") or "none"
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
        if type(content) is str:
            return [{"type": "text", "text": content}] if content else []
        blocks: list[Block] = []
        for item in content if type(content) is list else ():
            if type(item) is dict:
                plain = item.get("type") in _PLAIN_BLOCKS and "signature" not in item
                blocks.append(item if plain else self._block(item))
            elif type(item) is str:
                blocks.append({"type": "text", "text": item})
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


def _part(type: str | None, blocks: Sequence[Block]) -> tuple[Kind, tuple[str, ...], tuple[str, ...]]:
    """The part that a line has in the conversation, and the tool calls that it makes and that it answers."""
    if type == "assistant":
        uses = [block.get("id") for block in blocks if block.get("type") == "tool_use"]
        return "assistant", _strings(uses) if uses else (), ()
    if type != "user":
        return "note", (), ()
    answers = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    return ("result", (), _strings(answers)) if answers else ("prompt", (), ())


def _strings(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple([value for value in values if type(value) is str and value])


def _session(lines: _Lines, key: tuple[str, str], nodes: list[_Line], counts: Counter[str]) -> Session:
    """One session of a file from its lines."""
    session_id, agent = key
    ordered = order(nodes)
    if ordered.branches:
        counts["branch"] += ordered.branches
        counts["branch_lines"] += ordered.abandoned
    if ordered.set_back:
        counts["clock"] += ordered.set_back
    build = _Build(counts)
    for unit in ordered.units:
        build.add(unit)
    live = [line for unit in ordered.units for line in unit]
    build.count_unpaired()
    dated = [line for line in live if line.at]
    return Session(
        id=f"{session_id}.{agent}" if agent else session_id,
        source="claude",
        turns=tuple(build.turns),
        cwd=next((line.record.cwd for line in live if line.record.cwd), ""),
        client_version=next((line.version for line in reversed(live) if line.version), ""),
        models=tuple(dict.fromkeys(t.model for t in build.turns if t.model)),
        started=min(dated, key=_BY_TIME).at if dated else "",
        ended=max(dated, key=_BY_TIME).at if dated else "",
        parent=session_id if agent else "",
        counts=dict(sorted(counts.items())),
        usage=build.usage.counted(),
    )


@dataclass
class _Build:
    """Units into turns, with calls and results paired."""

    counts: Counter[str]
    turns: list[Turn] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    calls: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def add(self, unit: list[_Line]) -> None:
        first = unit[0]
        if first.kind == "assistant":
            self._reply(unit)
        elif first.kind in ("prompt", "result"):
            self._turn(first, "user", self._results_once(first.blocks))
        elif first.hook:
            self._turn(first, "hook", first.blocks)
        elif first.record.type == "attachment":
            self._turn(first, "user", first.blocks)

    def _turn(self, line: _Line, role: Any, blocks: tuple[Block, ...]) -> None:
        if blocks:
            name = _safe_id(line.uuid)
            self.turns.append(Turn(name, role, blocks, line.at, line.model, line.hook, line.meta))

    def _reply(self, lines: list[_Line]) -> None:
        blocks: list[Block] = []
        first, model, meta = lines[0], "", False
        usage = first.usage
        for line in lines:
            self._add_once(line.blocks, blocks)
            model = model or line.model
            meta = meta or line.meta
            if line.usage.output_tokens > usage.output_tokens:
                usage = line.usage
        self.usage.add(usage)
        if blocks:
            name = _safe_id(first.message_id or first.uuid)
            self.turns.append(Turn(name, "assistant", tuple(blocks), first.at, model, "", meta))

    def _add_once(self, found: Sequence[Block], blocks: list[Block]) -> None:
        """Add blocks to those of a reply, which may have some of them already."""
        for block in found:
            if block in blocks:
                self.counts["repeated_block"] += 1
                continue
            blocks.append(block)
            if block.get("type") == "tool_use":
                self.calls.add(_string(block.get("id")))

    def _results_once(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Blocks without results of a call that has one already (a resumed session repeats them)."""
        kept = []
        for block in blocks:
            call = _string(block.get("tool_use_id")) if block.get("type") == "tool_result" else ""
            if call in self.answered:
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
