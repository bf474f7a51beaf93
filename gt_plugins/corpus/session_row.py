"""A scrubbed session as the corpus's table keeps it; packed where it was read, maybe in another process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..town.times import utc
from ..transcripts.model import Session, Turn
from .packing import pack, text_of_json, unpack

TUNED = "gt-ft-"
"""Models of our own are called so; sessions that they produced do not train by default."""


@dataclass(frozen=True)
class SessionRow:
    """``columns`` are those that the session's own content fills, its body packed among them."""

    columns: Mapping[str, Any]
    counts: Mapping[str, int]
    beads: tuple[str, ...]

    @property
    def session(self) -> Session:
        """The session itself, unpacked."""
        return session_of(self.columns["body"])

    def changed(self, **fields: Any) -> SessionRow:
        """The row of the session with other fields."""
        return row_of(replace(self.session, **fields))


def row_of(session: Session) -> SessionRow:
    """The row of a session."""
    columns = {
        "id": session.id,
        "parent": session.parent,
        "source": session.source,
        "role": session.role,
        "rig": session.rig,
        "name": session.name,
        "client_version": session.client_version,
        "models": text_of_json(session.models),
        "tuned": int(any(m.startswith(TUNED) for m in session.models)),
        "started": utc(session.started),
        "ended": utc(session.ended),
        "turns": len(session.turns),
        "decisions": decisions_of(session.turns),
        "counts": text_of_json(session.counts),
        "body": pack(session),
    }
    return SessionRow(columns, session.counts, tuple(session.beads))


def session_of(body: bytes) -> Session:
    """The session of a row's packed body."""
    return Session.from_json(unpack(body))


def decisions_of(turns: Iterable[Turn]) -> int:
    """How many replies of the model act: those with a tool call."""
    replies = [turn.blocks for turn in turns if turn.role == "assistant" and not turn.meta]
    return sum("tool_use" in [block.get("type") for block in blocks] for blocks in replies)
