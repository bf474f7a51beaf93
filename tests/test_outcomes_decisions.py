"""Decisions of patrols: read from sessions, labelled by what followed in the town's records."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from corpus_helpers import PlainScrubber, capture, consented
from outcome_helpers import NUX, clock, deed, label, log, put, records, session, span, warrant

from gt_plugins.corpus.outcomes import rows
from gt_plugins.corpus.outcomes.compute import Computed, compute
from gt_plugins.corpus.outcomes.deeds import deeds, kind_of
from gt_plugins.corpus.outcomes.judge import Windows, judge
from gt_plugins.corpus.outcomes.rates import rates
from gt_plugins.corpus.outcomes.records import BeadFate
from gt_plugins.corpus.purge import purge
from gt_plugins.corpus.store import Store
from gt_plugins.errors import UserError
from gt_plugins.roles.profile import load_profile
from gt_plugins.settings import outcome_windows
from gt_plugins.sim.sessions import write_sessions
from gt_plugins.town.root import Town

ESCALATED = ("gt escalate 'nux error auth' -s high", "🚨 Escalation created: hq-wisp-9ab")


# -- what a session tells ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "kind", "named"),
    [
        ("gt nudge demo/polecats/nux 'idle 50m, go on'", "nudge", NUX),
        ("gt nudge --mode immediate deacon 'wake up'", "nudge", "deacon"),
        ("gt nudge deacon --mode=immediate 'wake up; now'", "nudge", "deacon"),
        ("gt warrant file demo/witness --reason 'a && b'", "warrant", "demo/witness"),
        ("gt polecat nuke demo/nux && gt nudge deacon x", "nuke", "demo/nux"),
        ("gt escalate 'disk full' -s high", "escalate", ""),
        ("gt escalate ack hq-wisp-1", "", ""),
        ("bd create 'save work of nux' -t task -l gt:cleanup", "cleanup", ""),
        ("bd create 'a task' -t task", "", ""),
        ("gt deacon start", "start", "deacon"),
        ("gt witness restart demo", "restart", "demo/witness"),
        ("gt deacon heartbeat 'ok nux'", "no-op", ""),
        ("gt activity emit patrol_watch --actor deacon --target demo/witness", "watch", "demo/witness"),
        ("gt activity emit patrol_ok --target=demo/polecats/nux", "no-op", NUX),
        ("gt nudge 'unclosed", "nudge", "'unclosed"),
        ("", "", ""),
    ],
)
def test_what_a_command_is_to_the_town(command: str, kind: str, named: str) -> None:
    assert kind_of(command) == (kind, named)


def test_a_deed_is_about_whom_its_words_or_its_evidence_name() -> None:
    found = session(
        (0, "cat reports/01.txt", "Report on demo/polecats/nux\nnext to demo/polecats/slit"),
        (1, "gt deacon heartbeat 'ok nux'", "ok"),
        (2, "gt deacon heartbeat 'ok nux'", "ok"),
        (3, "cat reports/02.txt", "demo/polecats/nux and alpha/polecats/nux"),
        (4, "gt deacon heartbeat 'ok nux'", "ok"),
        (5, "bd create 'save work of demo/crew/max' -l gt:cleanup", "✓ Created issue: dm-4kx1 — save"),
        (6, *ESCALATED),
    )
    made = list(deeds(found, load_profile("deacon")))
    assert [d.target for d in made] == [NUX, "", "", "demo/crew/max", ""]
    assert [d.ref for d in made] == ["", "", "", "dm-4kx1", "hq-wisp-9ab"]
    assert [d.call for d in made] == [f"toolu_s1_{i}" for i in (1, 2, 4, 5, 6)]
    assert made[0].at == pytest.approx(deed("x", minutes=1).at) and made[0].actor == "deacon"


# -- what the records say of a deed ------------------------------------------------------------------


def test_a_nudge_is_good_when_the_agent_stirs_and_bad_on_a_dead_one(town: Town) -> None:
    span(town)
    assert label(town, deed("nudge")).reason == "nothing followed"
    log(town, 0, "nudge", "deacon", target=NUX)
    log(town, 20, "mail", NUX, to="mayor/")
    assert label(town, deed("nudge")).label == "unknown", "twenty minutes later is not because of it"
    assert label(town, deed("nudge", minutes=6)).label == "good"
    log(town, -10, "session_death", "x", agent=NUX, reason="crash detected by daemon health check")
    found = label(town, deed("nudge"))
    assert (found.label, found.reason) == ("bad", "its session was dead")


def test_a_nudged_agent_that_dies_first_counts_against_it(town: Town) -> None:
    span(town)
    log(town, 4, "session_death", "daemon", agent=NUX, reason="zombie cleanup")
    log(town, 9, "session_start", NUX, session_id="x", role=NUX)
    log(town, 10, "mail", NUX, to="mayor/")
    assert label(town, deed("nudge")).reason == "the agent died 4 minutes later"
    assert label(town, deed("nudge", minutes=5)).label == "bad", "it was dead when it was nudged"
    assert label(town, deed("nudge", minutes=9.5)).label == "good"


def test_replies_in_captured_sessions_are_signs_of_life(town: Town) -> None:
    span(town)
    moment = deed("nudge", minutes=5).at
    assert label(town, deed("nudge"), stirred=[(NUX, [moment])]).label == "good"
    assert label(town, deed("nudge"), stirred=[("demo/polecats/slit", [moment])]).label == "unknown"


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        ("session_death", {"agent": NUX, "reason": "crash"}, "the agent died 5 minutes later"),
        ("escalation_sent", {"rig": "hq-1", "reason": f"{NUX} is stuck"}, "the agent was escalated"),
        ("nudge", {"target": NUX}, "the agent was nudged 5 minutes later"),
    ],
)
def test_what_contradicts_leaving_an_agent_alone(
    town: Town, kind: str, payload: dict[str, str], reason: str
) -> None:
    span(town)
    assert label(town, deed("no-op")).reason == "nothing contradicted it in 15 minutes"
    log(town, 5, kind, "demo/witness", **payload)
    assert (label(town, deed("no-op")).label, label(town, deed("no-op")).reason) == ("bad", reason)
    assert label(town, deed("no-op", "demo/polecats/slit")).label == "good"
    assert label(town, deed("no-op", minutes=-60)).label == "good", "it is outside the window"
    assert label(town, deed("watch")).label == ("good" if kind == "nudge" else "bad")


@pytest.mark.parametrize(
    ("agent", "text", "named"),
    [
        (NUX, "nux: disk full", True),
        (NUX, "demo/polecats/nux, disk full", True),
        (NUX, "alpha/polecats/nux disk full", False),
        (NUX, "nux2 and toast-nux", False),
        ("demo/witness", "demo/witness is stuck", True),
        ("demo/witness", "alpha/witness is stuck", False),
        ("demo/witness", "the witness is stuck", False),
    ],
)
def test_an_escalation_is_about_whom_it_names(town: Town, agent: str, text: str, named: bool) -> None:
    span(town)
    log(town, 5, "escalation_sent", "mayor", rig="hq-1", reason=text)
    assert (label(town, deed("no-op", agent)).label == "bad") is named


def test_an_ordinary_end_contradicts_nothing_and_a_warrant_does(town: Town) -> None:
    span(town)
    log(town, 5, "session_death", NUX, agent=NUX, reason="self-clean: done means idle")
    assert label(town, deed("no-op")).label == "good"
    warrant(town, NUX, 6)
    assert label(town, deed("no-op")).reason == "a warrant was filed on the agent"


def test_nothing_is_guessed_where_the_records_do_not_reach(town: Town) -> None:
    assert label(town, deed("no-op")).label == "unknown"
    log(town, -300, "done", NUX, bead="dm-1")
    log(town, 5000, "boot", "gt")
    found = label(town, deed("no-op"))
    assert found.reason == "the town's records do not reach back to it", "done is kept longer than others"
    log(town, -300, "mail", NUX)
    assert label(town, deed("no-op")).label == "good"


def test_a_window_is_over_by_the_records_or_by_the_clock(town: Town) -> None:
    log(town, -1, "mail", "mayor")
    assert label(town, deed("no-op")).reason == "its window is not over"
    assert label(town, deed("no-op"), now=deed("x", minutes=14).at).label == "unknown"
    assert label(town, deed("no-op"), now=deed("x", minutes=16).at).label == "good"
    log(town, 16, "mail", "mayor")
    assert label(town, deed("no-op")).label == "good"


def test_what_is_not_judged(town: Town) -> None:
    span(town)
    assert label(town, deed("no-op", "")).reason == "it does not say about whom"
    assert label(town, deed("no-op", failed=True)).reason == "its command failed"
    assert label(town, deed("mail")).reason == "there is no rule for it"


def test_a_warrant_is_good_on_a_session_that_was_dead(town: Town) -> None:
    span(town)
    log(town, -60, "mail", NUX)
    assert label(town, deed("warrant")).label == "unknown"
    warrant(town, NUX, 0, executed=5)
    assert label(town, deed("warrant")).label == "unknown", "that it was executed does not make it right"
    for minutes in (-40, -20):
        log(town, minutes, "nudge", "deacon", target=NUX)
    assert label(town, deed("warrant")).reason == "the session had not answered 2 nudges, and was ended"
    log(town, 3, "mail", NUX)
    assert label(town, deed("warrant")).label == "bad"
    other = "demo/witness"
    log(town, -5, "session_death", "x", agent=other, reason="crash")
    log(town, 8, "session_start", other, session_id="y", role=other)
    log(town, 9, "mail", other)
    assert label(town, deed("warrant", other)).reason == "its session was dead"


def test_an_escalation_is_good_when_it_is_acknowledged(town: Town) -> None:
    span(town)
    one = deed("escalate", "", ref="hq-1")
    assert label(town, one).reason == "the records have no such escalation"
    log(town, 0, "escalation_sent", "deacon", rig="hq-1", target="deacon", reason="nux error auth")
    assert label(town, one).reason == "nothing followed"
    assert label(town, deed("escalate", NUX)).reason == "nothing followed", "found by whom it is about"
    assert label(town, deed("escalate", "")).reason == "nothing followed", "found by who sent it"
    log(town, 30, "escalation_acked", "mayor", escalation_id="hq-1")
    assert label(town, one).reason == "it was acknowledged 30 minutes later"
    log(town, 40, "escalation_closed", "mayor", escalation_id="hq-1", reason="False alarm, no action needed")
    assert label(town, one).label == "bad"


def test_a_cleanup_is_good_when_its_bead_was_done(town: Town) -> None:
    span(town)
    one = deed("cleanup", "", ref="dm-7")
    log(town, 5, "sling", "mayor", bead="dm-7", target="demo/crew/max")
    assert label(town, one).reason == "nothing followed"
    log(town, 45, "done", "demo/crew/max", bead="dm-7", branch="x")
    assert label(town, one).reason == "its bead was done 45 minutes later"


def test_a_nuke_is_good_when_no_work_was_lost(town: Town) -> None:
    span(town)
    assert label(town, deed("nuke")).reason == "the agent had no work to lose"
    log(town, -90, "sling", "mayor", bead="dm-7", target=NUX)
    assert label(town, deed("nuke")).label == "unknown"
    log(town, -30, "done", NUX, bead="dm-7", branch="x")
    assert label(town, deed("nuke")).reason == "its work was done"
    log(town, 60, "sling", "mayor", bead="dm-7", target="demo/polecats/slit")
    assert label(town, deed("nuke")).label == "bad"


def test_a_start_is_good_on_an_agent_that_was_gone(town: Town) -> None:
    span(town)
    log(town, -1, "mail", "deacon", to="x")
    assert label(town, deed("start", "deacon")).reason == "the agent was at work"
    log(town, 100, "session_death", "hq-deacon", agent="Deacon", reason="crash")
    one = deed("start", "deacon", minutes=110)
    assert label(town, one).reason == "nothing followed"
    log(town, 111, "session_start", "deacon", session_id="z", role="deacon")
    assert label(town, one).reason == "it came up 1 minute later"
    log(town, 115, "session_death", "hq-deacon", agent="deacon", reason="crash")
    assert label(town, one).reason == "it came up and died again"
    assert label(town, deed("restart", "deacon", minutes=0)).label == "bad"


def test_lines_and_files_that_are_broken_are_passed_over(town: Town) -> None:
    span(town)
    with town.events_file.open("ab") as handle:
        handle.write(
            b'{"ts": 5, "type": "mail"}\n\xff\xfe\n[1]\n{"ts":"2026-03-01T12:05:00Z","type":[]}\n{"ts"'
        )
        handle.write(b"[" * 100_000 + b'\n{"ts":"2026-03-01T12:05:00+00:00","type":"nudge","payload":[1]}\n')
    (town.root / "warrants").mkdir()
    for name, text in {"a": "[]", "b": "{", "c": '{"target": 5, "filed_at": "yesterday"}'}.items():
        (town.root / f"warrants/{name}.warrant.json").write_text(text)
    assert records(town).until and not records(town).warrants


# -- a clock that jumps ------------------------------------------------------------------------------


def test_records_from_the_future_end_no_window(town: Town) -> None:
    log(town, -1, "mail", "mayor")
    now = deed("x", minutes=0.5).at
    assert label(town, deed("no-op"), now=now).reason == "its window is not over"
    log(town, 30_000, "nudge", "gt", target=NUX)
    warrant(town, NUX, 30_000)
    assert label(town, deed("no-op"), now=now).reason == "its window is not over"
    found = records(town, now=now, stirred=[(NUX, [now - 5, now + 3600])])
    assert (found.ahead, found.until <= now, dict(found.nudged), dict(found.warrants)) == (2, True, {}, {})
    assert found.stirred[NUX] == [now - 5]


def test_a_clock_a_little_ahead_is_no_wrong_one(town: Town) -> None:
    log(town, -1, "mail", "mayor")
    log(town, 4, "mail", NUX)
    now = deed("x", minutes=1).at
    assert label(town, deed("nudge"), now=now).reason == "the agent stirred 4 minutes later"
    assert records(town, now=now).ahead == 0 and not records(town, now=now).over(now + 1)


def test_a_label_that_a_wrong_clock_gave_is_taken_back(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    log(town, -1, "mail", "mayor")
    with Store(town) as store:
        seen = (-0.5, "cat reports/01.txt", f"Report on {NUX}")
        put(store, session(seen, (0, "gt deacon heartbeat 'ok nux'", "ok")))
        monkeypatch.setattr(time, "time", lambda: deed("x", minutes=30_000).at)
        assert run(town, store).decisions == {"good": 1}
        log(town, 30_000, "mail", "mayor")
        monkeypatch.setattr(time, "time", lambda: deed("x", minutes=0.5).at)
        again = run(town, store)
        assert (again.decisions, again.ahead, again.sessions) == ({"unknown": 1}, 1, {"unknown": 1})
        monkeypatch.setattr(time, "time", lambda: deed("x", minutes=20).at)
        assert run(town, store).decisions == {"good": 1}


# -- the corpus -------------------------------------------------------------------------------------


def run(town: Town, store: Store) -> Computed:
    return compute(town, store, PlainScrubber())


def test_labels_stay_when_the_records_are_pruned_and_people_win(town: Town) -> None:
    span(town)
    log(town, 5, "mail", NUX)
    with Store(town) as store:
        put(store, session((0, f"gt nudge {NUX} 'go on'", "Nudged")))
        assert run(town, store).decisions == {"good": 1}
        assert store.session("s1").outcome == "good"  # type: ignore[union-attr]
        (found,) = rows.decision_outcomes(store, "s1").items()
        assert found[0] == "toolu_s1_0" and found[1].reason == "the agent stirred 5 minutes later"
        town.events_file.write_text("")
        again = run(town, store)
        assert again.decisions == {"good": 1} and again.relabelled == again.changed == again.read == 0
        store.label("s1", "bad", "no")
        assert rows.decision_outcomes(store, "s1")["toolu_s1_0"].label == "bad"
        run(town, store)
        assert store.session("s1").outcome == "bad"  # type: ignore[union-attr]


def test_a_session_that_grew_is_read_again(town: Town) -> None:
    span(town)
    log(town, 5, "mail", NUX)
    steps = [(0.0, f"gt nudge {NUX} 'go on'", "Nudged"), (1.0, f"gt warrant file {NUX} -r x", "ok")]
    with Store(town) as store:
        put(store, session(steps[0]))
        run(town, store)
        grown = session(*steps)
        store.add_session(grown, policy="p1", consent="Ann", source_hash="h2", file="s1")
        assert run(town, store).read == 1
        assert [j.outcome.label for j in rows.judged(store)] == ["good", "bad"]
        assert store.session("s1").outcome == "bad"  # type: ignore[union-attr]
        store.rewrite_session(grown, policy="p2")
        assert {j.deed.target for j in rows.judged(store)} == {""}, "names go until it is read again"
        run(town, store)
        assert [j.outcome.label for j in rows.judged(store)] == ["good", "bad"]


def test_a_purge_takes_the_labels_too(town: Town) -> None:
    span(town)
    with Store(town) as store:
        put(store, session((0, f"gt nudge {NUX} 'go on'", "Nudged")))
        run(town, store)
    purge(town, "s1")
    with Store(town) as store:
        left = [store.query(f"SELECT * FROM {table}") for table in ("decisions", "outcomes")]
    assert left == [[], []]


def test_names_that_were_scrubbed_still_find_their_records(town: Town) -> None:
    span(town)
    agent = "demo/crew/PLANT-mara"
    log(town, 5, "mail", agent)
    with Store(town) as store:
        put(store, session((0, "gt nudge 'demo/crew/[gone]' 'go on'", "Nudged")))
        assert run(town, store).decisions == {"good": 1}
        assert b"PLANT-mara" not in town.corpus_db.read_bytes()


@pytest.mark.parametrize("role", ["deacon", "boot", "witness"])
def test_the_teachers_decisions_turn_out_well(town: Town, tmp_path: Path, role: str) -> None:
    write_sessions(consented(town), tmp_path / "p", role, 60)
    capture(town, tmp_path / "p")
    with Store(town) as store:
        run(town, store)
        found = list(rows.judged(store))
    good = [one for one in found if one.outcome.label == "good"]
    assert len(found) == 60 and len(good) >= 55
    assert {one.deed.action for one in good} == set(load_profile(role).action_names)
    assert all(one.deed.target for one in found)


def test_the_wrong_decision_in_the_same_place_is_not_good(town: Town, tmp_path: Path) -> None:
    """Had the teacher nudged the dead and warranted the living, the same records would say so."""
    write_sessions(consented(town), tmp_path / "p", "deacon", 120)
    capture(town, tmp_path / "p")
    with Store(town) as store:
        run(town, store)
        found = list(rows.judged(store))
    swapped = {"create-cleanup-wisp": "nudge", "nudge": "warrant"}
    wrong = [
        label(town, deed(swapped[j.deed.action], j.deed.target, (j.deed.at - deed("x").at) / 60))
        for j in found
        if j.deed.action in swapped
    ]
    assert len(wrong) == 40 and sum(w.label == "good" for w in wrong) <= 2
    assert sum(w.label == "bad" for w in wrong) >= 35


# -- rates ------------------------------------------------------------------------------------------


def test_a_rate_stands_beside_that_of_matched_situations(town: Town) -> None:
    """Every second agent that is left alone stirs by itself; every nudged one does."""
    span(town, -6000, 6000)
    steps: list[Any] = []
    with Store(town) as store:
        for index in range(40):
            at, agent, nudged = index * 30.0, f"demo/polecats/p{index}", index % 2 == 0
            log(town, at - 30, "mail", agent)
            command = (
                f"gt nudge {agent} 'go'" if nudged else f"gt activity emit patrol_watch --target {agent}"
            )
            steps.append((at, command, "ok"))
            if nudged or index % 4 == 1:
                log(town, at + 5, "mail", agent)
        put(store, session(*steps))
        run(town, store)
        judged = list(rows.judged(store))
    found = {r.action: r for r in rates(judged, records(town), Windows())}
    nudge = found["nudge"]
    assert (nudge.decisions, nudge.good, nudge.rate) == (20, 20, 1.0) and 0.8 < nudge.low < 0.9
    assert nudge.without is not None and 0.2 < nudge.without < 0.7 and nudge.matched >= 20
    assert found["log-and-watch"].good == 20


def test_escalations_and_cleanups_are_matched_by_whom_their_records_name(town: Town) -> None:
    """Every fourth agent that is left alone is escalated by somebody else, or its work is done."""
    span(town, -6000, 6000)
    steps: list[Any] = []
    fates: dict[str, BeadFate] = {}
    for index in range(48):
        at, name = index * 30.0, f"p{index}"
        agent, turn = f"demo/polecats/{name}", index % 6
        log(town, at - 90, "sling", "mayor", bead=f"dm-{index}", target=agent)
        log(town, at - 30, "mail", agent)
        match turn:
            case 0:
                steps.append((at, f"gt escalate '{name} error auth' -s high", f"created: hq-wisp-{index}"))
                log(
                    town, at, "escalation_sent", "deacon", rig=f"hq-wisp-{index}", reason=f"{name} error auth"
                )
            case 1:
                steps.append((at, f"bd create 'save work of {name}' -l gt:cleanup", f"created: hq-{index}"))
                done = deed("x", minutes=at + 40).at
                fates[f"hq-{index}"] = BeadFate("closed", done, "saved", title=f"save work of {name}")
            case _:
                steps.append((at, f"gt activity emit patrol_watch --target {agent}", "ok"))
        if turn == 2:
            log(town, at + 20, "escalation_sent", "demo/witness", rig=f"hq-o{index}", reason=f"{name} stuck")
        if turn in (0, 2):
            id = f"hq-wisp-{index}" if turn == 0 else f"hq-o{index}"
            log(town, at + 50, "escalation_acked", "mayor", escalation_id=id)
        if turn == 3:
            log(town, at + 60, "done", agent, bead=f"dm-{index}", branch="x")
    with Store(town) as store:
        put(store, session(*steps))
        run(town, store)
        judged = list(rows.judged(store))
    known = records(town, beads=fates)
    again = [rows.Judged(one.deed, judge(one.deed, known, Windows())) for one in judged]
    found = {r.action: r for r in rates(again, known, Windows())}
    for action in ("escalate-to-mayor", "create-cleanup-wisp"):
        assert (found[action].good, found[action].decisions) == (8, 8), action
        assert found[action].matched >= 32 and 0.05 < (found[action].without or 0) < 0.4, action


def test_a_decision_about_no_one_agent_is_matched_with_none(town: Town) -> None:
    span(town)
    for name in ("demo/polecats/nux", "alpha/polecats/nux", "demo/polecats/slit"):
        log(town, -30, "mail", name)
    known = records(town)
    named = ("nobody answers", "nux is stuck", "nux and slit", "slit", "demo/polecats/nux: disk")
    assert [known.named_in(text) for text in named] == ["", "", "", "demo/polecats/slit", NUX]


def test_windows_are_settings(town: Town) -> None:
    assert outcome_windows(town) == (900.0, 86400.0)
    town.settings_file.write_text("[outcomes]\nwindow_minutes = 5\n")
    assert outcome_windows(town) == (300.0, 86400.0)
    town.settings_file.write_text("[outcomes]\nsettle_hours = 0\n")
    with pytest.raises(UserError, match=r"outcomes\.settle_hours"):
        outcome_windows(town)


def test_the_command_shows_labels_rates_and_reasons(
    town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gt_plugins.cli import corpus as cli

    monkeypatch.chdir(town.root)

    def gt_corpus(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["outcomes", *words])
        return int(left.value.code or 0), capsys.readouterr().out

    assert json.loads(gt_corpus("--json")[1]) == {"sessions": [], "decisions": [], "reasons": [], "ahead": 0}
    assert not town.corpus_dir.exists()
    span(town)
    log(town, 5, "mail", NUX)
    with Store(town) as store:
        put(store, session((0, f"gt nudge {NUX} 'go on'", "Nudged")))
    code, out = gt_corpus("--role", "deacon", "--json")
    found = json.loads(out)
    assert code == 0 and found["sessions"] == [{"role": "deacon", "outcome": "good", "sessions": 1}]
    (rate,) = found["decisions"]
    assert (rate["action"], rate["good"], rate["rate"], rate["matched"] > 0) == ("nudge", 1, 1.0, True)
    assert found["reasons"] == [{"label": "good", "reason": "the agent stirred N minute later", "count": 1}]
    assert "nudge" in gt_corpus()[1]
    assert gt_corpus("--role", "king")[0] == gt_corpus("--session", "nobody")[0] == 2
    assert gt_corpus("--role", "deacon", "--session", "s1")[0] == 2
    one = json.loads(gt_corpus("--session", "s1", "--json")[1])
    assert (one["session"], one["outcome"], one["decisions"][0]["label"]) == ("s1", "good", "good")
    assert "the agent stirred 5 minutes later" in gt_corpus("--session", "s1")[1]
    assert clock(0) == "2026-03-01T12:00:00Z"
