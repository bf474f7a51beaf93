"""Reversions of conventions, from collecting to review: without git, with git, and what may train."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import git
import pytest
from corpus_helpers import PlainScrubber, consented, raw_bytes
from dataset_helpers import NUDGE, build, every, session, stored

from gt_plugins.cli import corpus as cli
from gt_plugins.corpus import reversions
from gt_plugins.corpus.artifacts import gt_corpus_sources
from gt_plugins.corpus.assemble import unreverted
from gt_plugins.corpus.collect import CollectReport, collect
from gt_plugins.corpus.dataset import Example
from gt_plugins.corpus.history import file_history
from gt_plugins.corpus.reversion import MESSAGE
from gt_plugins.corpus.store import Store
from gt_plugins.errors import UserError
from gt_plugins.town.root import Town

A = "# Rules\nAlways nudge a silent witness first.\n"
B = "# Rules\nNever nudge; file a warrant at once.\n"
C = "# Rules\nAsk the mayor whenever you are in doubt.\n"
DAY = 86400


@pytest.fixture
def place(town: Town) -> Town:
    return consented(town)


def gather(town: Town) -> CollectReport:
    return collect(town, "conventions", sources=gt_corpus_sources(town), scrubber=PlainScrubber())


def put(path: Path, text: str, days_ago: float = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    at = time.time() - days_ago * DAY - 60
    os.utime(path, (at, at))


def found(town: Town, state: str | None = None) -> list[reversions.Reversion]:
    with Store(town) as store:
        return reversions.reversions(store, state)


def turns(town: Town, *texts: str, name: str = "CLAUDE.md") -> CollectReport:
    """Collect each text in turn, each two days after the one before; the last now."""
    report = CollectReport()
    for number, text in enumerate(texts):
        put(town.root / name, text, 2 * (len(texts) - 1 - number))
        report = gather(town)
    return report


def test_a_version_that_comes_back_is_flagged_with_the_sentence(place: Town) -> None:
    report = turns(place, A, B, A + "\n\n")
    (one,) = found(place)
    assert one.message == MESSAGE.format(days=4) and one.state == "open" and one.kind == "whole"
    assert report.reversions == (one.to_json(),)
    assert gather(place).reversions == () and len(found(place)) == 1


def test_going_on_is_not_flagged(place: Town) -> None:
    turns(place, A, B, C, C + "And be brief about it.\n")
    assert found(place) == []


def test_undoing_the_last_change_in_part(place: Town) -> None:
    turns(place, A, A + "Close your beads.\nWrite it down.\n", A + "Write it down.\n")
    (one,) = found(place)
    assert (one.kind, one.days) == ("part", 4)
    assert one.message.startswith(MESSAGE.format(days=4)) and "In part" in one.message


def test_other_documents_have_no_versions(place: Town) -> None:
    turns(place, A, B, A, name="AGENTS.md")
    assert found(place) == []


def test_back_and_forth_is_flagged_each_time(place: Town) -> None:
    turns(place, A, B, A, B)
    assert len(found(place)) == 2
    turns(place, A)
    assert len(found(place)) == 3 and len({one.id for one in found(place)}) == 3


def test_several_folders_of_a_rig_show_one_reversion(place: Town) -> None:
    for text in (A, B, A):
        for folder in ("mayor/rig", "crew/alice", "polecats/p/demo"):
            put(place.root / "demo" / folder / "CLAUDE.md", text)
        gather(place)
    assert len(found(place)) == 1


def commit(repo: git.Repo, text: str, days_ago: float, name: str = "CLAUDE.md") -> None:
    path = Path(str(repo.working_tree_dir)) / name
    path.write_text(text)
    repo.index.add([name])
    at = f"{int(time.time() - days_ago * DAY)} +0000"
    who = git.Actor("Ann", "ann@example.org")
    repo.index.commit("x", author=who, committer=who, author_date=at, commit_date=at)


def test_the_history_of_the_repository_counts(place: Town) -> None:
    repo = git.Repo.init(place.root / "demo/mayor/rig")
    for text, days in ((A, 10.5), (B, 5), (A, 0.01)):
        commit(repo, text, days)
    assert [c.text for c in file_history(place.root / "demo/mayor/rig/CLAUDE.md")] == [A, B, A]
    gather(place)
    (one,) = found(place)
    assert (one.days, one.rig, one.key) == (10, "demo", "demo/mayor/rig/CLAUDE.md")


def test_old_history_that_was_settled_is_not_flagged(place: Town) -> None:
    repo = git.Repo.init(place.root / "demo/mayor/rig")
    for text, days in ((A, 9), (B, 8), (A, 7), (C, 6)):
        commit(repo, text, days)
    gather(place)
    assert found(place) == []


def test_commits_between_two_looks_are_judged(place: Town) -> None:
    repo = git.Repo.init(place.root / "demo/mayor/rig")
    commit(repo, A, 9)
    commit(repo, B, 5)
    gather(place)
    with Store(place) as store:
        yesterday = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - DAY))
        store.execute("UPDATE versions SET seen_at = ?", yesterday)
    commit(repo, A, 0.02)
    commit(repo, C, 0.01)
    gather(place)
    assert [one.kind for one in found(place)] == ["whole"]


def pulled_between(place: Town, shallow: bool, *texts: str) -> tuple[git.Repo, git.Repo]:
    """A clone that was looked at with ``texts[0]``, into which commits of the others were then pulled that
    were made elsewhere before that look."""
    origin = git.Repo.init(place.root.parent / "origin")
    commit(origin, texts[0], 9)
    url = f"file://{origin.working_tree_dir}"
    clone = git.Repo.clone_from(url, place.root / "demo/crew/alice", **({"depth": 1} if shallow else {}))
    gather(place)
    for number, text in enumerate(texts[1:]):
        commit(origin, text, 5 - number)
    clone.remotes.origin.pull()
    return origin, clone


@pytest.mark.parametrize("shallow", [True, False])
def test_a_file_that_went_to_and_fro_between_two_looks_is_judged(place: Town, shallow: bool) -> None:
    origin, clone = pulled_between(place, shallow, A, C, A)
    report = gather(place)
    (one,) = found(place)
    assert (one.kind, [r["id"] for r in report.reversions]) == ("whole", [one.id])
    assert gather(place).reversions == () and len(found(place)) == 1
    with Store(place) as store:
        for text in (A, C):
            assert reversions.tells_of(text, reversions.blocked_lines(store))
    commit(origin, C, 0.1)
    clone.remotes.origin.pull()
    gather(place)
    assert len(found(place)) == 2, "what was judged is there to go back to"


def test_commits_that_only_go_on_are_not_flagged(place: Town) -> None:
    pulled_between(place, True, A, B, C)
    gather(place)
    assert found(place) == []


def test_a_rebase_is_no_reversion_and_a_reset_is_one(place: Town) -> None:
    origin, clone = pulled_between(place, False, A, C)
    gather(place)
    commit(clone, C + "Be brief.\nBe kind.\n", 0.3)
    commit(clone, C + "Be brief.\nBe kind.\nBe quick.\n", 0.2)
    gather(place)
    commit(origin, "hello\n", 0.1, name="README.md")
    clone.git.config("user.email", "ann@example.org")
    clone.git.config("user.name", "Ann")
    clone.remotes.origin.pull(rebase=True)
    gather(place)
    assert found(place) == []
    clone.git.reset("--hard", "HEAD~2")
    gather(place)
    assert [one.kind for one in found(place)] == ["whole"]


def test_what_came_below_commits_of_ones_own_is_judged_once(place: Town) -> None:
    origin, clone = pulled_between(place, False, A)
    for name in ("user.email", "user.name"):
        clone.git.config(name, "ann@example.org")
    commit(clone, A + "Be brief about all of it.\n", 0.3)
    gather(place)
    commit(origin, "Begin.\n" * 9 + A, 0.25)
    clone.remotes.origin.pull(rebase=True)
    gather(place)
    assert found(place) == [], "what others added does not take back what was added here"
    for text in ("Begin.\n" * 9 + C, "Begin.\n" * 9 + A):
        commit(origin, text, 0.2)
    before = clone.head.commit.hexsha
    clone.remotes.origin.pull(rebase=True)
    gather(place)
    assert [one.kind for one in found(place)] == ["whole"]
    after = clone.head.commit.hexsha
    for head in (before, after):
        clone.git.reset("--hard", head)
        gather(place)
    assert len(found(place)) == 1


def test_a_clone_that_was_made_anew_is_looked_at_by_what_was_seen(place: Town) -> None:
    origin, clone = pulled_between(place, True, A, B)
    gather(place)
    shutil.rmtree(str(clone.working_tree_dir))
    commit(origin, C, 0.1)
    git.Repo.clone_from(f"file://{origin.working_tree_dir}", str(clone.working_tree_dir), depth=1)
    gather(place)
    assert found(place) == []
    put(Path(str(clone.working_tree_dir)) / "CLAUDE.md", B)
    gather(place)
    assert [one.kind for one in found(place)] == ["whole"]


def test_a_file_outside_any_repository_or_of_an_odd_one(tmp_path: Path) -> None:
    assert file_history(tmp_path / "CLAUDE.md") == []
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert file_history(tmp_path / "CLAUDE.md") == []
    repo = git.Repo.init(tmp_path / "r")
    (tmp_path / "r/CLAUDE.md").write_bytes(b"\xff\xfe")
    repo.index.add(["CLAUDE.md"])
    repo.index.commit("x")
    assert file_history(tmp_path / "r/CLAUDE.md") == []


def test_neither_version_trains_until_confirmed(place: Town) -> None:
    turns(place, A, B, A)
    (one,) = found(place)
    with Store(place) as store:
        assert reversions.blocked_versions(store) == {one.hash, one.undone}
        lines = reversions.blocked_lines(store)
        for text in (A, B):
            assert reversions.tells_of(f"so it says:\n  {text}", lines)
        assert not reversions.tells_of(f"{C}\n# Rules\n", lines)
        assert len(reversions.blocked_documents(store)) == 2
        decided = reversions.confirm(store, one.id[:8], "Ann", "we had it right before")
        assert (decided.state, decided.by) == ("confirmed", "Ann")
        assert reversions.blocked_lines(store) == frozenset() == reversions.blocked_versions(store)
        ((_, entry),) = store.documents("reversions")
        assert entry.document.corpus_type == "convention_doc" and entry.consent.startswith("Ann at")
        assert one.message in entry.document.content and A.strip() in entry.document.content
        assert "we had it right before" in entry.document.content
    gather(place)
    with Store(place) as store:
        assert [d.current for _, d in store.documents("reversions")] == [True], "collecting retires no entry"


def test_what_comes_from_either_version_is_dropped_from_datasets(place: Town) -> None:
    seen = {"s1": A, "s2": B, "s3": C}
    made = [build(stored(session(("", "cat CLAUDE.md", t), NUDGE, name=n))) for n, t in seen.items()]
    examples = [example for one in made for example in every(one)]
    assert {e.session for e in examples} == set(seen)
    turns(place, A, B, A)

    def keep(example: Example) -> None:
        return None

    with Store(place) as store:
        judge = unreverted(store, keep)
        dropped = {e.session for e in examples if judge(e) is not None}
        assert dropped == {"s1", "s2"}
        verdict = next(v for v in map(judge, examples) if v is not None)
        assert "reverted convention" in verdict.reason
        reversions.reject(store, found(place)[0].id, "Ann")
        assert {e.session for e in examples if unreverted(store, keep)(e) is not None} == {"s1"}
        reversions.confirm(store, found(place)[0].id, "Ann")
        assert all(unreverted(store, keep)(e) is None for e in examples)


def test_a_rejected_version_stays_out_and_may_be_mended(place: Town) -> None:
    turns(place, A, B, A)
    (one,) = found(place)
    with Store(place) as store:
        reversions.confirm(store, one.id, "Ann")
        reversions.reject(store, one.id, "Ann", "no")
        lines = reversions.blocked_lines(store)
        assert reversions.tells_of(A, lines) and not reversions.tells_of(B, lines)
        assert list(store.documents("reversions", current=True)) == []
    turns(place, B)
    assert len(found(place)) == 1, "putting the right version back is no reversion to be reviewed"


def test_names_that_are_none(place: Town) -> None:
    turns(place, A, B, A, B)
    with Store(place) as store:
        for ref in ("rev-nothing", "", "rev-"):
            with pytest.raises(UserError, match="reversion"):
                reversions.resolve(store, ref)


def test_history_is_scrubbed_before_it_is_compared(place: Town) -> None:
    repo = git.Repo.init(place.root / "demo/mayor/rig")
    secret = "The password is PLANT-secret, do not tell.\n"
    commit(repo, A, 9)
    commit(repo, A + secret + "Close your beads.\n", 5)
    commit(repo, A + secret, 0.1)
    gather(place)
    assert [one.kind for one in found(place)] == ["part"]
    assert b"PLANT" not in raw_bytes(place.corpus_dir)


def test_a_poisoned_history_stops_nothing(place: Town) -> None:
    repo = git.Repo.init(place.root / "demo/mayor/rig")
    for text, days in ((A, 9), ("POISON\n", 5), (A, 0.1)):
        commit(repo, text, days)
    gather(place)
    assert [one.kind for one in found(place)] == ["whole"]


def changed(town: Town) -> list[str]:
    (one,) = found(town)
    with Store(town) as store:
        return reversions.changes(store, town, one, lambda text: PlainScrubber().text(text)[0])


def test_what_changed_is_shown_scrubbed(place: Town) -> None:
    more = "".join(f"Rule {n} PLANT-word.\n" for n in range(30))
    turns(place, A, A + more, A)
    shown = changed(place)
    assert shown[:2] == ["- Rule 0 [gone].", "- Rule 1 [gone]."]
    assert len(shown) == 13 and shown[-1] == "… 18 more lines"
    with Store(place) as store:
        store.delete_documents("9999")
    assert changed(place) == [], "what was purged is known no more"


def test_what_changed_is_shown_of_commits_that_nobody_collected(place: Town) -> None:
    pulled_between(place, True, A, C + "PLANT-secret\n", A)
    gather(place)
    assert changed(place) == [
        f"- {C.splitlines()[1]}",
        "- [gone]",
        f"+ {A.splitlines()[1]}",
    ]


@pytest.fixture
def gt_corpus(
    place: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    engine = SimpleNamespace(scrubber_for=lambda town: PlainScrubber())
    monkeypatch.setitem(sys.modules, "gt_plugins.corpus.scrub.engine", engine)
    monkeypatch.chdir(place.root)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(words))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_the_commands(place: Town, gt_corpus: Any) -> None:
    assert json.loads(gt_corpus("reversions", "list", "--json")[1]) == []
    assert gt_corpus("reversions", "confirm", "rev-1")[0] == 2
    for number, text in enumerate((A, B, A)):
        put(place.root / "CLAUDE.md", text, 2 - number)
        code, _, err = gt_corpus("collect")
        assert code == 0
    assert MESSAGE.format(days=2) in err
    (one,) = json.loads(gt_corpus("reversions", "list", "--json")[1])
    assert (one["message"], one["state"]) == (MESSAGE.format(days=2), "open")
    assert one["diff"] == [f"- {B.splitlines()[1]}", f"+ {A.splitlines()[1]}"]
    listed = gt_corpus("reversions", "list")[1]
    assert MESSAGE.format(days=2) in listed and all(f"    {line}\n" in listed for line in one["diff"])
    code, out, _ = gt_corpus(
        "reversions", "reject", one["id"], "--by", "Ann", "--reason", "PLANT-word", "--json"
    )
    assert code == 0 and json.loads(out)["reason"] == "[gone]"
    assert json.loads(gt_corpus("reversions", "list", "--json")[1]) == []
    assert (
        gt_corpus("reversions", "confirm", one["id"], "--by", "Ann")[1] == f"{one['id']}: confirmed by Ann\n"
    )
    (again,) = json.loads(gt_corpus("reversions", "list", "--all", "--json")[1])
    assert again["state"] == "confirmed"
