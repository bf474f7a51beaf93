"""Operational records as documents: lives of beads, graphs, slings; bd and gt that fail or hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus_helpers import PlainScrubber, consented
from hypothesis import given
from hypothesis import strategies as st
from outcome_helpers import NUX, clock, log

from gt_plugins.corpus.collect import CollectReport, collect
from gt_plugins.corpus.operations import beads as bead_source
from gt_plugins.corpus.operations import databases, lifecycle
from gt_plugins.corpus.operations.databases import fields_of, is_work
from gt_plugins.corpus.operations.lifecycle import Transition
from gt_plugins.corpus.operations.sources import gt_corpus_sources
from gt_plugins.corpus.store import Store
from gt_plugins.town.root import Town

BEAD = {"id": "dm-1", "title": "Greet", "status": "open", "issue_type": "task", "updated_at": clock(0)}


# -- which beads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"labels": ["gt:task", "ui"]}, True),
        ({"issue_type": "epic", "id": "dm-a.1"}, True),
        ({"status": "closed"}, True),
        ({"issue_type": "molecule"}, False),
        ({"issue_type": "gate"}, False),
        ({"labels": ["gt:agent"]}, False),
        ({"labels": ["type:plugin-run", "plugin:x"]}, False),
        ({"ephemeral": True}, False),
        ({"is_template": True}, False),
        ({"status": "pinned"}, False),
        ({"id": "dm-wisp-4"}, False),
        ({"id": "dm-rig-demo"}, False),
        ({"id": "dm-witness-role"}, False),
    ],
)
def test_work_is_told_from_what_a_town_runs_itself_by(change: dict[str, Any], kept: bool) -> None:
    assert is_work(BEAD | change) is kept


def test_gts_lines_in_a_description() -> None:
    text = "Merge: x\n\nbranch: work/x\nsource-issue: dm-1\nworker: null\nnot a field: yes\nbranch: second"
    assert fields_of(text) == {"branch": "work/x", "source_issue": "dm-1", "merge": "x"}


# -- a bead's life ----------------------------------------------------------------------------------


def event(kind: str, minutes: float, old: Any = "", new: Any = "", actor: str = "max") -> dict[str, Any]:
    values = [v if isinstance(v, str) else json.dumps(v) for v in (old, new)]
    return {
        "issue_id": "dm-1",
        "event_type": kind,
        "actor": actor,
        "old_value": values[0],
        "new_value": values[1],
        "created_at": clock(minutes),
    }


def test_the_events_table_tells_who_did_what_and_why() -> None:
    rows = [
        event("created", 0),
        event("status_changed", 1, {"status": "open"}, {"status": "hooked", "assignee": NUX}, "mayor"),
        event("reopened", 2, {"status": "closed"}, {"status": "open"}, "eve"),
        event("commented", 2, actor="eve") | {"comment": "broken again"},
        event("commented", 2) | {"comment": "somebody else's"},
        event("closed", 2, "", "done"),
        event("label_added", 3, "", "x"),
        event("updated", 4, {"priority": 2}, {"priority": 1, "title": "t"}),
    ]
    life = lifecycle.from_events(rows)["dm-1"]
    told = [(t.field, t.old, t.new, t.by, t.reason) for t in life]
    assert told == [
        ("status", "open", "hooked", "mayor", None),
        ("assignee", "", NUX, "mayor", None),
        ("status", "hooked", "closed", "max", "done"),
        ("status", "closed", "open", "eve", "broken again"),
        ("priority", "2", "1", "max", None),
    ], "of one second, the reopening follows the close that it undid"
    assert lifecycle.unknowns(BEAD, life, complete=True) == []


def steps(*statuses: str) -> list[dict[str, Any]]:
    """A history with a commit every minute."""
    return [
        {"CommitDate": clock(i + 0.5), "Issue": BEAD | {"status": status, "updated_at": clock(i)}}
        for i, status in enumerate(statuses)
    ]


def test_history_and_interactions_are_put_together_and_the_rest_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "interactions.jsonl"
    change = {"field": "status", "old_value": "in_progress", "new_value": "closed", "reason": "done"}
    lines: list[Any] = [
        {
            "id": "int-1",
            "kind": "field_change",
            "created_at": clock(2.02),
            "actor": "max",
            "issue_id": "dm-1",
        },
        {"id": "int-2", "kind": "tool_call", "created_at": clock(5), "issue_id": "dm-1"},
        {"kind": "label", "parent_id": "int-2", "label": "Good", "reason": "neat", "created_at": clock(6)},
        {"kind": "label", "parent_id": "int-of-nobody", "label": "bad"},
        [],
    ]
    lines[0] |= {"extra": change, "issue_id": "dm-1"}
    path.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + b'{"id": "int-3", "ki')
    said = lifecycle.read_interactions([path, tmp_path / "none"])
    assert said.broken == 2 and [label.label for label in said.labels["dm-1"]] == ["good"]
    recorded = lifecycle.from_history(steps("open", "in_progress", "closed", "open"))
    life = lifecycle.merged(recorded, said.changes["dm-1"])
    assert [(t.new, t.by, t.reason, t.source) for t in life] == [
        ("in_progress", None, None, "history"),
        ("closed", "max", "done", "history, interactions"),
        ("open", None, None, "history"),
    ]
    assert lifecycle.unknowns(BEAD, life, complete=True) == [
        f"who set status to in_progress at {clock(1)}",
        f"who set status to open at {clock(3)}",
    ]
    closed = BEAD | {"status": "closed"}
    assert lifecycle.unknowns(closed, [], complete=True) == [
        "how its status came to be closed",
        "why it was closed",
    ]
    assert lifecycle.unknowns(BEAD, [], complete=False) == ["its history has not been read yet"]


changes = st.builds(
    Transition,
    st.integers(0, 5).map(lambda m: clock(m / 10)),
    st.sampled_from(["status", "assignee"]),
    st.just("a"),
    st.sampled_from(["b", "c"]),
    st.sampled_from([None, "max"]),
    st.sampled_from([None, "why"]),
    st.just("x"),
)


@given(st.lists(changes, max_size=6), st.lists(changes, max_size=6))
def test_putting_together_loses_no_change_and_makes_none_up(
    recorded: list[Transition], said: list[Transition]
) -> None:
    life = lifecycle.merged(recorded, said)
    told = {(t.field, t.new) for t in life}
    assert told == {(t.field, t.new) for t in [*recorded, *said]}
    assert max(len(recorded), len(said)) <= len(life) <= len(recorded) + len(said)
    assert [t.at for t in life] == sorted(t.at for t in life)


# -- collecting -------------------------------------------------------------------------------------


@pytest.fixture
def bd(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``bd(script)``: a town whose bd is this shell script, and whose gt knows no convoys."""
    consented(town)
    (town.root / ".beads/metadata.json").write_text('{"dolt_mode": "embedded"}')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gt").write_text("#!/bin/sh\necho '[]'\n")
    (tmp_path / "bin/gt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def make(script: str) -> None:
        path = tmp_path / "bin/bd"
        path.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\n{script}\n')
        path.chmod(0o755)

    return make


def run(town: Town, source: str | None = None) -> CollectReport:
    return collect(town, source, sources=list(gt_corpus_sources(town)), scrubber=PlainScrubber())


def contents(town: Town, corpus_type: str) -> dict[str, dict[str, Any]]:
    with Store(town) as store:
        found = [d.document for _, d in store.documents(current=True)]
    return {d.key: json.loads(d.content) for d in found if d.corpus_type == corpus_type}


def answers(*beads: dict[str, Any], history: list[dict[str, Any]] | str = "null") -> str:
    """A bd that exports these beads and has this history for each."""
    lines = "\n".join(json.dumps(bead) for bead in beads)
    told = history if isinstance(history, str) else json.dumps(history)
    return f"""case "$1" in
export) cat <<'END'
{lines}
END
;;
history) cat <<'END'
{told}
END
;;
list) echo '[]' ;;
*) echo '{{"error": "no such thing"}}'; exit 1 ;;
esac"""


def test_beads_are_collected_once_and_again_when_they_change(town: Town, bd: Any, tmp_path: Path) -> None:
    edge = {"issue_id": "dm-2", "depends_on_id": "dm-1", "type": "blocks", "created_at": clock(0)}
    second = BEAD | {"id": "dm-2", "title": "PLANT-second", "dependencies": [edge], "assignee": NUX}
    bd(answers(BEAD, second, BEAD | {"id": "dm-wisp-1"}, BEAD, history=steps("open")))
    first = run(town)
    assert (first.captured, first.skipped) == (3, {}), "two beads and their graph"
    again = run(town)
    assert (again.captured, again.updated, again.unchanged, again.retired) == (0, 0, 3, 0)
    assert (tmp_path / "calls").read_text().split().count("history") == 2, "each bead was asked about once"
    (graph,) = contents(town, "dependency_graph").values()
    assert graph["edges"] == [{"from": "dm-2", "on": "dm-1", "type": "blocks", "at": clock(0)}]
    assert [b["title"] for b in graph["beads"]] == ["Greet", "[gone]"]
    with Store(town) as store:
        (one,) = [d.document for _, d in store.documents() if d.document.key == "dm-2"]
    assert (one.role, one.bead_id, one.at) == ("polecat", "dm-2", clock(0))
    closed = BEAD | {"status": "closed", "close_reason": "done", "updated_at": clock(1)}
    bd(answers(closed, history=steps("open", "closed")))
    third = run(town)
    assert (third.updated, third.retired) == (1, 2)
    assert contents(town, "bead")["dm-1"]["transitions"][0]["new"] == "closed"


@pytest.mark.parametrize("script", ["exit 3", "echo nonsense; exit 1", "kill -9 $$", "sleep 30"])
def test_a_bd_that_fails_is_counted_and_what_is_stored_stays(
    town: Town, bd: Any, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bd(answers(BEAD, history=steps("open")))
    assert run(town, "beads").captured == 1
    real = databases.Bd
    monkeypatch.setattr(databases, "Bd", lambda folder, timeout: real(folder, timeout=0.5))
    bd(script)
    log(town, 0, "sling", "mayor", bead="dm-1", target=NUX)
    failed = run(town)
    assert failed.skipped["bd_failed"] == 2 and failed.retired == 0 and failed.captured == 1
    assert set(contents(town, "bead")) == {"dm-1"} and len(contents(town, "sling_outcome")) == 1


def test_a_history_that_fails_or_must_wait_is_asked_again(
    town: Town, bd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [BEAD | {"id": f"dm-{n}"} for n in range(5)]
    bd(answers(*others, history="{}").replace("history) cat", "history) exit 1; cat"))
    assert run(town, "beads").skipped == {"bd_failed": 5}
    bd(answers(*others, history=steps("open")))
    monkeypatch.setattr(bead_source, "HISTORIES", 3)
    found = run(town, "beads")
    assert found.skipped == {"history_next_time": 1} and found.problems[0].count("2 beads") == 1
    assert run(town, "beads").skipped == {}
    assert all(c["complete"] for c in contents(town, "bead").values())


def test_a_source_that_breaks_halfway_retires_nothing(town: Town) -> None:
    from gt_plugins.corpus.sources import CorpusSource, Document, Kept, Trouble

    def collected(*, broken: bool) -> CollectReport:
        def yields(_: Town) -> Any:
            yield Document("x", "a", "note", "one")
            if broken:
                raise KeyError("PLANT-secret")
            yield Document("x", "b", "note", "two")

        sources = [CorpusSource("x", yields), CorpusSource("y", lambda _: [Kept("z"), Trouble("t", "odd")])]
        return collect(town, sources=sources, scrubber=PlainScrubber())

    consented(town)
    assert collected(broken=False).captured == 2
    found = collected(broken=True)
    assert (found.unchanged, found.retired) == (2, 0)
    assert found.skipped == {"odd": 1, "source_failed": 1} and "PLANT" not in str(found.problems)


def test_records_from_the_future_are_counted_and_passed_over(town: Town) -> None:
    consented(town)
    log(town, 0, "sling", "mayor", bead="dm-1", target=NUX)
    log(town, 60 * 24 * 365 * 50, "sling", "mayor", bead="dm-2", target=NUX)
    found = run(town)
    assert found.skipped["ahead"] == 1 and any("dated after now" in p for p in found.problems)
    assert len(contents(town, "sling_outcome")) == 1


def test_no_beads_and_no_bd_are_counted(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    consented(town)
    assert run(town).skipped == {"no_beads": 1}
    (town.root / ".beads/metadata.json").write_text("{}")
    monkeypatch.setenv("PATH", "/nowhere")
    found = run(town)
    assert found.skipped == {"bd_missing": 2, "gt_missing": 1}


def test_a_rig_that_is_left_out_is_not_asked(town: Town, bd: Any, tmp_path: Path) -> None:
    (town.root / "demo/.beads").mkdir()
    (town.root / "demo/.beads/metadata.json").write_text("{}")
    bd(answers(BEAD, history=steps("open")))
    assert [d.rig for d in databases.databases(town)] == ["", "demo"]
    text = town.settings_file.read_text()
    town.settings_file.write_text(text + '\n[capture]\nexclude_rigs = ["demo"]\n')
    log(town, 0, "sling", "mayor", bead="dm-9", target=NUX)
    assert run(town).skipped == {"excluded": 1}
    assert [d.rig for d in databases.databases(town)] == [""]


def test_redirects_lead_to_one_database(town: Town) -> None:
    for folder in ("demo/mayor/rig/.beads", "demo/.beads"):
        (town.root / folder).mkdir(parents=True)
    (town.root / "demo/.beads/redirect").write_text("mayor/rig/.beads\n")
    (town.root / "demo/mayor/rig/.beads/metadata.json").write_text("{}")
    (town.root / ".beads/routes.jsonl").write_text('# comment\n{"prefix":"dm-","path":"demo/mayor/rig"}\n{')
    (found,) = databases.databases(town)
    assert found.rig == "demo" and found.beads_dir == (town.root / "demo/mayor/rig/.beads").resolve()


# -- slings ------------------------------------------------------------------------------


def test_a_sling_is_told_with_what_followed_and_outlives_its_events(town: Town) -> None:
    consented(town)
    log(town, 0, "sling", "mayor", bead="dm-1", target=NUX)
    log(town, 10, "handoff", NUX, to_session=True)
    log(town, 20, "session_death", "daemon", agent=NUX, reason="crash")
    log(town, 30, "sling", "mayor", bead="dm-1", target="demo/polecats/slit")
    log(town, 40, "done", "demo/polecats/slit", bead="dm-1", branch="work/x")
    log(town, 41, "done", NUX, bead="dm-1", branch="late")
    assert run(town, "slings").captured == 2
    first, second = contents(town, "sling_outcome").values()
    assert (first["handoffs"], first["deaths"][0]["reason"]) == ([clock(10)], "crash")
    assert (first["end"], first["given_again"], first["done"]) == ("given again", clock(30), [])
    assert second["end"] == "done" and second["done"] == [{"at": clock(40), "branch": "work/x"}]
    town.events_file.write_text("")
    again = run(town, "slings")
    assert (again.unchanged, again.retired) == (2, 0)
