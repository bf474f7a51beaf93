"""Sessions joined to their beads, and what became of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corpus_helpers import PlainScrubber
from outcome_helpers import NUX, clock, log, put, session, span

from gt_plugins.corpus.outcomes import rows
from gt_plugins.corpus.outcomes.compute import compute
from gt_plugins.corpus.sources import Document
from gt_plugins.corpus.store import Store
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session


def work(minutes: float = 0, id: str = "s1", name: str = "nux") -> Session:
    """A polecat's session of two minutes."""
    return session((minutes, "git commit -m x", "ok"), id=id, role="polecat", rig="demo", name=name)


def document(store: Store, corpus_type: str, key: str, content: dict[str, Any]) -> None:
    """A record as ``gt corpus collect`` stores it."""
    source = "beads" if corpus_type == "bead" else "slings"
    found = Document(source, key, corpus_type, json.dumps(content), bead_id="dm-1")
    store.add_document(found, policy="p1", consent="Ann", source_hash=json.dumps(content))


def bead(store: Store, status: str, reason: str = "", *changes: tuple[float, str, str], **more: Any) -> None:
    """The record of dm-1."""
    fields: dict[str, Any] = {"id": "dm-1", "status": status, "close_reason": reason}
    if status == "closed":
        fields["closed_at"] = clock(60)
    moved = [
        {"at": clock(at), "field": "status", "old": old, "new": new, "by": None} for at, old, new in changes
    ]
    document(store, "bead", "dm-1", {"bead": fields, "transitions": moved, **more})


def outcomes(town: Town, store: Store) -> dict[str, str]:
    compute(town, store, PlainScrubber())
    return {stored.session.id: stored.outcome for stored in store.sessions()}


def given(town: Town, at: float = -10, agent: str = NUX) -> None:
    log(town, at, "sling", "mayor", bead="dm-1", target=agent)


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        ("closed", "Merged in dm-wisp-49i", "merged"),
        ("closed", "added the greeting", "closed"),
        ("closed", "", "closed"),
        ("closed", "rejected: tests fail", "rejected"),
        ("closed", "Duplicate of dm-4", "rejected"),
        ("closed", "abandoned", "abandoned"),
        ("closed", "cancelled by mayor", "abandoned"),
        ("in_progress", "", "unknown"),
    ],
)
def test_a_bead_closed_says_how(town: Town, status: str, reason: str, outcome: str) -> None:
    given(town)
    with Store(town) as store:
        put(store, work())
        bead(store, status, reason)
        assert outcomes(town, store) == {"s1": outcome}
        assert "dm-1" in rows.outcome_reason(store, "s1")


@pytest.mark.parametrize(
    ("reasons", "outcome"),
    [
        (["merged"], "merged"),
        (["rejected"], "rejected"),
        (["conflict", "merged"], "merged"),
        ([""], "unknown"),
    ],
)
def test_merge_requests_say_how(town: Town, reasons: list[str], outcome: str) -> None:
    given(town)
    with Store(town) as store:
        put(store, work())
        bead(store, "hooked")
        for number, reason in enumerate(reasons):
            facts = {"source_issue": "dm-1", "close_reason": reason, "status": "closed" if reason else "open"}
            document(store, "merge_request", f"dm-wisp-{number}", facts)
        assert outcomes(town, store) == {"s1": outcome}


def test_hand_offs_stitch_sessions_to_one_bead_and_a_reopening_tells_them_apart(town: Town) -> None:
    given(town)
    log(town, 5, "handoff", NUX, to_session=True)
    log(town, 65, "hook", NUX, bead="dm-1")
    with Store(town) as store:
        put(store, work(0, "a"), work(10, "b"), work(70, "c"), work(200, "other", "slit"))
        bead(
            store, "closed", "done", (20, "hooked", "closed"), (60, "closed", "open"), (90, "open", "closed")
        )
        found = outcomes(town, store)
    assert found == {"a": "reopened", "b": "reopened", "c": "closed", "other": "unknown"}


@pytest.mark.parametrize(
    ("kind", "actor", "payload", "outcome"),
    [
        ("unhook", NUX, {"bead": "dm-1"}, "abandoned"),
        ("sling", "mayor", {"bead": "dm-1", "target": "demo/polecats/slit"}, "abandoned"),
        ("done", NUX, {"bead": "dm-1"}, "unknown"),
        ("unhook", "demo/polecats/slit", {"bead": "dm-1"}, "unknown"),
    ],
)
def test_without_a_bead_s_record_events_say_what_they_can(
    town: Town, kind: str, actor: str, payload: dict[str, str], outcome: str
) -> None:
    given(town)
    log(town, 30, kind, actor, **payload)
    with Store(town) as store:
        put(store, work())
        assert outcomes(town, store) == {"s1": outcome}


def test_of_several_beads_the_worst_counts(town: Town) -> None:
    given(town)
    log(town, 0.5, "sling", "mayor", bead="dm-2", target=NUX)
    with Store(town) as store:
        put(store, work())
        bead(store, "closed", "Merged in x")
        assert outcomes(town, store) == {"s1": "unknown"}
        content = {"bead": {"status": "closed", "close_reason": "rejected"}}
        document(store, "bead", "dm-2", content)
        assert outcomes(town, store) == {"s1": "rejected"}


def test_people_win_and_a_subagent_follows_its_parent(town: Town) -> None:
    given(town)
    span(town)
    child = work(0, "s1.agent-1")
    with Store(town) as store:
        put(store, work(), Session(**{**vars(child), "parent": "s1"}))
        labels = [{"label": "nonsense"}, {"label": "bad", "at": clock(9)}]
        bead(store, "closed", "Merged in x", labels=labels)
        assert outcomes(town, store) == {"s1": "bad", "s1.agent-1": "bad"}
        assert rows.outcome_reason(store, "s1") == "labelled with `bd audit label`"
        store.label("s1", "good", "it is fine")
        assert outcomes(town, store) == {"s1": "good", "s1.agent-1": "bad"}


def test_an_outcome_that_was_found_stays_when_the_records_go(town: Town) -> None:
    given(town)
    with Store(town) as store:
        put(store, work())
        bead(store, "closed", "Merged in x")
        assert outcomes(town, store) == {"s1": "merged"}
        town.events_file.unlink()
        assert outcomes(town, store) == {"s1": "merged"}
        assert rows.decision_outcomes(store, "s1") == {}, "a polecat's decisions are judged by its bead"
