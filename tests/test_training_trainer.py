"""The loop itself: it learns, resumes to the bit, stops when asked and at NaN, survives a torn checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_helpers import RECIPE, row, small_base, small_rows, write_dataset  # noqa: F401

from gt_plugins.errors import NonRetriableError
from gt_plugins.rendering.render import Row
from gt_plugins.training.adapter import adapter_state, add_adapter, load_base, save_adapter, token_loss
from gt_plugins.training.callbacks import CallbackGroup, Listener
from gt_plugins.training.loader import collate
from gt_plugins.training.losses import RowLoss
from gt_plugins.training.recipe import Recipe
from gt_plugins.training.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


Make = Callable[..., Trainer]


@pytest.fixture
def make(base: Path, rows: list[Row], tmp_path: Path) -> Make:
    """A trainer as a fresh process would have it; random numbers are somewhere else each time."""
    made: list[int] = []

    def trainer(
        name: str = "job",
        *listeners: Listener,
        recipe: Recipe = RECIPE,
        say: Callable[[str], None] = print,
        over: Sequence[Row] = rows,
    ) -> Trainer:
        import torch

        model = add_adapter(load_base(base, "cpu"), recipe)
        group = CallbackGroup(listeners, print)
        built = Trainer(model, over, recipe, tmp_path / name, group, pad=0, device="cpu", say=say)
        made.append(len(made))
        if name != "job":
            torch.manual_seed(1000 + len(made))
        return built

    return trainer


class StopAfter(Listener):
    """Asks the trainer to stop after a step, as SIGTERM does."""

    def __init__(self, step: int) -> None:
        self.step, self.trainer = step, None

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step:
            self.trainer.stop_asked = True


def same(one: Trainer, other: Trainer) -> bool:
    import torch

    left, right = adapter_state(one.model), adapter_state(other.model)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def whole(make: Make, **more: Any) -> tuple[Trainer, Any]:
    """A run without a break, from a known random state."""
    import torch

    trainer = make("whole", **more)
    torch.manual_seed(5)
    return trainer, trainer.run()


def broken(make: Make, *steps: int, **more: Any) -> tuple[Trainer, Any]:
    """The same run, stopped after each of these steps and resumed by a new trainer."""
    import torch

    for index, step in enumerate((*steps, 0)):
        stop = StopAfter(step)
        trainer = make("broken", stop, **more)
        stop.trainer = trainer
        resumed = trainer.resume()
        assert resumed == (steps[index - 1] if index else 0)
        if not index:
            torch.manual_seed(5)
        done = trainer.run()
        assert done.stopped is bool(step)
    return trainer, done


# -- it learns --------------------------------------------------------------------------------------


def test_it_learns_and_leaves_an_adapter(make: Make, tmp_path: Path) -> None:
    trainer, done = whole(make, recipe=replace(RECIPE, epochs=12.0))
    assert done.steps == len(trainer.steps) == len(done.losses) and not done.stopped and done.device == "cpu"
    assert done.losses[-1] < 0.8 * done.losses[0]
    assert done.last_loss == sum(done.losses[-10:]) / 10
    assert done.tokens == sum(len(trainer.rows[i].ids) for s in trainer.steps for i in s.rows)
    save_adapter(trainer.model, tmp_path / "adapter")
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None and config["r"] == 2
    assert str(tmp_path) not in json.dumps(config)


def test_loss_is_taken_on_the_spans_and_nowhere_else(make: Make, rows: list[Row]) -> None:
    import torch

    model = make().model.eval()
    ids, labels, mask = collate(rows[:3], 0)
    loss, count = token_loss(model, ids, labels, mask)
    assert count == sum(end - start for r in rows[:3] for start, end in r.spans)
    with torch.no_grad():
        logs = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
    expected = sum(
        -float(logs[i, n - 1, r.ids[n]])
        for i, r in enumerate(rows[:3])
        for s, e in r.spans
        for n in range(s, e)
    )
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_padding_changes_no_loss(make: Make, rows: list[Row]) -> None:
    model = make().model.eval()
    short = min(rows, key=lambda r: len(r.ids))
    alone, count = token_loss(model, *collate([short], 0))
    ids, labels, mask = collate([short, max(rows, key=lambda r: len(r.ids))], 0)
    padded, again = token_loss(model, ids[:1], labels[:1], mask[:1])
    assert count == again and float(alone.detach()) == pytest.approx(float(padded.detach()), rel=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_another(make: Make) -> None:
    one, other = whole(make)[1], whole(make)[1]
    assert one.losses == other.losses
    assert whole(make, recipe=replace(RECIPE, seed=8))[1].losses != one.losses


# -- resume -----------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_is_the_same_to_the_bit(make: Make) -> None:
    straight, done = whole(make)
    pieces, again = broken(make, 2, 5)
    assert again.losses == done.losses and again.steps == done.steps and again.tokens == done.tokens
    assert same(straight, pieces)


def test_a_torn_checkpoint_falls_back_to_the_one_before(make: Make, tmp_path: Path) -> None:
    straight, done = whole(make)
    stop = StopAfter(7)
    first = make("torn", stop)
    stop.trainer = first
    import torch

    torch.manual_seed(5)
    first.run()
    folders = sorted((tmp_path / "torn").glob("step-*"))
    assert [p.name for p in folders] == ["step-000006", "step-000007"], "the last two are kept"
    path = folders[-1] / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    said: list[str] = []
    trainer = make("torn", say=said.append)
    assert trainer.resume() == 6
    assert len(said) == 1 and "step-000007" in said[0] and "adapter.safetensors" in said[0]
    assert trainer.run().losses == done.losses and same(straight, trainer)


def test_without_a_checkpoint_it_begins_at_the_beginning(make: Make) -> None:
    trainer = make()
    assert trainer.resume() == 0 and trainer.state.step == 0


def test_a_checkpoint_of_another_adapter_is_refused(make: Make) -> None:
    stop = StopAfter(1)
    first = make("job", stop)
    stop.trainer = first
    first.run()
    with pytest.raises(NonRetriableError, match=r"shapes|size|adapter"):
        make("job", recipe=replace(RECIPE, rank=3)).resume()


# -- NaN --------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make the loss of these steps (counted from 1) not a number."""
    taken = [0]

    sound = RowLoss.__call__

    def loss(self: RowLoss, some: list[Row]) -> tuple[Any, int]:
        taken[0] += 1
        value, count = sound(self, some)
        return (value * float("nan") if taken[0] in steps else value), count

    monkeypatch.setattr(RowLoss, "__call__", loss)


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    heard: list[int] = []

    class Hears(Listener):
        def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
            heard.append(step)

    failing(monkeypatch, 2, 4)
    trainer = make("nan", Hears())
    done = trainer.run()
    assert heard == [2, 4] and done.skipped == 2
    assert done.steps == len(trainer.steps) == len(done.losses) + 2
    assert all(bool(torch.isfinite(t).all()) for t in adapter_state(trainer.model).values())


