"""The full-text index: what is stored waits in a list and is indexed when somebody searches.

Indexing takes as long as half of all else that a sweep does, so a long one leaves it to the next search; a
sweep of the spool, which stores a session or two in the background, does it at once. The index keeps no text
of its own, so it must be told what it is to forget: the text that it was given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from ..errors import UserError
from .packing import encodable

BATCH = 64
"""Rows indexed in one transaction, so that a sweep that runs meanwhile does not wait long."""


class Database(Protocol):
    """What the index needs of the store."""

    def query(self, sql: str, *values: object) -> list[sqlite3.Row]: ...

    def execute(self, sql: str, *values: object) -> int: ...

    def transaction(self) -> AbstractContextManager[None]: ...


def index_later(db: Database, number: int) -> None:
    """Have row ``number`` indexed by the next :func:`catch_up`."""
    db.execute("INSERT OR IGNORE INTO unindexed VALUES (?)", number)


def forget(db: Database, number: int, text_of: Callable[[int], str]) -> None:
    """Take row ``number`` out of the index; it must still be stored as it was indexed."""
    if not db.execute("DELETE FROM unindexed WHERE number = ?", number):
        sql = "INSERT INTO search (search, rowid, text) VALUES ('delete', ?, ?)"
        db.execute(sql, number, encodable(text_of(number)))


def catch_up(db: Database, text_of: Callable[[int], str]) -> int:
    """Index every row that waits, ``text_of`` its number; returns how many."""
    done = 0
    while True:
        with db.transaction():
            waiting = db.query("SELECT number FROM unindexed ORDER BY number LIMIT ?", BATCH)
            for (number,) in waiting:
                text = encodable(text_of(number))
                db.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", number, text)
                db.execute("DELETE FROM unindexed WHERE number = ?", number)
        done += len(waiting)
        if len(waiting) < BATCH:
            return done


def find(db: Database, query: str, limit: int) -> list[int]:
    """Numbers of rows with all words of ``query``, best first; ``limit`` -1: all. Raises UserError."""
    words = [w.replace('"', '""') for w in query.split()]
    if not words:
        raise UserError("nothing to search for; give at least one word")
    match = " ".join(f'"{word}"' for word in words)
    sql = "SELECT rowid AS n FROM search WHERE search MATCH ? ORDER BY rank, rowid LIMIT ?"
    return [row["n"] for row in db.query(sql, match, limit)]
