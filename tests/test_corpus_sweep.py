"""The sweep: whose sessions, what role, once only, never raw, and through kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from claude_lines import SESSION, Transcript, patrol
from corpus_helpers import (
    SOURCES,
    PlainScrubber,
    add_event,
    capture,
    consented,
    event,
    modes,
    raw_bytes,
)

from gt_plugins.corpus.store import Store, StoredSession
from gt_plugins.corpus.sweep import file_key
from gt_plugins.errors import UserError
from gt_plugins.settings import update_settings
from gt_plugins.town.root import Town
from gt_plugins.transcripts import claude
from gt_plugins.transcripts.sources import TranscriptSource

OTHER = "22222222-2222-4333-8444-555555555555"


@pytest.fixture
def projects(isolated: Path) -> Path:
    folder = isolated / ".claude" / "projects"
    folder.mkdir(parents=True)
    return folder


def stored(town: Town) -> dict[str, StoredSession]:
    with Store(town) as store:
        return {s.session.id: s for s in store.sessions()}


def snapshot(town: Town) -> list[Any]:
    """What the corpus says, without when it was written."""
    with Store(town) as store:
        return [(s.session, s.policy, s.outcome, s.redactions) for s in store.sessions()]


def spool(town: Town, path: Path, name: str = "1", **fields: str) -> Path:
    town.own_dir(town.spool_dir)
    entry = town.spool_dir / f"{name}.json"
    entry.write_text(json.dumps({"v": 1, "path": str(path), "session_id": SESSION, **fields}))
    return entry


def test_nothing_without_consent(town: Town, projects: Path) -> None:
    patrol(town.root / "deacon").write(projects / "p")
    with pytest.raises(UserError, match="gt corpus consent --grant"):
        capture(town)
    assert not town.corpus_dir.exists()


def test_a_session_of_the_town_is_stored_scrubbed(town: Town, projects: Path) -> None:
    script = patrol(town.root / "deacon", word="PLANT-secret")
    script.write(projects / "p")
    report = capture(consented(town))
    assert (report.captured, report.skipped, report.problems) == (1, {}, ())
    assert report.redactions["plant"] > 3
    found = stored(town)[SESSION]
    assert (found.session.role, found.policy) == ("deacon", "p1")
    assert found.consent.startswith("Ann at 20")
    assert b"PLANT" not in raw_bytes(town.corpus_dir)


def test_modes_under_umask_zero(town: Town, projects: Path) -> None:
    patrol(town.root / "deacon").write(projects / "p")
    old = os.umask(0)
    try:
        capture(consented(town))
        found = modes(town.corpus_dir)
    finally:
        os.umask(old)
    assert set(found.values()) <= {"0o600", "0o700"} and found


def test_sweeping_again_changes_nothing(town: Town, projects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patrol(town.root / "deacon").write(projects / "p")
    capture(consented(town))
    before = snapshot(town)
    reads: list[Path] = []
    source = TranscriptSource("claude", claude.find, reads.append, claude.read, None, claude.roots)  # type: ignore[arg-type]
    report = capture(town, sources=[source])
    assert (report.captured, report.updated, report.unchanged) == (0, 0, 1)
    assert reads == [] and snapshot(town) == before


@pytest.mark.parametrize("late", [False, True])
def test_growth_and_rewriting_converge(town: Town, projects: Path, late: bool) -> None:
    """However often it was captured on the way, the row is that of the last state."""
    consented(town)
    states = [patrol(town.root / "deacon", steps=n) for n in (1, 4, 3)]
    for script in states[-1:] if late else states:
        script.write(projects / "p")
        capture(town)
        capture(town)
    rows = snapshot(town)
    assert len(rows) == 1
    assert rows[0][0] == stored(town)[SESSION].session
    assert sum(t.role == "assistant" for t in rows[0][0].turns) == 4


def test_one_session_in_two_files(town: Town, projects: Path) -> None:
    consented(town)
    short, long = patrol(town.root / "deacon", steps=1), patrol(town.root / "deacon", steps=3)
    long.write(projects / "b")
    short.write(projects / "a")
    capture(town)
    assert len(stored(town)[SESSION].session.turns) == 9
    shrunk = patrol(town.root / "deacon", steps=0).write(projects / "b")
    os.utime(shrunk, (1, 1))
    capture(town)
    assert len(stored(town)[SESSION].session.turns) == 5, "the other file has more of it now"


def test_other_projects_are_counted_and_not_read(town: Town, projects: Path, tmp_path: Path) -> None:
    mine = patrol(town.root / "deacon").write(projects / "town")
    foreign = patrol(tmp_path / "private", OTHER, word="PLANT-private").write(projects / "private")
    beside = patrol(f"{town.root}-two/deacon", OTHER).write(projects / "beside", "x")
    read: list[Path] = []

    def reading(path: Path) -> Any:
        read.append(path)
        return claude.read_all(path)

    source = TranscriptSource("claude", claude.find, claude.head, claude.read, reading, claude.roots)
    report = capture(consented(town), sources=[source])
    assert (report.captured, report.skipped) == (1, {"foreign": 2})
    assert read == [mine] and foreign not in read and beside not in read
    capture(town, sources=[source])
    raw = raw_bytes(town.corpus_dir)
    assert str(foreign).encode() not in raw and b"private" not in raw


def test_a_foreign_file_of_any_size_costs_its_head(town: Town, projects: Path, tmp_path: Path) -> None:
    path = patrol(tmp_path / "private", OTHER).write(projects / "private")
    with path.open("r+b") as handle:
        handle.truncate(20_000_000_000)
    started = time.monotonic()
    assert capture(consented(town)).skipped == {"foreign": 1}
    assert time.monotonic() - started < 5


def test_a_session_in_the_events_is_the_towns(town: Town, projects: Path, tmp_path: Path) -> None:
    patrol(tmp_path / "elsewhere", OTHER).write(projects / "p")
    consented(town)
    assert capture(town).skipped == {"foreign": 1}
    event(town, OTHER, "demo/witness")
    assert capture(town).captured == 1
    found = stored(town)[OTHER].session
    assert (found.role, found.rig) == ("witness", "demo")


def test_excluded_rigs(town: Town, projects: Path) -> None:
    patrol(town.root / "demo/witness").write(projects / "p")
    consented(town)
    update_settings(town, "capture", exclude_rigs=["demo"])
    assert capture(town).skipped == {"excluded": 1}
    assert capture(town).skipped == {"excluded": 1}
    update_settings(town, "capture", exclude_rigs=[])
    assert capture(town).captured == 1


@pytest.mark.parametrize(
    ("cwd", "gt_role", "in_events", "expected"),
    [
        ("demo/crew/alice", "", "", ("crew", "demo", "alice")),
        ("demo/polecats/Toast/proj", "", "", ("polecat", "demo", "Toast")),
        ("deacon", "deacon/boot", "", ("boot", "", "")),
        ("deacon", "deacon/boot", "mayor", ("mayor", "", "")),
        ("demo/crew/alice", "crew", "", ("crew", "demo", "alice")),
        ("settings", "", "", ("", "", "")),
    ],
)
def test_role_and_rig(
    town: Town, projects: Path, cwd: str, gt_role: str, in_events: str, expected: tuple[str, ...]
) -> None:
    path = patrol(town.root / cwd).write(projects / "p")
    spool(town, path, gt_role=gt_role, cwd=str(town.root / cwd))
    if in_events:
        event(town, SESSION, in_events)
    capture(consented(town))
    found = stored(town)[SESSION].session
    assert (found.role, found.rig, found.name) == expected


def test_identity_gets_surer_and_not_weaker(town: Town, projects: Path) -> None:
    script = patrol(town.root / "deacon", steps=1)
    path = script.write(projects / "p")
    capture(consented(town))
    assert stored(town)[SESSION].session.role == "deacon"
    spool(town, path, gt_role="deacon/boot")
    capture(town)
    assert stored(town)[SESSION].session.role == "boot"
    event(town, SESSION, "mayor")
    capture(town)
    assert stored(town)[SESSION].session.role == "mayor"
    town.events_file.unlink()
    patrol(town.root / "deacon", steps=2).write(projects / "p")
    capture(town)
    found = stored(town)[SESSION].session
    assert found.role == "mayor" and len(found.turns) == 7


def test_beads_from_the_events(town: Town, projects: Path) -> None:
    cwd = town.root / "demo/polecats/Toast/proj"
    patrol(cwd).write(projects / "p")
    who = "demo/polecats/Toast"
    for at, kind, bead in (
        ("2026-02-01T00:00:00Z", "sling", "dm-old"),
        ("2026-03-01T07:59:00Z", "sling", "dm-1"),
        ("2026-03-01T08:00:05Z", "sling", "dm-2"),
        ("2026-03-01T09:00:00Z", "sling", "dm-later"),
    ):
        add_event(town, kind, "mayor", {"bead": bead, "target": who}, at)
    add_event(town, "done", who, {"bead": "dm-1"}, "2026-03-01T08:00:06Z")
    capture(consented(town))
    assert stored(town)[SESSION].session.beads == ("dm-1", "dm-2")


def test_subagents_become_sessions_with_a_parent(town: Town, projects: Path) -> None:
    patrol(town.root / "deacon").write(projects / "p")
    side = Transcript(town.root / "deacon")
    side.prompt("subtask", isSidechain=True, agentId="ab")
    side.write(projects / "p" / SESSION / "subagents", "agent-ab")
    capture(consented(town))
    found = stored(town)
    assert set(found) == {SESSION, f"{SESSION}.agent-ab"}
    assert found[f"{SESSION}.agent-ab"].session.parent == SESSION
    assert found[f"{SESSION}.agent-ab"].session.role == "deacon"


def test_our_own_models_are_marked(town: Town, projects: Path) -> None:
    script = Transcript(town.root / "deacon", model="gt-ft-deacon")
    script.prompt("go")
    script.say("done")
    script.write(projects / "p")
    capture(consented(town))
    assert stored(town)[SESSION].tuned


def test_what_cannot_be_scrubbed_is_not_stored(town: Town, projects: Path) -> None:
    patrol(town.root / "deacon", word="POISON").write(projects / "p")
    patrol(town.root / "deacon", OTHER).write(projects / "p")
    report = capture(consented(town))
    assert (report.captured, report.skipped) == (1, {"unscrubbable": 1})
    assert report.problems == (f"{projects}/p/{SESSION}.jsonl: a session could not be scrubbed",)
    assert b"POISON" not in raw_bytes(town.corpus_dir)
    assert capture(town).skipped == {"unscrubbable": 1}

    class Better(PlainScrubber):
        def text(self, text: str) -> Any:
            return super().text(text.replace("POISON", "well"))

    assert capture(town, scrubber=Better("p2")).captured == 1


def test_a_purged_session_does_not_come_back(town: Town, projects: Path) -> None:
    script = patrol(town.root / "deacon", steps=1)
    path = script.write(projects / "p")
    capture(consented(town))
    with Store(town) as store:
        store.delete_sessions([SESSION])
    assert capture(town).skipped == {"purged": 1}
    patrol(town.root / "deacon", steps=3).write(projects / "p")
    spool(town, path)
    assert capture(town).skipped == {"purged": 2}
    assert stored(town) == {}


def test_unreadable_and_odd_files_are_counted(
    town: Town, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = patrol(town.root / "deacon").write(projects / "p")
    bad = patrol(town.root / "deacon", OTHER).write(projects / "p")
    os.mkfifo(projects / "p" / "pipe.jsonl")
    (projects / "p" / "empty.jsonl").write_text("")

    def head(path: Path) -> Any:
        if path == bad:
            raise PermissionError(13, "Permission denied", str(path))
        return claude.head(path)

    source = TranscriptSource("claude", claude.find, head, claude.read, claude.read_all, claude.roots)
    report = capture(consented(town), sources=[source])
    assert report.captured == 1 and good.exists()
    assert report.skipped == {"empty": 1, "no_file": 1, "unreadable": 1}
    assert report.problems == (f"{bad}: Permission denied",)
    assert capture(town).captured == 1, "it is tried again"


def test_a_broken_reader_does_not_stop_the_others(town: Town, projects: Path) -> None:
    patrol(town.root / "deacon").write(projects / "p")

    def broken(path: Path) -> Any:
        raise ZeroDivisionError("quoting PLANT-text")

    odd = [projects / "p" / "odd.log"]
    odd[0].write_text("odd")
    for other in (
        TranscriptSource("other", lambda folder: odd, broken, claude.read),
        TranscriptSource("other", lambda folder: odd, claude.head, broken),
        TranscriptSource("other", broken, claude.head, claude.read),
    ):
        patrol(town.root / "deacon").write(projects / "p")
        report = capture(consented(town), projects, sources=[other, *SOURCES])
        assert report.captured + report.unchanged == 1
        if other.head is not claude.head or other.find is broken:
            assert report.skipped == {"unreadable": 1}
            assert "ZeroDivisionError" in report.problems[0] and "PLANT" not in report.problems[0]


def test_secrets_in_the_place_of_names(town: Town, projects: Path) -> None:
    script = Transcript(town.root / "deacon", session="PLANT-session", model="PLANT-model")
    script.line(type="PLANT-type", version="PLANT-version", note="PLANT-note")
    script.hook("PLANT-hook", "text")
    script.prompt("go", uuid="PLANT-uuid", gitBranch="PLANT-branch", slug="PLANT-slug")
    script.call("PLANT-call", "ls", "PLANT-message")
    script.prompt("sub", isSidechain=True, agentId="PLANT-agent")
    script.write(projects / "p", "PLANT-file")
    foreign = Transcript(town.root.parent, session="PLANT-foreign")
    foreign.prompt("x")
    foreign.write(projects / "q")
    report = capture(consented(town))
    assert report.captured == 2
    assert b"PLANT" not in raw_bytes(town.corpus_dir)
    with Store(town) as store:
        for found in store.sessions():
            assert "PLANT" not in json.dumps([found.session.to_json(), dict(found.redactions)])
    assert capture(town).unchanged == 1
    script.say("more")
    script.write(projects / "p", "PLANT-file")
    assert capture(town).captured == 0, "the same rows again"


# The spool ------------------------------------------------------------------------------------------


def test_spool_only_takes_what_the_hook_noted(town: Town, projects: Path) -> None:
    noted = patrol(town.root / "deacon").write(projects / "p")
    patrol(town.root / "deacon", OTHER).write(projects / "p")
    entry = spool(town, noted)
    report = capture(consented(town), spool_only=True)
    assert report.captured == 1 and not entry.exists()
    assert set(stored(town)) == {SESSION}
    assert capture(town).captured == 1


def test_bad_spool_entries_are_dropped_and_counted(town: Town, projects: Path) -> None:
    town.own_dir(town.spool_dir)
    for name, text in (("a", "{"), ("b", "[]"), ("c", "{}"), ("d", '{"path": "relative"}'), ("e", "")):
        (town.spool_dir / f"{name}.json").write_text(text)
    (town.spool_dir / ".half.json.tmp").write_text("{")
    report = capture(consented(town), spool_only=True)
    assert report.skipped == {"spool_entry": 5}
    assert [p.name for p in town.spool_dir.iterdir()] == [".half.json.tmp"]


def test_a_transcript_that_is_not_there_yet_is_waited_for(town: Town, projects: Path) -> None:
    path = projects / "p" / f"{SESSION}.jsonl"
    entry = spool(consented(town), path, cwd=str(town.root / "deacon"))
    assert capture(town, spool_only=True).skipped == {"missing": 1}
    assert entry.exists()
    patrol(town.root / "deacon").write(projects / "p")
    assert capture(town, spool_only=True).captured == 1
    assert not entry.exists()
    old = spool(town, projects / "gone.jsonl")
    os.utime(old, (1, 1))
    capture(town, spool_only=True)
    assert not old.exists()


def test_a_foreign_path_in_the_spool_is_not_captured(town: Town, tmp_path: Path) -> None:
    path = patrol(tmp_path / "private").write(tmp_path / "x")
    spool(consented(town), path, cwd=str(town.root / "deacon"))
    assert capture(town, spool_only=True).skipped == {"foreign": 1}


def test_sessions_that_end_during_a_sweep_are_taken(town: Town, projects: Path) -> None:
    first = patrol(town.root / "deacon").write(projects / "p")
    second = patrol(town.root / "deacon", OTHER).write(projects / "q")
    spool(consented(town), first)

    class Late(PlainScrubber):
        def session(self, session: Any) -> Any:
            if not session.id.startswith("2"):
                spool(town, second, name="2")
            return super().session(session)

    assert capture(town, spool_only=True, scrubber=Late()).captured == 2
    assert list(town.spool_dir.iterdir()) == []


def test_a_second_worker_leaves_it_to_the_first(town: Town, projects: Path) -> None:
    from gt_plugins.corpus.lock import sweep_lock

    spool(consented(town), patrol(town.root / "deacon").write(projects / "p"))
    with sweep_lock(town, 0) as held:
        assert held
        report = capture(town, spool_only=True)
    assert report.busy and report.captured == 0


# Kill -9 --------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from corpus_helpers import capture
from gt_plugins.corpus import database, store
from gt_plugins.town.root import Town

left = [int(sys.argv[2])]
real = store.Store._run

def counted(self, sql, *values):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sql, *values)

store.Store._run = counted
capture(Town(Path(sys.argv[1])), spool_only=True)
"""


