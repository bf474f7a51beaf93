"""The corpus as its users see it: sessions, documents, labels, and what was built and trained from them.

Only scrubbed values come in. A session has one row, whatever number of times it was captured and from
whatever number of files: the file with most of it owns the row (see :meth:`Store.add_session`). Files are
known by a hash of their path, so that names of folders outside the town are not kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ..errors import RetriableError, UserError, in_file
from ..town.root import Town
from ..transcripts.model import Session
from . import fulltext
from .database import explained, open_database, transaction
from .packing import pack_text, text_of_json, unpack_text
from .session_row import SessionRow, row_of, session_of
from .sources import Document
from .text import document_text, session_text

KEPT_SWEEPS = 100


@dataclass(frozen=True)
class StoredSession:
    """A session with what the corpus knows of it."""

    session: Session
    policy: str
    consent: str
    outcome: str
    """The operator's label (``good``, ``bad``) where there is one, else what became of the work, else
    ``unknown``."""
    captured_at: str
    label: str = ""
    label_reason: str = ""
    tuned: bool = False
    """One of our own tuned models took part."""
    redactions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredDocument:
    """An artifact or operational record with what the corpus knows of it."""

    document: Document
    policy: str
    consent: str
    captured_at: str
    current: bool
    redactions: Mapping[str, int] = field(default_factory=dict)


class Seen(NamedTuple):
    """A session file as it was when it was last looked at, and what was decided."""

    size: int
    mtime_ns: int
    inode: int
    verdict: str
    """``stored``, or why not: ``foreign``, ``excluded``, ``unscrubbable``, ``empty``, ``purged``."""
    session_key: str = ""
    """``key_of`` its session id, which of a foreign file nobody has scrubbed."""


@dataclass(frozen=True)
class Added:
    """What :meth:`Store.add_session` did: ``captured``, ``updated``, ``unchanged`` or ``elsewhere``.

    ``reread`` names a file that now has more of the session than the one just read."""

    status: str
    reread: str = ""


def now() -> str:
    """The present moment, RFC 3339 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def key_of(name: str) -> str:
    """A path or id as the corpus may know it without telling it."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def exists(town: Town) -> bool:
    """Whether anything was ever stored for this town."""
    return town.corpus_db.exists()


class Store:
    """The corpus of a town; a context manager. Raises FinetuneError on a damaged file or a full disk."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.path = town.corpus_db
        town.own_dir(town.corpus_dir)
        self._db = open_database(self.path)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All of a block or none of it."""
        return transaction(self._db, self.path)

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with explained(self.path):
            return self._db.execute(sql, values).fetchall()

    def _row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        rows = self._rows(sql, *values)
        return rows[0] if rows else None

    def _run(self, sql: str, *values: Any) -> int:
        """Run a statement and return how many rows it changed."""
        with explained(self.path):
            return self._db.execute(sql, values).rowcount

    def query(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a table that a neighbour of this module keeps in the corpus (outcomes, say)."""
        return self._rows(sql, *values)

    def execute(self, sql: str, *values: Any) -> int:
        """Change such a table; returns how many rows."""
        return self._run(sql, *values)

    # Sessions -----------------------------------------------------------------------------------------

    def add_session(self, session: Session, **stored: Any) -> Added:
        """:meth:`add_row` for a session that is not packed yet."""
        return self.add_row(row_of(session), **stored)

    def add_row(
        self,
        session: SessionRow,
        *,
        policy: str,
        consent: str,
        source_hash: str,
        outcome: str = "",
        redactions: Mapping[str, int] | None = None,
        file: str = "",
        identity_rank: int = 0,
    ) -> Added:
        """Store a scrubbed session, or bring its row up to date.

        ``source_hash`` is that of the session before scrubbing: the same hash under the same policy changes
        nothing. Where several files hold the session, the one with most turns (then the latest end, then the
        greater hash) owns the row, so that the order in which they are read does not matter.
        ``identity_rank`` says how sure role and rig are; a surer one is never replaced by a weaker one.
        """
        with self.transaction():
            row = self._row("SELECT * FROM sessions WHERE id = ?", session.columns["id"])
            reread = self._contribute(session, source_hash, file)
            if reread and row is not None and row["owner"] != file:
                return Added("elsewhere")
            if row is not None and row["identity_rank"] > identity_rank:
                identity_rank = row["identity_rank"]
                session = session.changed(role=row["role"], rig=row["rig"], name=row["name"])
            if row is not None and not session.beads and (beads := session_of(row["body"]).beads):
                session = session.changed(beads=beads)
            if row is not None and _same(row, session, source_hash, policy, outcome):
                if row["owner"] != file:
                    self._run("UPDATE sessions SET owner = ? WHERE n = ?", file, row["n"])
                return Added("unchanged", reread)
            values = dict(session.columns) | {
                "identity_rank": identity_rank,
                "redactions": text_of_json(redactions or {}),
                "policy": policy,
                "consent": consent,
                "source_hash": source_hash,
                "outcome": outcome or (row["outcome"] if row is not None else ""),
                "captured_at": row["captured_at"] if row is not None else now(),
                "updated_at": now(),
                "owner": file,
            }
            self._put_session(row, values)
            return Added("captured" if row is None else "updated", reread)

    def _contribute(self, session: SessionRow, source_hash: str, file: str) -> str:
        """Note what ``file`` holds of the session; the name of a file that holds more, empty if none does."""
        sql = "INSERT OR REPLACE INTO contributions VALUES (?, ?, ?, ?, ?)"
        name, turns, ended = (session.columns[key] for key in ("id", "turns", "ended"))
        self._run(sql, file, name, turns, ended, source_hash)
        rows = self._rows("SELECT * FROM contributions WHERE session_id = ?", name)
        ranks = {row["file"]: (row["turns"], row["ended"], row["source_hash"]) for row in rows}
        best = max(ranks, key=lambda name: ranks[name])
        return best if ranks[best] > ranks[file] else ""

    def _put_session(self, row: sqlite3.Row | None, values: dict[str, Any]) -> None:
        if row is not None:
            self._run("UPDATE decisions SET target = '', ref = '' WHERE session_id = ?", values["id"])
            fulltext.forget(self, 2 * row["n"], self._text_of)
            names = ", ".join(f"{name} = ?" for name in values)
            self._run(f"UPDATE sessions SET {names} WHERE n = ?", *values.values(), row["n"])
            number = row["n"]
        else:
            names, marks = ", ".join(values), ", ".join("?" * len(values))
            self._run(f"INSERT INTO sessions ({names}) VALUES ({marks})", *values.values())
            number = self._rows("SELECT last_insert_rowid() AS n")[0]["n"]
        fulltext.index_later(self, 2 * number)

    def rewrite_session(
        self, session: Session, *, policy: str, redactions: Mapping[str, int] | None = None
    ) -> None:
        """Replace a stored session's content after scrubbing it again. Call :meth:`compact` at the end."""
        with self.transaction():
            row = self._row("SELECT * FROM sessions WHERE id = ?", session.id)
            if row is None:
                raise UserError(f"no session {session.id!r} in the corpus")
            values = dict(row_of(session).columns) | {"policy": policy, "updated_at": now()}
            if redactions is not None:
                values["redactions"] = text_of_json(redactions)
            self._put_session(row, values)

    def sessions(self, role: str | None = None) -> Iterator[StoredSession]:
        """Sessions (of one role), oldest first, one in memory at a time."""
        where = "WHERE role = ?" if role is not None else ""
        values = (role,) if role is not None else ()
        for row in self._rows(f"SELECT n FROM sessions {where} ORDER BY started, id", *values):
            found = self._stored("s.n = ?", row["n"])
            if found is not None:
                yield found

    def session(self, session_id: str) -> StoredSession | None:
        """One session by its id."""
        return self._stored("s.id = ?", session_id)

    def _stored(self, where: str, value: Any) -> StoredSession | None:
        sql = "SELECT s.*, l.label, l.reason FROM sessions s LEFT JOIN labels l ON l.session_id = s.id"
        row = self._row(f"{sql} WHERE {where}", value)
        if row is None:
            return None
        return StoredSession(
            session=session_of(row["body"]),
            policy=row["policy"],
            consent=row["consent"],
            outcome=row["label"] or row["outcome"] or "unknown",
            captured_at=row["captured_at"],
            label=row["label"] or "",
            label_reason=row["reason"] or "",
            tuned=bool(row["tuned"]),
            redactions=json.loads(row["redactions"]),
        )

    def session_ids(self, start: str = "", before: str = "") -> list[str]:
        """Ids that begin with ``start``, of sessions that ended before a time (RFC 3339, UTC), in order.

        A session without times counts by when it was captured."""
        sql = """SELECT id FROM sessions WHERE substr(id, 1, ?) = ?
                 AND (? = '' OR CASE ended WHEN '' THEN captured_at ELSE ended END < ?)
                 ORDER BY started, id"""
        return [row["id"] for row in self._rows(sql, len(start), start, before, before)]

    def resolve_session(self, ref: str) -> str:
        """The id meant by an id or its unambiguous start. Raises UserError."""
        found = self.session_ids(ref) if ref else []
        if ref in found:
            return ref
        main = [i for i in found if not any(i.startswith(f"{other}.") for other in found)]
        if len(main) == 1:
            return main[0]
        problem = f"{len(main)} sessions begin so" if main else "no such session in the corpus"
        raise UserError(f"{ref!r}: {problem}; `gt corpus search` and `gt corpus stats` show what there is")

    def bead_ids(self) -> set[str]:
        """Every bead that a stored record is about."""
        rows = self._rows("SELECT DISTINCT bead_id FROM documents WHERE bead_id != ''")
        return {row["bead_id"] for row in rows}

    def weak_identities(self) -> dict[str, int]:
        """Key of session id → identity rank, of those whose role is not known for sure (below 3)."""
        rows = self._rows("SELECT id, identity_rank FROM sessions WHERE identity_rank < 3")
        return {key_of(row["id"]): row["identity_rank"] for row in rows}

    def set_outcome(self, session_id: str, outcome: str) -> None:
        """Record what became of the session's work (merged, closed, abandoned …)."""
        if not self._run("UPDATE sessions SET outcome = ? WHERE id = ?", outcome, session_id):
            raise UserError(f"no session {session_id!r} in the corpus")

    def label(self, session_id: str, label: str, reason: str) -> None:
        """Record the operator's judgement, which wins over every outcome."""
        if self._row("SELECT n FROM sessions WHERE id = ?", session_id) is None:
            raise UserError(f"no session {session_id!r} in the corpus")
        self._run("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", session_id, label, reason, now())

    def session_rows(self) -> list[dict[str, Any]]:
        """What is known of each session without reading its turns, oldest first."""
        sql = """SELECT s.id, s.parent, s.role, s.rig, s.name, s.source, s.models, s.tuned, s.started,
                 s.ended, s.turns, s.decisions, s.counts, s.redactions, s.policy, s.captured_at,
                 coalesce(l.label, nullif(s.outcome, ''), 'unknown') AS outcome
                 FROM sessions s LEFT JOIN labels l ON l.session_id = s.id ORDER BY s.started, s.id"""
        parsed = ("models", "counts", "redactions")
        rows = [dict(row) for row in self._rows(sql)]
        return [row | {name: json.loads(row[name]) for name in parsed} for row in rows]

    def delete_sessions(self, session_ids: Sequence[str]) -> int:
        """Delete sessions and all that is said of them. Their ids stay: they are not captured again, and it
        can still be told which versions were trained on them."""
        deleted = 0
        with self.transaction():
            for session_id in session_ids:
                row = self._row("SELECT * FROM sessions WHERE id = ?", session_id)
                if row is not None:
                    fulltext.forget(self, 2 * row["n"], self._text_of)
                for table in ("contributions", "labels", "decisions", "outcomes", "shared"):
                    self._run(f"DELETE FROM {table} WHERE session_id = ?", session_id)
                for document in self._rows("SELECT * FROM documents WHERE session_id = ?", session_id):
                    self._delete_document(document)
                deleted += self._run("DELETE FROM sessions WHERE id = ?", session_id)
                self._run("DELETE FROM files WHERE session_key = ?", key_of(session_id))
                self._run("INSERT OR REPLACE INTO purged VALUES (?, ?)", session_id, now())
        return deleted

    def purged(self) -> set[str]:
        """Ids of sessions that were purged: they are never captured again."""
        return {row["session_id"] for row in self._rows("SELECT session_id FROM purged")}

    # Files --------------------------------------------------------------------------------------------

    def seen_files(self) -> dict[str, Seen]:
        """Hash of path → how the file was when it was last looked at."""
        with explained(self.path):
            cursor = self._db.cursor()
            cursor.row_factory = None  # there may be very many
            rows = cursor.execute("SELECT file, size, mtime_ns, inode, verdict, session_key FROM files")
            return {row[0]: Seen._make(row[1:]) for row in rows}

    def mark_file(self, file: str, seen: Seen) -> None:
        values = (file, seen.size, seen.mtime_ns, seen.inode, seen.verdict, seen.session_key)
        self._run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", *values)

    def forget_file(self, file: str) -> None:
        """Have the file read again by the next sweep."""
        self._run("DELETE FROM files WHERE file = ?", file)

    # Documents ----------------------------------------------------------------------------------------

    def add_document(
        self,
        document: Document,
        *,
        policy: str,
        consent: str,
        source_hash: str,
        redactions: Mapping[str, int] | None = None,
    ) -> str:
        """Store a scrubbed document: ``captured`` a new one, ``updated`` a new content of one, ``unchanged``.

        Earlier contents stay, with ``current`` off: a convention that comes back must be recognised."""
        with self.transaction():
            same = "source = ? AND key = ?"
            at = (document.source, document.key)
            row = self._row(f"SELECT * FROM documents WHERE {same} AND source_hash = ?", *at, source_hash)
            if row is not None and row["policy"] == policy and row["current"]:
                return "unchanged"
            known = self._row(f"SELECT n FROM documents WHERE {same}", *at) is not None
            self._run(f"UPDATE documents SET current = 0 WHERE {same}", *at)
            if row is not None:
                self._delete_document(row)
            values = vars(document) | {
                "source_hash": source_hash,
                "redactions": text_of_json(redactions or {}),
                "policy": policy,
                "consent": consent,
                "captured_at": row["captured_at"] if row is not None else now(),
                "current": 1,
                "body": pack_text(document.content),
            }
            del values["content"]
            names, marks = ", ".join(values), ", ".join("?" * len(values))
            self._run(f"INSERT INTO documents ({names}) VALUES ({marks})", *values.values())
            number = self._rows("SELECT last_insert_rowid() AS n")[0]["n"]
            fulltext.index_later(self, 2 * number + 1)
        return "updated" if known else "captured"

    def rewrite_document(
        self, ref: str, document: Document, *, policy: str, redactions: Mapping[str, int]
    ) -> None:
        """Replace a stored document's content after scrubbing it again. Call :meth:`compact` at the end."""
        with self.transaction():
            old = self._rows("SELECT * FROM documents WHERE n = ?", int(ref.removeprefix("doc-")))[0]
            fulltext.forget(self, 2 * old["n"] + 1, self._text_of)
            body = pack_text(document.content)
            sql = "UPDATE documents SET key = ?, body = ?, policy = ?, redactions = ? WHERE n = ?"
            self._run(sql, document.key, body, policy, text_of_json(redactions), old["n"])
            fulltext.index_later(self, 2 * old["n"] + 1)

    def retire_documents(self, source: str, keys: Iterable[str]) -> int:
        """Mark documents of a source that are not among ``keys`` as no longer current; returns how many."""
        kept = set(keys)
        rows = self._rows("SELECT n, key FROM documents WHERE source = ? AND current", source)
        gone = [row["n"] for row in rows if row["key"] not in kept]
        with self.transaction():
            for number in gone:
                self._run("UPDATE documents SET current = 0 WHERE n = ?", number)
        return len(gone)

    def documents(
        self, source: str | None = None, *, current: bool = False
    ) -> Iterator[tuple[str, StoredDocument]]:
        """(id, document), in the order in which they were captured, one in memory at a time."""
        where = "WHERE (? IS NULL OR source = ?) AND (current OR NOT ?)"
        for row in self._rows(f"SELECT n FROM documents {where} ORDER BY n", source, source, current):
            yield f"doc-{row['n']}", self._document(row["n"])

    def document(self, ref: str) -> StoredDocument | None:
        """A document by its id, ``doc-<number>``."""
        number = ref.removeprefix("doc-")
        if not (ref.startswith("doc-") and number.isdigit()):
            return None
        row = self._row("SELECT n FROM documents WHERE n = ?", int(number))
        return None if row is None else self._document(row["n"])

    def _document(self, number: int) -> StoredDocument:
        row = self._rows("SELECT * FROM documents WHERE n = ?", number)[0]
        return StoredDocument(
            document=_document(row),
            policy=row["policy"],
            consent=row["consent"],
            captured_at=row["captured_at"],
            current=bool(row["current"]),
            redactions=json.loads(row["redactions"]),
        )

    def document_counts(self) -> dict[str, int]:
        """Corpus type → number of current documents."""
        sql = "SELECT corpus_type, count(*) AS k FROM documents WHERE current GROUP BY corpus_type ORDER BY 1"
        return {row["corpus_type"]: row["k"] for row in self._rows(sql)}

    def has_document(self, source: str, key: str, source_hash: str, policy: str) -> bool:
        """Whether a document stands there with this content, scrubbed under this policy."""
        sql = """SELECT 1 FROM documents WHERE source = ? AND key = ? AND source_hash = ? AND policy = ?
                 AND current"""
        return self._row(sql, source, key, source_hash, policy) is not None

    def delete_documents(self, before: str) -> int:
        """Delete documents dated (else captured) before a time (RFC 3339, UTC); returns how many."""
        sql = "SELECT * FROM documents WHERE CASE at WHEN '' THEN captured_at ELSE at END < ?"
        rows = self._rows(sql, before)
        with self.transaction():
            for row in rows:
                self._delete_document(row)
        return len(rows)

    def _delete_document(self, row: sqlite3.Row) -> None:
        fulltext.forget(self, 2 * row["n"] + 1, self._text_of)
        self._run("DELETE FROM documents WHERE n = ?", row["n"])

    # Datasets and versions ----------------------------------------------------------------------------

    def record_dataset(self, path: Path, session_ids: Iterable[str], hash: str, role: str = "") -> None:
        """Note a dataset folder and the sessions in it, so that a purge finds it."""
        with self.transaction():
            values = (str(path.absolute()), hash, role, now())
            self._run("INSERT OR REPLACE INTO dataset_folders VALUES (?, ?, ?, ?)", *values)
            for session_id in session_ids:
                self._run("INSERT OR IGNORE INTO dataset_sessions VALUES (?, ?)", hash, session_id)

    def record_training(self, model_version: str, dataset_hash: str) -> None:
        """Note that a model version was trained on a dataset."""
        self._run("INSERT OR REPLACE INTO trained VALUES (?, ?, ?)", model_version, dataset_hash, now())

    def versions_trained_on(self, session_ids: Iterable[str]) -> list[str]:
        """Model versions trained on any of the sessions, in order."""
        sql = """SELECT DISTINCT t.version FROM trained t JOIN dataset_sessions d ON d.hash = t.hash
                 WHERE d.session_id = ?"""
        return sorted({row["version"] for i in set(session_ids) for row in self._rows(sql, i)})

    def datasets_with(self, session_ids: Iterable[str]) -> dict[Path, str]:
        """Folder → hash of the datasets that hold any of the sessions."""
        sql = """SELECT DISTINCT f.path, f.hash FROM dataset_folders f
                 JOIN dataset_sessions d ON d.hash = f.hash WHERE d.session_id = ?"""
        return {Path(row["path"]): row["hash"] for i in set(session_ids) for row in self._rows(sql, i)}

    def forget_dataset(self, path: Path) -> None:
        """The folder is gone; which sessions were in it and which versions were trained on it stays known."""
        self._run("DELETE FROM dataset_folders WHERE path = ?", str(path))

    # Search, sweeps, space ----------------------------------------------------------------------------

    def search(self, query: str, limit: int = 20) -> list[str]:
        """Ids of sessions and documents with all words of ``query``, best first; ``limit`` -1: all."""
        self.index_waiting()
        found = []
        for number, odd in (divmod(n, 2) for n in fulltext.find(self, query, limit)):
            if odd:
                found.append(f"doc-{number}")
            else:
                found += [r["id"] for r in self._rows("SELECT id FROM sessions WHERE n = ?", number)]
        return found

    def newest(self) -> list[str]:
        """Ids of all sessions and documents as they are now, the newest first."""
        sql = """SELECT id, started AS moment FROM sessions UNION ALL
                 SELECT 'doc-' || n, CASE at WHEN '' THEN captured_at ELSE at END FROM documents WHERE current
                 ORDER BY moment DESC, id"""
        return [row["id"] for row in self._rows(sql)]

    def index_waiting(self) -> int:
        """Index for searches what was stored since the last time; returns how many rows."""
        return fulltext.catch_up(self, self._text_of)

    def _text_of(self, number: int) -> str:
        """The text of a row of the index."""
        row, odd = divmod(number, 2)
        table = "documents" if odd else "sessions"
        stored = self._rows(f"SELECT * FROM {table} WHERE n = ?", row)[0]
        return document_text(_document(stored)) if odd else session_text(session_of(stored["body"]))

    def record_sweep(self, report: Mapping[str, Any]) -> None:
        """Keep a sweep's counts; the last KEPT_SWEEPS are kept."""
        with self.transaction():
            self._run("INSERT INTO sweeps VALUES (?, ?)", now(), text_of_json(report))
            self._run("DELETE FROM sweeps WHERE rowid <= (SELECT max(rowid) FROM sweeps) - ?", KEPT_SWEEPS)

    def last_sweep(self) -> dict[str, Any] | None:
        """The newest sweep's counts, with ``at``."""
        row = self._row("SELECT * FROM sweeps ORDER BY rowid DESC LIMIT 1")
        return None if row is None else {"at": row["at"], **json.loads(row["report"])}

    def compact(self) -> None:
        """Leave nothing of what was deleted: merge the index, rewrite the file, empty the log."""
        self._run("INSERT INTO search (search) VALUES ('optimize')")
        self._run("PRAGMA temp_store = DEFAULT")
        self._run("VACUUM")
        self._run("PRAGMA temp_store = MEMORY")
        if self._rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            problem = "another process is reading, so deleted text is still in its log"
            raise RetriableError(in_file(self.path, "", problem, "run it again"))


def _same(row: sqlite3.Row, session: SessionRow, source_hash: str, policy: str, outcome: str) -> bool:
    identity = tuple(session.columns[name] for name in ("role", "rig", "name"))
    return (
        row["source_hash"] == source_hash
        and row["policy"] == policy
        and (row["role"], row["rig"], row["name"]) == identity
        and (not outcome or row["outcome"] == outcome)
    )


def _document(row: sqlite3.Row) -> Document:
    names = [name for name in Document.__dataclass_fields__ if name != "content"]
    return Document(content=unpack_text(row["body"]), **{name: row[name] for name in names})
