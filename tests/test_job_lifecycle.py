"""A job's states: journal first, bd in order behind it, and nothing bd does reaches the trainer."""

from __future__ import annotations

import json
import os
import signal
import stat
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gt_plugins.durable import append_line, read_lines
from gt_plugins.errors import FinetuneError, RetriableError, UserError
from gt_plugins.town.bd import BdError, BdMissing, BdNotFound
from gt_plugins.town.root import Town
from gt_plugins.training.job import DONE, STATES, Job, jobs, load_job, new_job, progress, resumable
from gt_plugins.training.lifecycle import JobLifecycle, bd_for, public_reason, replay_pending


class FakeBd:
    """A beads database in memory; ``trouble`` is asked before each call and may raise or block."""

    def __init__(self) -> None:
        self.beads: dict[str, dict[str, Any]] = {}
        self.statuses: list[str] = []
        self.history: list[str] = []
        self.trouble = lambda call: None
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.trouble(name)

    def merge_custom_statuses(self, names: Any) -> bool:
        self._call("merge")
        self.statuses = list(names)
        return True

    def create(self, title: str, description: str, metadata: dict, labels: Any = (), **_: Any) -> str:
        self._call("create")
        id = f"ft-{len(self.beads)}"
        self.beads[id] = {"id": id, "title": title, "metadata": dict(metadata), "status": "open"}
        self.trouble("created")
        return id

    def find(self, key: str, value: str) -> list[dict[str, Any]]:
        self._call("find")
        return [b for b in self.beads.values() if b["metadata"].get(key) == value]

    def update_status(self, id: str, status: str, metadata: dict | None = None) -> None:
        self._call("update")
        if status not in self.statuses:
            raise BdError(f"invalid status {status}")
        self.beads[id]["status"] = status
        self.beads[id]["metadata"] |= metadata or {}
        self.history.append(status)
        self.trouble("updated")

    def set_metadata(self, id: str, metadata: dict) -> None:
        self._call("metadata")
        self.beads[id]["metadata"] |= metadata

    def close(self, id: str, reason: str) -> None:
        self._call("close")
        self.beads[id] |= {"status": "closed", "reason": reason}
        self.history.append("closed")

    def cancel(self) -> None:
        self._call("cancel")


@pytest.fixture
def job(town: Town) -> Job:
    return new_job(town, "deacon", "/models/tiny", "/data/deacon-1")


def life(town: Town | None, job: Job, bd: Any, lines: list[str] | None = None, **more: Any) -> JobLifecycle:
    said = lines if lines is not None else []
    options = {"retry_delay": 0.0, "outage_pause": 0.01} | more
    return JobLifecycle(town, job, bd, say=said.append, **options)


