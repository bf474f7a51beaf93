"""Turns from records that come in order: replies put together, tool calls and results paired and counted.

The readers of codex and opencode use it. Claude Code's files have no order of their own, so its reader goes
by the graph of uuids (:mod:`.graph`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import fields
from .model import Block, Session, Turn


@dataclass
class Turns:
    """The turns of one session so far. What stands between two replies ends the first of them."""

    counts: Counter[str]
    turns: list[Turn] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)
    _reply: list[Block] = field(default_factory=list)
    _reply_head: tuple[str, str, str, bool] = ("", "", "", False)

    def say(self, id: str, block: Block, at: str = "", model: str = "", meta: bool = False) -> None:
        """A block of the assistant's reply: text, thinking or a tool call."""
        if not self._reply:
            self._reply_head = (id, at, model, meta)
        elif model and not self._reply_head[2]:
            self._reply_head = (*self._reply_head[:2], model, self._reply_head[3])
        self._reply.append(block)

    def answer(self, id: str, call: str, content: Any, at: str = "", error: bool = False) -> None:
        """The result of a tool call (text, or a list of blocks); a second one of the same call is counted."""
        self.end_reply()
        if call in self._answered:
            self.counts["repeated_result"] += 1
            return
        self._answered.add(call)
        block = {"type": "tool_result", "tool_use_id": call, "content": content, "is_error": error}
        self.turns.append(Turn(fields.safe_id(id), "user", (block,), at))

    def hear(self, id: str, blocks: Sequence[Block], at: str = "", meta: bool = False) -> None:
        """What a user said, or (``meta``) what the client said in a user's place."""
        self.end_reply()
        if blocks:
            self.turns.append(Turn(fields.safe_id(id), "user", tuple(blocks), at, meta=meta))

    def note(self, id: str, hook: str, blocks: Sequence[Block], at: str = "", meta: bool = False) -> None:
        """What a hook printed, or a record of a type that the reader does not know (``type:<its type>``)."""
        self.end_reply()
        self.turns.append(Turn(fields.safe_id(id), "hook", tuple(blocks), at, hook=hook, meta=meta))

    def end_reply(self) -> None:
        """Whatever the assistant says next is a reply of its own."""
        if self._reply:
            id, at, model, meta = self._reply_head
            self.turns.append(Turn(fields.safe_id(id), "assistant", tuple(self._reply), at, model, meta=meta))
            self._reply = []

    def take_back(self, prompts: int) -> None:
        """Drop the last ``prompts`` prompts of the user and all that followed them, as a rewind does."""
        self.end_reply()
        for _ in range(prompts):
            places = [i for i, turn in enumerate(self.turns) if _is_prompt(turn)]
            if not places:
                break
            self.counts["branch"] += 1
            self.counts["branch_lines"] += len(self.turns) - places[-1]
            del self.turns[places[-1] :]

    def session(self, **known: Any) -> Session:
        """The session; ``known`` are its other fields. Times and models are those of the turns."""
        self.end_reply()
        blocks = [block for turn in self.turns for block in turn.blocks]
        calls = {fields.text(b, "id") for b in blocks if b.get("type") == "tool_use"}
        answered = {fields.text(b, "tool_use_id") for b in blocks if b.get("type") == "tool_result"}
        for what, missing in (("call", calls - answered), ("result", answered - calls)):
            if missing:
                self.counts[f"unpaired_{what}"] += len(missing)
        times = [turn.at for turn in self.turns if turn.at]
        settled: dict[str, Any] = {
            "turns": tuple(self.turns),
            "models": tuple(dict.fromkeys(turn.model for turn in self.turns if turn.model)),
            "started": min(times, key=fields.order_of_time, default=""),
            "ended": max(times, key=fields.order_of_time, default=""),
            "counts": dict(sorted(self.counts.items())),
        }
        return Session(**{**settled, **known})


def _is_prompt(turn: Turn) -> bool:
    results = any(block.get("type") == "tool_result" for block in turn.blocks)
    return turn.role == "user" and not turn.meta and not results
