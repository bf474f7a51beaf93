"""Whether a session is the town's to capture, and who it was.

A session belongs to the town when its working folder lies there or when its id stands in the town's events.
Role and rig come from the events, else from GT_ROLE as the hook saw it, else from the folder; each is a
weaker witness than the one before, and a row never goes from a surer one to a weaker one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..town.roles import Identity, identity_from_cwd, parse_gt_role
from ..town.root import Town
from ..transcripts.model import Session
from .beads import Work, beads_of, work_by_agent
from .store import key_of

FROM_EVENTS, FROM_ENV, FROM_CWD, UNKNOWN = 3, 2, 1, 0
STORED = "stored"


@dataclass(frozen=True)
class Hint:
    """What the spool knows of a session beyond its file."""

    gt_role: str = ""
    cwd: str = ""


def is_path(text: str) -> bool:
    """Whether the system could have such a path at all; what stands in a file may be anything."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a UTF-16 pair
        return False


@dataclass(frozen=True)
class _Place:
    """Where a working folder lies, as far as it tells whose session runs there."""

    in_town: bool
    identity: Identity | None = None
    top: str = ""
    """The first folder of its path below the town's."""


class Belonging:
    """What one sweep knows of the town; the events are read when first needed, each folder is judged once."""

    def __init__(self, town: Town, exclude_rigs: tuple[str, ...]) -> None:
        self.town = town
        self.exclude_rigs = exclude_rigs
        self.root = os.path.realpath(town.root)
        self._places: dict[str, _Place] = {}

    @cached_property
    def identities(self) -> dict[str, Identity]:
        from ..town.events import session_identities

        return session_identities(self.town)

    @cached_property
    def _work(self) -> dict[Identity, list[Work]]:
        return work_by_agent(self.town.events_file)

    def judge(self, session_id: str, cwd: str, hint: Hint) -> str:
        """STORED for a session that may be captured, else why not: ``foreign`` or ``excluded:<rig>``."""
        if not self._place(cwd).in_town and session_id not in self.identities:
            return "foreign"
        rig = self._rig(session_id, cwd, hint)
        return f"excluded:{rig}" if rig in self.exclude_rigs else STORED

    def identity(self, session_id: str, cwd: str, hint: Hint) -> tuple[Identity | None, int]:
        """Who a session is and how sure that is; what the surer witness leaves open the folder fills in."""
        by_cwd = self._place(cwd).identity
        by_env = parse_gt_role(hint.gt_role) if hint.gt_role else None
        for found, rank in ((self.identities.get(session_id), FROM_EVENTS), (by_env, FROM_ENV)):
            if found is not None and by_cwd is not None and by_cwd.role == found.role:
                found = Identity(found.role, found.rig or by_cwd.rig, found.name or by_cwd.name)
            if found is not None:
                return found, rank
        return by_cwd, FROM_CWD if by_cwd is not None else UNKNOWN

    @cached_property
    def event_keys(self) -> set[str]:
        """``key_of`` each session id in the events."""
        return {key_of(session_id) for session_id in self.identities}

    def surer(self, session_key: str, hint: Hint, rank: int) -> bool:
        """Whether more is known now of a session whose identity was stored with ``rank``."""
        if session_key in self.event_keys:
            return rank < FROM_EVENTS
        return bool(hint.gt_role) and rank < FROM_ENV

    def beads(self, identity: Identity | None, session: Session) -> tuple[str, ...]:
        """Beads that the session worked on, as far as the events tell."""
        return beads_of(self._work.get(identity, []), session.started, session.ended) if identity else ()

    def _rig(self, session_id: str, cwd: str, hint: Hint) -> str:
        identity, _ = self.identity(session_id, cwd, hint)
        return (identity.rig if identity is not None else "") or self._place(cwd).top

    def _place(self, cwd: str) -> _Place:
        if cwd not in self._places:
            self._places[cwd] = self._located(cwd)
        return self._places[cwd]

    def _located(self, cwd: str) -> _Place:
        if not os.path.isabs(cwd) or not is_path(cwd):
            return _Place(False)
        real = os.path.realpath(cwd)
        if real != self.root and not real.startswith(self.root + os.sep):
            return _Place(False)
        identity = identity_from_cwd(Town(Path(self.root)), Path(real))
        return _Place(True, identity, os.path.relpath(real, self.root).split(os.sep)[0])
