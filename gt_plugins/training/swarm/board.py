"""What a stage's peers have announced, as this peer sees it: who is there, who is lost, who is not
welcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .peers import Peers

TRAINING, DONE, LEFT = "training", "done", "left"
STRIKES = 3
"""After so many adapters that were wrong a peer is not asked again."""
FORGET_ROUNDS = 3
"""After so many rounds without it a lost peer is no longer waited for: the swarm is well without it."""


@dataclass(frozen=True)
class Entry:
    """One adapter that a peer offers; the fields are those of ``records.AdapterV1``."""

    round: int
    step: int
    done: int
    total: int
    rows: int
    tokens: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Peer:
    """A peer's record."""

    peer_id: str
    shape: str
    state: str
    entries: tuple[Entry, ...]

    @property
    def newest(self) -> int:
        """The last round whose border it has reached."""
        return self.entries[-1].round

    def at(self, round_number: int) -> Entry | None:
        """Its adapter of a round, if it still offers it."""
        return next((e for e in self.entries if e.round == round_number), None)


class Board:
    """Reads the announcements of one key and keeps book of the peers behind them."""

    def __init__(self, peers: Peers, key: str, say: Callable[[str], None]) -> None:
        self._peers, self._key, self._say = peers, key, say
        self.me = peers.identity.peer_id
        self.shape = ""
        self.strangers: frozenset[str] = frozenset()
        """Live peers whose adapters have another shape, or another base."""
        self._lock = threading.Lock()
        self._strikes: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._there: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()

    def announce(self, role: str, state: str, entries: tuple[Entry, ...], lifetime: float) -> bool:
        """Put this peer's own record up."""
        record = {
            "peer_id": self.me,
            "role": role,
            "shape": self.shape,
            "state": state,
            "adapters": [vars(e) for e in entries],
        }
        return self._peers.announce(self._key, record, lifetime)

    def look(self) -> dict[str, Peer]:
        """The others that can be averaged with, now. Those that came or went are said.

        Raises RetriableError where the DHT does not answer."""
        found = [_peer(record) for record in self._peers.records(self._key).values()]
        others = [p for p in found if p.peer_id != self.me and p.entries]
        mine = {p.peer_id: p for p in others if p.shape == self.shape and not self.banned(p.peer_id)}
        with self._lock:
            strangers = frozenset(p.peer_id for p in others if p.shape != self.shape)
            for peer_id in strangers - self.strangers:
                self._say(f"peer {short(peer_id)} trains another base or another shape of adapter; left out")
            self.strangers = strangers
            self._keep_book(mine)
        return {peer_id: p for peer_id, p in mine.items() if p.state != LEFT}

    def _keep_book(self, mine: Mapping[str, Peer]) -> None:
        there = frozenset(i for i, p in mine.items() if p.state != LEFT)
        ended = frozenset(i for i, p in mine.items() if p.state in (LEFT, DONE))
        for peer_id in there - self._wanted:
            self._say(f"peer {short(peer_id)} is there")
        for peer_id in (self._there & self._wanted) - there - ended:
            self._say(f"peer {short(peer_id)} is lost")
        for peer_id in there:
            self._missed.pop(peer_id, None)
        self._there, self._wanted = there, (self._wanted | there) - (ended - there)

    def counted(self) -> tuple[int, int]:
        """How many others are there, and how many should be: for the monitor, without asking the DHT."""
        return len(self._there & self._wanted), len(self._wanted)

    def round_over(self) -> None:
        """A round was averaged: who was missing in several is no longer wanted."""
        with self._lock:
            for peer_id in self._wanted - self._there:
                self._missed[peer_id] = self._missed.get(peer_id, 0) + 1
                if self._missed[peer_id] >= FORGET_ROUNDS:
                    self._wanted -= {peer_id}
                    self._missed.pop(peer_id)

    def strike(self, peer_id: str) -> None:
        """It sent what cannot be averaged; said when it is the last time."""
        self._strikes[peer_id] = self._strikes.get(peer_id, 0) + 1
        if self.banned(peer_id):
            self._say(f"peer {short(peer_id)} was wrong {STRIKES} times and is not asked again")
            with self._lock:
                self._wanted -= {peer_id}

    def banned(self, peer_id: str) -> bool:
        return self._strikes.get(peer_id, 0) >= STRIKES


def short(peer_id: str) -> str:
    """A peer id as people compare it."""
    return f"…{peer_id[-8:]}"


def _peer(record: Mapping[str, Any]) -> Peer:
    """A record that the schema has passed."""
    entries = [Entry(**e) for e in record["adapters"]]
    sane = [
        e
        for e in entries
        if 0 <= e.done <= e.total and e.rows > 0 and min(e.round, e.step, e.tokens, e.size) >= 0
    ]
    return Peer(
        record["peer_id"], record["shape"], record["state"], tuple(sorted(sane, key=lambda e: e.round))
    )
