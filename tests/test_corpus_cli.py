"""``gt corpus``: what a person and a script see."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from claude_lines import SESSION, patrol
from corpus_helpers import SOURCES, PlainScrubber, raw_bytes

from gt_plugins.cli import corpus as cli
from gt_plugins.corpus import artifacts, collect, consent, sweep
from gt_plugins.corpus.sources import Document
from gt_plugins.corpus.stats import days, stacked
from gt_plugins.corpus.store import Store
from gt_plugins.town.root import Town

OTHER = "22222222-2222-4333-8444-555555555555"


@pytest.fixture
def gt_corpus(town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the town; (exit code, stdout, stderr)."""
    engine = SimpleNamespace(scrubber_for=lambda town: PlainScrubber())
    monkeypatch.setitem(sys.modules, "gt_plugins.corpus.scrub.engine", engine)
    monkeypatch.setattr(sweep, "transcript_sources", lambda: SOURCES)
    monkeypatch.setattr(collect, "corpus_sources", artifacts.gt_corpus_sources)
    monkeypatch.chdir(town.root)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(words))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def filled(town: Town, isolated: Path) -> Town:
    """A town with consent, two sessions and three files of conventions, nothing swept yet."""
    consent.grant(town, "Ann")
    projects = isolated / ".claude/projects/p"
    patrol(town.root / "deacon", word="PLANT-secret zebra").write(projects)
    patrol(town.root / "demo/witness", OTHER, word="giraffe").write(projects)
    (town.root / "CLAUDE.md").write_text("# Town rules\nPLANT-rule zebra\n")
    (town.root / "AGENTS.md").symlink_to("CLAUDE.md")
    (town.root / "demo/crew/alice/CLAUDE.md").write_text("Be kind.\n")
    (town.formulas_dir / "x.formula.toml").write_text('formula = "x"\n')
    return town


def test_consent_by_name(town: Town, gt_corpus: Any) -> None:
    assert gt_corpus("consent") == (0, "not granted; nothing is captured\n", "")
    code, _, err = gt_corpus("consent", "--grant")
    assert code == 2 and "needs a name" in err
    assert gt_corpus("consent", "--grant", "--revoke", "--by", "Ann")[0] == 2
    assert gt_corpus("consent", "--grant", "--by", "Ann")[1].startswith("granted by Ann at 20")
    state = json.loads(gt_corpus("consent", "--json")[1])
    assert state["granted"] is True and state["by"] == "Ann"
    town.own_dir(town.spool_dir)
    (town.spool_dir / "1.json").write_text("{}")
    assert gt_corpus("consent", "--revoke", "--by", "Bob")[1].startswith("revoked by Bob")
    assert list(town.spool_dir.iterdir()) == []


def test_consent_keeps_what_else_stands_in_the_settings(town: Town, gt_corpus: Any) -> None:
    town.settings_file.write_text('[other]\nkey = "kept"\n')
    gt_corpus("consent", "--grant", "--by", "Ann")
    assert 'key = "kept"' in town.settings_file.read_text()


def test_no_consent_no_sweep(town: Town, gt_corpus: Any) -> None:
    for words in (("sweep",), ("collect",)):
        code, out, err = gt_corpus(*words)
        assert (code, out) == (2, "") and "gt corpus consent --grant --by NAME" in err
        assert err.count("\n") == 1
    assert not town.corpus_dir.exists()


def test_sweep_json_is_one_document(filled: Town, gt_corpus: Any) -> None:
    code, out, err = gt_corpus("sweep", "--json")
    report = json.loads(out)
    assert (code, err, report["captured"], report["problems"]) == (0, "", 2, [])
    assert report["redactions"]["plant"] > 0


def test_sweep_as_a_table(filled: Town, gt_corpus: Any) -> None:
    code, out, _ = gt_corpus("sweep")
    assert code == 0 and "captured" in out and "redacted: plant" in out


def test_sweep_of_another_folder(filled: Town, gt_corpus: Any, tmp_path: Path) -> None:
    patrol(filled.root / "deacon", "33333333-2222-4333-8444-555555555555").write(tmp_path / "x/p")
    assert json.loads(gt_corpus("sweep", "--projects", str(tmp_path / "x"), "--json")[1])["captured"] == 1
    code, _, err = gt_corpus("sweep", "--projects", str(tmp_path / "missing"))
    assert code == 2 and "no such folder" in err


