"""Sweeping what no client should have written, and what changes under the reader's hands: counted, and the
rest goes on."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from claude_lines import SESSION, Transcript, patrol
from corpus_helpers import SOURCES, PlainScrubber, capture, consented

from gt_plugins.corpus import helpers
from gt_plugins.corpus import sweep as sweeping
from gt_plugins.corpus.store import Store
from gt_plugins.corpus.sweep import SweepReport, sweep
from gt_plugins.town.root import Town

GOOD = "33333333-2222-4333-8444-555555555555"


@pytest.fixture
def place(town: Town, isolated: Path) -> Path:
    """The projects folder, with one good session that must get through whatever stands beside it."""
    consented(town)
    folder = isolated / ".claude" / "projects" / "p"
    patrol(town.root / "deacon", session=GOOD).write(folder)
    return folder


def sessions(town: Town) -> dict[str, Any]:
    with Store(town) as store:
        return {s.session.id: s.session for s in store.sessions()}


def good(town: Town) -> Transcript:
    return patrol(town.root / "deacon")


def both(town: Town, report: SweepReport) -> None:
    assert report.captured == 2 and set(sessions(town)) == {SESSION, GOOD}


def test_a_torn_last_line(town: Town, place: Path) -> None:
    path = good(town).write(place)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40])
    report = capture(town, place.parent)
    both(town, report)
    assert report.notes["torn"] == 1
    path.write_bytes(whole)
    assert capture(town, place.parent).updated == 1, "the line came whole later"


def test_a_binary_line_and_invalid_utf8(town: Town, place: Path) -> None:
    path = good(town).write(place)
    lines = path.read_bytes().splitlines(keepends=True)
    odd = [b"\x00\x01\x02\xff\xfe\x00garbage\x00\n", b'{"type":"user","text":"\xff\xfe\xc3("}\n']
    path.write_bytes(b"".join([*lines[:3], *odd, *lines[3:]]))
    report = capture(town, place.parent)
    both(town, report)
    assert sum(n for k, n in report.notes.items() if k in ("binary", "torn", "utf8", "invalid")) >= 1, (
        report.notes
    )


def test_a_line_of_fifty_megabytes(town: Town, place: Path) -> None:
    lines = good(town)
    lines.say("x " * (25 << 20))
    lines.say("after it")
    lines.write(place)
    report = capture(town, place.parent)
    both(town, report)
    text = json.dumps(sessions(town)[SESSION].to_json())
    assert "after it" in text


def test_a_file_that_shrinks_and_one_that_is_replaced_while_read(
    town: Town, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = good(town).write(place)
    longer = patrol(town.root / "deacon", steps=5).text()
    source = SOURCES[0]
    done: list[str] = []

    def shrinking(found: Path) -> Any:
        if found == path and "shrunk" not in done:
            done.append("shrunk")
            os.truncate(path, path.stat().st_size // 2)
        elif found == path and "replaced" not in done:
            done.append("replaced")
            result = source.sessions(found)
            fresh = path.with_suffix(".new")
            fresh.write_text(longer)
            os.replace(fresh, path)
            return result
        return source.sessions(found)

    hands = [replace(source, read_all=shrinking)]
    report = capture(town, place.parent, sources=hands)
    both(town, report)
    assert report.notes["changed_while_read"] == 1
    second = capture(town, place.parent, sources=hands)
    assert second.notes["changed_while_read"] == 1
    third = capture(town, place.parent, sources=hands)
    assert third.updated == 1 and "changed_while_read" not in third.notes
    assert len(sessions(town)[SESSION].turns) > 10, "what stands there in the end is what is stored"
    assert capture(town, place.parent, sources=hands).unchanged == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(town: Town, place: Path) -> None:
    closed = place.parent / "closed"
    good(town).write(closed)
    closed.chmod(0)
    try:
        report = capture(town, place.parent)
    finally:
        closed.chmod(0o700)
    assert report.captured == 1 and report.skipped["unreadable"] == 1
    assert str(closed) in report.problems[0]


def test_a_folder_that_cannot_be_listed(town: Town, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, who may: the system call refuses."""
    closed = place.parent / "closed"
    good(town).write(closed)
    real = os.scandir

    def refusing(path: Any = ".") -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = capture(town, place.parent)
    assert report.captured == 1 and report.skipped["unreadable"] == 1
    assert str(closed) in report.problems[0]


