"""The Claude Code reader: order, grouping, pairing, sidechains, and whatever a file may hold."""

from __future__ import annotations

import json
import os
import random
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from claude_lines import SESSION, Transcript, patrol
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.town.root import Town
from gt_plugins.transcripts import claude, lines
from gt_plugins.transcripts.model import Session
from gt_plugins.transcripts.sources import Head

CWD = "/town/deacon"


def texts(session: Session) -> list[str]:
    """What each turn says, in order."""
    found = []
    for turn in session.turns:
        for block in turn.blocks:
            found.append(
                str(block.get("text") or block.get("content") or block.get("input", {}).get("command"))
            )
    return found


def read_text(folder: Path, text: str | bytes) -> Session:
    path = folder / f"{SESSION}.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return claude.read(path)


def test_plain_session(tmp_path: Path) -> None:
    session = claude.read(patrol(CWD).write(tmp_path))
    assert session.id == SESSION
    assert (session.source, session.cwd, session.client_version) == ("claude", CWD, "2.1.197")
    assert session.models == ("claude-x",)
    roles = [turn.role for turn in session.turns]
    assert roles == ["hook", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert session.turns[0].hook == "SessionStart:startup"
    assert [b["type"] for b in session.turns[2].blocks] == ["text", "tool_use"]
    assert session.started == "2026-03-01T08:00:01.000Z"
    assert session.ended == "2026-03-01T08:00:09.000Z"
    assert session.counts == {"line:last-prompt": 1, "line:mode": 1}


def test_usage_is_counted_once_for_each_reply(tmp_path: Path) -> None:
    session = claude.read(patrol(CWD, steps=3).write(tmp_path))
    assert session.usage == {"input_tokens": 40, "output_tokens": 20}


def test_json_round_trip(tmp_path: Path) -> None:
    session = claude.read(patrol(CWD).write(tmp_path))
    assert Session.from_json(json.loads(json.dumps(session.to_json()))) == session


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_order_of_lines_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    script = patrol(CWD, steps=steps)
    plain = claude.read(script.write(folder))
    random.Random(seed).shuffle(script.lines)
    assert claude.read(script.write(folder)) == plain


def test_abandoned_branch_is_counted_and_left_out(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("begin")
    fork = script.say("ready")
    script.prompt("wrong way")
    script.say("went wrong")
    script.tip = fork
    script.prompt("right way")
    script.say("went right")
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["begin", "ready", "right way", "went right"]
    assert (session.counts["branch"], session.counts["branch_lines"]) == (1, 2)


def test_parallel_calls_whose_results_parent_differently(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("look at both")
    one = script.call("a", "gt hook", "msg_p")
    two = script.call("b", "gt mail inbox", "msg_p")
    script.tip = two
    script.result("b", "mail", sourceToolAssistantUUID=two)
    last = script.tip
    script.tip = one
    script.result("a", "hook", sourceToolAssistantUUID=one)
    script.tip = last
    script.say("both seen")
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["look at both", "gt hook", "gt mail inbox", "hook", "mail", "both seen"]
    assert "branch" not in session.counts and "unpaired_call" not in session.counts


def test_sibling_call_lines_below_one_parent_are_one_reply(tmp_path: Path) -> None:
    script = Transcript(CWD)
    top = script.prompt("go")
    script.call("a", "one", "msg_p")
    script.result("a", "first")
    script.tip = top
    script.call("b", "two", "msg_p")
    script.result("b", "second")
    script.say("end")
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["go", "one", "two", "first", "second", "end"]
    assert len(session.turns) == 5


def test_result_joined_by_the_line_that_called(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("go")
    called = script.call("a", "one", "msg_p")
    after = script.tip
    script.line(
        type="user",
        message={"role": "user", "content": [{"type": "tool_result", "tool_use_id": "", "content": "odd"}]},
        sourceToolAssistantUUID=called,
    )
    script.tip = after
    script.say("end")
    session = claude.read(script.write(tmp_path))
    assert "odd" in texts(session)


@pytest.mark.parametrize("jump", [-7200, 86400 * 400])
def test_a_clock_that_jumps_cuts_nothing_off_and_is_counted(tmp_path: Path, jump: int) -> None:
    script = patrol(CWD, steps=3)
    whole = claude.read(script.write(tmp_path))
    dated = [line for line in script.lines if "timestamp" in line]
    later = dated[5:] if jump < 0 else dated[5:6]
    for line in later:
        at = datetime.fromisoformat(line["timestamp"]) + timedelta(seconds=jump)
        line["timestamp"] = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    session = claude.read(script.write(tmp_path))
    assert texts(session) == texts(whole)
    assert session.counts == {**whole.counts, "clock": 1}


def test_orphans_and_cycles_are_kept(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("before the hole")
    script.tip = "00000000-dead-4000-8000-000000000000"
    script.prompt("after the hole")
    a = script.say("loops")
    script.lines[-1]["parentUuid"] = a
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["before the hole", "after the hole", "loops"]


def test_compaction_continues_the_session(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("first")
    before = script.say("done")
    script.tip = None
    script.line(type="system", subtype="compact_boundary", logicalParentUuid=before)
    script.prompt("summary of what was", isCompactSummary=True)
    script.say("going on")
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["first", "done", "summary of what was", "going on"]
    assert [t.meta for t in session.turns] == [False, False, True, False]


def test_client_written_turns_are_meta(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("reminder", isMeta=True)
    script.model = "<synthetic>"
    script.say("API Error: 529")
    session = claude.read(script.write(tmp_path))
    assert [t.meta for t in session.turns] == [True, True]
    assert session.models == ()


def test_queued_prompt_is_a_users_turn(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("start")
    script.line(type="attachment", attachment={"type": "queued_command", "prompt": "nudge: check mail"})
    script.say("ok")
    session = claude.read(script.write(tmp_path))
    assert session.turns[1].role == "user" and texts(session)[1] == "nudge: check mail"


def test_unknown_lines_and_blocks_are_kept_and_counted(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("go")
    script.line(type="hologram", beam={"colour": "red"})
    script.block("msg_1", {"type": "smell", "note": "burnt"})
    session = claude.read(script.write(tmp_path))
    assert session.counts["type:hologram"] == 1
    assert session.counts["block:smell"] == 1
    kept = next(t for t in session.turns if t.hook == "type:hologram")
    assert kept.blocks[0]["line"]["beam"] == {"colour": "red"}
    assert {"type": "smell", "note": "burnt"} in session.turns[-1].blocks


def test_pictures_documents_and_signatures_do_not_enter(tmp_path: Path) -> None:
    script = Transcript(CWD)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [image, {"type": "text", "text": "seen"}]}
    script.call("a", "shot")
    script.line(type="user", message={"role": "user", "content": [result]})
    script.block("msg_9", {"type": "thinking", "thinking": "hm", "signature": "c2ln"})
    session = claude.read(script.write(tmp_path))
    dumped = json.dumps(session.to_json())
    assert "QUJD" not in dumped and "c2ln" not in dumped
    assert "seen" in dumped and session.counts["image"] == 1


def test_sidechain_in_its_own_file(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("subtask", isSidechain=True, agentId="ab12")
    script.say("did it", isSidechain=True, agentId="ab12")
    path = script.write(tmp_path / SESSION / "subagents", "agent-ab12")
    session = claude.read(path)
    assert (session.id, session.parent) == (f"{SESSION}.agent-ab12", SESSION)
    assert texts(session) == ["subtask", "did it"]


def test_sidechain_inside_the_main_file(tmp_path: Path) -> None:
    script = patrol(CWD)
    tip = script.tip
    script.tip = None
    top = script.prompt("subtask", isSidechain=True)
    script.say("did it", isSidechain=True)
    script.tip = tip
    script.say("and went on")
    main, side = claude.read_all(script.write(tmp_path))
    assert "subtask" not in texts(main) and texts(main)[-1] == "and went on"
    assert (side.id, side.parent) == (f"{SESSION}.agent-{top}", SESSION)
    assert texts(side) == ["subtask", "did it"]


def test_two_session_ids_in_a_file_are_two_sessions(tmp_path: Path) -> None:
    old = patrol(CWD, "99999999-2222-4333-8444-555555555555", word="old")
    new = patrol(CWD, word="new")
    new.lines = old.lines + new.lines
    main, other = claude.read_all(new.write(tmp_path))
    assert main.id == SESSION and other.id == old.session
    assert "old" not in " ".join(texts(main)) and "new" not in " ".join(texts(other))


def test_repeated_results_and_rewritten_lines_count_once(tmp_path: Path) -> None:
    script = patrol(CWD)
    script.result("toolu_1111_0", "result 0 of patrol")
    script.lines.append(dict(script.lines[3]))
    session = claude.read(script.write(tmp_path))
    assert texts(session).count("result 0 of patrol") == 1
    assert session.counts["repeated_result"] == 1 and session.counts["rewritten"] == 1


# Output that the client moved out of the record -----------------------------------------------------


def persisted(name: str) -> str:
    return f"<persisted-output>\nOutput too large (23KB). Full output saved to: {name}\n\nPreview:\nshort"


def test_persisted_hook_output_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / SESSION / "tool-results"
    folder.mkdir(parents=True)
    (folder / "hook-1-stdout.txt").write_text("the whole prime")
    script = Transcript(CWD)
    script.hook("SessionStart:startup", persisted("/elsewhere/tool-results/hook-1-stdout.txt"))
    session = claude.read(script.write(tmp_path))
    assert texts(session) == ["the whole prime"]
    assert session.counts["persisted"] == 1


@pytest.mark.parametrize("named", ["../../secret.txt", "/etc/hostname", "link.txt", "fifo", "missing.txt"])
def test_persisted_output_never_leaves_the_session_folder(tmp_path: Path, named: str) -> None:
    folder = tmp_path / SESSION / "tool-results"
    folder.mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "fifo")
    script = Transcript(CWD)
    script.hook("SessionStart:startup", persisted(named))
    session = claude.read(script.write(tmp_path))
    assert "outside" not in json.dumps(session.to_json())
    assert texts(session)[0].startswith("<persisted-output>")
    assert session.counts["persisted:missing"] == 1


# What may be found on a disk ------------------------------------------------------------------------


def test_torn_binary_and_foreign_lines_are_counted(tmp_path: Path) -> None:
    script = patrol(CWD)
    good = script.text().encode()
    bad = b'\xff\xfe\x00garbage\n[1, 2]\nnot json\n"text"\n\0\0\0\0\n' + b"[" * 100_000 + b"\n"
    torn = json.dumps(script.lines[3])[:80].encode()
    session = read_text(tmp_path, bad + good + torn)
    assert texts(session) == texts(claude.read(script.write(tmp_path)))
    assert {k: session.counts[k] for k in ("binary", "not_object", "broken", "nested", "torn")} == {
        "binary": 2,
        "not_object": 2,
        "broken": 1,
        "nested": 1,
        "torn": 1,
    }


def test_two_records_on_one_line_are_both_read(tmp_path: Path) -> None:
    script = patrol(CWD)
    whole = texts(claude.read(script.write(tmp_path)))
    parts = script.text().split("\n")
    session = read_text(tmp_path, "\n".join([parts[0], parts[1], parts[2] + parts[3], *parts[4:]]))
    assert texts(session) == whole
    assert session.counts["glued"] == 1


def test_a_line_without_a_name_that_is_nested_deeply_is_counted(tmp_path: Path) -> None:
    script = patrol(CWD)
    whole = texts(claude.read(script.write(tmp_path)))
    for depth in (400, 700, 990, 1010):
        deep = "[" * depth + "]" * depth
        line = f'{{"type": "user", "message": {{"role": "user", "content": "x"}}, "more": {deep}}}\n'
        session = read_text(tmp_path, line + script.text())
        assert texts(session)[-len(whole) :] == whole or texts(session)[: len(whole)] == whole, depth
        assert session.counts.get("nested", 0) + session.counts.get("no_uuid", 0) == 1, depth


def test_a_sidechain_without_agent_ids_is_one_session(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("main")
    script.tip = None
    first = script.prompt("aside", isSidechain=True)
    script.say("in between", isSidechain=True)
    script.say("at last", isSidechain=True)
    random.Random(1).shuffle(script.lines)
    main, side = claude.read_all(script.write(tmp_path))
    assert side.id == f"{SESSION}.agent-{first}" and texts(side) == ["aside", "in between", "at last"]
    assert texts(main) == ["main"]


def test_a_head_is_known_where_a_field_that_nobody_reads_is_broken(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("hello", toolUseResult="BROKEN")
    path = script.write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"BROKEN", b"\xff\xfe"))
    assert claude.head(path) == Head(SESSION, CWD)
    assert texts(claude.read(path)) == ["hello"]


def test_a_count_of_tokens_that_no_number_holds_is_left_out(tmp_path: Path) -> None:
    script = patrol(CWD, steps=1)
    whole = claude.read(script.write(tmp_path)).usage["input_tokens"]
    script.say("more", message_id="msg_more")
    script.lines[-1]["message"]["usage"]["input_tokens"] = 1 << 64
    usage = claude.read(script.write(tmp_path)).usage
    assert usage == {"input_tokens": whole, "output_tokens": usage["output_tokens"]}


def test_huge_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = patrol(CWD)
    whole = texts(claude.read(script.write(tmp_path)))
    monkeypatch.setattr(lines.lines_of, "__defaults__", (4096,))
    session = read_text(tmp_path, json.dumps({"type": "user", "pad": "x" * 3_000_000}) + "\n" + script.text())
    assert texts(session) == whole
    assert session.counts["huge"] == 1


def test_odd_numbers_and_halves_of_pairs(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("cut here: \ud83e")
    script.call("a", "x")
    script.lines[-1]["message"]["content"][0]["input"] = {"a": float("nan"), "b": float("inf"), "c": 1.5}
    session = claude.read(script.write(tmp_path))
    json.dumps(session.to_json(), allow_nan=False)
    assert texts(session)[0] == "cut here: \ufffd"
    assert session.counts["surrogate"] == 1
    session.turns[0].blocks[0]["text"].encode()


@pytest.mark.parametrize(
    "text", ["", "\n\n", "{}\n", "[]", "\ufeff{}\n", "null\n", '{"type": 7, "uuid": []}\n']
)
def test_files_with_nothing_in_them(tmp_path: Path, text: str) -> None:
    session = read_text(tmp_path, text)
    assert session.id == SESSION
    assert all(turn.hook.startswith("type:") for turn in session.turns)


SCALAR = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=6)
JSON_VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
FIELD = st.sampled_from(
    "type uuid parentUuid sessionId message content timestamp isSidechain agentId attachment cwd".split()
)
TYPES = st.sampled_from(["user", "assistant", "attachment", "system", "odd"])
ODD_LINE = st.builds(
    lambda fields, kind, message: {**fields, "type": kind, "message": message},
    st.dictionaries(FIELD, JSON_VALUE, max_size=6),
    TYPES | JSON_VALUE,
    JSON_VALUE | st.fixed_dictionaries({"content": JSON_VALUE, "id": JSON_VALUE, "model": JSON_VALUE}),
)


@given(odd=st.lists(ODD_LINE, max_size=6), junk=st.binary(max_size=60), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_junk_never_crashes_and_never_invents(
    tmp_path_factory: pytest.TempPathFactory, odd: list[Any], junk: bytes, seed: int
) -> None:
    script = patrol(CWD)
    records = [json.dumps(line).encode() for line in [*script.lines, *odd]] + [junk.replace(b"\n", b"")]
    random.Random(seed).shuffle(records)
    folder = tmp_path_factory.mktemp("j")
    path = folder / f"{SESSION}.jsonl"
    path.write_bytes(b"\n".join(records))
    known = set(strings([*script.lines, *odd], keys=True))
    for session in claude.read_all(path):
        json.dumps(session.to_json(), allow_nan=False).encode("ascii")
        for turn in session.turns:
            for text in strings(list(turn.blocks)):
                whole = text.replace("\ufffd", "")
                assert text in known or not whole or any(whole in k for k in known) or text in VOCABULARY


VOCABULARY = {"text", "unknown", "omitted", "image", "document"}


def strings(value: Any, keys: bool = False) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [s for v in value for s in strings(v, keys)]
    if isinstance(value, dict):
        own = [str(k) for k in value] if keys else []
        return own + [s for v in value.values() for s in strings(v, keys)]
    return [str(value)] if keys else []


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))][not path :]


ODD_VALUE = st.sampled_from(
    """null true false 0 -3 7 2.5 "" "x" "user" "2026-03-01T08:00:00Z" [] ["x"] [null,3] {}""".split()
).map(json.loads)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_line_is_read_alike_at_once_and_field_by_field(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever stands in a field, and whatever fields are gone or new."""
    script = patrol(CWD)
    script.say("more", isMeta=True)
    script.line(type="user", message={"role": "user", "content": "hi"}, isSidechain=True, agentId="a1")
    for _ in range(data.draw(st.integers(0, 4))):
        line = data.draw(st.sampled_from(script.lines))
        *way, last = data.draw(st.sampled_from(places(line)))
        at: Any = line
        for step in way:
            at = at[step]
        at[last] = data.draw(ODD_VALUE)
        if data.draw(st.booleans()):
            line[data.draw(st.sampled_from(("isMeta", "agentId", "usage", "kind", "index")))] = data.draw(
                ODD_VALUE
            )
    path = script.write(tmp_path_factory.mktemp("s"))
    at_once = claude.read_all(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claude, "decoded", lambda raw: None)
        assert claude.read_all(path) == at_once


@given(cut=st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_torn_tail_gives_a_prefix(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    data = patrol(CWD).text().encode()
    folder = tmp_path_factory.mktemp("t")
    whole = texts(read_text(folder, data))
    some = texts(read_text(folder, data[: max(0, len(data) - cut)]))
    assert some == whole[: len(some)]


def test_names_from_the_file_are_fit_to_be_keys(tmp_path: Path) -> None:
    script = Transcript(CWD, session="../../etc/passwd secret")
    script.line(type="a type with words in it")
    session = read_text(tmp_path, script.text())
    assert session.id.startswith("odd-") and "type:odd" in session.counts


# Finding files and heads ----------------------------------------------------------------------------


def test_find(tmp_path: Path) -> None:
    script = patrol(CWD)
    main = script.write(tmp_path / "-town-deacon")
    agent = script.write(tmp_path / "-town-deacon" / SESSION / "subagents", "agent-1")
    (tmp_path / "-town-deacon" / "notes.txt").write_text("no session")
    (tmp_path / "stray.jsonl").write_text("{}")
    assert list(claude.find(tmp_path)) == [agent, main]
    assert list(claude.find(tmp_path / "missing")) == []


def test_find_goes_on_behind_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_one = patrol(CWD).write(tmp_path / "b")
    closed = tmp_path / "a"
    closed.mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(claude.find(tmp_path)) == [closed, open_one]


def test_head_of_a_real_shape(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.noise()
    script.hook("SessionStart:startup", "x" * 90_000)
    head = claude.head(script.write(tmp_path))
    assert head is not None and (head.session_id, head.cwd) == (SESSION, CWD)


def test_head_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    """A pipe whose writer goes on only if somebody reads: the head must be known before that."""
    fifo = tmp_path / "session.jsonl"
    os.mkfifo(fifo)
    first = json.dumps({"type": "user", "sessionId": SESSION, "cwd": CWD}) + "\n"
    done = threading.Event()

    def write() -> None:
        with open(fifo, "w") as handle:
            handle.write(first)
            handle.flush()
            done.wait(10)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        head = claude.head(fifo)
    finally:
        done.set()
        writer.join()
    assert head is not None and head.cwd == CWD


def test_head_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as handle:
        handle.truncate(5_000_000_000)
    assert claude.head(path) is None
    path.write_text('{"type": "x"}\n' * 100_000)
    assert claude.head(path) is None


def test_roots_are_those_of_the_user_and_of_every_account(town: Town, isolated: Path) -> None:
    accounts = {"accounts": {"work": {"config_dir": str(isolated / "work")}, "odd": {}}}
    town.accounts_file.write_text(json.dumps(accounts))
    assert claude.roots(town) == [isolated / ".claude/projects", isolated / "work/projects"]
