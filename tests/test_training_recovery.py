"""While it trains: the held-out loss decides, lost numbers are undone, signals save, states are told."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import RECIPE, row, small_base, small_rows, write_dataset  # noqa: F401

from gt_plugins.durable import read_lines
from gt_plugins.errors import NonRetriableError
from gt_plugins.rendering.render import Row
from gt_plugins.town.root import Town
from gt_plugins.training import checkpoints
from gt_plugins.training.adapter import adapter_state, add_adapter, load_base
from gt_plugins.training.callbacks import BoardWriter, CallbackGroup, Listener, MetricsWriter, read_metrics
from gt_plugins.training.heldout import MOST_ROWS, Best, in_batches, looks_at, sample
from gt_plugins.training.job import new_job
from gt_plugins.training.lifecycle import JobLifecycle, StateTeller
from gt_plugins.training.stop import stoppable
from gt_plugins.training.trainer import Trainer

losses = st.lists(st.floats(0, 10) | st.just(math.nan), min_size=1, max_size=30)


# -- judging ----------------------------------------------------------------------------------------


@given(losses)
def test_the_best_look_is_the_lowest_and_the_first_of_equals(values: list[float]) -> None:
    best = Best()
    for step, loss in enumerate(values, 1):
        best = best.after(step, loss)
    finite = [v for v in values if not math.isnan(v)]
    if finite:
        assert best.loss == min(finite) and best.step == values.index(min(finite)) + 1
    assert best.worse == len(values) - best.step and len(best.looks) == len(values)
    back = Best.from_json(json.loads(json.dumps(best.to_json(), allow_nan=False)))
    assert (back.loss, back.step, back.worse) == (best.loss, best.step, best.worse)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 20))
def test_looks_are_at_the_end_of_each_pass_or_every_so_many_steps(passes: list[int], every: int) -> None:
    epochs = [n for n, length in enumerate(passes) for _ in range(length)]
    found = looks_at(epochs, every)
    assert len(epochs) in found and all(1 <= n <= len(epochs) for n in found)
    if every:
        assert found == {n for n in range(1, len(epochs) + 1) if n % every == 0} | {len(epochs)}
    else:
        assert found == {sum(passes[: n + 1]) for n in range(len(passes))}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(20, 200))
def test_every_held_out_row_is_in_one_batch_that_fits(lengths: list[int], most: int) -> None:
    rows = [row(n) for n in lengths]
    batches = in_batches(rows, most)
    assert sorted(len(r.ids) for b in batches for r in b) == sorted(lengths)
    assert all(len(b) == 1 or len(b) * max(len(r.ids) for r in b) <= most for b in batches)
    assert len(sample([row(3)] * 1000)) == MOST_ROWS and sample(rows) == rows


# -- a trainer --------------------------------------------------------------------------------------


Make = Callable[..., Trainer]


@pytest.fixture
def make(base: Path, rows: list[Row], tmp_path: Path) -> Make:
    def trainer(*listeners: Any, recipe: Any = RECIPE, name: str = "job", **more: Any) -> Trainer:
        model = add_adapter(load_base(base, "cpu"), recipe)
        group = CallbackGroup(listeners, print)
        more = {"say": print} | more
        return Trainer(model, rows, recipe, tmp_path / name, group, pad=0, device="cpu", **more)

    return trainer


def test_looking_changes_nothing_and_the_best_adapter_is_kept(make: Make, rows: list[Row]) -> None:
    """The held-out losses are set so that the second look is the best."""
    import torch

    torch.manual_seed(5)
    blind = make(name="blind").run()
    torch.manual_seed(5)
    real = make(name="real", heldout=rows[:3])
    done = real.run()
    assert done.losses == blind.losses and [s for s, _ in done.heldout.looks] == sorted(real.looks)
    assert done.heldout.looks[-1][1] == pytest.approx(
        real.heldout_loss() if done.heldout.step == done.steps else done.heldout.looks[-1][1]
    )

    states: dict[int, Any] = {}

    class Keeps(Listener):
        def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
            states[step] = {k: t.clone() for k, t in adapter_state(trainer.model).items()}

    trainer = make(Keeps(), name="best", heldout=rows[:3])
    wanted = iter([2.0, 1.0, 3.0, 2.5])
    trainer.heldout_loss = lambda: next(wanted)  # type: ignore[method-assign]
    done = trainer.run()
    second = sorted(trainer.looks)[1]
    assert done.heldout.step == second and done.steps == len(trainer.steps)
    final = adapter_state(trainer.model)
    assert all(torch.equal(final[k], states[second][k]) for k in final)
    assert any(not torch.equal(final[k], states[done.steps][k]) for k in final)


def test_it_stops_early_where_the_held_out_loss_gets_no_better(make: Make, rows: list[Row]) -> None:
    recipe = replace(RECIPE, eval_steps=1, patience=2)
    trainer = make(recipe=recipe, heldout=rows[:2])
    wanted = iter([3.0, 2.0, 2.5, 2.25, 1.0])
    trainer.heldout_loss = lambda: next(wanted)  # type: ignore[method-assign]
    done = trainer.run()
    assert (done.steps, done.stopped, done.heldout.step) == (4, False, 2)
    never = make(recipe=replace(recipe, patience=0), heldout=rows[:2], name="never")
    never.heldout_loss = lambda: 1.0  # type: ignore[method-assign]
    assert never.run().steps == len(never.steps)


def test_what_was_looked_at_outlives_a_stop(make: Make, rows: list[Row]) -> None:
    class Stops(Listener):
        def on_step(self, step: int, metrics: dict[str, Any]) -> None:
            first.stop_asked = step == max(2, min(first.looks))

    first = make(Stops(), heldout=rows[:2], recipe=replace(RECIPE, eval_steps=2))
    assert first.run().stopped
    again = make(heldout=rows[:2], recipe=replace(RECIPE, eval_steps=2))
    again.resume()
    assert again.state.best == first.state.best and again.state.best.looks


# -- numbers that are lost --------------------------------------------------------------------------


def test_lost_weights_are_put_back_at_half_the_rate(make: Make) -> None:
    """After a good checkpoint the adapter itself becomes NaN: every step is bad until it is restored."""
    import torch

    said: list[str] = []

    class Breaks(Listener):
        def on_step(self, step: int, metrics: dict[str, Any]) -> None:
            rates.append(metrics["lr"])
            if step == 4:
                with torch.no_grad():
                    trainer.weights[0].fill_(math.nan)

    rates: list[float] = []
    trainer = make(Breaks(), say=said.append, recipe=replace(RECIPE, schedule="constant", warmup=0.0))
    done = trainer.run()
    assert done.skipped == 2 and done.steps == len(trainer.steps) and not done.stopped
    assert said == ["back to the state of step 3, at 0.25 of the rate"]
    assert all(bool(torch.isfinite(t).all()) for t in adapter_state(trainer.model).values())
    assert rates[3] == RECIPE.rate and rates[5] == RECIPE.rate / 2 and rates[6] == RECIPE.rate / 4


def test_a_state_with_nan_in_it_is_never_a_checkpoint(make: Make, tmp_path: Path) -> None:
    import torch

    trainer = make()
    trainer.checkpoint()
    with torch.no_grad():
        trainer.weights[0].fill_(math.inf)
    with pytest.raises(NonRetriableError, match="are not finite"):
        trainer.checkpoint()
    found = checkpoints.latest(tmp_path / "job")
    assert found.checkpoint is not None and found.problems == []


def test_a_full_disk_in_a_checkpoint_leaves_the_one_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    trainer = make()
    trainer.checkpoint()
    trainer.state.step = 3

    def full(*_args: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(Exception, match=r"step-000003: not written: the disk is full; free space and resume"):
        trainer.checkpoint()
    assert [p.name for p in (tmp_path / "job").iterdir()] == ["step-000000"]


# -- states and figures -----------------------------------------------------------------------------


def test_the_trainers_own_callbacks_are_the_jobs_states(make: Make, rows: list[Row], town: Town) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    with JobLifecycle(town, job, None, say=lambda _: None) as life:
        life.transition("training")
        make(StateTeller(life), MetricsWriter(job.folder), heldout=rows[:2]).run()
        life.done("completed")
    states = [r["state"] for r in read_lines(job.journal) if "state" in r]
    assert {"training", "checkpointing", "evaluating", "done"} <= set(states)
    assert all(b == "training" for a, b in pairwise(states) if a == "checkpointing")
    told = [r for r in read_lines(job.journal) if r.get("metadata", {}).get("loss") is not None]
    assert told and all(isinstance(r["metadata"]["loss"], float) for r in told)
    figures = read_metrics(job.folder)[-1]
    assert {"loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_gib"} <= set(figures)
    assert 0 < figures["mfu"] < 1.5 and 0.01 < figures["memory_gib"] < 100
    looks = [r for r in read_lines(job.folder / "metrics.jsonl") if r["event"] == "eval"]
    assert looks and looks[-1]["heldout_loss"] > 0


def test_passing_states_cost_bd_little_and_the_first_of_each_is_told(town: Town) -> None:
    class Slow:
        folder, calls = town.root, 0

        def update_status(self, *_args: Any) -> None:
            self.calls += 1

        def __getattr__(self, _name: str) -> Callable[..., Any]:
            return lambda *_a, **_k: "ft-1"

    now = [0.0]
    bd: Any = Slow()
    job = new_job(town, "deacon", "tiny", "d")
    clocks: dict[str, Any] = {"clock": lambda: now[0], "meter": lambda: 0.4 * bd.calls}
    with JobLifecycle(town, job, bd, say=lambda _: None, **clocks) as life:
        teller = StateTeller(life)
        life.transition("training")
        for _ in range(300):
            now[0] += 2.0
            for state in ("checkpointing", "training", "evaluating", "training"):
                teller.on_state(state)
            end = time.monotonic() + 5
            while life.pending and time.monotonic() < end:
                time.sleep(0.001)
    states = [r for r in read_lines(job.journal) if "state" in r]
    assert len(states) > 1200 and sum(not r.get("quiet") for r in states) < 40
    assert {r["state"] for r in states if not r.get("quiet")} >= {"checkpointing", "evaluating", "training"}
    assert 4 <= bd.calls < 40 and 0.4 * bd.calls < 0.02 * now[0]


def test_tensorboard_reads_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    board = BoardWriter(tmp_path)
    for step in range(3):
        board.on_step(step, {"loss": 1.5 + step, "lr": 0.1, "note": "text"})
    board.on_eval(2, {"heldout_loss": 2.5})
    board.on_end("done")
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    raw = path.read_bytes()
    assert raw.count(b"train/loss") == 3 and raw.count(b"heldout/heldout_loss") == 1 and b"note" not in raw


# -- signals ----------------------------------------------------------------------------------------


def test_a_signal_asks_also_before_there_is_a_trainer() -> None:
    class Target:
        stop_asked = False

    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        late = Target()
        stop.attach(late)
        assert stop.asked and late.stop_asked
    with stoppable() as stop:
        early = Target()
        stop.attach(early)
        assert not early.stop_asked
        os.kill(os.getpid(), signal.SIGHUP)
        assert early.stop_asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_words_that_nobody_reads_any_more_end_nothing() -> None:
    code = (
        "import os, time; from gt_plugins.cli.progress import note; os.close(0); time.sleep(0.5)\n"
        "for n in range(3): note('x')\n"
        "os._exit(7)"
    )
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=write)
    os.close(write)
    os.close(read)
    assert child.wait(120) == 7


def _losses(town: Town) -> list[tuple[int, float, float]]:
    (folder,) = [p for p in town.checkpoints_dir.iterdir() if p.is_dir()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in read_metrics(folder)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_term_and_kill_and_resume_give_the_curve_of_a_run_without_a_break(
    town: Town, tmp_path: Path, base: Path
) -> None:
    """Three processes of the real command: SIGTERM (exit 0), kill -9, and the end; and one straight run."""
    data = write_dataset(tmp_path / "data").folder
    recipe = tmp_path / "recipe.toml"
    values = RECIPE.to_json() | {"epochs": 8.0, "checkpoint_steps": 3, "patience": 0, "rate": 1e-3}
    recipe.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()) + "\n")
    straight = Town(tmp_path / "straight")
    for place in ("mayor", "settings"):
        (straight.root / place).mkdir(parents=True)
    (straight.root / "mayor/town.json").write_text((town.root / "mayor/town.json").read_text())

    def begin(place: Town, *more: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "gt_plugins.cli.model", "train", "deacon", "--town", str(place.root)]
        argv += ["--threads", "1", "--models", str(place.root / "models"), *more]
        return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)

    first = ("--base", str(base), "--dataset", str(data), "--config", str(recipe))
    whole = begin(straight, *first)
    assert whole.wait(1500) == 0, whole.stderr and whole.stderr.read()

    def at_step(process: subprocess.Popen[str], number: int, sign: int) -> int:
        end = time.monotonic() + 1500
        while process.poll() is None and time.monotonic() < end:
            folders = [p for p in town.checkpoints_dir.glob("*/metrics.jsonl")]
            if folders and len(read_metrics(folders[0].parent)) >= number:
                process.send_signal(sign)
                break
            time.sleep(0.005)
        return process.wait(600)

    assert at_step(begin(town, *first), 4, signal.SIGTERM) == 0
    (told,) = [p for p in town.checkpoints_dir.glob("*/journal.jsonl")]
    assert [r for r in read_lines(told) if "state" in r][-1]["state"] == "ready"
    assert at_step(begin(town, "--resume"), 11, signal.SIGKILL) == -signal.SIGKILL
    assert begin(town, "--resume").wait(1500) == 0
    assert _losses(town) == _losses(straight) and len(_losses(town)) > 15
    weights = [
        place.root / "models/gt-ft-deacon/v1/adapter/adapter_model.safetensors" for place in (town, straight)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