def test_quiet_sweep_logs_without_text(filled: Town, gt_corpus: Any) -> None:
    assert gt_corpus("sweep", "--quiet") == (0, "", "")
    log = filled.corpus_dir / "log"
    record = json.loads(log.read_text())
    assert record["captured"] == 2 and oct(log.stat().st_mode & 0o777) == "0o600"
    filled.corpus_db.write_bytes(b"PLANT-damaged" * 1000)
    assert gt_corpus("sweep", "--quiet")[0] == 1
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["error"] == "FinetuneError" and "damaged" in last["message"]
    assert "PLANT" not in log.read_text()


def test_stats(filled: Town, gt_corpus: Any) -> None:
    assert json.loads(gt_corpus("stats", "--json")[1])["sessions"] == 0
    assert not filled.corpus_dir.exists()
    gt_corpus("sweep")
    found = json.loads(gt_corpus("stats", "--json")[1])
    assert (found["sessions"], found["decisions"]) == (2, 4)
    assert found["by_role"] == {"deacon": 1, "witness": 1}
    assert found["by_day"] == {"2026-03-01": 2} and found["by_outcome"] == {"unknown": 2}
    assert found["by_model"] == {"claude-x": 2}
    picture = gt_corpus("stats")[1]
    assert "2 sessions" in picture and "█" in picture and "witness" in picture
    assert found["by_role_outcome"] == {"deacon": {"unknown": 1}, "witness": {"unknown": 1}}
    assert "2026-03-01  █  2026-03-01" in picture


def test_the_pictures_show_what_was_counted() -> None:
    made = stacked("t", {"deacon": {"good": 30, "unknown": 8, "bad": 1}, "boot": {"unknown": 1}})
    assert made[1] == f"  deacon  {'█' * 31}{'░' * 8}▓  good 30, unknown 8, bad 1"
    assert made[2] == "  boot    ░  unknown 1"
    curve = days("d", {"2026-02-27": 7, "2026-03-02": 1, "2026-03-03": 14, "unknown": 99})
    assert curve == ["d (14 at most)", "  2026-02-27  ▅  ▁█  2026-03-03"]
    assert len(days("d", {"2020-01-01": 1, "2026-03-03": 1})[1]) == 2 + 10 + 2 + 60 + 2 + 10
    ahead = days("d", {"2026-03-02": 1, "2026-03-03": 2, "2031-01-01": 3}, date(2026, 3, 3))
    assert ahead == ["d (2 at most)", "  2026-03-02  ▅█  2026-03-03", "  not shown: 3 after 2026-03-03"]
    assert days("d", {"2020-01-01": 4, "2026-03-03": 1})[2] == "  not shown: 4 before 2026-01-03"
    assert days("d", {"2031-01-01": 3}, date(2026, 3, 3))[1] == "  2031-01-01  █  2031-01-01"
    assert stacked("t", {}) == days("d", {"unknown": 1}) == []


def test_search_and_show(filled: Town, gt_corpus: Any) -> None:
    assert json.loads(gt_corpus("search", "giraffe", "--json")[1]) == []
    gt_corpus("sweep")
    gt_corpus("collect")
    hits = json.loads(gt_corpus("search", "zebra", "--json")[1])
    assert {hit["id"] for hit in hits} == {SESSION, "doc-1"}
    assert all("zebra" in hit["text"] for hit in hits)
    assert SESSION[:8] in gt_corpus("search", "zebra")[1]
    for words, found in (
        (("--role", "deacon"), {SESSION}),
        (("--kind", "convention_doc"), {"doc-1"}),
        (("--kind", "session", "--role", "witness"), set()),
        (("--kind", "convention_doc", "--limit", "1"), {"doc-1"}),
    ):
        assert {h["id"] for h in json.loads(gt_corpus("search", "zebra", *words, "--json")[1])} == found
    newest = json.loads(gt_corpus("search", "  ", "--json")[1])
    assert {SESSION, "doc-1"} < {hit["id"] for hit in newest} and all(hit["text"] for hit in newest)
    moments = [hit["at"] for hit in newest]
    assert moments == sorted(moments, reverse=True)
    assert json.loads(gt_corpus("search", "--limit", "2", "--json")[1]) == newest[:2]
    assert (
        json.loads(gt_corpus("search", "--kind", "session", "--role", "deacon", "--json")[1])[0]["id"]
        == SESSION
    )
    shown = gt_corpus("show", SESSION[:6])[1]
    assert "[hook SessionStart:startup]" in shown and "PLANT" not in shown
    assert json.loads(gt_corpus("show", SESSION, "--json")[1])["role"] == "deacon"
    assert "# Town rules" in gt_corpus("show", "doc-1")[1]
    assert json.loads(gt_corpus("show", "doc-1", "--json")[1])["corpus_type"] == "convention_doc"
    for ref, what in (("nothing", "no such session"), ("doc-99", "no such document")):
        code, _, err = gt_corpus("show", ref)
        assert code == 2 and err.count("\n") == 1 and what in err


