"""The opencode reader: one session from a live database, the tree and an export; subagents, damage."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opencode_data import CHILD, ROOT, Chat, insert, open_database, opencode_patrol, tool

from gt_plugins.town.root import Town
from gt_plugins.transcripts import opencode, opencode_files
from gt_plugins.transcripts.model import Session
from gt_plugins.transcripts.shell import command_of

CWD = "/town/demo/witness"


def from_database(folder: Path, *chats: Chat) -> dict[str, Session]:
    """Every session of a database with ``chats``, read while the client has it open."""
    db = open_database(folder / "opencode.db")
    try:
        for chat in chats:
            insert(db, chat)
        return {path.name: opencode.read(path) for path in opencode_files.find(folder)}
    finally:
        db.close()


def one(tmp_path: Path, chat: Chat) -> Session:
    return opencode.read(chat.export(tmp_path / "export.json"))


def test_one_session_from_every_place(tmp_path: Path) -> None:
    chat = opencode_patrol(CWD)
    session = from_database(tmp_path / "a", chat)[ROOT]
    assert session == opencode.read(chat.tree(tmp_path / "b")) == one(tmp_path, chat)
    assert (session.id, session.cwd, session.client_version) == (ROOT, CWD, "1.18.33")
    assert [(t.role, [b["type"] for b in t.blocks]) for t in session.turns] == [
        ("user", ["text"]),
        ("assistant", ["thinking", "tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["text"]),
    ]
    assert command_of(session.turns[1].blocks[1]) == "gt hook patrol"
    assert session.turns[2].blocks[0]["content"] == "result of patrol\n"
    assert session.started == "2026-03-01T08:00:00.000Z" and session.models == ("gpt-x",)
    assert session.usage == {"cache_read_input_tokens": 20, "input_tokens": 180, "output_tokens": 40}


def test_the_log_of_a_live_database_counts_and_nothing_is_written(tmp_path: Path) -> None:
    db = open_database(tmp_path / "opencode.db")
    chat = opencode_patrol(CWD)
    insert(db, chat)
    path = tmp_path / "opencode.db" / ROOT
    before = (opencode_files.state(path), sorted(os.listdir(tmp_path)))
    assert len(opencode.read(path).turns) == 4
    chat.user("Once more.")
    insert(db, chat)
    assert opencode_files.state(path) != before[0]
    assert len(opencode.read(path).turns) == 5
    assert sorted(os.listdir(tmp_path)) == before[1]
    db.close()
    left = sorted(os.listdir(tmp_path))
    assert len(opencode.read(path).turns) == 5 and sorted(os.listdir(tmp_path)) == left


def test_a_part_that_changes_changes_the_state_when_its_message_does(tmp_path: Path) -> None:
    db = open_database(tmp_path / "opencode.db")
    insert(db, opencode_patrol(CWD))
    path = tmp_path / "opencode.db" / ROOT
    before = opencode_files.state(path)
    db.execute("UPDATE message SET time_updated = time_updated + 99000")
    assert opencode_files.state(path) != before
    after = opencode_files.state(path)
    db.execute("INSERT INTO event_sequence VALUES (?, 7, NULL)", (ROOT,))
    assert opencode_files.state(path) != after
    db.close()


def test_subagents_belong_to_the_root(tmp_path: Path) -> None:
    third = "ses_de1f251d5ffeGHNgbs66AIJARz"
    chats = (
        opencode_patrol(CWD),
        opencode_patrol(CWD, CHILD, parent=ROOT),
        opencode_patrol(CWD, third, parent=CHILD),
    )
    found = from_database(tmp_path / "a", *chats)
    assert {s.id: s.parent for s in found.values()} == {
        ROOT: "",
        f"{ROOT}.{CHILD}": ROOT,
        f"{ROOT}.{third}": ROOT,
    }
    paths = {chat.id: chat.tree(tmp_path / "b") for chat in chats}
    assert opencode.read(paths[third]).id == f"{ROOT}.{third}"
    head = opencode.head(paths[third])
    assert head is not None and (head.session_id, head.cwd) == (ROOT, CWD)


def test_a_circle_of_parents_ends(tmp_path: Path) -> None:
    chats = (opencode_patrol(CWD, ROOT, parent=CHILD), opencode_patrol(CWD, CHILD, parent=ROOT))
    assert len(from_database(tmp_path, *chats)) == 2


def test_steps_of_one_reply_keep_their_order(tmp_path: Path) -> None:
    chat = Chat(CWD)
    step = {"type": "step-start"}
    chat.reply(
        tool("a", "bash", {"command": "one"}, "1"),
        step,
        tool("b", "bash", {"command": "two"}, "", status="error", error="no such file"),
        step,
        {"type": "text", "text": "after"},
    )
    turns = one(tmp_path, chat).turns
    assert [t.role for t in turns] == ["assistant", "user", "assistant", "user", "assistant"]
    failed = turns[3].blocks[0]
    assert (failed["content"], failed["is_error"]) == ("no such file", True)


def test_a_tool_that_still_runs_is_unpaired(tmp_path: Path) -> None:
    chat = Chat(CWD)
    chat.reply(tool("a", "bash", {"command": "sleep"}, "", status="running"))
    session = one(tmp_path, chat)
    assert session.counts["unpaired_call"] == 1 and len(session.turns) == 1


def test_what_the_client_wrote_is_told_from_what_the_user_said(tmp_path: Path) -> None:
    chat = Chat(CWD)
    picture = {"type": "file", "mime": "image/png", "url": "data:image/png;base64,QUJD"}
    chat.user("Look.", {"type": "text", "text": "Called the Read tool", "synthetic": True}, picture)
    chat.user("hidden", {"type": "text", "text": "never sent", "ignored": True})
    chat.reply({"type": "text", "text": "in short"}, summary=True)
    session = one(tmp_path, chat)
    assert [(t.role, t.meta) for t in session.turns] == [
        ("user", False),
        ("user", True),
        ("user", False),
        ("assistant", True),
    ]
    assert (session.counts["image"], session.counts["ignored"]) == (1, 1)
    assert "QUJD" not in json.dumps(session.to_json())


def test_what_was_taken_back_is_counted(tmp_path: Path) -> None:
    chat = opencode_patrol(CWD)
    chat.revert = {"messageID": chat.user("Wrong way.")}
    chat.reply({"type": "text", "text": "as you like"})
    session = from_database(tmp_path, chat)[ROOT]
    assert (session.counts["branch"], session.counts["branch_lines"]) == (1, 2)
    assert "Wrong way." not in json.dumps(session.to_json()) and len(session.turns) == 4


def test_unknown_roles_and_parts_are_kept_and_counted(tmp_path: Path) -> None:
    chat = Chat(CWD)
    chat.user("Go.", {"type": "smell", "smell": "burnt"})
    chat.message("oracle", {"type": "text", "text": "foggy"})
    session = one(tmp_path, chat)
    assert (session.counts["block:smell"], session.counts["type:oracle"]) == (1, 1)
    assert all(word in json.dumps(session.to_json()) for word in ("burnt", "foggy"))


def test_the_newer_table(tmp_path: Path) -> None:
    db = open_database(tmp_path / "opencode.db")
    insert(db, Chat(CWD))
    state = {
        "status": "completed",
        "input": {"command": "gt prime"},
        "content": [{"type": "text", "text": "x"}],
    }
    content = [
        {"type": "text", "text": "looking"},
        {"type": "tool", "id": "a", "name": "bash", "state": state},
    ]
    rows = [
        ("user", {"text": "Go.", "time": {"created": 1}}),
        ("synthetic", {"text": "a reminder"}),
        ("model-switched", {"model": {"id": "gpt-y"}}),
        ("assistant", {"model": {"id": "gpt-y"}, "content": content}),
        ("shell", {"command": "ls", "output": "files"}),
        ("compaction", {"summary": "in short"}),
        ("hologram", {"beam": "bright"}),
    ]
    for seq, (kind, data) in enumerate(rows):
        known = (f"msg_{seq}", ROOT, kind, seq, seq, seq, json.dumps(data))
        db.execute("INSERT INTO session_message VALUES (?,?,?,?,?,?,?)", known)
    session = opencode.read(tmp_path / "opencode.db" / ROOT)
    db.close()
    assert [(t.role, t.meta) for t in session.turns] == [
        ("user", False),
        ("user", True),
        ("assistant", False),
        ("user", False),
        ("user", False),
        ("assistant", True),
        ("hook", True),
    ]
    assert session.models == ("gpt-y",) and session.turns[3].blocks[0]["content"] == "x"
    assert session.counts["type:hologram"] == 1 and session.counts["line:model-switched"] == 1


def test_damage_in_a_database_is_counted(tmp_path: Path) -> None:
    db = open_database(tmp_path / "opencode.db")
    insert(db, opencode_patrol(CWD))
    bad = [("x1", "{torn"), ("x2", b"\xff\xfe"), ("x3", "[1]"), ("x4", b"\0\0")]
    for id, data in bad:
        db.execute("INSERT INTO part VALUES (?, 'lost', ?, 1, 1, ?)", (id, ROOT, data))
    db.execute("INSERT INTO part VALUES ('x5', 'lost', ?, 1, 1, '{}')", (ROOT,))
    db.execute("INSERT INTO part VALUES ('x6', 'lost', ?, 1, 1, '{\"type\": \"text\"}')", (ROOT,))
    session = opencode.read(tmp_path / "opencode.db" / ROOT)
    db.close()
    found = {k: session.counts.get(k) for k in ("broken", "binary", "not_object", "orphan_parts")}
    assert found == {"broken": 1, "binary": 2, "not_object": 1, "orphan_parts": 1}
    assert len(session.turns) == 4


def test_a_part_of_fifty_megabytes_is_passed_over(tmp_path: Path) -> None:
    db = open_database(tmp_path / "opencode.db")
    chat = opencode_patrol(CWD)
    chat.reply({"type": "text", "text": "x" * 50_000_000})
    insert(db, chat)
    session = opencode.read(tmp_path / "opencode.db" / ROOT)
    db.close()
    assert session.counts["huge"] == 1 and len(session.turns) == 4


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    path.write_bytes(b"no database, " * 100)
    assert list(opencode_files.find(tmp_path)) == [path]
    with pytest.raises(OSError, match="SQLite"):
        opencode_files.state(path)
    path.write_bytes(b"")
    assert list(opencode_files.find(tmp_path)) == []
    with pytest.raises(FileNotFoundError):
        opencode_files.state(path / ROOT)


def test_a_database_of_another_schema(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "opencode-nightly.db")
    db.execute("CREATE TABLE session (id text, directory text, hologram text)")
    db.execute("INSERT INTO session VALUES (?, ?, 'x')", (ROOT, CWD))
    db.commit()
    db.close()
    (path,) = opencode_files.find(tmp_path)
    head = opencode.head(path)
    assert head is not None and head.cwd == CWD and opencode.read(path).turns == ()


def test_damage_in_the_tree_is_counted(tmp_path: Path) -> None:
    path = opencode_patrol(CWD).tree(tmp_path)
    messages = tmp_path / "storage/message" / ROOT
    (messages / "msg_a.json").write_text('{"role": "us')
    (messages / "msg_b.json").write_bytes(b"\xff")
    session = opencode.read(path)
    assert (session.counts["torn"], session.counts["binary"], len(session.turns)) == (1, 1, 4)


def test_find_knows_exports_from_other_files(tmp_path: Path) -> None:
    path = opencode_patrol(CWD).export(tmp_path / "b.json")
    (tmp_path / "a.json").write_text('{"information": {}}')
    (tmp_path / "auth.json").write_text('{"info": 1}')
    assert list(opencode_files.find(tmp_path)) == [path]
    assert list(opencode_files.find(tmp_path / "missing")) == []


def test_roots(town: Town, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = isolated / ".local/share/opencode"
    assert opencode.roots(town) == [data]
    monkeypatch.setenv("OPENCODE_DB", "/elsewhere/x.db")
    assert opencode.roots(town) == [data, Path("/elsewhere/x.db")]
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert opencode.roots(town)[0] == Path("/data/opencode")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PART_KEYS = "type text tool callID state synthetic ignored mime prompt".split()
PART = st.dictionaries(
    st.sampled_from(PART_KEYS), JSON | st.sampled_from(["tool", "text", "file"]), max_size=6
)
INFO = st.dictionaries(st.sampled_from(["id", "role", "time", "tokens", "error", "modelID", "summary"]), JSON)
MESSAGE = st.fixed_dictionaries({}, optional={"info": INFO | JSON, "parts": st.lists(PART | JSON) | JSON})


@given(info=INFO, messages=st.lists(MESSAGE | JSON, max_size=4) | JSON)
@settings(max_examples=120, deadline=None)
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, info: Any, messages: Any) -> None:
    path = tmp_path_factory.mktemp("t") / "export.json"
    path.write_text(json.dumps({"info": info, "messages": messages}))
    session = opencode.read(path)
    opencode.head(path)
    assert Session.from_json(json.loads(json.dumps(session.to_json()))) == session
