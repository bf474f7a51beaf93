"""The codex reader: what the real client wrote, older forms, subagents, rewinds, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from codex_lines import CHILD, THREAD, Rollout, codex_patrol
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.town.root import Town
from gt_plugins.transcripts import codex
from gt_plugins.transcripts.model import Session, Turn
from gt_plugins.transcripts.shell import command_of

CWD = "/town/deacon"
REAL = Path(__file__).parent / "data" / "codex-0.171.0.jsonl"


def read(folder: Path, data: str | bytes, name: str = f"rollout-x-{THREAD}.jsonl") -> Session:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return codex.read(path)


def shown(turns: tuple[Turn, ...], meta: bool = False) -> list[tuple[str, str]]:
    """(role, first text) of the turns that are not the client's own."""
    found = []
    for turn in turns:
        if turn.meta and not meta:
            continue
        for block in turn.blocks:
            found.append((turn.role, str(block.get("text") or block.get("content") or block["type"])))
    return found


def test_what_the_real_client_wrote() -> None:
    session = codex.read(REAL)
    assert (session.source, session.client_version, session.models) == (
        "codex",
        "0.171.0",
        ("gt-test-model",),
    )
    assert session.id == "01a21e13-ac2d-76a0-82a6-3f324b20a526" and session.cwd == "/home/ann/town/deacon"
    kinds = [(t.role, t.meta, [b["type"] for b in t.blocks]) for t in session.turns]
    assert kinds == [
        ("user", True, ["text", "text"]),
        ("user", True, ["text", "text"]),
        ("user", False, ["text"]),
        ("assistant", False, ["thinking", "text", "tool_use"]),
        ("user", False, ["tool_result"]),
        ("assistant", False, ["text"]),
    ]
    assert command_of(session.turns[3].blocks[2]) == "echo hello-from-tool"
    assert session.usage == {"cache_read_input_tokens": 20, "input_tokens": 180, "output_tokens": 40}
    assert session.counts["event:item_completed"] == 5 and "encrypted" not in json.dumps(session.to_json())
    head = codex.head(REAL)
    assert head is not None and (head.session_id, head.cwd) == (session.id, session.cwd)


def test_events_repeat_what_items_said(tmp_path: Path) -> None:
    session = read(tmp_path, codex_patrol(CWD).text())
    assert shown(session.turns) == [
        ("user", "Start your patrol."),
        ("assistant", "thinking"),
        ("assistant", "tool_use"),
        ("user", "Exit code: 0\nOutput:\nresult of patrol\n"),
        ("assistant", "patrol done"),
    ]


def test_what_only_the_screen_was_told_is_kept(tmp_path: Path) -> None:
    script = Rollout(CWD)
    script.event("user_message", message="Go on.")
    script.call("c", "ls")
    script.result("c", "x")
    script.say("done")
    assert shown(read(tmp_path, script.text()).turns)[0] == ("user", "Go on.")


@pytest.mark.parametrize(
    ("output", "content", "error"),
    [
        ("plain", "plain", False),
        ("Exit code: 2\nOutput:\nno", "Exit code: 2\nOutput:\nno", True),
        ('{"output": "no", "metadata": {"exit_code": 1}}', "no", True),
        ('{"output": "yes", "metadata": {"exit_code": 0}}', "yes", False),
        ({"content": "no", "success": False}, "no", True),
        ([{"type": "input_text", "text": "a"}], [{"type": "text", "text": "a"}], False),
    ],
)
def test_forms_of_output(tmp_path: Path, output: Any, content: Any, error: bool) -> None:
    script = Rollout(CWD)
    script.call("c", "ls")
    script.result("c", output)
    block = read(tmp_path, script.text()).turns[-1].blocks[0]
    assert (block["content"], block["is_error"], block["tool_use_id"]) == (content, error, "c")


