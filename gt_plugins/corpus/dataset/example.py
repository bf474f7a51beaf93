"""What a dataset is made of: examples, a filter's verdict, and the dataset as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...rendering.conversation import Conversation, Message

CHAT, DECISION = "chat", "decision"
FORMATS = (CHAT, DECISION)


@dataclass(frozen=True)
class Verdict:
    """A filter's word on an example."""

    keep: bool
    reason: str = ""


@dataclass(frozen=True)
class Origin:
    """Where an example comes from, beside its session: for the card and for the split."""

    started: str = ""
    """When its session began: RFC 3339 in UTC, empty where unknown."""
    parent: str = ""
    """The session that a subagent's belongs to."""
    rig: str = ""
    reader: str = ""
    """The client whose transcript it was."""
    client: str = ""
    """That client's version."""
    policy: str = ""
    """The scrub policy under which it is stored."""
    consent: str = ""


@dataclass(frozen=True)
class Example:
    """One training example; ``silent`` are indices of assistant messages without loss."""

    id: str
    kind: str
    """``chat`` or ``decision``."""
    role: str
    session: str
    beads: tuple[str, ...]
    outcome: str
    """What became of it: a decision's own label where it has one, else its session's."""
    tuned: bool
    models: tuple[str, ...]
    conversation: Conversation
    silent: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()
    """The decisions asked for, one for each answer; empty for a chat."""
    origin: Origin = field(default_factory=Origin)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What a split may not cut through: the beads that were worked on, and the session with its
        subagents."""
        return (*self.beads, self.origin.parent or self.session)

    def text(self) -> str:
        """All that is said in it, for looking for something in it."""
        c = self.conversation
        return "\n".join([c.system, c.prime, self.said()])

    def said(self) -> str:
        """What its messages say, without what every example of the role begins with."""
        return "\n".join(said(m) for m in self.conversation.messages)

    def taught(self) -> Iterator[tuple[int, Message]]:
        """(index, message) of the replies that carry loss."""
        for index, message in enumerate(self.conversation.messages):
            if message.role == "assistant" and index not in self.silent:
                yield index, message


@dataclass(frozen=True)
class Dataset:
    """A dataset folder as it was built or read."""

    folder: Path
    role: str
    hash: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    prime: str
    card: Mapping[str, Any] = field(default_factory=dict)


def said(message: Message) -> str:
    """All that is said, called or answered in a message."""
    return "\n".join(str(b.get("text") or b.get("content") or b.get("input") or "") for b in message.blocks)
