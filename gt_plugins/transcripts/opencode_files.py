"""Where opencode keeps sessions, and how each form is read into the same records.

* A database, ``opencode.db`` (SQLite, WAL; another channel's is ``opencode-<channel>.db``): tables session,
  message and part; newer ones fill session_message instead. A session in it is named by a path below the
  database, ``…/opencode.db/<session>``, though no such file exists.
* The tree of JSON files of older versions: ``storage/session/<project>/<session>.json``,
  ``storage/message/<session>/*.json``, ``storage/part/<message>/*.json``.
* A file that ``opencode export`` printed: ``{info, messages: [{info, parts}]}``.

A database is opened read-only and never waited for long; nothing is written beside it (SQLite itself makes
its index of the log, ``-shm``, where a copied database has a log and no index). Its log counts: much of a
session stands there alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import fields
from .lines import MAX_LINE, parse_line
from .sources import FileState, scan

BUSY_SECONDS = 5.0
HEAD_BYTES = 64 * 1024
DATABASE = re.compile(r"opencode(-[\w.-]+)?\.db")
_EXPORT = re.compile(r'\s*\{\s*"info"\s*:\s*(?=\{)')
_SESSION_TABLES = ("session", "session_v2")


@dataclass(frozen=True)
class Message:
    """One message as it was stored: ``info`` says who and when, ``parts`` what."""

    id: str
    info: Mapping[str, Any]
    parts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Record:
    """One session: ``info`` in the names that ``opencode export`` gives (id, parentID, directory …)."""

    info: Mapping[str, Any]
    root: str = ""
    """The session that all this belongs to, where the session is a subagent's; else empty."""
    messages: tuple[Message, ...] = field(default=())


def find(folder: Path) -> Iterator[Path]:
    """Sessions in a data folder (databases and tree), or exports in a folder of exports."""
    if folder.suffix == ".db":
        yield from _in_database(folder)
        return
    data = False
    exports: list[Path] = []
    for entry in scan(folder):
        if isinstance(entry, Path):
            yield entry
        elif DATABASE.fullmatch(entry.name) and entry.is_file():
            data = True
            yield from _in_database(Path(entry.path))
        elif entry.name == "storage" and entry.is_dir():
            data = True
            yield from _in_tree(Path(entry.path))
        elif entry.name.endswith(".json") and entry.is_file():
            exports.append(Path(entry.path))
    if not data:
        yield from (path for path in exports if _is_export(path))


def _in_database(path: Path) -> Iterator[Path]:
    try:
        yield from (path / id for id in sorted(_index_of(path)))
    except OSError:
        yield path


def _in_tree(storage: Path) -> Iterator[Path]:
    for project in scan(storage / "session"):
        if isinstance(project, Path):
            yield project
        elif project.is_dir():
            for entry in scan(Path(project.path)):
                if isinstance(entry, Path):
                    yield entry
                elif entry.name.endswith(".json"):
                    yield Path(entry.path)


