"""One model of a session, whichever client wrote it.

Content blocks are kept as the Messages API has them (plain dicts: ``text``, ``thinking``, ``tool_use``,
``tool_result``, ``image``), because scrubbing walks JSON values and rendering speaks that form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Block = dict[str, Any]
TurnRole = Literal["user", "assistant", "hook"]


@dataclass(frozen=True)
class Turn:
    """One message: a user's, one whole assistant reply (all lines with its message id), or a hook's output.

    ``role == "hook"`` carries what a hook printed into the context (``hook`` names it, e.g.
    ``SessionStart:startup``); the output of ``gt prime`` arrives so. A line of a type that the reader does
    not know is kept the same way: ``hook == "type:<its type>"``, a block ``{"type": "unknown", "line": …}``.
    """

    id: str
    role: TurnRole
    blocks: tuple[Block, ...]
    at: str = ""
    """RFC 3339, empty where unknown."""
    model: str = ""
    hook: str = ""
    meta: bool = False
    """Written by the client itself (a reminder, a compact summary): never a target."""

    def saying(self, blocks: tuple[Block, ...]) -> Turn:
        """The same turn with other blocks; much faster than ``dataclasses.replace``."""
        return Turn(self.id, self.role, blocks, self.at, self.model, self.hook, self.meta)


@dataclass(frozen=True)
class Session:
    """A whole session along its live branch, in conversation order."""

    id: str
    source: str
    """Reader: ``claude``, ``codex``, ``opencode``."""
    turns: tuple[Turn, ...]
    cwd: str = ""
    client_version: str = ""
    models: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    role: str = ""
    rig: str = ""
    name: str = ""
    beads: tuple[str, ...] = ()
    parent: str = ""
    """For a sidechain (subagent): the session it belongs to."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was met and not turned into turns: ``torn``, ``binary``, ``line:<known type>``, ``branch`` …; also
    ``type:<unknown>`` and ``block:<unknown>``, which are kept."""
    usage: dict[str, int] = field(default_factory=dict)
    """Tokens as the client recorded them, each reply once: ``input_tokens``, ``output_tokens`` …"""

    def to_json(self) -> dict[str, Any]:
        """One JSON object. Blocks are shared with the session, not copied: sessions can be large."""
        turns = [{**vars(t), "blocks": list(t.blocks)} for t in self.turns]
        lists = {"models": list(self.models), "beads": list(self.beads), "turns": turns}
        return {**vars(self), **lists}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Session:
        """The inverse of :meth:`to_json`; unknown keys are left out."""
        known = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        known["turns"] = tuple(
            Turn(**{**t, "blocks": tuple(t.get("blocks", ()))}) for t in value.get("turns", ())
        )
        for key in ("models", "beads"):
            known[key] = tuple(value.get(key, ()))
        return cls(**known)
