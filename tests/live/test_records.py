"""Operational records and outcomes from the real gt and the real bd, embedded and on a town's server."""

from __future__ import annotations

import json
import os
import random
import shutil
import string
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gt_plugins.corpus import consent
from gt_plugins.corpus.collect import CollectReport, collect
from gt_plugins.corpus.operations.sources import gt_corpus_sources
from gt_plugins.corpus.outcomes.rows import decision_outcomes, judged
from gt_plugins.corpus.store import Store
from gt_plugins.sim.live_town import LiveTown
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn

pytestmark = pytest.mark.live
ALICE = "demo/crew/alice"


def run(town: Town) -> CollectReport:
    return collect(town, sources=list(gt_corpus_sources(town)))


def consented(town: Town) -> Town:
    consent.grant(town, "Ann")
    return town


def contents(town: Town, corpus_type: str) -> dict[str, dict[str, Any]]:
    with Store(town) as store:
        found = [
            d.document for _, d in store.documents(current=True) if d.document.corpus_type == corpus_type
        ]
    return {d.key: json.loads(d.content) for d in found}


def life(bead: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """The statuses that a bead went through, with who and why."""
    moves = [t for t in bead["transitions"] if t["field"] == "status"]
    return [(t["new"], t["by"], t["reason"]) for t in moves]


@pytest.fixture
def bd(town: Town) -> Callable[..., Any]:
    """The real bd on an embedded store in a small town; with ``--json`` its answer as a value."""
    if shutil.which("bd") is None:
        message = "LIVE TESTS NOT RUN: bd not on PATH"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{message}, and CI must have it", pytrace=False)
        pytest.skip(message)
    beads = town.root / ".beads"
    shutil.rmtree(beads)
    env = os.environ | {"BEADS_DIR": str(beads), "DOLT_METRICS_DISABLED": "1", "BD_ACTOR": "max"}

    def call(*words: str) -> Any:
        done = subprocess.run(
            ["bd", *words], cwd=town.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout

    call("init", "--prefix", "ft", "-q", "--non-interactive", "--stealth", "--skip-hooks", "--skip-agents")
    return call


def test_lives_from_an_embedded_store(town: Town, bd: Callable[..., Any]) -> None:
    secret = "ghp_" + "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=36))
    first = bd("create", f'Greet "{secret}"', "--json")["id"]
    second = bd("create", "Answer", "--json")["id"]
    bd("dep", "add", second, first)
    bd("create", "an agent", "-l", "gt:agent", "--json")
    bd("update", first, "--status", "in_progress", "--json")
    bd("close", first, "--reason", "greeted", "--json")
    bd("reopen", first, "--json")
    entry = bd("audit", "record", "--kind", "tool_call", "--issue-id", first, "--json")["id"]
    bd("audit", "label", entry, "--label", "bad", "--reason", "rude", "--json")
    found = run(consented(town))
    assert found.skipped == {"gt_missing": 1} or found.skipped == {} or "gt_failed" in found.skipped
    beads = contents(town, "bead")
    assert set(beads) == {first, second} and secret not in beads[first]["bead"]["title"]
    moves = life(beads[first])
    assert moves == [("in_progress", "max", None), ("closed", "max", "greeted"), ("open", None, None)]
    assert [u[:22] for u in beads[first]["unknown"]] == ["who set status to open"]
    assert [one["label"] for one in beads[first]["labels"]] == ["bad"]
    (graph,) = contents(town, "dependency_graph").values()
    assert [(e["from"], e["on"]) for e in graph["edges"]] == [(second, first)]
    again = run(town)
    assert (again.captured, again.updated, again.retired) == (0, 0, 0)


def polecat(id: str, bead_time: str, name: str) -> Session:
    """A session of crew alice that ran while a bead was on her hook."""
    turn = Turn("a1", "assistant", ({"type": "text", "text": "Working."},), at=bead_time, model="m1")
    return Session(
        id,
        "claude",
        (turn,),
        models=("m1",),
        started=bead_time,
        ended=bead_time,
        role="crew",
        rig="demo",
        name=name,
    )


def test_a_real_town_s_work_ends_merged_rejected_or_reopened(in_town: LiveTown) -> None:
    town, rig = consented(in_town.town), in_town.town.root / "demo"
    alice, me = rig / "crew/alice", {"GT_ROLE": ALICE, "BD_ACTOR": ALICE}

    def bd(*words: str) -> Any:
        return json.loads(in_town.run("bd", *words, "--json", cwd=rig).checked().out)

    def submit(title: str) -> tuple[str, str]:
        """A bead of alice's with a branch in the merge queue; (bead, merge request)."""
        bead = bd("create", title)["id"]
        branch = f"work/{bead}"
        in_town.run("git", "checkout", "-q", "-B", branch, "origin/HEAD", cwd=alice).checked()
        (alice / f"{bead}.txt").write_text(title)
        in_town.run("git", "add", ".", cwd=alice).checked()
        in_town.run("git", "commit", "-qm", title, cwd=alice).checked()
        in_town.run("git", "push", "-q", "origin", branch, cwd=alice).checked()
        in_town.run("gt", "hook", bead, cwd=alice, more=me).checked()
        done = in_town.run("gt", "mq", "submit", "--issue", bead, "--no-cleanup", cwd=alice, more=me)
        return bead, done.checked().out.split("MR ID:")[1].split()[0]

    for folder in (town.root, rig):
        statuses = "staged_ready,staged_warnings"
        in_town.run("bd", "config", "set", "status.custom", statuses, cwd=folder).checked()
    merged, merge = submit("Greet")
    with Store(town) as store:
        add(store, polecat("s-merged", last_hook(town), "alice"))
    convoy = in_town.gt("convoy", "create", "Greeting", merged).out
    assert "hq-cv-" in convoy
    in_town.run("git", "push", "-q", "origin", f"work/{merged}:main", cwd=alice).checked()
    in_town.gt("mq", "post-merge", "demo", merge, cwd=rig)
    refused, other = submit("Shout")
    with Store(town) as store:
        add(store, polecat("s-refused", last_hook(town), "alice"))
    in_town.gt("mq", "reject", "demo", other, "--reason", "too loud", cwd=rig)

    found = run(town)
    assert not {"bd_failed", "gt_failed", "bd_missing", "gt_missing"} & set(found.skipped), found.problems
    requests = contents(town, "merge_request")
    assert requests[merge]["source_issue"] == merged and "merged" in requests[merge]["close_reason"]
    assert requests[other]["source_issue"] == refused and requests[other]["status"] == "closed"
    beads = contents(town, "bead")
    assert beads[merged]["bead"]["close_reason"] == f"Merged in {merge}"
    assert [new for new, _, _ in life(beads[merged])] == ["hooked", "closed"]
    assert life(beads[merged])[0][1] == ALICE and beads[merged]["unknown"] == []
    assert not any(key.endswith(("-witness", "-refinery", "-alice")) for key in beads)
    (tracked,) = contents(town, "convoy").values()
    assert [one["id"] for one in tracked["convoy"]["tracked"]] == [merged]
    assert labels(town) == {"s-merged": "merged", "s-refused": "rejected"}
    again = run(town)
    assert (again.captured, again.updated, again.retired) == (0, 0, 0)

    in_town.run("bd", "reopen", merged, "--reason", "it broke", cwd=rig).checked()
    assert run(town).updated >= 1
    assert labels(town)["s-merged"] == "reopened"


def add(store: Store, session: Session) -> None:
    store.add_session(session, policy="p1", consent="Ann", source_hash=session.id, file=session.id)


def last_hook(town: Town) -> str:
    """When the newest hook event was written."""
    lines = [json.loads(line) for line in town.events_file.read_text().splitlines()]
    return str([one["ts"] for one in lines if one["type"] == "hook"][-1])


def labels(town: Town) -> dict[str, str]:
    with Store(town) as store:
        return {one.session.id: one.outcome for one in store.sessions()}


def test_a_patrol_s_real_commands_are_labelled_by_what_they_left(in_town: LiveTown) -> None:
    """The real gt and bd run a deacon's decisions and what followed; the session has what they printed."""
    town = consented(in_town.town)
    me, mayor = {"GT_ROLE": "deacon", "BD_ACTOR": "deacon"}, {"GT_ROLE": "mayor", "BD_ACTOR": "mayor"}
    nux, slit = "demo/polecats/nux", "demo/polecats/slit"
    turns: list[Turn] = []

    def decide(command: str) -> str:
        """Run a decision as the deacon would, into the session."""
        at = datetime.now(UTC).isoformat()
        ran = in_town.run("sh", "-c", command, cwd=town.root / "deacon", more=me)
        call = f"toolu_{len(turns)}"
        use = {"type": "tool_use", "id": call, "name": "Bash", "input": {"command": command}}
        turns.append(Turn(call, "assistant", (use,), at=at, model="m1"))
        said = {"type": "tool_result", "tool_use_id": call, "content": ran.out + ran.err}
        turns.append(Turn(f"r{call}", "user", (said | {"is_error": ran.code != 0},), at=at))
        return ran.out

    def happens(*words: str, as_: dict[str, str] = mayor) -> None:
        in_town.run(*words, more=as_).checked()

    happens("gt", "activity", "emit", "patrol_started", "--rig", "demo", "--actor", "demo/witness")
    happens("gt", "activity", "emit", "session_death", "--actor", nux, "--reason", "crash")
    decide(f"gt warrant file {nux} --reason 'no session'")
    decide(f"gt warrant file {slit} --reason 'it seems slow'")
    escalated = decide("gt escalate 'nux error disk' -s high")
    decide("gt escalate 'nobody answers this' -s low")
    made = decide("bd create 'save work of nux' -t task -l gt:cleanup")
    decide(f"gt activity emit patrol_watch --actor deacon --target {slit} --message 'slow'")
    time.sleep(1.1)
    happens("gt", "activity", "emit", "working", "--actor", slit)
    happens("gt", "escalate", "ack", escalated.split("created:")[1].split()[0])
    happens("bd", "close", made.split("issue:")[1].split()[0], "--reason", "pushed to a branch", as_=me)
    times = {"started": turns[0].at, "ended": turns[-1].at}
    with Store(town) as store:
        add(store, Session("patrol", "claude", tuple(turns), models=("m1",), role="deacon", **times))
    run(town)
    with Store(town) as store:
        found = list(decision_outcomes(store, "patrol").values())
        deeds = [one.deed for one in judged(store, "deacon") if one.deed.session == "patrol"]
    assert [d.kind for d in deeds] == ["warrant", "warrant", "escalate", "escalate", "cleanup", "watch"]
    assert [(o.label, o.reason.split(" ")[0]) for o in found] == [
        ("good", "its"),
        ("bad", "the"),
        ("good", "it"),
        ("unknown", "its"),
        ("good", "its"),
        ("unknown", "its"),
    ], found


def test_a_server_that_is_down_is_counted_and_what_is_stored_stays(in_town: LiveTown) -> None:
    """Last in this file: it leaves the town without its server."""
    town = consented(in_town.town)
    run(town)
    beads = set(contents(town, "bead"))
    in_town.run("gt", "dolt", "stop").checked()
    found = run(town)
    assert found.skipped.get("bd_failed", 0) + found.skipped.get("bd_missing", 0) >= 2, found.problems
    assert found.retired == 0 and set(contents(town, "bead")) == beads