def _is_export(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return _EXPORT.match(handle.read(256).decode("utf-8", "replace")) is not None
    except OSError:
        return True  # so that it is counted as unreadable


def in_database(path: Path) -> bool:
    """Whether a path names a session in a database."""
    return path.parent.suffix == ".db"


def state(path: Path) -> FileState:
    """What changes when the session does. Raises FileNotFoundError where it is gone, OSError for what
    :func:`find` yields because it cannot be read."""
    if in_database(path):
        return _entry(path).state
    status = os.stat(path)
    if path.suffix == ".db":
        _index_of(path)
    if not stat.S_ISREG(status.st_mode) or path.suffix == ".db":
        raise PermissionError(errno.EACCES, "cannot be listed", str(path))
    messages = _messages_folder(path)
    if messages is None:
        return FileState(status.st_size, status.st_mtime_ns, status.st_ino)
    size, newest = status.st_size, status.st_mtime_ns
    for entry in scan(messages):
        if isinstance(entry, os.DirEntry):
            inner = entry.stat()
            size, newest = size + inner.st_size, max(newest, inner.st_mtime_ns)
    return FileState(size, newest, status.st_ino)


def head(path: Path) -> Record | None:
    """The session without its messages; None where the file is none."""
    if in_database(path):
        entry = _entry(path)
        return Record({"id": path.name, "directory": entry.directory}, _root_in(path))
    if _messages_folder(path) is not None:
        info = _json_file(path, Counter())
        return None if info is None else Record(info, _root_in_tree(path, info))
    with path.open("rb") as handle:
        text = handle.read(HEAD_BYTES).decode("utf-8", "replace")
    start = _EXPORT.match(text)
    try:
        info = json.JSONDecoder().raw_decode(text, start.end())[0] if start else None
    except (ValueError, RecursionError):
        info = None
    return Record(info, fields.text(info, "parentID")) if isinstance(info, dict) else None


def read(path: Path, counts: Counter[str]) -> Record:
    """The whole session. Raises OSError where it cannot be read."""
    if in_database(path):
        return _read_database(path, counts)
    if _messages_folder(path) is not None:
        return _read_tree(path, counts)
    value = _json_file(path, counts)
    info = fields.table(value, "info")
    found = value.get("messages") if value is not None else None
    messages = [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []
    made = (_message(fields.table(m, "info"), m.get("parts"), counts) for m in messages)
    return Record(info, fields.text(info, "parentID"), tuple(made))


def _message(info: Mapping[str, Any], parts: Any, counts: Counter[str]) -> Message:
    given = parts if isinstance(parts, list) else []
    kept = tuple(part for part in given if isinstance(part, dict))
    if len(kept) < len(given):
        counts["not_object"] += len(given) - len(kept)
    return Message(fields.text(info, "id"), info, kept)


# The database -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """What the index of a database tells of a session."""

    parent: str
    directory: str
    state: FileState


def _entry(path: Path) -> _Entry:
    found = _index_of(path.parent).get(path.name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such session in the database", str(path))
    return found


def _root_in(path: Path) -> str:
    """The top of the chain of parents; empty for a session without one."""
    index = _index_of(path.parent)
    seen = {path.name}
    top = index[path.name].parent
    while top in index and index[top].parent and index[top].parent not in seen:
        seen.add(top)
        top = index[top].parent
    return top


def _index_of(path: Path) -> Mapping[str, _Entry]:
    """Every session of a database; asked anew when the database or its log has changed."""
    stamps = []
    for name in (path, path.with_name(f"{path.name}-wal")):
        try:
            status = os.stat(name)
            stamps.append((status.st_size, status.st_mtime_ns, status.st_ino))
        except FileNotFoundError:
            if name == path:
                raise
            stamps.append((0, 0, 0))
    return _read_index(path, tuple(stamps))


@lru_cache(maxsize=4)
def _read_index(path: Path, stamps: tuple[tuple[int, int, int], ...]) -> Mapping[str, _Entry]:
    with _opened(path) as db:
        messages = _grouped(db, "message", "session_id, count(*), max(time_updated)")
        newer = _grouped(db, "session_message", "session_id, count(*), max(time_updated)")
        parts = _grouped(db, "part", "session_id, count(*)")
        events = {}
        if _columns(db, "event_sequence") >= {"aggregate_id", "seq"}:
            events = {row[0]: row[1] for row in db.execute("SELECT aggregate_id, seq FROM event_sequence")}
        found: dict[str, _Entry] = {}
        for table in _SESSION_TABLES:
            columns = _columns(db, table)
            if not columns >= {"id", "directory"}:
                continue
            wanted = [c if c in columns else "NULL" for c in ("parent_id", "directory", "time_updated")]
            for id, parent, directory, updated in db.execute(f"SELECT id, {', '.join(wanted)} FROM {table}"):
                rows = messages.get(id, (0, 0)), newer.get(id, (0, 0)), parts.get(id, (0,))
                size = sum(_whole_number(row[0]) for row in rows)
                newest = max(_whole_number(n) for n in (updated, rows[0][1], rows[1][1]))
                state = FileState(size, newest, _whole_number(events.get(id)))
                found.setdefault(_plain(id), _Entry(_plain(parent), _plain(directory), state))
    return {id: entry for id, entry in found.items() if id and "/" not in id and id not in (".", "..")}


def _grouped(db: sqlite3.Connection, table: str, columns: str) -> dict[bytes, tuple[Any, ...]]:
    if not _columns(db, table) >= {"session_id", "time_updated"}:
        return {}
    rows = db.execute(f"SELECT {columns} FROM {table} GROUP BY session_id")
    return {row[0]: tuple(row[1:]) for row in rows}


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {_plain(row[1]) for row in db.execute(f"PRAGMA table_info({table})")}


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) and abs(value) < 1 << 62 else 0


def _plain(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A database read-only, in one snapshot, text as bytes. SQLite's errors come as OSError."""
    log = path.with_name(f"{path.name}-wal")
    index = path.with_name(f"{path.name}-shm")
    if not log.exists() or not log.stat().st_size:
        how = "mode=ro&immutable=1"
    else:
        how = "mode=ro&readonly_shm=1" if index.exists() else "mode=ro"
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=BUSY_SECONDS)
        try:
            db.isolation_level = None
            db.text_factory = bytes
            db.execute("BEGIN")
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise OSError(errno.EIO, f"SQLite: {error}", str(path)) from None


def _read_database(path: Path, counts: Counter[str]) -> Record:
    _entry(path)
    root = _root_in(path)
    id = path.name.encode()
    with _opened(path.parent) as db:
        info = _session_row(db, id)
        messages = _stored_messages(db, id, counts) or _newer_messages(db, id, counts)
    return Record({**info, "id": path.name}, root, tuple(messages))


def _session_row(db: sqlite3.Connection, id: bytes) -> dict[str, Any]:
    """The session's row in the names of an export."""
    for table in _SESSION_TABLES:
        if not _columns(db, table) >= {"id", "directory"}:
            continue
        cursor = db.execute(f"SELECT * FROM {table} WHERE id = ?", (id.decode(),))
        row = cursor.fetchone()
        if row is not None:
            names = [column[0] for column in cursor.description]
            named = {n: _plain(v) if isinstance(v, bytes) else v for n, v in zip(names, row, strict=True)}
            revert = named.get("revert")
            named["revert"] = _first(parse_line(revert.encode(), Counter())) if revert else {}
            return named
    return {}


def _stored_messages(db: sqlite3.Connection, id: bytes, counts: Counter[str]) -> list[Message]:
    if not _columns(db, "message") or not _columns(db, "part"):
        return []
    parts: dict[str, list[Mapping[str, Any]]] = {}
    sql = "SELECT id, message_id, {} FROM part WHERE session_id = ? ORDER BY id"
    for part_id, message, data in _bounded(db, sql, id, counts):
        value = _first(parse_line(data, counts))
        if value:
            parts.setdefault(_plain(message), []).append({**value, "id": _plain(part_id)})
    found = []
    sql = "SELECT id, id, {} FROM message WHERE session_id = ? ORDER BY time_created, id"
    for message_id, _, data in _bounded(db, sql, id, counts):
        name = _plain(message_id)
        info = _first(parse_line(data, counts))
        found.append(Message(name, {**info, "id": name}, tuple(parts.pop(name, ()))))
    if parts:
        counts["orphan_parts"] += sum(map(len, parts.values()))
    return found


def _newer_messages(db: sqlite3.Connection, id: bytes, counts: Counter[str]) -> list[Message]:
    if not _columns(db, "session_message") >= {"type", "seq", "data"}:
        return []
    found = []
    sql = "SELECT id, type, {} FROM session_message WHERE session_id = ? ORDER BY seq, id"
    for message_id, kind, data in _bounded(db, sql, id, counts):
        value = _first(parse_line(data, counts))
        found.append(_from_newer(_plain(message_id), _plain(kind), value))
    return found


def _bounded(
    db: sqlite3.Connection, sql: str, id: bytes, counts: Counter[str]
) -> Iterable[tuple[bytes, bytes, bytes]]:
    """Rows whose data is not too large to be parsed; ``{}`` stands for the data."""
    data = f"CASE WHEN length(CAST(data AS BLOB)) <= {MAX_LINE} THEN CAST(data AS BLOB) END"
    for first, second, value in db.execute(sql.format(data), (id.decode(),)):
        if value is None:
            counts["huge"] += 1
        else:
            yield first, second, value


def _first(values: list[dict[str, Any]]) -> dict[str, Any]:
    return values[0] if values else {}


def _from_newer(id: str, kind: str, value: Mapping[str, Any]) -> Message:
    """A row of session_message in the form of the older tables."""
    known = {"id": id, "time": value.get("time"), "tokens": value.get("tokens"), "error": value.get("error")}
    text = {"type": "text", "text": fields.text(value, "text")}
    if kind == "user":
        files = value.get("files")
        attached = (
            [{**f, "type": "file"} for f in files if isinstance(f, dict)] if isinstance(files, list) else []
        )
        return Message(id, {**known, "role": "user"}, (text, *attached))
    if kind in ("synthetic", "system"):
        return Message(id, {**known, "role": "user"}, ({**text, "synthetic": True},))
    if kind == "shell":
        said = ({"type": "text", "text": fields.text(value, key)} for key in ("command", "output"))
        return Message(id, {**known, "role": "user"}, tuple(said))
    if kind == "compaction":
        summary = {"type": "text", "text": fields.text(value, "summary")}
        return Message(id, {**known, "role": "assistant", "summary": True}, (summary,))
    if kind == "assistant":
        content = value.get("content")
        parts = [_newer_part(p) for p in content if isinstance(p, dict)] if isinstance(content, list) else []
        model = fields.table(value, "model")
        name = fields.text(model, "id") or fields.text(model, "modelID")
        return Message(id, {**known, "role": "assistant", "modelID": name}, tuple(parts))
    return Message(id, {**known, "role": kind or "none", "record": value})


def _newer_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if fields.text(part, "type") != "tool":
        return part
    state = dict(fields.table(part, "state"))
    content = state.get("content")
    texts = [fields.text(c, "text") for c in content] if isinstance(content, list) else []
    error = state.get("error")
    state["output"] = "\n".join(t for t in texts if t)
    state["error"] = (
        fields.text(error, "message") or (error if isinstance(error, str) else "") or state["output"]
    )
    state["time"] = {"end": fields.table(part, "time").get("completed")}
    return {"type": "tool", "tool": part.get("name"), "callID": part.get("id"), "state": state}


# The tree of JSON files -------------------------------------------------------------------------------------


def _messages_folder(path: Path) -> Path | None:
    """The folder with the messages of a session of the tree; None for a file that is not of one."""
    sessions = path.parent.parent
    return sessions.parent / "message" / path.stem if sessions.name == "session" else None


def _json_file(path: Path, counts: Counter[str]) -> dict[str, Any] | None:
    with path.open("rb") as handle:
        raw = handle.read(8 * MAX_LINE + 1)
    if len(raw) > 8 * MAX_LINE:
        counts["huge"] += 1
        return None
    values = parse_line(raw, counts, whole=raw.rstrip().endswith(b"}"))
    return values[0] if values else None


def _root_in_tree(path: Path, info: Mapping[str, Any]) -> str:
    top, seen = fields.text(info, "parentID"), {path.stem}
    while top and top not in seen and "/" not in top:
        seen.add(top)
        try:
            above = fields.text(_json_file(path.with_name(f"{top}.json"), Counter()), "parentID")
        except OSError:
            above = ""
        if not above:
            return top
        top = above
    return top


def _read_tree(path: Path, counts: Counter[str]) -> Record:
    info = _json_file(path, counts) or {}
    storage = path.parent.parent.parent
    messages = []
    for name, value in _json_files(storage / "message" / path.stem, counts):
        parts = tuple(part for _, part in _json_files(storage / "part" / name, counts))
        messages.append(Message(name, {**value, "id": name}, parts))
    messages.sort(key=lambda m: (_whole_number(fields.table(m.info, "time").get("created")), m.id))
    return Record({**info, "id": path.stem}, _root_in_tree(path, info), tuple(messages))


def _json_files(folder: Path, counts: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name without its ending, object) of each JSON file in a folder; what cannot be read is counted."""
    for entry in scan(folder):
        if isinstance(entry, Path):
            counts["unreadable"] += 1
        elif entry.name.endswith(".json"):
            try:
                value = _json_file(Path(entry.path), counts)
            except OSError:
                counts["unreadable"] += 1
                continue
            if value is not None:
                yield entry.name.removesuffix(".json"), value
