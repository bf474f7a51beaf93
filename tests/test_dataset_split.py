"""Training and held-out sessions: no task on both sides, the held-out newer, repetitions on one side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from dataset_helpers import NUDGE, build, every, session, stored
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gt_plugins.corpus.dataset import Built, Example, held_out, split
from gt_plugins.corpus.dataset.split import HELD_OUT, LEAKS, TRAIN
from gt_plugins.corpus.dedup import Duplicates, shingles
from gt_plugins.rendering.conversation import Conversation

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = st.lists(
    st.sampled_from("nux slit idle dead warrant nudge wait stuck for since".split()), max_size=60
)


def bare(name: str, hours: int | None, beads: tuple[str, ...] = (), parent: str = "") -> Example:
    from gt_plugins.corpus.dataset import Origin

    at = "" if hours is None else (BEGAN + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    empty = Conversation("", (), "", ())
    origin = Origin(started=at, parent=parent)
    return Example(name, "chat", "deacon", name, beads, "good", False, (), empty, origin=origin)


beads = st.lists(st.sampled_from([f"dm-{n}" for n in range(12)]), max_size=3, unique=True).map(tuple)
worlds = st.lists(st.tuples(st.none() | st.integers(0, 400), beads, st.booleans()), max_size=40)


@settings(max_examples=150, deadline=None)
@given(worlds)
@example([(n, (), False) for n in range(10)])
def test_no_task_is_on_both_sides_and_none_is_newer_than_what_is_held_out(world: list) -> None:
    found = [
        bare(f"s{n}", hours, beads, f"s{n - 1}" if child and n else "")
        for n, (hours, beads, child) in enumerate(world)
    ]
    made = split(found)
    assert set(made.sides) == {e.session for e in found}
    sides = {side: [e for e in found if made.sides[e.session] == side] for side in (TRAIN, HELD_OUT, LEAKS)}
    tasks = {side: {t for e in on for t in e.tasks} for side, on in sides.items()}
    assert not tasks[TRAIN] & tasks[HELD_OUT]
    if made.by == "time":
        assert sides[HELD_OUT] and all(e.origin.started >= made.cutoff for e in sides[HELD_OUT])
        assert all(e.origin.started < made.cutoff for e in sides[TRAIN])
        assert all(set(e.tasks) & tasks[HELD_OUT] for e in sides[LEAKS]), "left out for nothing"


@pytest.mark.parametrize(("count", "outside"), [(4, 0), (5, 1), (10, 1), (24, 2), (100, 10)])
def test_the_newest_tenth_is_held_out(count: int, outside: int) -> None:
    made = split([bare(f"s{n}", n) for n in range(count)])
    if not outside:
        assert made.by == "hash"
        return
    assert [s for s, side in made.sides.items() if side == HELD_OUT] == [
        f"s{n}" for n in range(count - outside, count)
    ]


def test_without_times_one_task_in_ten_is_held_out_for_ever() -> None:
    found = [bare(f"s{n}", None) for n in range(200)]
    made = split(found)
    outside = {s for s, side in made.sides.items() if side == HELD_OUT}
    assert made.by == "hash" and 8 <= len(outside) <= 40
    assert outside == {s for s in made.sides if held_out(s)}
    assert split(found[:50]).sides == {s: made.sides[s] for s in [f"s{n}" for n in range(50)]}


def worked(count: int, texts: dict[int, str], beads: dict[int, tuple[str, ...]]) -> Built:
    found = []
    for n in range(count):
        report = texts.get(n, f"report {n} of {n * 7} " + " ".join(f"w{n}x{k}" for k in range(30)))
        steps = (("", f"cat reports/{n}.txt", report), NUDGE)
        at = (BEGAN + timedelta(hours=n)).isoformat()
        found.append(stored(session(*steps, name=f"s{n}", beads=beads.get(n, ()), started=at)))
    return build(*found)


def test_an_early_session_of_a_late_task_is_left_out_and_counted() -> None:
    built = worked(20, {}, {3: ("dm-1",), 19: ("dm-1", "dm-2"), 4: ("dm-9",)})
    assert {e.session for e in built.heldout} == {"s18", "s19"}
    assert "s3" not in {e.session for e in every(built)}
    assert built.drops == {
        "chat: its task is on both sides of the split": 1,
        "decision: its task is on both sides of the split": 1,
    }


def test_a_repetition_across_the_split_is_on_one_side_only() -> None:
    report = "nux waits since noon " + " ".join(f"and saw {n}" for n in range(60))
    nearly = f"{report} today"
    built = worked(20, {2: report, 18: report, 19: nearly}, {})
    assert [e.session for e in built.train].count("s2") == 2
    assert built.heldout == ()
    assert built.drops["decision: same as another"] == 1
    assert built.drops["decision: nearly the same as another"] == 1
    told = built.facts["duplicates"]
    assert (told["exact"], told["near"]) == (1, 3) and told["clusters"] == 2
    cluster = next(c for c in told["largest"] if c["kept"] == "s2/0")
    assert cluster["dropped"] == ["s18/0", "s19/0"] and 0.9 <= cluster["least_similarity"] < 1


# -- repetitions -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_what_is_near_shares_as_much_as_it_says(shared: list[str], one: list[str], other: list[str]) -> None:
    """The estimate from 256 hashes lies within 5 standard deviations of the Jaccard index."""
    first, second = " ".join(shared * 2 + one), " ".join(shared * 2 + other)
    a, b = set(shingles(first)), set(shingles(second))
    true = len(a & b) / len(a | b)
    twice = Duplicates(threshold=0.5)
    twice.repeats("first", first)
    found = twice.repeats("second", second)
    if first == second:
        assert found is not None and found.exact
    elif true > 0.7:
        assert found is not None and not found.exact and abs(found.similarity - true) < 0.16
    elif true < 0.3:
        assert found is None


def test_answers_that_differ_are_no_repetition() -> None:
    twice = Duplicates()
    assert twice.repeats("a", "the same words", "nudge") is None
    assert twice.repeats("b", "the same words", "warrant") is None
    found = twice.repeats("c", "the same words", "nudge")
    assert found is not None and (found.key, found.exact) == ("a", True)


def test_a_cluster_is_what_is_near_to_the_one_that_is_kept() -> None:
    """No chain: c is near to b, but b was dropped, and a is far from c."""
    base = [f"w{n}" for n in range(100)]
    a, b, c = (" ".join(base[:k] + [f"x{n}" for n in range(k, 100)]) for k in (100, 94, 88))
    twice = Duplicates(threshold=0.85)
    assert twice.repeats("a", a) is None
    found = twice.repeats("b", b)
    assert found is not None and found.key == "a"
    assert twice.repeats("c", c) is None
    assert Duplicates(threshold=1.0).repeats("b", b) is None