def test_it_stops_after_too_many_and_names_the_batches(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing(monkeypatch, 2, 3, 4)
    trainer = make("nan")
    with pytest.raises(
        NonRetriableError, match=r"loss was not finite 3 times in a row, at step 4.*nan-step-000004\.json"
    ):
        trainer.run()
    found = json.loads((tmp_path / "nan/nan-step-000004.json").read_text())
    assert [entry["step"] for entry in found["steps"]] == [2, 3, 4]
    assert found["steps"][0]["batch"] == list(trainer.steps[1].rows)


def test_bad_steps_are_remembered_by_a_checkpoint(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 1, 2)
    stop = StopAfter(2)
    first = make("nan", stop)
    stop.trainer = first
    assert first.run().skipped == 2
    failing(monkeypatch, 1)
    again = make("nan")
    assert again.resume() == 2
    with pytest.raises(NonRetriableError, match="3 times in a row, at step 3"):
        again.run()


# -- listeners --------------------------------------------------------------------------------------


def test_listeners_hear_every_step_and_checkpoint(make: Make) -> None:
    heard: list[tuple[str, Any]] = []

    class Hears(Listener):
        def on_start(self) -> None:
            heard.append(("start", None))

        def on_step(self, step: int, metrics: dict[str, Any]) -> None:
            heard.append(("step", (step, metrics)))

        def on_checkpoint(self, path: Path) -> None:
            heard.append(("checkpoint", path.name))

    trainer = make("heard", Hears())
    trainer.run()
    steps = [value for kind, value in heard if kind == "step"]
    assert heard[0] == ("start", None) and [n for n, _ in steps] == list(range(1, len(trainer.steps) + 1))
    wanted = {"loss", "lr", "grad_norm", "tokens_per_second", "epoch", "steps", "mfu", "memory_gib"}
    assert all(set(metrics) == wanted for _, metrics in steps)
    assert max(metrics["lr"] for _, metrics in steps) == RECIPE.rate
    names = [name for kind, name in heard if kind == "checkpoint"]
    assert names == [f"step-{n:06}" for n in (*range(0, len(trainer.steps), 3), len(trainer.steps))]


def test_a_row_without_a_next_token_to_learn_does_no_harm(make: Make) -> None:
    trainer = make("odd", over=[row(6, (0, 1))], recipe=replace(RECIPE, epochs=1.0))
    assert trainer.run().losses == (0.0,)


def test_precision_is_the_bases_and_the_loss_is_about_the_same(base: Path, rows: list[Row]) -> None:
    import torch

    found = {}
    for precision, kind in (("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        recipe = replace(RECIPE, precision=precision, dropout=0.0)
        model = add_adapter(load_base(base, "cpu", recipe), recipe)
        assert model.get_base_model().lm_head.weight.dtype == kind
        assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        loss, count = RowLoss(model, "cpu", 0)(rows[:2])
        loss.backward()
        found[precision] = float(loss.detach()) / count
    assert found["auto"] == found["fp32"] != found["bf16"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)


@pytest.mark.slow
def test_bitsandbytes_is_imported_only_where_something_is_quantized(base: Path) -> None:
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from training_helpers import RECIPE\n"
        "from gt_plugins.training.adapter import add_adapter, load_base\n"
        "base = Path(sys.argv[1])\n"
        "add_adapter(load_base(base, 'cpu', RECIPE), RECIPE)\n"
        "assert 'bitsandbytes' not in sys.modules\n"
        "packed = replace(RECIPE, quantize='nf4')\n"
        "model = add_adapter(load_base(base, 'cpu', packed), packed)\n"
        "kinds = {type(m).__name__ for m in model.modules()}\n"
        "assert 'bitsandbytes' in sys.modules and 'Linear4bit' in kinds, kinds\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(base)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
