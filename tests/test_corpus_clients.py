"""The sweep with every built-in reader: each client's own folders, only the town's sessions, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from claude_lines import SESSION, patrol
from codex_lines import CHILD, THREAD, codex_patrol
from corpus_helpers import PlainScrubber, consented, event, raw_bytes
from opencode_data import CHILD as OPEN_CHILD
from opencode_data import ROOT, insert, open_database, opencode_patrol

from gt_plugins.corpus.purge import purge
from gt_plugins.corpus.scrub.engine import scrubber_for
from gt_plugins.corpus.store import Store, StoredSession
from gt_plugins.corpus.sweep import SweepReport, sweep
from gt_plugins.town.root import Town
from gt_plugins.transcripts import codex, opencode


def capture(town: Town, projects: Path | None = None) -> SweepReport:
    return sweep(town, projects, scrubber=PlainScrubber())


def stored(town: Town) -> dict[str, StoredSession]:
    with Store(town) as store:
        return {s.session.id: s for s in store.sessions()}


def test_each_client_is_found_in_its_own_folders(town: Town, isolated: Path, tmp_path: Path) -> None:
    patrol(town.root / "mayor").write(isolated / ".claude/projects/p")
    codex_patrol(town.root / "deacon").write(isolated / ".codex/sessions")
    codex_patrol(tmp_path / "private", CHILD, "PLANT-private").write(isolated / ".codex/archived_sessions")
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    insert(db, opencode_patrol(town.root / "demo/witness", word="PLANT-secret"))
    insert(db, opencode_patrol(tmp_path / "private", OPEN_CHILD, "PLANT-private"))
    report = capture(consented(town))
    db.close()
    assert (report.captured, report.skipped, report.problems) == (3, {"foreign": 2}, ())
    found = {i: (s.session.source, s.session.role) for i, s in stored(town).items()}
    assert found == {SESSION: ("claude", "mayor"), THREAD: ("codex", "deacon"), ROOT: ("opencode", "witness")}
    assert b"PLANT" not in raw_bytes(town.corpus_dir)
    again = capture(town)
    assert (again.captured, again.updated, again.unchanged, again.skipped) == (0, 0, 3, {"foreign": 2})


def test_nothing_is_read_twice_or_of_others(
    town: Town, isolated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    insert(db, opencode_patrol(town.root / "deacon"))
    insert(db, opencode_patrol(tmp_path / "private", OPEN_CHILD))
    codex_patrol(tmp_path / "private").write(isolated / ".codex/sessions")
    read: list[str] = []
    for module in (codex, opencode):
        real = module.read

        def reading(path: Path, real=real) -> object:  # type: ignore[no-untyped-def]
            read.append(path.name)
            return real(path)

        monkeypatch.setattr(module, "read", reading)
    capture(consented(town))
    capture(town)
    db.close()
    assert read == [ROOT]


def test_a_session_that_goes_on_in_the_log_is_brought_up_to_date(town: Town, isolated: Path) -> None:
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    chat = opencode_patrol(town.root / "deacon")
    insert(db, chat)
    capture(consented(town))
    chat.user("Once more.")
    insert(db, chat)
    assert capture(town).updated == 1
    db.close()
    assert len(stored(town)[ROOT].session.turns) == 5
    chat.export(isolated / "export.json")
    assert capture(town, isolated).unchanged == 1, "an export says the same again"


def test_a_compressed_rollout_is_the_same_session(town: Town, isolated: Path) -> None:
    script = codex_patrol(town.root / "deacon")
    plain = script.write(isolated / ".codex/sessions")
    capture(consented(town))
    script.write(isolated / ".codex/archived_sessions", ".jsonl.zst")
    plain.unlink()
    assert capture(town).unchanged == 1 and len(stored(town)) == 1


def test_events_name_the_role_of_any_client(town: Town, isolated: Path, tmp_path: Path) -> None:
    event(town, ROOT, "demo/refinery")
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    insert(db, opencode_patrol(tmp_path / "elsewhere"))
    capture(consented(town))
    db.close()
    assert stored(town)[ROOT].session.role == "refinery"


def test_a_purge_takes_subagents_with_it(town: Town, isolated: Path) -> None:
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    insert(db, opencode_patrol(town.root / "deacon"))
    insert(db, opencode_patrol(town.root / "deacon", OPEN_CHILD, parent=ROOT))
    spawned = {"subagent": {"thread_spawn": {"parent_thread_id": THREAD}}}
    codex_patrol(town.root / "deacon").write(isolated / ".codex/sessions")
    codex_patrol(town.root / "deacon", CHILD, source=spawned).write(isolated / ".codex/sessions")
    assert capture(consented(town)).captured == 4
    assert purge(town, session=ROOT).sessions == (ROOT, f"{ROOT}.{OPEN_CHILD}")
    assert purge(town, session=THREAD).sessions == (THREAD, f"{THREAD}.{CHILD}")
    assert capture(town).skipped == {"purged": 4}
    db.close()
    assert stored(town) == {}


def test_a_broken_database_is_counted_and_the_rest_goes_on(town: Town, isolated: Path) -> None:
    codex_patrol(town.root / "deacon").write(isolated / ".codex/sessions")
    data = isolated / ".local/share/opencode"
    data.mkdir(parents=True)
    (data / "opencode.db").write_bytes(b"no database, " * 100)
    report = capture(consented(town))
    assert (report.captured, report.skipped) == (1, {"unreadable": 1})
    assert "opencode.db: SQLite" in report.problems[0]


def test_one_folder_with_everything(town: Town, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    patrol(town.root / "mayor").write(mixed / "p")
    (codex_patrol(town.root / "deacon").write(tmp_path)).rename(mixed / "p" / f"rollout-a-{THREAD}.jsonl")
    opencode_patrol(town.root / "deacon").export(mixed / "export.json")
    report = capture(consented(town), mixed)
    assert (report.captured, report.skipped) == (3, {})


def test_the_real_scrubber_keeps_ids_and_pairs(town: Town, isolated: Path) -> None:
    db = open_database(isolated / ".local/share/opencode/opencode.db")
    insert(db, opencode_patrol(town.root / "deacon", word="ghp_" + "a1B2c3D4e5" * 3 + "F6g7H8"))
    insert(db, opencode_patrol(town.root / "deacon", OPEN_CHILD, parent=ROOT))
    codex_patrol(town.root / "deacon").write(isolated / ".codex/sessions")
    sweep(consented(town), scrubber=scrubber_for(town))
    db.close()
    found = stored(town)
    assert set(found) == {ROOT, f"{ROOT}.{OPEN_CHILD}", THREAD}
    for row in found.values():
        blocks = [b for t in row.session.turns for b in t.blocks]
        calls = [b["id"] for b in blocks if b["type"] == "tool_use"]
        assert calls == ["call_1"] == [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        assert "a1B2c3D4e5" not in json.dumps(row.session.to_json())
