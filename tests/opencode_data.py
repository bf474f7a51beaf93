"""Writes sessions as opencode 1.18 keeps them: a database in WAL mode, the older tree, an export."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = "ses_de1f28a2dffe0oZQFVbdLxxP42"
CHILD = "ses_de1f251d5ffeGHNgbs66AIJARo"
START = 1_772_352_000_000
"""2026-03-01T08:00:00Z in milliseconds."""

SCHEMA = """
CREATE TABLE session (id text PRIMARY KEY, project_id text NOT NULL, parent_id text, slug text NOT NULL,
  directory text NOT NULL, title text NOT NULL, version text NOT NULL, revert text,
  time_created integer NOT NULL, time_updated integer NOT NULL);
CREATE TABLE message (id text PRIMARY KEY, session_id text NOT NULL, time_created integer NOT NULL,
  time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE part (id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL,
  time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE session_message (id text PRIMARY KEY, session_id text NOT NULL, type text NOT NULL,
  seq integer NOT NULL, time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE TABLE event_sequence (aggregate_id text PRIMARY KEY, seq integer NOT NULL, owner_id text);
"""


@dataclass
class Chat:
    """One session; a method appends a message."""

    directory: str
    id: str = ROOT
    parent: str = ""
    revert: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=list)

    def message(self, role: str, *parts: dict[str, Any], **info: Any) -> str:
        number = len(self.messages)
        id = f"msg_{self.id[-4:]}{number:04d}"
        time = {"created": START + 1000 * number}
        named = [{"id": f"prt_{self.id[-4:]}{number:04d}{i:04d}", **part} for i, part in enumerate(parts)]
        self.messages.append(({"id": id, "role": role, "time": time, **info}, named))
        return id

    def user(self, text: str, *more: dict[str, Any]) -> str:
        return self.message("user", {"type": "text", "text": text}, *more)

    def reply(self, *parts: dict[str, Any], **info: Any) -> str:
        tokens = {"input": 90, "output": 20, "reasoning": 0, "cache": {"read": 10, "write": 0}}
        known = {"modelID": "gpt-x", "providerID": "p", "tokens": tokens, **info}
        return self.message("assistant", {"type": "step-start"}, *parts, {"type": "step-finish"}, **known)

    def info(self) -> dict[str, Any]:
        times = {"created": START, "updated": START + 1000 * len(self.messages)}
        found: dict[str, Any] = {
            "id": self.id,
            "directory": self.directory,
            "version": "1.18.33",
            "time": times,
        }
        found |= {"parentID": self.parent} if self.parent else {}
        return found | ({"revert": self.revert} if self.revert else {})

    def export(self, path: Path) -> Path:
        messages = [{"info": info, "parts": parts} for info, parts in self.messages]
        path.write_text(json.dumps({"info": self.info(), "messages": messages}, indent=2))
        return path

    def tree(self, data: Path) -> Path:
        def put(path: Path, value: Any) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
            return path

        storage = data / "storage"
        for info, parts in self.messages:
            put(storage / "message" / self.id / f"{info['id']}.json", {**info, "sessionID": self.id})
            for part in parts:
                put(storage / "part" / info["id"] / f"{part['id']}.json", {**part, "messageID": info["id"]})
        return put(storage / "session/global" / f"{self.id}.json", self.info())


def tool(call: str, name: str, given: dict[str, Any], output: str, **state: Any) -> dict[str, Any]:
    """A tool part that is done; ``state`` adds to or replaces its state."""
    done = {"status": "completed", "input": given, "output": output, "time": {"end": START}}
    return {"type": "tool", "tool": name, "callID": call, "state": {**done, **state}}


def opencode_patrol(directory: str | Path, id: str = ROOT, word: str = "patrol", parent: str = "") -> Chat:
    """A plain session: prompt, one call with its result, a last word."""
    chat = Chat(str(directory), id, parent)
    chat.user(f"Start your {word}.")
    look = {"type": "reasoning", "text": f"look at {word}"}
    chat.reply(look, tool("call_1", "bash", {"command": f"gt hook {word}"}, f"result of {word}\n"))
    chat.reply({"type": "text", "text": f"{word} done"})
    return chat


def open_database(path: Path) -> sqlite3.Connection:
    """A database as the client keeps it open; what is written stays in its log while it is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.executescript(SCHEMA)
    return db


def insert(db: sqlite3.Connection, chat: Chat) -> None:
    """Write a session, or bring it up to date."""
    info = chat.info()
    times = (info["time"]["created"], info["time"]["updated"])
    revert = json.dumps(chat.revert) if chat.revert else None
    row = (chat.id, "global", chat.parent or None, "slug", chat.directory, "t", "1.18.33", revert, *times)
    db.execute("INSERT OR REPLACE INTO session VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    for message, parts in chat.messages:
        rest = json.dumps({k: v for k, v in message.items() if k != "id"})
        at = message["time"]["created"]
        db.execute(
            "INSERT OR REPLACE INTO message VALUES (?,?,?,?,?)", (message["id"], chat.id, at, at, rest)
        )
        for part in parts:
            rest = json.dumps({k: v for k, v in part.items() if k != "id"})
            known = (part["id"], message["id"], chat.id, at, at, rest)
            db.execute("INSERT OR REPLACE INTO part VALUES (?,?,?,?,?,?)", known)
