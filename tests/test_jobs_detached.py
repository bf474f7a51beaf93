"""A detached job outlives whoever began it; any shell lists, follows and stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_helpers import RECIPE, request, write_dataset, write_small_base
from typer.testing import CliRunner

from gt_plugins.cli import model
from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.town.root import Town
from gt_plugins.training import jobs as room
from gt_plugins.training.callbacks import METRICS
from gt_plugins.training.job import Job, load_job, new_job
from gt_plugins.training.lifecycle import JobLifecycle, check_free
from gt_plugins.training.process import alive, mark
from gt_plugins.training.run import begin, prepare

WAIT = 240.0
"""Seconds to wait for something that takes one: this machine may be busy with other tests."""


def until(true: Any, what: str) -> Any:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {WAIT} s: {what}")


def command(*args: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "gt_plugins.cli.model", *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == code, done.stderr
    return done


def steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [r for r in records if r["event"] == "step"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_small_base(tmp_path / "base")


@pytest.fixture
def recipe_file(tmp_path: Path, base: Path) -> Path:
    """The tests' recipe, for so many passes that it does not end by itself while it is looked at."""
    values = RECIPE.to_json() | {"epochs": 3000.0, "patience": 0, "checkpoint_steps": 50}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join([f"base = {json.dumps(str(base))}", *lines]) + "\n")
    return path


# -- processes --------------------------------------------------------------------------------------


def test_a_process_is_known_by_when_it_began() -> None:
    me = os.getpid()
    assert alive(me) and alive(me, mark(me)) and not alive(me, "1")
    child = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: not alive(child.pid), "a process that has ended runs no more, even before it is collected")
    child.wait()
    assert not alive(child.pid) and mark(child.pid) == ""


def test_a_launched_process_is_nobodys_child_and_of_another_session(town: Town) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    code = "import os, sys, time; print(os.getppid(), os.getsid(0), sys.stdin.read()); time.sleep(60)"
    pid = room.detach(job, [sys.executable, "-u", "-c", code])
    try:
        log = job.folder / room.LOG
        parent, session = map(int, until(lambda: log.read_text().split(), "its first words"))
        assert session == pid != os.getsid(0) and parent != os.getpid()
        assert log.stat().st_mode & 0o777 == 0o600
    finally:
        os.kill(pid, signal.SIGKILL)


def test_what_ends_at_once_is_told_with_its_last_words(town: Town) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    code = "import sys; sys.exit('error: the base is gone')"
    with pytest.raises(FinetuneError, match=r"ended at once: the base is gone"):
        room.wait_begun(job, room.detach(job, [sys.executable, "-c", code]), 0)


def test_of_steps_that_come_at_once_the_first_and_the_last_are_shown_and_all_else() -> None:
    from gt_plugins.cli.model_jobs import _paced

    steps = [{"event": "step", "step": n} for n in range(1, 8)]
    looked, ended = {"event": "eval", "step": 4}, {"event": "end"}
    shown = list(_paced([{"event": "start"}, *steps[:4], looked, *steps[4:], ended]))
    assert shown == [{"event": "start"}, steps[0], steps[3], looked, steps[6], ended]
    assert list(_paced(steps)) == [steps[0], steps[6]]