def test_kill_at_any_point_loses_nothing(town: Town, projects: Path, tmp_path: Path) -> None:
    consented(town)
    for number in range(4):
        name = f"{number}{SESSION[1:]}"
        path = patrol(town.root / "deacon", name, word="PLANT-secret").write(projects / "p")
        spool(town, path, name=str(number))
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))
    killed = 0
    for at in (1, 2, 3, 4, 5, 6, 7, 3, 5):
        code = subprocess.run([sys.executable, str(script), str(town.root), str(at)]).returncode
        killed += code == -signal.SIGKILL
        with Store(town) as store:
            assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
            ids = {s.session.id for s in store.sessions()}
        waiting = {entry.stem + SESSION[1:] for entry in town.spool_dir.glob("*.json")}
        assert len(ids | waiting) == 4, "stored, or still in the spool"
    assert killed >= 5
    capture(town)
    assert len(stored(town)) == 4
    assert b"PLANT" not in raw_bytes(town.corpus_dir)


def test_file_keys_do_not_tell_the_path(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert file_key(tmp_path / "a") == file_key(link / "a")
    assert len(file_key(tmp_path)) == 32


def test_nothing_new_over_many_files_is_quick(town: Town, projects: Path, tmp_path: Path) -> None:
    head = json.dumps({"type": "user", "sessionId": "x", "cwd": str(tmp_path / "private")}) + "\n"
    for number in range(2000):
        folder = projects / f"p{number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jsonl").write_text(head)
    capture(consented(town))
    started = time.process_time()
    assert capture(town).skipped == {"foreign": 2000}
    assert time.process_time() - started < 2.0
