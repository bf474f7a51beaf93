"""``gt corpus rescrub``: a stricter policy reaches what is stored."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from scrub_plants import TOKENS
from typer.testing import CliRunner

from gt_plugins.cli.common import new_app
from gt_plugins.cli.corpus_scrub import register
from gt_plugins.corpus.lock import sweep_lock
from gt_plugins.corpus.packing import pack
from gt_plugins.corpus.scrub import rescrub as module
from gt_plugins.corpus.scrub.engine import Scrubber, scrubber_for
from gt_plugins.corpus.scrub.layers import Layer, ScrubError
from gt_plugins.corpus.scrub.rescrub import rescrub
from gt_plugins.corpus.sources import Document
from gt_plugins.corpus.store import Store
from gt_plugins.errors import FinetuneError, RetriableError
from gt_plugins.settings import update_settings
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn

app = new_app("corpus", "test")
register(app)
app.command()(lambda: None)
run = CliRunner()
TEXT = "we call it Falcon Nine here"


def session(number: int) -> Session:
    turns = (
        Turn(f"u{number}", "user", ({"type": "text", "text": f"{TEXT} {number}"},)),
        Turn(
            f"a{number}",
            "assistant",
            ({"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},),
        ),
    )
    return Session(
        f"session-{number}", "claude", turns, role="deacon", started=f"2026-11-2{number}T08:00:00Z"
    )


@pytest.fixture
def stocked(town: Town) -> Town:
    """Three sessions and a document, scrubbed by a policy without a deny list."""
    scrub = scrubber_for(town)
    with Store(town) as store:
        for number in range(3):
            fresh, counts = scrub.session(session(number))
            store.add_session(
                fresh, policy=scrub.policy.version, consent="x", source_hash=str(number), redactions=counts
            )
        document = Document("conventions", "CLAUDE.md", "convention_doc", f"# Rules\n{TEXT}")
        store.add_document(document, policy=scrub.policy.version, consent="x", source_hash="d")
    return town


def everything(town: Town) -> str:
    with Store(town) as store:
        found = [json.dumps(s.session.to_json()) for s in store.sessions()]
        return "\n".join(found + [d.document.content for _, d in store.documents()])


def raw(town: Town) -> bytes:
    """Every byte below ``.corpus``."""
    return b"".join(p.read_bytes() for p in town.corpus_dir.iterdir() if p.is_file())


def test_nothing_is_done_while_the_policy_stands(stocked: Town) -> None:
    report = rescrub(stocked)
    assert (report.rows, report.current, report.rescrubbed, report.changed) == (4, 4, 0, 0)
    again = rescrub(stocked, everything=True)
    assert (again.current, again.rescrubbed, again.changed) == (0, 4, 0)


def test_a_stricter_list_reaches_every_row_and_the_index(stocked: Town) -> None:
    before = everything(stocked)
    update_settings(stocked, "scrub", deny=["Falcon Nine"])
    report = rescrub(stocked)
    assert (report.rescrubbed, report.changed, report.replaced) == (4, 4, {"denied": 4})
    after = everything(stocked)
    assert "Falcon" in before and "Falcon" not in after
    with Store(stocked) as store:
        assert store.search("Falcon") == [] and len(store.search("call")) == 4
        assert (
            {s.policy for s in store.sessions()}
            == {d.policy for _, d in store.documents()}
            == {report.policy}
        )
        assert [dict(s.redactions) for s in store.sessions()] == [{"denied": 1}] * 3
    assert b"falcon" not in raw(stocked).lower()
    assert rescrub(stocked).rescrubbed == 0


def test_surrogates_stay_the_same(stocked: Town) -> None:
    token = TOKENS["github_pat"](random.Random(1))
    scrub = scrubber_for(stocked)
    fresh, _ = scrub.session(Session("s", "claude", (Turn("t", "user", ({"type": "text", "text": token},)),)))
    with Store(stocked) as store:
        store.add_session(fresh, policy="0", consent="x", source_hash="s")
    rescrub(stocked)
    with Store(stocked) as store:
        stored = store.session("s")
    assert stored is not None and stored.session == fresh


def test_datasets_with_changed_rows_are_named(stocked: Town, tmp_path: Path) -> None:
    with Store(stocked) as store:
        store.record_dataset(tmp_path / "set", ["session-1"], "hash", "deacon")
    assert rescrub(stocked, everything=True).datasets == []
    update_settings(stocked, "scrub", deny=["Falcon Nine"])
    assert rescrub(stocked).datasets == [str(tmp_path / "set")]


def test_a_row_that_cannot_be_scrubbed_keeps_its_policy(stocked: Town) -> None:
    scrub = scrubber_for(stocked)

    def find(text: str) -> list[Any]:
        if "Nine here 1" in text:
            raise ScrubError("no")
        return []

    broken = Scrubber(scrub.policy, [*scrub.layers, Layer("broken", 40, find, version="1")])
    report = rescrub(stocked, scrubber=broken)
    assert report.failed == ["session-1"] and report.rescrubbed == 3
    with Store(stocked) as store:
        stored = store.session("session-1")
    assert stored is not None and stored.policy == scrub.policy.version


def test_it_waits_for_a_sweep(stocked: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    with sweep_lock(stocked, 0) as held:
        assert held
        with pytest.raises(RetriableError, match="sweep is running"):
            rescrub(stocked)


def _killed_after(town: Town, rows: int) -> None:
    def progress(done: int, _: int) -> None:
        if done == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    rescrub(town, progress=progress)


def test_killed_halfway_it_goes_on_where_it_was(stocked: Town) -> None:
    update_settings(stocked, "scrub", deny=["Falcon Nine"])
    child = multiprocessing.get_context("fork").Process(target=_killed_after, args=(stocked, 2))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    report = rescrub(stocked)
    assert (report.current, report.rescrubbed) == (2, 2)
    assert "Falcon" not in everything(stocked)


@pytest.mark.parametrize("rows", [1, 4])
def test_killed_at_any_row_nothing_is_left_in_free_pages(stocked: Town, rows: int) -> None:
    update_settings(stocked, "scrub", deny=["Falcon Nine"])
    old = pack(session(0).to_json())
    assert old in raw(stocked)
    child = multiprocessing.get_context("fork").Process(target=_killed_after, args=(stocked, rows))
    child.start()
    child.join(60)
    assert (stocked.corpus_dir / module.MARKER).exists()
    rescrub(stocked)
    assert not (stocked.corpus_dir / module.MARKER).exists()
    assert old not in raw(stocked) and b"falcon" not in raw(stocked).lower()


def test_a_town_without_a_corpus(town: Town) -> None:
    assert rescrub(town).rows == 0
    assert not town.corpus_dir.exists()


def test_the_command(stocked: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stocked.root)
    update_settings(stocked, "scrub", deny=["Falcon Nine"])
    done = run.invoke(app, ["rescrub", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["changed"] == 4
    assert "4 rows, policy" in run.invoke(app, ["rescrub"]).stdout
    monkeypatch.setattr(module, "scrubber_for", lambda town: _failing(town))
    done = run.invoke(app, ["rescrub", "--all"])
    assert isinstance(done.exception, FinetuneError) and "4 rows could not be scrubbed" in str(done.exception)


def _failing(town: Town) -> Scrubber:
    def find(text: str) -> list[Any]:
        raise ValueError(text)

    return Scrubber(scrubber_for(town).policy, [Layer("broken", 1, find)])