def test_show_does_not_obey_escape_codes(filled: Town, gt_corpus: Any, isolated: Path) -> None:
    name = "44444444-2222-4333-8444-555555555555"
    patrol(filled.root / "deacon", name, word="\x1b[2J\x07boom").write(isolated / ".claude/projects/p")
    gt_corpus("sweep")
    out = gt_corpus("show", name)[1] + gt_corpus("search", "boom")[1]
    assert "boom" in out and "\x1b" not in out and "\x07" not in out


def test_collect_is_idempotent_and_scrubs(filled: Town, gt_corpus: Any) -> None:
    report = json.loads(gt_corpus("collect", "--json")[1])
    assert (report["captured"], report["redactions"]) == (5, {"plant": 1})
    assert json.loads(gt_corpus("collect", "--json")[1])["unchanged"] == 5
    (filled.root / "CLAUDE.md").write_text("# New rules\n")
    assert json.loads(gt_corpus("collect", "--source", "conventions", "--json")[1])["updated"] == 1
    (filled.root / "demo/crew/alice/CLAUDE.md").unlink()
    assert json.loads(gt_corpus("collect", "--json")[1])["retired"] == 1
    assert b"PLANT" not in raw_bytes(filled.corpus_dir)
    code, _, err = gt_corpus("collect", "--source", "nonsense")
    assert code == 2 and "conventions, formulas" in err


def test_collect_counts_what_it_leaves_out(filled: Town, gt_corpus: Any, tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text("outside the town")
    (filled.root / "demo/CLAUDE.md").symlink_to(tmp_path / "outside.md")
    (filled.root / "deacon/CLAUDE.md").write_bytes(b"\xff\xfe")
    (filled.root / "mayor/CLAUDE.md").mkdir()
    (filled.root / "demo/witness/CLAUDE.md").write_text("POISON")
    report = json.loads(gt_corpus("collect", "--json")[1])
    assert report["skipped"] == {"binary": 1, "no_file": 1, "outside": 1, "unscrubbable": 1}
    assert len(report["problems"]) == 4 and report["captured"] == 5
    assert b"outside the town" not in raw_bytes(filled.corpus_dir)


def test_documents_know_their_rig(filled: Town, gt_corpus: Any) -> None:
    gt_corpus("collect")
    with Store(filled) as store:
        found = {d.document.key: (d.document.corpus_type, d.document.rig) for _, d in store.documents()}
    assert found == {
        "CLAUDE.md": ("convention_doc", ""),
        "demo/crew/alice/CLAUDE.md": ("convention_doc", "demo"),
        ".beads/formulas/x.formula.toml": ("formula", ""),
        "mayor/rigs.json": ("settings", ""),
        "mayor/town.json": ("settings", ""),
    }


def test_label(filled: Town, gt_corpus: Any) -> None:
    assert gt_corpus("label", SESSION, "good", "--reason", "x")[0] == 2
    gt_corpus("sweep")
    assert gt_corpus("label", SESSION[:8], "good", "--reason", "PLANT-reason fine")[0] == 0
    with Store(filled) as store:
        found = store.session(SESSION)
    assert found is not None and (found.outcome, found.label_reason) == ("good", "[gone] fine")
    assert gt_corpus("label", SESSION, "great", "--reason", "x")[0] == 2


# Purge ----------------------------------------------------------------------------------------------


def test_purge_of_a_session_leaves_nothing(filled: Town, gt_corpus: Any, tmp_path: Path) -> None:
    gt_corpus("sweep")
    assert gt_corpus("search", "zebra")[1], "it stands in the index now"
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "train.jsonl").write_text("zebra")
    (filled.corpus_dir / "index").mkdir()
    (filled.corpus_dir / "index/part").write_text("zebra")
    filled.own_dir(filled.spool_dir)
    (filled.spool_dir / "1.json").write_text(json.dumps({"path": "/x", "session_id": SESSION}))
    with Store(filled) as store:
        store.record_dataset(dataset, [SESSION, OTHER], "h")
        store.record_training("gt-ft-deacon:v1", "h")
        seen = Document("primes", "p", "prime", "a zebra prime", session_id=SESSION)
        store.add_document(seen, source_hash="d", policy="p", consent="c")
    result = json.loads(gt_corpus("purge", "--session", SESSION[:8], "--json")[1])
    assert result == {
        "sessions": [SESSION],
        "documents": 1,
        "datasets": [str(dataset)],
        "spool": 1,
        "index": True,
        "versions": ["gt-ft-deacon:v1"],
        "bundles": [],
    }
    assert not dataset.exists()
    raw = raw_bytes(filled.corpus_dir)
    assert b"zebra" not in raw and b"giraffe" in raw
    assert json.loads(gt_corpus("search", "zebra", "--json")[1]) == []
    assert json.loads(gt_corpus("sweep", "--json")[1])["skipped"] == {"purged": 1}


