"""When a convention goes back on itself: whole versions, parts, and what is none of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins.corpus.reversion import (
    MESSAGE,
    Version,
    days_between,
    find,
    normalized,
    telling_lines,
    undoes,
    version_hash,
)

LINE = st.text("abcdefghij ", min_size=1, max_size=20).map(lambda s: f"{s.strip()}x")
TEXT = st.lists(LINE, min_size=1, max_size=8, unique=True).map("\n".join)


def version(text: str, at: str = "2026-03-01T08:00:00Z") -> Version:
    return Version(version_hash(text), at, text)


def test_the_sentence() -> None:
    assert MESSAGE.format(days=3) == (
        "CLAUDE.md reversion detected: current hash matches version from 3 days ago. "
        "Please confirm intentional reversion and add explicit corpus entry if so."
    )


@given(text=TEXT)
def test_layout_makes_no_version(text: str) -> None:
    other = "\ufeff" + text.replace("\n", " \t\r\n\n\n\n") + "\n\n"
    assert version_hash(other) == version_hash(text.replace("\n", "\n\n"))
    assert normalized(normalized(text)) == normalized(text)


@given(texts=st.lists(TEXT, min_size=2, max_size=6, unique_by=version_hash), data=st.data())
def test_an_earlier_version_is_found(texts: list[str], data: st.DataObject) -> None:
    before = [version(text, f"2026-03-0{n + 1}T08:00:00Z") for n, text in enumerate(texts)]
    place = data.draw(st.integers(0, len(texts) - 2))
    found = find(before, version(texts[place] + " \n"))
    assert found is not None and found.kind == "whole"
    assert (found.to, found.undone) == (before[place], before[-1])


@given(texts=st.lists(TEXT, min_size=1, max_size=5, unique_by=version_hash))
def test_going_on_is_no_reversion(texts: list[str]) -> None:
    before = [version(text) for text in texts]
    assert find(before, version(texts[-1] + "\nNEW RULE OF TODAY")) is None
    assert find(before, version(texts[-1])) is None
    assert find([], version(texts[-1])) is None


def test_the_newest_of_several_equal_versions_counts() -> None:
    a, b, c = (version(t) for t in ("one\n", "two\n", "three\n"))
    later = Version(a.hash, "2026-03-05T08:00:00Z", a.text)
    found = find([a, b, later, c], a)
    assert found is not None and found.to == later


@given(base=TEXT, added=st.lists(st.integers(0, 99).map("ADDED RULE {}".format), min_size=2, unique=True))
def test_taking_out_some_of_what_was_added(base: str, added: list[str]) -> None:
    last = base + "\n" + "\n".join(added)
    assert undoes(base, last, base + "\n" + "\n".join(added[1:]))
    assert not undoes(base, last, last + "\nANOTHER")


@pytest.mark.parametrize(
    ("before", "last", "new", "expected"),
    [
        ("keep\nold rule\n", "keep\nnew rule\n", "keep\nold rule\nmore\n", True),
        ("keep\nold rule\n", "keep\n", "keep\nold rule\nmore\n", True),
        ("keep\nold rule\n", "keep\nnew rule\n", "keep\nnewest rule\n", False),
        ("keep\n", "keep\nrule\n", "keep\nrule, mended\n", False),
        ("keep\nold\n", "keep\nold\nnew\n", "new\n", False),
        ("keep\n", "keep\n\n---\n", "keep\n", False),
        ("a\nb\n", "a\nb\nc\nd\n", "a\nb\nd\ne\n", True),
    ],
)
def test_undoing_in_part(before: str, last: str, new: str, expected: bool) -> None:
    assert undoes(before, last, new) is expected


def test_telling_lines() -> None:
    assert telling_lines("# Rules\nRun every test first.\nshort\n", "# Rules\n") == ["Run every test first."]


@pytest.mark.parametrize(
    ("earlier", "later", "days"),
    [
        ("2026-03-01T08:00:00Z", "2026-03-11T07:00:00Z", 9),
        ("2026-03-11T08:00:00Z", "2026-03-01T08:00:00Z", 0),
        ("", "2026-03-01T08:00:00Z", 0),
        ("2026-03-01T08:00:00", "2026-03-11T08:00:00Z", 0),
    ],
)
def test_days(earlier: str, later: str, days: int) -> None:
    assert days_between(earlier, later) == days
