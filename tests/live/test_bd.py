"""A job's whole life in the real bd: on its embedded store, and on a real town's Dolt server."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

import pytest

from gt_plugins.errors import FinetuneError
from gt_plugins.sim.live_town import LiveTown
from gt_plugins.town.bd import GT_STATUSES, Bd, BdError, BdNotFound
from gt_plugins.town.root import Town
from gt_plugins.training.job import STATES, Job, new_job, progress
from gt_plugins.training.lifecycle import JobLifecycle, bd_for, replay_pending

pytestmark = pytest.mark.live


@pytest.fixture
def embedded(town: Town) -> Bd:
    """A town whose beads are an embedded store of the real bd."""
    if shutil.which("bd") is None:
        message = "LIVE TESTS NOT RUN: bd not on PATH"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{message}, and CI must have it", pytrace=False)
        pytest.skip(message)
    beads = town.root / ".beads"
    shutil.rmtree(beads)
    subprocess.run(
        [
            "bd",
            "init",
            "--prefix",
            "ft",
            "-q",
            "--non-interactive",
            "--stealth",
            "--skip-hooks",
            "--skip-agents",
        ],
        cwd=town.root,
        env=os.environ | {"BEADS_DIR": str(beads), "DOLT_METRICS_DISABLED": "1"},
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
        timeout=60,
    )
    bd = bd_for(town)
    assert bd is not None
    return bd


def whole_life(town: Town, job: Job, bd: Bd) -> list[str]:
    """Take a job through every state to its end; returns the states bd showed, one look after each."""
    seen = []
    with JobLifecycle(town, job, bd, close_timeout=60) as life:
        for state in STATES:
            life.transition(state, metadata={"loss": 1.5, "step": 20})
            deadline = time.monotonic() + 60
            while life.pending and time.monotonic() < deadline:
                time.sleep(0.05)
            seen.append(bd.show(life.job.bead or "")["status"])
        life.done("completed: 40 steps, loss 0.12", {"loss": 0.12})
    return seen


def test_every_state_reaches_the_real_bead_and_it_is_closed(town: Town, embedded: Bd) -> None:
    embedded.set_custom_statuses(["mine", "staged_ready"])
    job = new_job(town, "deacon", "/models/tiny", "/data/deacon-1")
    assert whole_life(town, job, embedded) == list(STATES)
    told = progress(job)
    assert told.pending == () and told.bead is not None
    bead = embedded.show(told.bead)
    assert bead["status"] == "closed" and bead["close_reason"] == "completed: 40 steps, loss 0.12"
    assert bead["assignee"] == "gastown-finetune" and set(bead["labels"]) == {"ft-job", "ft-role-deacon"}
    assert bead["metadata"]["ft_job"] == job.id and bead["metadata"]["ft_loss"] == 0.12
    statuses = embedded.custom_statuses()
    assert statuses[0] == "mine" and set(statuses) == {"mine", *GT_STATUSES, *STATES}
    assert len(embedded.find("ft_job", job.id)) == 1


def test_a_store_that_others_use_at_the_same_time_costs_no_state(town: Town, embedded: Bd) -> None:
    """The embedded store has one user at a time; bd refuses the others at once."""
    job = new_job(town, "deacon", "/models/tiny", "/data/deacon-1")
    stop, created = threading.Event(), []

    def busy() -> None:
        while not stop.wait(0.2):
            created.append(embedded.create("somebody else's"))

    other = threading.Thread(target=busy)
    other.start()
    try:
        assert whole_life(town, job, embedded) == list(STATES)
        deadline = time.monotonic() + 60
        while len(created) < 2 and time.monotonic() < deadline:  # the other one gets its turn as well
            time.sleep(0.05)
    finally:
        stop.set()
        other.join(60)
    assert progress(job).pending == () and len(created) == len(set(created)) > 1


def test_what_the_client_says_of_real_errors(embedded: Bd) -> None:
    assert embedded.version().count(".") == 2
    with pytest.raises(BdNotFound):
        embedded.show("ft-nope")
    with pytest.raises(BdNotFound):
        embedded.update_status("ft-nope", "open")
    id = embedded.create("--title 'of' a\nbead", "$HOME `x`", {"a": 1}, ["l"])
    with pytest.raises(BdError, match="invalid status"):
        embedded.update_status(id, "nonsense")
    embedded.set_metadata(id, {"b": "x=y,z"})
    bead = embedded.show(id)
    assert bead["metadata"] == {"a": 1, "b": "x=y,z"} and bead["description"] == "$HOME `x`"
    embedded.close(id, "first")
    embedded.close(id, "second")
    assert embedded.show(id)["close_reason"] == "first"


def test_a_bd_that_is_killed_again_and_again_still_ends_with_one_bead(town: Town, embedded: Bd) -> None:
    job = new_job(town, "witness", "tiny", "d")
    hasty = Bd(town.root)
    for attempt in range(8):
        hasty.timeout = 0.02 + 0.03 * attempt
        options = {"retries": 1, "retry_delay": 0.0, "outage_pause": 0.0, "close_timeout": 0.3}
        with JobLifecycle(town, job, hasty, say=lambda _line: None, **options) as life:
            life.transition(STATES[attempt % 6], f"try {attempt}")
    with JobLifecycle(town, job, embedded, close_timeout=60) as life:
        life.done("completed")
    assert progress(job).pending == ()
    (bead,) = embedded.find("ft_job", job.id)
    assert bead["status"] == "closed"


def test_a_job_that_failed_stays_open_and_what_depends_on_it_blocked(town: Town, embedded: Bd) -> None:
    job = new_job(town, "boot", "tiny", "d")
    with pytest.raises(FinetuneError), JobLifecycle(town, job, embedded, close_timeout=60) as life:
        life.transition("training")
        raise FinetuneError("loss was not finite 3 times in a row, at step 7")
    bead = progress(job).bead or ""
    assert embedded.show(bead)["status"] == "failed"
    waiting = embedded.create("Deploy the boot model")
    environ = os.environ | {"BEADS_DIR": str(town.root / ".beads")}

    def run(*args: str) -> str:
        done = subprocess.run(
            ["bd", *args], cwd=town.root, env=environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    run("dep", "add", waiting, bead)
    assert waiting not in run("ready", "--json") and bead not in run("ready", "--json")
    with JobLifecycle(town, job, embedded, close_timeout=60) as life:
        life.transition("training")
        life.done("completed")
    assert waiting in run("ready", "--json")


def test_a_job_in_a_real_town(in_town: LiveTown) -> None:
    town = in_town.town
    bd = bd_for(town)
    assert bd is not None
    job = new_job(town, "deacon", "tiny", "d")
    assert whole_life(town, job, bd) == list(STATES)
    bead = bd.show(progress(job).bead or "")
    assert bead["status"] == "closed" and bead["id"].startswith("hq-")
    assert {*GT_STATUSES, *STATES} <= set(bd.custom_statuses())
    assert replay_pending(town.checkpoints_dir, bd) == 0