def test_followed_as_json_a_job_is_waited_for(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    seen: list[int] = []

    def records(_job: object) -> Iterator[dict[str, Any]]:
        for number in range(3):
            seen.append(number)
            yield {"event": "step", "step": number}

    monkeypatch.setattr(room, "follow", records)
    done = CliRunner().invoke(model.build(), ["jobs", "follow", job.id, "--town", str(town.root), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["id"] == job.id and seen == [0, 1, 2]


# -- a real job -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_outlives_its_parents_group_and_is_followed_stopped_and_resumed(
    town: Town, tmp_path: Path, recipe_file: Path
) -> None:
    """The whole of it: an agent's shell begins the job and its group is killed, as gt and tmux do it."""
    data = write_dataset(tmp_path / "data")
    told = tmp_path / "told.json"
    args = ["train", "deacon", "--town", str(town.root), "--dataset", str(data.folder)]
    args += ["--config", str(recipe_file), "--threads", "1", "--detach", "--json"]
    agent = textwrap.dedent(f"""
        import subprocess, sys, time
        argv = [sys.executable, "-m", "gt_plugins.cli.model", *{args!r}]
        done = subprocess.run(argv, capture_output=True, text=True)
        open({str(told)!r} + ".tmp", "w").write(done.stdout + done.stderr)
        import os; os.rename({str(told)!r} + ".tmp", {str(told)!r})
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", agent], start_new_session=True)
    try:
        until(told.exists, "the job was begun")
        found = json.loads(told.read_text())
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    folder = Path(found["folder"])
    before = len(until(lambda: steps(folder), "its first step"))
    until(lambda: len(steps(folder)) > before + 2, "steps after its parent's group is gone")
    (listed,) = json.loads(command("jobs", "--town", town.root, "--json").stdout)
    assert (listed["running"], listed["pid"], listed["state"]) == (True, found["pid"], "training")
    assert listed["step"] > 0 and listed["loss"] > 0 and listed["seconds_left"] > 0
    with pytest.raises(UserError, match=rf"role deacon is being trained by job {listed['id']}"):
        check_free(town.checkpoints_dir, "deacon")
    refused = command(*args[:-2], code=2)
    assert f"being trained by job {listed['id']}" in refused.stderr and refused.stdout == ""

    stopped = json.loads(command("jobs", "stop", "--town", town.root, "--json").stdout)
    assert stopped["state"] == "ready" and not stopped["running"] and not alive(found["pid"])
    assert command("jobs", "follow", "--town", town.root).stdout.splitlines()[-1].startswith("job deacon-")
    last = stopped["step"]
    assert (folder / "checkpoints" / f"step-{last:06d}").is_dir(), "its state was saved when it was stopped"

    again = json.loads(
        command("train", "deacon", "--town", town.root, "--resume", "--detach", "--json").stdout
    )
    assert again["job"] == found["job"]
    until(lambda: len(steps(folder)) > last, "the resumed job goes on")
    assert steps(folder)[last]["step"] == last + 1
    end = room.stop(room.pick(town.checkpoints_dir, "deacon"), WAIT)
    assert end.state == "ready"


# -- what is told of jobs ---------------------------------------------------------------------------


def running_job(town: Town, role: str = "deacon") -> Job:
    return new_job(town, role, "tiny", "d")


def test_a_job_that_was_killed_is_interrupted_and_one_that_failed_says_why(town: Town) -> None:
    killed, failed = running_job(town), running_job(town, "boot")
    life = JobLifecycle(town, killed, None, say=lambda _: None).open()
    life.transition("training")
    assert room.view(killed).running and room.view(killed).state == "training"
    holder = town.checkpoints_dir / ".deacon.json"
    holder.write_text(json.dumps(json.loads(holder.read_text()) | {"mark": "1"}))  # another process by now
    assert room.view(killed).state == "interrupted" and not room.view(killed).running
    with pytest.raises(FinetuneError), JobLifecycle(town, failed, None, say=lambda _: None) as other:
        other.transition("training")
        raise FinetuneError("out of luck")
    shown = {v.role: v for v in room.views(town.checkpoints_dir)}
    assert shown["boot"].state == "failed" and "out of luck" in shown["boot"].reason
    with pytest.raises(UserError, match="is not running; it is failed"):
        room.stop(failed)
    life.close()


def test_a_job_is_meant_by_its_id_its_beginning_its_role_or_by_running(town: Town) -> None:
    with pytest.raises(UserError, match="no jobs in"):
        room.pick(town.checkpoints_dir)
    old, new, boot = running_job(town), running_job(town), running_job(town, "boot")
    assert room.pick(town.checkpoints_dir, old.id).id == old.id
    assert room.pick(town.checkpoints_dir, "boot-2").id == boot.id
    assert room.pick(town.checkpoints_dir, "deacon").id == new.id
    with pytest.raises(UserError, match="is the beginning or the end of 2 jobs"):
        room.pick(town.checkpoints_dir, "deacon-")
    with pytest.raises(UserError, match="no job 'nobody'"):
        room.pick(town.checkpoints_dir, "nobody")
    with pytest.raises(UserError, match="no job is running"):
        room.pick(town.checkpoints_dir, running=True)
    with JobLifecycle(town, old, None, say=lambda _: None):
        assert room.pick(town.checkpoints_dir).id == old.id


def test_a_job_that_was_begun_knows_its_dataset_for_a_resume(town: Town, tmp_path: Path, base: Path) -> None:
    asked = request(town, tmp_path, base, write_dataset(tmp_path / "data").folder)
    ready = prepare(asked, print)
    job = begin(ready.request, ready.data, print)
    from dataclasses import replace

    later = prepare(replace(asked, dataset=None, resume=True, base="tiny", threads=0), print)
    assert later.begun is not None and later.begun.id == job.id == load_job(job.folder).id
    assert (later.request.dataset, later.request.base, later.request.threads) == (
        tmp_path / "data",
        str(base),
        1,
    )
