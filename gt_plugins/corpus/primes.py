"""What ``gt prime`` said, as it was seen in stored sessions: by a hook, or by a command of the agent's own.

The sessions are scrubbed already; a prime inherits role, rig, model and client version of its session, and a
purge of the session takes it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..town.roles import parse_gt_role
from ..town.root import Town
from ..town.times import utc
from ..transcripts.model import Session
from ..transcripts.shell import command_of
from .sources import Document, Trouble
from .store import Store, exists

_SAID = re.compile(r"^\s*(\[?GAS TOWN\]? role:(\S+)|> \*\*Recovery\*\*: Context )", re.MULTILINE)
_SLIM = re.compile(r"<gt-prime\b")
_COMMAND = re.compile(r"(^|[\s;&|/(])gt\s+prime\b")
_HEAD = 4000
"""Characters within which a prime says whose it is."""


@dataclass(frozen=True)
class SeenPrime:
    """One output of ``gt prime`` in a session; ``slim`` for the one that a deployed role is given."""

    turn: str
    at: str
    text: str
    slim: bool = False


def primes(town: Town) -> Iterator[Document | Trouble]:
    """The primes of every stored session."""
    if not exists(town):
        return
    with Store(town) as store:
        for stored in store.sessions():
            session = stored.session
            for number, prime in enumerate(primes_in(session)):
                said = _SAID.search(prime.text[:_HEAD])
                actor = parse_gt_role(said.group(2)) if said and said.group(2) else None
                yield Document(
                    "primes",
                    f"{session.id}/{number}",
                    "slim_prime" if prime.slim else "prime",
                    prime.text,
                    role=session.role or (actor.role if actor else "") or "all",
                    rig=session.rig,
                    session_id=session.id,
                    bead_id=session.beads[0] if len(session.beads) == 1 else "",
                    at=utc(prime.at),
                    model=", ".join(session.models),
                    client_version=session.client_version,
                )


def primes_in(session: Session) -> list[SeenPrime]:
    """What ``gt prime`` put into a session, in order: hooks' output that has a prime's signs, and the results
    of the agent's own ``gt prime``."""
    found: list[SeenPrime] = []
    asked: set[str] = set()
    for turn in session.turns:
        for block in turn.blocks:
            if block.get("type") == "tool_use" and _COMMAND.search(command_of(block)):
                asked.add(str(block.get("id", "")))
            elif block.get("type") == "tool_result" and str(block.get("tool_use_id", "")) in asked:
                _add(found, turn.id, turn.at, _text(block.get("content")))
        if turn.role == "hook" and not turn.hook.startswith("type:"):
            _add(found, turn.id, turn.at, "\n".join(_text(block.get("text")) for block in turn.blocks))
    return found


def _add(found: list[SeenPrime], turn: str, at: str, text: str) -> None:
    slim = _SLIM.search(text) is not None
    if slim or _SAID.search(text[:_HEAD]):
        found.append(SeenPrime(turn, at, text, slim))


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(b.get("text", "")) for b in content if isinstance(b, dict))
    return content if isinstance(content, str) else ""
