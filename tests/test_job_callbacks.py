"""Listeners of a job: metrics, heartbeat, isolation of third parties; the NaN handler; the monitor."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins import hookimpl, hookspecs
from gt_plugins.errors import NonRetriableError
from gt_plugins.town.root import Town
from gt_plugins.training import callbacks
from gt_plugins.training.callbacks import (
    CallbackGroup,
    Heartbeat,
    Listener,
    MetricsWriter,
    gt_train_callbacks,
    listeners_of,
    read_metrics,
)
from gt_plugins.training.job import TrainCallbacks, new_job
from gt_plugins.training.lifecycle import JobLifecycle
from gt_plugins.training.monitor import Limits, MonitorWorker, Sight, judge, memory_share
from gt_plugins.training.numerics import NanHandler, finite_or_raise

# -- metrics and heartbeat --------------------------------------------------------------------------


def test_metrics_are_one_json_line_per_event(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, clock=lambda: 12.3456)
    writer.on_start()
    writer.on_step(1, {"loss": 0.5, "lr": 1e-3, "grad_norm": math.inf, "tokens_per_second": 900})
    writer.on_nan(2, {"loss": float("nan")})
    writer.on_checkpoint(Path("/x/step-000002"))
    writer.on_end("done")
    lines = [json.loads(x, parse_constant=pytest.fail) for x in writer.path.read_text().splitlines()]
    assert [x["event"] for x in lines] == ["start", "step", "nan", "checkpoint", "end"]
    assert lines[1] == {
        "event": "step",
        "at": 12.346,
        "step": 1,
        "loss": 0.5,
        "lr": 1e-3,
        "grad_norm": None,
        "tokens_per_second": 900,
    }
    assert lines[2]["loss"] is None and lines[3]["name"] == "step-000002"


def test_values_of_torch_and_numpy_become_numbers(tmp_path: Path) -> None:
    torch, np = pytest.importorskip("torch"), pytest.importorskip("numpy")
    MetricsWriter(tmp_path).on_step(1, {"loss": torch.tensor(0.5), "lr": np.float32(0.25), "x": np.nan})
    (step,) = read_metrics(tmp_path)
    assert (step["loss"], step["lr"], step["x"]) == (0.5, 0.25, None)


def test_after_a_resume_each_step_is_there_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3, 4):
        writer.on_step(step, {"loss": 1.0 / step})
    with writer.path.open("ab") as handle:
        handle.write(b'{"event":"step","step":5,"lo')
    writer.on_start()
    for step in (3, 4, 5):
        writer.on_step(step, {"loss": 10.0 + step})
    found = read_metrics(tmp_path)
    assert [s["step"] for s in found] == [1, 2, 3, 4, 5]
    assert [s["loss"] for s in found] == [1.0, 0.5, 13.0, 14.0, 15.0]
    assert read_metrics(tmp_path / "none") == []


def test_the_heart_beats_now_and_then(tmp_path: Path) -> None:
    now = [100.0]
    heart = Heartbeat(tmp_path, every=5.0, clock=lambda: now[0])

    def beat() -> dict[str, Any]:
        return json.loads(heart.path.read_text())

    heart.on_start()
    assert beat() == {"pid": os.getpid(), "step": 0, "at": 100.0, "state": "training"}
    now[0] = 104.0
    heart.on_step(7, {})
    assert beat()["at"] == 100.0
    now[0] = 105.0
    heart.on_step(8, {})
    assert (beat()["at"], beat()["step"]) == (105.0, 8)
    now[0] = 50.0
    heart.on_step(9, {})
    assert beat()["at"] == 50.0, "a clock that was set back does not stop it"
    heart.on_end("done")
    assert beat()["state"] == "done"


# -- third parties ----------------------------------------------------------------------------------


class Loud(Listener):
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_start(self) -> None:
        self.heard.append("start")

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        metrics["loss"] = "changed"
        self.heard.append(f"step {step}")

    def on_end(self, state: str) -> None:
        self.heard.append(f"end {state}")


class Broken(Listener):
    """Fails at each step."""

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        raise RuntimeError(f"no\nway at {step}")


def test_one_that_fails_is_said_once_and_harms_nobody() -> None:
    lines: list[str] = []
    first, last = Loud(), Loud()
    group = CallbackGroup([first, Broken(), last], lines.append)
    metrics = {"loss": 0.5}
    group.on_start()
    for step in (1, 2, 3):
        group.on_step(step, metrics)
    group.on_nan(4, metrics)
    group.on_checkpoint(Path("x"))
    group.on_end("done")
    assert first.heard == last.heard == ["start", "step 1", "step 2", "step 3", "end done"]
    assert metrics == {"loss": 0.5}, "a listener cannot change what the next one hears"
    assert len(lines) == 1 and "\n" not in lines[0]
    assert "Broken.on_step failed, training goes on: RuntimeError: no way at 1" in lines[0]


def test_an_interrupt_is_no_failure_of_a_listener() -> None:
    class Impatient(Listener):
        def on_start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallbackGroup([Impatient()]).on_start()


def test_plugins_are_asked_and_a_broken_one_is_left_out(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    loud, lines = Loud(), []

    class Good:
        @hookimpl
        def gt_train_callbacks(self, job: Any) -> list[TrainCallbacks]:
            assert job.role == "deacon"
            return [loud]

    class Bad:
        @hookimpl
        def gt_train_callbacks(self) -> list[TrainCallbacks]:
            raise RuntimeError("not today")

    manager = pluggy.PluginManager("gt_plugins")
    manager.add_hookspecs(hookspecs)
    for plugin, name in ((callbacks, "built-in"), (Good(), "good"), (Bad(), "bad")):
        manager.register(plugin, name)
    monkeypatch.setattr("gt_plugins.plugins.plugin_manager", lambda hook="": manager)
    job = new_job(town, "deacon", "tiny", "d")
    own = Loud()
    group = listeners_of(job, own, say=lines.append)
    group.on_start()
    group.on_step(1, {"loss": 1.0})
    assert group.listeners[0] is own and loud.heard == own.heard == ["start", "step 1"]
    assert len(lines) == 1 and "bad: gt_train_callbacks failed" in lines[0]
    assert (job.folder / "heartbeat.json").exists() and len(read_metrics(job.folder)) == 1


def test_the_built_in_ones_keep_the_protocol(town: Town) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    assert all(isinstance(c, TrainCallbacks) for c in [*gt_train_callbacks(job), Listener()])


# -- not a number -----------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.5, 3.0, math.nan, math.inf, -math.inf]), max_size=30),
    st.integers(1, 5),
    st.booleans(),
)
def test_skips_exactly_the_bad_steps_and_stops_after_n_in_a_row(
    values: list[float], limit: int, as_gradient: bool
) -> None:
    handler, row, skipped = NanHandler(limit), 0, 0
    for step, value in enumerate(values):
        loss, gradient = (1.0, value) if as_gradient else (value, 1.0)
        bad = not math.isfinite(value)
        row = row + 1 if bad else 0
        skipped += bad
        if row == limit:
            with pytest.raises(NonRetriableError, match=f"{limit} times in a row, at step {step}"):
                handler.check(loss, gradient, step=step)
            return
        assert handler.check(loss, gradient, step=step) == (("skip", "restore")[row > 1] if bad else "ok")
        assert 0 < handler.scale <= (0.5 if bad else 1.0)
        assert (handler.consecutive, handler.skipped) == (row, skipped)
        resumed = NanHandler(limit)
        resumed.restore(json.loads(json.dumps(handler.state())))
        handler = resumed


def test_the_batches_are_saved_before_it_stops(tmp_path: Path) -> None:
    handler = NanHandler(2, tmp_path)
    assert handler.check(0.5, None, step=118, batch=["a"]) == "ok"
    assert handler.check(math.nan, 1.0, step=119, batch=["b", "c"]) == "skip"
    with pytest.raises(NonRetriableError) as stopped:
        handler.check(0.5, math.inf, step=120, batch=["d", 4])
    path = tmp_path / "nan-step-000120.json"
    assert str(path) in str(stopped.value) and str(stopped.value).startswith(
        "gradient was not finite 2 times"
    )
    steps = json.loads(path.read_text())["steps"]
    assert [s["batch"] for s in steps] == [["b", "c"], ["d", 4]] and steps[0]["loss"] == "nan"


def test_a_disk_that_is_full_then_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gt_plugins.training.numerics.write_json", full)
    with pytest.raises(NonRetriableError, match=r"could not be saved \(No space left"):
        NanHandler(1, tmp_path).check(math.nan, step=3)


def test_a_limit_below_one_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NanHandler(0)


def test_an_adapter_with_a_nan_is_named() -> None:
    torch = pytest.importorskip("torch")
    good = {"a": torch.ones(3), "n": torch.arange(3), "h": torch.ones(2, dtype=torch.bfloat16)}
    finite_or_raise(good)
    finite_or_raise({})
    for bad in (math.nan, math.inf):
        with pytest.raises(NonRetriableError, match=r"^peer 3: b: 1 of 2 numbers are not finite$"):
            finite_or_raise(good | {"b": torch.tensor([1.0, bad])}, "peer 3")


# -- the monitor ------------------------------------------------------------------------------------

STEADY = Sight(now=100.0, last_sign=99.0, step_seconds=(1.0,) * 20, losses=(2.0,) * 20)


@pytest.mark.parametrize(
    ("change", "state", "told"),
    [
        ({}, "well", ""),
        ({"now": 99.0 + 119}, "well", ""),
        ({"now": 99.0 + 121}, "degraded", "no step for 121 s"),
        ({"now": 99.0 + 1801}, "failed", "no step for 1801 s"),
        ({"step_seconds": (30.0,) * 20, "now": 99.0 + 500}, "well", ""),
        ({"step_seconds": (1.0,) * 20 + (5.0,) * 3}, "degraded", "steps take 5.0 s, before it was 1.0 s"),
        ({"step_seconds": (1.0,) * 20 + (5.0, 1.0, 5.0)}, "well", ""),
        ({"step_seconds": (1.0,) * 5 + (5.0,) * 3}, "well", ""),
        ({"losses": (2.0,) * 20 + (9.0,) * 5}, "degraded", "the loss runs away: 9.00, it was 2.00"),
        ({"losses": (2.0,) * 20 + (9.0,)}, "well", ""),
        ({"losses": (0.01,) * 20 + (0.2,) * 5}, "well", ""),
        ({"losses": (math.nan,) * 40}, "well", ""),
        ({"memory": 0.97}, "degraded", "97% of the memory is used"),
        ({"peers": (3, 3)}, "well", ""),
        ({"peers": (2, 3)}, "degraded", "1 of 3 peers are lost"),
        ({"peers": (0, 3)}, "degraded", "all 3 peers are lost"),
        ({"peers": (0, 0)}, "well", ""),
    ],
)
def test_judging_one_moment(change: dict[str, Any], state: str, told: str) -> None:
    verdict = judge(replace(STEADY, **change), Limits())
    assert verdict.state == state and told in verdict.reason


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.lists(st.floats(0, 1e5)).map(tuple),
    st.lists(st.floats()).map(tuple),
    st.none() | st.floats(0, 1),
    st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_any_moment_can_be_judged(
    now: float, last: float, times: Any, losses: Any, memory: Any, peers: Any
) -> None:
    verdict = judge(Sight(now, last, times, losses, memory, peers), Limits())
    assert verdict.state in ("well", "degraded", "failed") and bool(verdict.reason) == (
        verdict.state != "well"
    )


class Report:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.event = threading.Event()

    def degrade(self, reason: str) -> None:
        self.told.append(f"degraded: {reason}")
        self.event.set()

    def recover(self, reason: str = "") -> None:
        self.told.append(f"recovered: {reason}")

    def fail(self, reason: str) -> None:
        self.told.append(f"failed: {reason}")


def test_each_change_is_reported_once() -> None:
    now, peers, report = [0.0], [3, 3], Report()
    monitor = MonitorWorker(
        report, every=1000, clock=lambda: now[0], memory=lambda: None, peers=lambda: (peers[0], peers[1])
    )
    for step in range(5):
        now[0] += 1
        monitor.on_step(step, {"loss": 1.0})
        monitor.look()
    assert report.told == []
    peers[0] = 2
    monitor.look(), monitor.look()
    peers[0] = 3
    monitor.look()
    now[0] += 125
    monitor.look()
    monitor.on_checkpoint(Path("x"))
    monitor.look()
    now[0] += 4000
    monitor.look(), monitor.look()
    assert [t.split(":")[0] for t in report.told] == [
        "degraded",
        "recovered",
        "degraded",
        "recovered",
        "failed",
    ]
    assert "it was: 1 of 3 peers are lost" in report.told[1]


def test_a_checkpoint_is_no_slow_step() -> None:
    now, report = [0.0], Report()
    monitor = MonitorWorker(report, clock=lambda: now[0], memory=lambda: None)
    for step in range(40):
        now[0] += 1
        monitor.on_step(step, {"loss": 1.0})
        now[0] += 60
        monitor.on_nan(step, {}) if step % 2 else monitor.on_checkpoint(Path("x"))
        monitor.look()
    assert report.told == []


def test_a_source_of_figures_that_fails_is_unknown() -> None:
    def broken() -> Any:
        raise RuntimeError("no DHT")

    assert MonitorWorker(Report(), memory=broken, peers=broken).look().state == "well"


def test_the_thread_watches_until_the_end(town: Town) -> None:
    report = Report()
    monitor = MonitorWorker(report, every=0.01, memory=lambda: 0.99)
    monitor.on_start()
    assert report.event.wait(5)
    monitor.on_end("done")
    told = len(report.told)
    time.sleep(0.05)
    assert len(report.told) == told == 1


def test_a_lifecycle_is_what_it_reports_to(town: Town) -> None:
    job = new_job(town, "deacon", "tiny", "d")
    used = [0.99]
    with JobLifecycle(town, job, None, say=lambda _l: None) as life:
        monitor = MonitorWorker(life, every=1000, memory=lambda: used[0])
        life.transition("training")
        monitor.look()
        assert life.state == "degraded"
        used[0] = 0.5
        monitor.look()
        assert life.state == "training"
        used[0] = 0.99
        life.done("completed")
        with pytest.raises(ValueError):
            monitor.look()


def test_memory_is_a_share_or_unknown() -> None:
    share = memory_share()
    assert share is None or 0.0 < share < 1.0