def test_a_purge_can_be_run_again(filled: Town, gt_corpus: Any) -> None:
    gt_corpus("sweep")
    with Store(filled) as store:
        store.record_dataset(filled.root / "gone", [SESSION], "h")
        store.record_training("gt-ft-deacon:v1", "h")
        store.delete_sessions([SESSION])  # as a purge leaves it that was killed before it could compact
    result = json.loads(gt_corpus("purge", "--session", SESSION, "--json")[1])
    assert result["sessions"] == [SESSION] and result["versions"] == ["gt-ft-deacon:v1"]
    assert b"zebra" not in raw_bytes(filled.corpus_dir)


def test_stats_on_a_terminal(filled: Town, gt_corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gt_corpus("sweep")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "witness" in gt_corpus("stats")[1]


def test_purge_before_a_date(filled: Town, gt_corpus: Any) -> None:
    gt_corpus("sweep")
    gt_corpus("collect")
    assert json.loads(gt_corpus("purge", "--before", "2026-03-01", "--json")[1])["sessions"] == []
    assert len(json.loads(gt_corpus("purge", "--before", "2026-03-02", "--json")[1])["sessions"]) == 2
    out = gt_corpus("purge", "--before", "2999-01-01")[1]
    assert out.startswith("deleted 0 sessions, 5 documents")


@pytest.mark.parametrize(
    "words",
    [(), ("--session", "x", "--before", "2026-01-01"), ("--before", "yesterday"), ("--session", "nobody")],
)
def test_purge_of_nonsense_deletes_nothing(filled: Town, gt_corpus: Any, words: tuple[str, ...]) -> None:
    gt_corpus("sweep")
    code, _, err = gt_corpus("purge", *words)
    assert code == 2 and err.count("\n") == 1
    assert json.loads(gt_corpus("stats", "--json")[1])["sessions"] == 2


def test_purge_never_takes_a_folder_that_holds_the_town(filled: Town, gt_corpus: Any) -> None:
    gt_corpus("sweep")
    with Store(filled) as store:
        store.record_dataset(filled.root.parent, [SESSION], "h")
    code, _, err = gt_corpus("purge", "--session", SESSION)
    assert code == 1 and "by hand" in err
    assert filled.root.exists()


def test_purge_takes_the_subagents(filled: Town, gt_corpus: Any, isolated: Path) -> None:
    script = patrol(filled.root / "deacon", word="sub")
    script.write(isolated / ".claude/projects/p" / SESSION / "subagents", "agent-ab")
    gt_corpus("sweep")
    result = json.loads(gt_corpus("purge", "--session", SESSION, "--json")[1])
    assert result["sessions"] == [SESSION, f"{SESSION}.agent-ab"]


# Entry points ---------------------------------------------------------------------------------------


def test_outside_a_town(gt_corpus: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    code, out, err = gt_corpus("stats")
    assert (code, out) == (2, "") and "not inside a Gas Town" in err


def test_broken_settings_name_the_line(town: Town, gt_corpus: Any) -> None:
    town.settings_file.write_text("[consent\n")
    code, _, err = gt_corpus("sweep")
    assert code == 2 and "finetune.toml" in err and "line 1" in err


def test_node0_corpus_is_the_same() -> None:
    from gt_plugins import run_corpus

    assert run_corpus.main is cli.main