def test_calls_of_every_kind_are_paired(tmp_path: Path) -> None:
    script = Rollout(CWD)
    script.item(
        "local_shell_call", call_id="a", action={"type": "exec", "command": ["bash", "-lc", "gt prime"]}
    )
    script.item("custom_tool_call", call_id="b", name="apply_patch", input="*** Begin Patch")
    script.item("function_call", call_id="c", name="shell", arguments="not json")
    script.item("web_search_call", action={"type": "search", "query": "q"})
    script.item("function_call_output", call_id="a", output="x")
    script.item("custom_tool_call_output", call_id="b", output="y")
    script.item("function_call_output", call_id="a", output="again")
    session = read(tmp_path, script.text())
    calls = {b["id"]: b for b in session.turns[0].blocks if b["type"] == "tool_use"}
    assert command_of(calls["a"]) == "gt prime"
    assert calls["b"]["input"] == {"input": "*** Begin Patch"} and calls["c"]["input"] == {
        "input": "not json"
    }
    assert session.counts["unpaired_call"] == 1 and session.counts["repeated_result"] == 1


def test_unknown_lines_and_blocks_are_kept_and_counted(tmp_path: Path) -> None:
    script = Rollout(CWD)
    script.line("hologram", {"beam": "bright"})
    script.item("telepathy", thought="quiet")
    script.item("message", role="user", content=[{"type": "input_smell", "smell": "burnt"}])
    session = read(tmp_path, script.text())
    assert {k: n for k, n in session.counts.items() if ":" in k} == {
        "type:hologram": 1,
        "type:telepathy": 1,
        "block:input_smell": 1,
    }
    said = json.dumps(session.to_json())
    assert all(word in said for word in ("bright", "quiet", "burnt"))


def test_a_subagent_without_its_parents_history(tmp_path: Path) -> None:
    source = {"subagent": {"thread_spawn": {"parent_thread_id": THREAD, "depth": 1}}}
    script = codex_patrol(CWD, CHILD, "child", source=source, subagent_history_start_ordinal=4)
    script.lines[2] = {
        **script.lines[2],
        "payload": {"type": "message", "role": "user", "content": "parent's"},
    }
    session = read(tmp_path, script.text(), f"rollout-x-{CHILD}.jsonl")
    assert (session.id, session.parent) == (f"{THREAD}.{CHILD}", THREAD)
    assert session.counts["inherited"] == 3 and "parent's" not in json.dumps(session.to_json())
    head = codex.head(tmp_path / f"rollout-x-{CHILD}.jsonl")
    assert head is not None and head.session_id == THREAD


def test_a_fork_is_a_session_of_its_own(tmp_path: Path) -> None:
    script = codex_patrol(CWD, CHILD, forked_from_id=THREAD)
    script.line("session_meta", {"id": THREAD, "cwd": "/elsewhere"})
    session = read(tmp_path, script.text())
    assert (session.id, session.parent, session.cwd) == (CHILD, "", CWD)


def test_a_rewind_takes_turns_back(tmp_path: Path) -> None:
    script = codex_patrol(CWD)
    script.user("Wrong way.")
    script.say("as you like")
    script.event("thread_rolled_back", num_turns=1)
    script.user("Right way.")
    said = shown(read(tmp_path, script.text()).turns)
    assert ("user", "Right way.") in said and ("user", "Wrong way.") not in said
    assert ("assistant", "patrol done") in said


def test_a_compaction_goes_on(tmp_path: Path) -> None:
    script = codex_patrol(CWD)
    script.line("compacted", {"message": "in short", "replacement_history": [{"type": "message"}]})
    script.say("still here")
    session = read(tmp_path, script.text())
    assert session.counts["compacted"] == 1 and shown(session.turns)[-1] == ("assistant", "still here")
    assert next(t for t in session.turns if "in short" in str(t.blocks)).meta


