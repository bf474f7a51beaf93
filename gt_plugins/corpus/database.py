"""The SQLite file under the corpus: opened privately, versioned, with errors that a person can act on.

WAL with ``synchronous=FULL``: what was committed survives a power cut. ``secure_delete`` overwrites what is
deleted. The schema's version is ``PRAGMA user_version``; each entry of MIGRATIONS takes it one step further.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..durable import PRIVATE_FILE
from ..errors import FinetuneError, RetriableError, in_file

BUSY_SECONDS = 30.0

MIGRATIONS = (
    """
    CREATE TABLE sessions (
        n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT NOT NULL, source TEXT NOT NULL,
        role TEXT NOT NULL, rig TEXT NOT NULL, name TEXT NOT NULL, identity_rank INTEGER NOT NULL,
        client_version TEXT NOT NULL, models TEXT NOT NULL, tuned INTEGER NOT NULL,
        started TEXT NOT NULL, ended TEXT NOT NULL, turns INTEGER NOT NULL, decisions INTEGER NOT NULL,
        counts TEXT NOT NULL, redactions TEXT NOT NULL, policy TEXT NOT NULL, consent TEXT NOT NULL,
        source_hash TEXT NOT NULL, outcome TEXT NOT NULL, captured_at TEXT NOT NULL,
        updated_at TEXT NOT NULL, owner TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX sessions_role ON sessions (role, started);
    CREATE TABLE contributions (
        file TEXT NOT NULL, session_id TEXT NOT NULL, turns INTEGER NOT NULL, ended TEXT NOT NULL,
        source_hash TEXT NOT NULL, PRIMARY KEY (session_id, file)) WITHOUT ROWID;
    CREATE TABLE files (
        file TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
        verdict TEXT NOT NULL, session_key TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE documents (
        n INTEGER PRIMARY KEY, source TEXT NOT NULL, key TEXT NOT NULL, corpus_type TEXT NOT NULL,
        role TEXT NOT NULL, rig TEXT NOT NULL, session_id TEXT NOT NULL, bead_id TEXT NOT NULL,
        at TEXT NOT NULL, model TEXT NOT NULL, client_version TEXT NOT NULL, source_hash TEXT NOT NULL,
        redactions TEXT NOT NULL, policy TEXT NOT NULL, consent TEXT NOT NULL, captured_at TEXT NOT NULL,
        current INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (source, key, source_hash));
    CREATE TABLE labels (
        session_id TEXT PRIMARY KEY, label TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL);
    CREATE TABLE datasets (
        hash TEXT PRIMARY KEY, path TEXT NOT NULL, role TEXT NOT NULL, at TEXT NOT NULL);
    CREATE TABLE dataset_sessions (
        hash TEXT NOT NULL, session_id TEXT NOT NULL, PRIMARY KEY (session_id, hash)) WITHOUT ROWID;
    CREATE TABLE trained (
        version TEXT NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (version, hash));
    CREATE TABLE purged (session_id TEXT PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE sweeps (at TEXT NOT NULL, report TEXT NOT NULL);
    CREATE VIRTUAL TABLE search USING fts5 (text, content='', tokenize='unicode61');
    """,
    # What became of a patrol's decisions and of each session (corpus/outcomes/rows.py).
    """
    CREATE TABLE decisions (
        session_id TEXT NOT NULL, call TEXT NOT NULL, at TEXT NOT NULL, role TEXT NOT NULL,
        actor TEXT NOT NULL, action TEXT NOT NULL, kind TEXT NOT NULL, target TEXT NOT NULL,
        ref TEXT NOT NULL, failed INTEGER NOT NULL, label TEXT NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (session_id, call)) WITHOUT ROWID;
    CREATE TABLE outcomes (
        session_id TEXT PRIMARY KEY, stamp TEXT NOT NULL, beads TEXT NOT NULL, stirred TEXT NOT NULL,
        reason TEXT NOT NULL) WITHOUT ROWID;
    """,
    # Versions of conventions, and those that went back on themselves (corpus/reversions.py).
    """
    CREATE TABLE versions (
        n INTEGER PRIMARY KEY, key TEXT NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL,
        seen_at TEXT NOT NULL, source_hash TEXT NOT NULL);
    CREATE INDEX versions_key ON versions (key, n);
    CREATE TABLE reversions (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, rig TEXT NOT NULL, kind TEXT NOT NULL, hash TEXT NOT NULL,
        undone TEXT NOT NULL, matches TEXT NOT NULL, matches_at TEXT NOT NULL, detected_at TEXT NOT NULL,
        days INTEGER NOT NULL, state TEXT NOT NULL, "by" TEXT NOT NULL, reason TEXT NOT NULL,
        decided_at TEXT NOT NULL, lines TEXT NOT NULL) WITHOUT ROWID;
    """,
    # What came from other towns of a rig, and what went to them (corpus/share).
    """
    CREATE TABLE shared (
        session_id TEXT PRIMARY KEY, bundle TEXT NOT NULL, sender TEXT NOT NULL, key TEXT NOT NULL,
        at TEXT NOT NULL, labels TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE exported (
        session_id TEXT NOT NULL, bundle TEXT NOT NULL, at TEXT NOT NULL,
        PRIMARY KEY (session_id, bundle)) WITHOUT ROWID;
    """,
    # One dataset may stand in several folders: its hash is that of its content.
    """
    CREATE TABLE dataset_folders (
        path TEXT PRIMARY KEY, hash TEXT NOT NULL, role TEXT NOT NULL, at TEXT NOT NULL) WITHOUT ROWID;
    INSERT OR REPLACE INTO dataset_folders SELECT path, hash, role, at FROM datasets ORDER BY at;
    DROP TABLE datasets;
    """,
    # Rows of the full-text index that are stored and not indexed yet (corpus/fulltext.py).
    """
    CREATE TABLE unindexed (number INTEGER PRIMARY KEY);
    """,
    # The commit that a convention's working folder stood at when it was last looked at.
    """
    CREATE TABLE looks (key TEXT PRIMARY KEY, head TEXT NOT NULL) WITHOUT ROWID;
    """,
)


def open_database(path: Path) -> sqlite3.Connection:
    """Open (and make, 0600) the corpus file and bring its schema up to date.

    Raises FinetuneError where it is no database, is damaged or was written by a newer version.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    os.fchmod(fd, PRIVATE_FILE)
    os.close(fd)
    with explained(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with explained(path):
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise FinetuneError(
            in_file(path, "", f"has schema {version}, newer than this program's", "upgrade gastown-finetune")
        )
    while version < len(MIGRATIONS):
        with transaction(connection, path):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version < len(MIGRATIONS):
                for statement in MIGRATIONS[version].split(";\n"):
                    connection.execute(statement)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All of the block or none of it; a block inside a block joins it."""
    if connection.in_transaction:
        yield
        return
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as one line with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        match code:
            case sqlite3.SQLITE_FULL:
                problem = "the disk is full; nothing was changed"
                raise FinetuneError(in_file(path, "", problem, "free space and run it again")) from None
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                mend = "move it aside and run `gt corpus sweep`, which reads the sessions again"
                raise FinetuneError(in_file(path, "", "is damaged or no database", mend)) from None
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise RetriableError(in_file(path, "", "is locked by another process", "try again")) from None
            case _:
                raise FinetuneError(in_file(path, "", f"SQLite: {error}", "")) from None