def wait_for(what: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


# -- the way a job goes -----------------------------------------------------------------------------


def test_a_good_job_meets_its_states_and_its_bead_is_closed(town: Town, job: Job) -> None:
    bd = FakeBd()
    with life(town, job, bd) as it:
        it.transition("corpus_validating")
        it.transition("ready", metadata={"dataset_hash": "ab12cd34ef56ab78", "base": "/home/ann/models/qwen"})
        it.transition("training")
        with it.during("syncing"):
            assert it.state == "syncing"
        with it.during("checkpointing", step=20):
            pass
        it.note(loss=0.25)
        it.transition("evaluating")
        it.done("completed: 40 steps, loss 0.12", {"loss": 0.12})
    assert bd.history == [
        "corpus_validating",
        "ready",
        "training",
        "syncing",
        "training",
        "checkpointing",
        "training",
        "training",
        "evaluating",
        "closed",
    ]
    (bead,) = bd.beads.values()
    assert bead["status"] == "closed" and bead["reason"] == "completed: 40 steps, loss 0.12"
    assert bead["title"] == "Fine-tune deacon on tiny"
    assert bead["metadata"]["ft_job"] == job.id and bead["metadata"]["ft_dataset_hash"] == "ab12cd34ef56ab78"
    assert bead["metadata"]["ft_base"] == "qwen", "a folder of the operator's is no news for a bead"
    assert bead["metadata"]["ft_loss"] == 0.12 and bead["metadata"]["ft_state"] == DONE
    assert set(STATES) <= set(bd.statuses)
    told = progress(job)
    assert (told.state, told.bead, told.pending) == (DONE, bead["id"], ())
    assert load_job(job.folder).bead == it.job.bead == bead["id"]


def test_the_journal_is_private_and_holds_state_time_and_reason(town: Town, job: Job) -> None:
    old = os.umask(0)
    try:
        with life(town, job, None) as it:
            it.transition("training", "because", {"loss": float("nan"), "step": 3})
    finally:
        os.umask(old)
    first = next(r for r in read_lines(job.journal) if "state" in r)
    assert (first["state"], first["reason"]) == ("training", "because")
    assert first["metadata"] == {"loss": "nan", "step": 3} and abs(first["at"] - time.time()) < 60
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700
    for path in job.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (town.checkpoints_dir / ".gitignore").read_text() == "*\n"


def test_no_bd_is_said_in_one_line_and_states_are_kept(town: Town, job: Job) -> None:
    lines: list[str] = []
    with life(town, job, None, lines) as it:
        for state in STATES:
            it.transition(state)
    assert len(lines) == 1 and "no bd" in lines[0] and "\n" not in lines[0]
    assert [r["state"] for r in read_lines(job.journal) if "state" in r] == list(STATES)


def test_well_again_it_trains_though_it_was_syncing_when_it_was_degraded(town: Town, job: Job) -> None:
    with JobLifecycle(town, job, None, say=lambda _line: None) as it:
        for before, after in (("syncing", "training"), ("evaluating", "training"), ("ready", "ready")):
            it.transition(before)
            it.degrade("a peer is lost")
            it.recover("it is back")
            assert it.state == after


def test_degraded_and_back(town: Town, job: Job) -> None:
    bd = FakeBd()
    with life(town, job, bd) as it:
        it.recover()
        it.transition("training")
        it.degrade("2 of 3 peers are gone")
        it.degrade("3 of 3 peers are gone")
        it.note(loss=1.0)
        it.recover("peers are back")
        assert it.state == "training"
        it.transition("degraded")
        it.fail("no peers for an hour")
    assert bd.history == ["training", "degraded", "degraded", "training", "degraded", "failed"]
    (bead,) = bd.beads.values()
    assert bead["status"] == "failed" and bead["metadata"]["ft_reason"] == "no peers for an hour"


@pytest.mark.parametrize("state", ["new", "Training", "closed", ""])
def test_a_state_that_jobs_do_not_have_is_a_mistake(town: Town, job: Job, state: str) -> None:
    with life(town, job, None) as it, pytest.raises(ValueError, match="no state of a job"):
        it.transition(state)


def test_after_done_nothing_comes(town: Town, job: Job) -> None:
    with life(town, job, None) as it:
        it.done("completed")
        with pytest.raises(ValueError, match="is done"):
            it.transition("training")
    with pytest.raises(UserError, match="is done: completed"), life(town, job, None):
        pass
    with life(town, new_job(town, "deacon", "tiny", "d"), None):
        pass  # a refused one has let the role go


# -- how it ends ------------------------------------------------------------------------------------


def test_an_exception_makes_it_failed_with_a_reason_and_comes_out(town: Town, job: Job) -> None:
    bd = FakeBd()
    with pytest.raises(FinetuneError), life(town, job, bd) as it:
        it.transition("training")
        raise FinetuneError("/home/ann/models/x/config.json: no key\nand more")
    assert progress(job).reason == "FinetuneError: config.json: no key and more"
    (bead,) = bd.beads.values()
    assert bead["status"] == "failed"
    assert resumable(town.checkpoints_dir, "deacon").id == job.id


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_an_interrupt_leaves_it_ready_to_be_resumed(town: Town, job: Job, error: BaseException) -> None:
    with pytest.raises(type(error)), life(town, job, None) as it:
        it.transition("training")
        raise error
    assert progress(job).state == "ready"
    with life(town, job, None) as again:
        assert again.state == "ready"
        again.transition("training")
        again.done("completed")
    assert resumable(town.checkpoints_dir, "deacon") is None


def test_a_second_job_for_a_role_is_refused_by_the_name_of_the_first(town: Town, job: Job) -> None:
    second = new_job(town, "deacon", "tiny", "d")
    other = new_job(town, "witness", "tiny", "d")
    with life(town, job, None):
        with pytest.raises(UserError) as refused, life(town, second, None):
            pytest.fail("entered")
        assert job.id in str(refused.value) and str(os.getpid()) in str(refused.value)
        assert progress(second).state == "new", "a refused job writes nothing"
        with life(town, other, None):
            pass
    with life(town, second, None):
        pass


# -- bd in trouble ----------------------------------------------------------------------------------


def test_a_bd_that_hangs_never_holds_the_trainer(town: Town, job: Job) -> None:
    bd, release = FakeBd(), threading.Event()
    bd.trouble = lambda call: None if call == "cancel" else release.wait(20) and None
    lines: list[str] = []
    took, line = [], []
    it = life(town, job, bd, lines).open()
    for n in range(60):
        start = time.perf_counter()
        it.transition(STATES[n % 6], metadata={"step": n})
        middle = time.perf_counter()
        append_line(job.folder / "measure.jsonl", {"seq": n, "state": "training", "at": 1.5})
        took.append(middle - start)
        line.append(time.perf_counter() - middle)
    assert statistics.median(took) < 5 * statistics.median(line), "a transition costs one durable line"
    bd.trouble = lambda call: release.set() if call == "cancel" else release.wait(20) and None
    start = time.monotonic()
    assert it.close(timeout=0.2) >= 59
    assert time.monotonic() - start < 3, "close waits a bounded time, then has the call killed"
    assert "wait in its journal" in lines[-1]


def test_what_bd_missed_is_replayed_in_order_on_resume(town: Town, job: Job) -> None:
    bd, lines = FakeBd(), []
    bd.trouble = _raise(BdError("the server is gone"))
    with life(town, job, bd, lines, outage_pause=60) as it:
        for state in ("corpus_validating", "ready", "training"):
            it.transition(state)
        wait_for(lambda: lines)
    assert [line for line in lines if "goes on without it" in line] == [
        f"the server is gone; job {job.id} goes on without it"
    ], "an outage is said once"
    assert bd.history == [] and len(progress(job).pending) == 4
    bd.trouble = lambda call: None
    with life(town, job, bd) as it:
        it.transition("training")
        it.done("completed")
    assert bd.history == ["corpus_validating", "ready", "training", "ready", "training", "closed"]
    assert len(bd.beads) == 1


def test_an_outage_that_ends_is_made_up_for_while_it_runs(town: Town, job: Job) -> None:
    bd, lines = FakeBd(), []
    with life(town, job, bd, lines) as it:
        it.transition("ready")
        wait_for(lambda: bd.history == ["ready"])
        bd.trouble = _raise(RetriableError("bd update gave no answer in 20 s"))
        it.transition("training")
        it.transition("syncing")
        wait_for(lambda: lines)
        bd.trouble = lambda call: None
        wait_for(lambda: bd.history == ["ready", "training", "syncing"])
        assert it.pending == 0


def test_a_create_whose_answer_was_lost_makes_no_second_bead(town: Town, job: Job) -> None:
    bd = FakeBd()
    bd.trouble = lambda call: _raise(RetriableError("timed out"))(call) if call == "created" else None
    with life(town, job, bd) as it:
        it.transition("ready")
        wait_for(lambda: bd.history == ["ready"])
    assert len(bd.beads) == 1 and bd.calls.count("create") == 1


def test_statuses_that_somebody_replaced_are_merged_again(town: Town, job: Job) -> None:
    bd = FakeBd()
    with life(town, job, bd) as it:
        it.transition("ready")
        wait_for(lambda: bd.history == ["ready"])
        bd.statuses = ["staged_ready"]
        it.transition("training")
    assert bd.history == ["ready", "training", "ready"]


@pytest.mark.parametrize("error", [BdNotFound("no issue found"), BdMissing("bd is not on PATH")])
def test_a_bead_or_bd_that_is_gone_is_said_once_and_training_goes_on(
    town: Town, job: Job, error: Exception
) -> None:
    bd, lines = FakeBd(), []
    bd.trouble = lambda call: _raise(error)(call) if call == "update" else None
    with life(town, job, bd, lines) as it:
        for state in STATES:
            it.transition(state)
        wait_for(lambda: lines)
    assert len([line for line in lines if "will not get" in line]) == 1
    assert progress(job).state == "failed"


def test_a_full_disk_for_the_journal_is_said_once_and_bd_still_hears(
    town: Town, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    bd, lines = FakeBd(), []
    with life(town, job, bd, lines) as it:
        it.transition("ready")
        wait_for(lambda: bd.history == ["ready"])

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("gt_plugins.training.lifecycle.append_line", full)
        it.transition("training")
        it.transition("syncing")
        wait_for(lambda: bd.history == ["ready", "training", "syncing"])
    assert len([line for line in lines if "No space left" in line]) == 1


def _raise(error: Exception) -> Any:
    def trouble(call: str) -> None:
        if call != "cancel":
            raise error

    return trouble


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=st.lists(st.sampled_from(STATES), min_size=1, max_size=12),
    failures=st.lists(st.booleans(), max_size=40),
    lost=st.lists(st.booleans(), max_size=40),
)
def test_whatever_fails_bd_ends_with_every_state_in_order(
    town: Town, states: list[str], failures: list[bool], lost: list[bool]
) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    bd = FakeBd()
    before, after = iter(failures), iter(lost)

    def trouble(call: str) -> None:
        dice = after if call in ("created", "updated") else before
        if call != "cancel" and next(dice, False):
            raise RetriableError("lost")

    bd.trouble = trouble
    with life(town, job, bd, outage_pause=0.0) as it:
        for n, state in enumerate(states):
            it.transition(state, metadata={"n": n})
    bd.trouble = lambda call: None
    if progress(job).pending:
        with life(town, job, bd) as it:
            pass
    seen = [s for s, t in zip(bd.history, [None, *bd.history], strict=False) if s != t]
    wanted = [r["state"] for r in read_lines(job.journal) if "state" in r]
    assert seen == [s for s, t in zip(wanted, [None, *wanted], strict=False) if s != t]
    assert len(bd.beads) == 1 and progress(job).pending == ()


# -- after a kill -----------------------------------------------------------------------------------


def test_kill_9_while_bd_hangs_loses_no_state(town: Town, job: Job, tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "bd").write_text("#!/bin/sh\nexec sleep 60\n")
    (binaries / "bd").chmod(0o755)
    body = """
        import sys
        from pathlib import Path
        from gt_plugins.town.root import Town
        from gt_plugins.training.job import load_job
        from gt_plugins.training.lifecycle import JobLifecycle, bd_for
        town = Town(Path(sys.argv[1]))
        life = JobLifecycle(town, load_job(Path(sys.argv[2])), bd_for(town)).open()
        n = 0
        while True:
            for state in ("training", "syncing"):
                life.transition(state, metadata={"n": n})
                n += 1
                print(n, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(body), str(town.root), str(job.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"},
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.send_signal(signal.SIGKILL)
    told = int((process.communicate()[0].split() or ["20"])[-1])
    bd = FakeBd()
    with life(town, job, bd) as it:
        it.done("completed")
    numbers = [r["metadata"]["n"] for r in read_lines(job.journal) if r.get("metadata")]
    assert numbers == list(range(len(numbers))) and len(numbers) >= told
    assert len(bd.history) == len(numbers) + 1 and bd.history[-1] == "closed"


def test_what_finished_jobs_could_not_tell_is_told_later(town: Town) -> None:
    bd = FakeBd()
    bd.trouble = _raise(BdError("down"))
    done, local = new_job(town, "deacon", "tiny", "d"), new_job(town, "boot", "tiny", "d")
    with life(town, done, bd) as it:
        it.transition("training")
        it.done("completed")
    with life(town, local, None) as it:
        it.done("completed")
    assert replay_pending(town.checkpoints_dir, bd, timeout=1.0) == 2
    bd.trouble = lambda call: None
    held = new_job(town, "witness", "tiny", "d")
    with life(town, held, None):
        assert replay_pending(town.checkpoints_dir, bd) == 0
    assert bd.history == ["training", "closed"] and len(bd.beads) == 1
    assert replay_pending(town.checkpoints_dir, bd) == 0 and len(bd.history) == 2


# -- jobs on disk -----------------------------------------------------------------------------------


def test_jobs_are_listed_in_order_and_odd_folders_passed_over(town: Town) -> None:
    made = [new_job(town, role, "tiny", "d") for role in ("deacon", "witness", "deacon")]
    (town.checkpoints_dir / "stray").mkdir()
    broken = town.checkpoints_dir / "broken"
    broken.mkdir()
    (broken / "job.json").write_text("{")
    (town.checkpoints_dir / "file").write_text("x")
    assert [j.id for j in jobs(town.checkpoints_dir)] == [j.id for j in made]
    assert resumable(town.checkpoints_dir, "deacon") == made[2]
    assert resumable(town.checkpoints_dir, "crew") is None
    assert list(jobs(town.checkpoints_dir / "none")) == []


@pytest.mark.parametrize("text", [None, "{", "[]", '{"id": 3}', '{"id": "x", "role": "deacon"}'])
def test_a_folder_that_is_no_job_is_refused_by_name(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(UserError, match=r"job\.json"):
        load_job(tmp_path)


def test_an_operators_folder_keeps_its_mode(tmp_path: Path, town: Town) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    job = new_job(town, "deacon", "tiny", "d", folder=shared)
    with life(None, job, None):
        pass
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700


@given(
    st.lists(
        st.one_of(
            st.dictionaries(
                st.sampled_from(["seq", "state", "at", "sent", "bead", "bd", "creating", "x"]),
                st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.floats()),
                max_size=4,
            ).map(json.dumps),
            st.text(max_size=10),
        ),
        max_size=8,
    )
)
def test_any_journal_can_be_folded(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        job = Job("x", "deacon", "tiny", "d", Path(folder))
        job.journal.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
        progress(job)


def test_bd_for_a_town_without_beads_is_none(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert bd_for(town) is None


# -- reasons ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("no file /home/ann/town/.checkpoints/deacon-1/step-1/state.json", "ann"),
        ("~/models/secret-project/config.json: line 3", "secret-project"),
        ("https://ann:hunter2@host/x refused", "hunter2"),
        ("api_key=abc refused", "abc"),
        ("Authorization: Bearer abcdef", "abcdef"),
        ("the password is swordfish", "swordfish"),
        ("sent " + "sk-" + "ant-" + "a1B2" * 6 + " to it", "a1B2"),
        ("ghp" + "_" + "abcdefghij" * 3, "abcdefghij"),
        ("key " + "q9Z" * 8, "q9Z"),
        ("mail ann@example.org about it", "ann@"),
    ],
)
def test_a_reason_names_no_secret_and_no_folder(text: str, gone: str) -> None:
    reason = public_reason(ValueError(text))
    assert reason.startswith("ValueError") and gone not in reason


@given(st.text(max_size=2000))
def test_a_reason_is_one_short_line(text: str) -> None:
    reason = public_reason(RuntimeError(text))
    assert reason.startswith("RuntimeError") and "\n" not in reason and len(reason) < 500


def test_what_a_person_needs_stays_in_the_reason() -> None:
    text = "loss was not finite 3 times in a row at step 120; the batches are in nan-step-000120.json"
    assert public_reason(FinetuneError(text)) == f"FinetuneError: {text}"
    job = "role deacon is being trained by job deacon-20261123-081700-ab12 (process 4711)"
    assert public_reason(UserError(job)) == f"UserError: {job}"
    assert public_reason(KeyError()) == "KeyError"