def test_older_forms(tmp_path: Path) -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"<cwd>{CWD}</cwd>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go."}]},
        {"type": "function_call", "name": "shell", "arguments": '{"command": ["ls"]}', "call_id": "c"},
        {"record_type": "state"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    header = {"id": THREAD, "timestamp": "2025-05-01T10:00:00.000Z", "instructions": None}
    flat = "\n".join(json.dumps(line) for line in [header, *items]) + "\n"
    whole = json.dumps({"session": header, "items": items})
    for data, name in ((flat, "rollout-a.jsonl"), (whole, "rollout-a.json")):
        session = read(tmp_path, data, name)
        assert (session.id, session.cwd, session.counts.get("line:state")) == (THREAD, CWD, 1)
        assert [t.role for t in session.turns][-2:] == ["assistant", "user"]
        head = codex.head(tmp_path / name)
        assert head is not None and (head.session_id, head.cwd) == (THREAD, CWD)


def test_compressed_files_and_their_damage(tmp_path: Path) -> None:
    script = codex_patrol(CWD)
    plain = codex.read(script.write(tmp_path / "a"))
    packed = script.write(tmp_path / "b", ".jsonl.zst")
    assert codex.read(packed) == plain
    head = codex.head(packed)
    assert head is not None and head.cwd == CWD
    packed.write_bytes(b"no zstd at all")
    with pytest.raises(OSError, match="zstd"):
        codex.read(packed)


def test_find(tmp_path: Path) -> None:
    script = codex_patrol(CWD)
    live = script.write(tmp_path / "sessions")
    script.write(tmp_path / "sessions", ".jsonl.zst")
    packed = script.write(tmp_path / "archived_sessions", ".jsonl.zst")
    (tmp_path / "sessions/2026/history.jsonl").write_text("{}\n")
    assert list(codex.find(tmp_path)) == [packed, live]


def test_roots(town: Town, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codex.roots(town)[0] == isolated / ".codex/sessions"
    monkeypatch.setenv("CODEX_HOME", "/elsewhere")
    assert codex.roots(town) == [Path("/elsewhere/sessions"), Path("/elsewhere/archived_sessions")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = "type role content id call_id output arguments name summary action text message payload source".split()
PAYLOAD = st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(sorted(codex._ITEMS)), max_size=8)
LINE = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["response_item", "event_msg", "session_meta", "compacted", "x"]),
        "payload": PAYLOAD,
    },
    optional={"timestamp": JSON, "ordinal": JSON},
)


@given(lines=st.lists(LINE | PAYLOAD, max_size=8))
@settings(max_examples=150, deadline=None)
def test_no_content_is_fatal(tmp_path_factory: pytest.TempPathFactory, lines: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("t")
    session = read(folder, "".join(json.dumps(line) + "\n" for line in lines))
    codex.head(folder / f"rollout-x-{THREAD}.jsonl")
    assert Session.from_json(json.loads(json.dumps(session.to_json()))) == session


@given(cut=st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_gives_a_prefix(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("t")
    data = codex_patrol(CWD).text().encode()
    whole = shown(read(folder, data).turns, meta=True)
    torn = read(folder, data[:-cut])
    some = shown(torn.turns, meta=True)
    assert some == whole[: len(some)]


def test_damage_is_counted(tmp_path: Path) -> None:
    lines = codex_patrol(CWD).text().splitlines()
    data = "\n".join([*lines[:4], "{broken", *lines[4:]]).encode() + b"\n\xff\xfe\n" + b"\0" * 9 + b"\n[1]\n"
    session = read(tmp_path, data + lines[-1][:40].encode())
    found = {k: session.counts[k] for k in ("broken", "binary", "not_object", "torn")}
    assert found == {"broken": 1, "binary": 2, "not_object": 1, "torn": 1}
    assert shown(session.turns) == shown(read(tmp_path, codex_patrol(CWD).text()).turns)


def test_a_line_of_fifty_megabytes_is_passed_over(tmp_path: Path) -> None:
    script = codex_patrol(CWD)
    lines = script.text().splitlines(keepends=True)
    huge = (
        json.dumps({"type": "response_item", "payload": {"type": "message", "text": "x" * 50_000_000}}) + "\n"
    )
    session = read(tmp_path, "".join([*lines[:5], huge, *lines[5:]]))
    assert session.counts["huge"] == 1
    assert shown(session.turns) == shown(read(tmp_path, script.text()).turns)