def test_a_transcript_of_a_future_version(town: Town, place: Path) -> None:
    lines = good(town)
    lines.line(type="hologram", version="99.0.0", payload={"shape": ["cube"], "text": "from PLANT-later"})
    lines.line(
        type="assistant",
        version="99.0.0",
        message={
            "id": "msg_new",
            "role": "assistant",
            "model": "claude-x",
            "content": [{"type": "dream", "scene": "a PLANT-quiet one"}, {"type": "text", "text": "awake"}],
        },
    )
    lines.write(place)
    report = capture(town, place.parent)
    both(town, report)
    assert report.notes["type:hologram"] == report.notes["block:dream"] == 1
    text = json.dumps(sessions(town)[SESSION].to_json())
    assert "awake" in text and "PLANT" not in text and "[gone]" in text, "what is unknown is kept, scrubbed"
    assert sessions(town)[SESSION].client_version == "99.0.0"


def test_a_clock_that_jumps(town: Town, place: Path) -> None:
    lines = good(town)
    for number, line in enumerate(lines.lines):
        if "timestamp" in line and number % 3 == 0:
            line["timestamp"] = f"{'1999' if number % 2 else '2099'}-01-01T00:00:00.000Z"
    path = lines.write(place)
    os.utime(path, (4_000_000_000, 4_000_000_000))
    both(town, capture(town, place.parent))
    turns = sessions(town)[SESSION].turns
    said = [b.get("text", "") for t in turns for b in t.blocks if t.role == "assistant"]
    assert [s for s in said if s.startswith("step")] == ["step 0 of patrol", "step 1 of patrol"]
    assert capture(town, place.parent).unchanged == 2
    os.utime(path, (1_000, 1_000))
    assert capture(town, place.parent).unchanged == 2, "an older time is another time: read again, same row"


def test_two_sweeps_at_once(town: Town, place: Path) -> None:
    good(town).write(place)
    reports: list[SweepReport] = []
    threads = [threading.Thread(target=lambda: reports.append(capture(town, place.parent))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    assert sum(r.captured for r in reports) == 2 and sum(r.unchanged for r in reports) == 2
    assert set(sessions(town)) == {SESSION, GOOD}


def test_helpers_store_what_the_sweep_alone_would(
    town: Town, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with a file among them that no reader can read."""
    for number in range(6):
        session = f"4444444{number}-2222-4333-8444-555555555555"
        lines = patrol(town.root / "deacon", session=session)
        lines.say(f"api_token: {'0a1b2c3d4e5f' * 3}{number} and jo{number}@quist.dev")
        lines.write(place)
    (place / "odd.jsonl").write_bytes(b"\x00\xff" * 100)
    monkeypatch.setattr(sweeping, "HELPED_FROM", 0)
    monkeypatch.setattr(helpers, "helper_count", lambda: 2)
    report = sweep(town, place.parent)
    assert report.captured == 7 and report.redactions["email"] == 6
    with_helpers = sessions(town)
    text = json.dumps([s.to_json() for s in with_helpers.values()])
    assert "quist.dev" not in text and "0a1b2c3d4e5f" not in text
    assert sweep(town, place.parent).unchanged == 7
    town.corpus_db.unlink()
    monkeypatch.setattr(helpers, "helper_count", lambda: 0)
    assert sweep(town, place.parent).captured == 7
    assert sessions(town) == with_helpers


def test_the_plain_scrubber_keeps_helpers_away(
    town: Town, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrubber that was handed in cannot be made again elsewhere."""
    monkeypatch.setattr(sweeping, "HELPED_FROM", 0)
    monkeypatch.setattr(helpers, "helper_count", lambda: pytest.fail("asked for helpers"))
    assert capture(town, place.parent, scrubber=PlainScrubber()).captured == 1


@pytest.mark.parametrize("cwd", ["/a\0b", "/a\ud800b", "/" + "x" * 9000, "~", ""])
def test_a_folder_that_no_system_has(town: Town, place: Path, cwd: str) -> None:
    line = {"type": "user", "cwd": cwd, "sessionId": SESSION, "message": {"role": "user", "content": "hi"}}
    (place / f"{SESSION}.jsonl").write_text(json.dumps(line) + "\n")
    report = capture(town, place.parent)
    assert report.captured == 1 and report.skipped["foreign"] == 1
    assert set(sessions(town)) == {GOOD}


def test_odd_notes_in_the_spool_stop_nothing(town: Town, place: Path) -> None:
    spool = town.own_dir(town.spool_dir)
    for number, path in enumerate(("/a\0b", "/a\ud800b", "relative", "/" + "x" * 9000, 5)):
        (spool / f"{number}.json").write_text(json.dumps({"path": path, "cwd": "/a\0b", "gt_role": "\0"}))
    (spool / "torn.json").write_bytes(b'\xff{"path"')
    (spool / "folder.json").mkdir()
    report = capture(town, place.parent)
    assert report.captured == 1 and report.skipped["spool_entry"] == 5
    assert sorted(path.name for path in spool.iterdir()) == ["3.json", "folder.json"]
