"""Every step of a run is planned; batches fit; loss is on the replies alone; recipes are checked."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import row

from gt_plugins.errors import UserError
from gt_plugins.training.loader import collate, plan_batches
from gt_plugins.training.recipe import TINY_RECIPE, Recipe, load_recipe
from gt_plugins.training.schedule import rate_share

few = settings(max_examples=40, deadline=None)
lengths = st.lists(st.integers(2, 400), min_size=1, max_size=60)


# -- the plan ---------------------------------------------------------------------------------------


@few
@given(lengths, st.integers(10, 900), st.integers(1, 4), st.integers(0, 99))
def test_every_row_once_an_epoch_and_no_batch_over_budget(
    sizes: list[int], budget: int, epochs: int, seed: int
) -> None:
    rows = [row(n) for n in sizes]
    steps = plan_batches(rows, budget, epochs, seed)
    for epoch in range(epochs):
        indices = [i for step in steps if step.epoch == epoch for i in step.rows]
        assert Counter(indices) == Counter(range(len(rows)))
    for step in steps:
        assert sum(sizes[i] for i in step.rows) <= budget or len(step.rows) == 1
    assert [s.epoch for s in steps] == sorted(s.epoch for s in steps)
    assert steps == plan_batches(rows, budget, epochs, seed)


@few
@given(lengths, st.floats(0.01, 3.0), st.integers(0, 99))
def test_a_part_of_an_epoch_is_its_beginning(sizes: list[int], epochs: float, seed: int) -> None:
    rows = [row(n) for n in sizes]
    whole = plan_batches(rows, 300, math.ceil(epochs), seed)
    part = plan_batches(rows, 300, epochs, seed)
    assert part == whole[: len(part)] and part
    of_one = sum(s.epoch == 0 for s in whole)
    assert abs(len(part) - epochs * of_one) <= 1


def test_the_order_is_the_seeds_and_changes_with_the_epoch() -> None:
    rows = [row(10 + n % 7) for n in range(40)]
    one, other = (plan_batches(rows, 60, 2, seed) for seed in (1, 2))
    assert one != other
    first, second = ([s.rows for s in one if s.epoch == e] for e in (0, 1))
    assert first != second


def test_rows_of_a_batch_are_alike_in_length() -> None:
    sizes = [10, 400] * 20
    steps = plan_batches([row(n) for n in sizes], 800, 1, 0)
    mixed = [s for s in steps if len({sizes[i] for i in s.rows}) > 1]
    assert len(mixed) <= 1


# -- labels -----------------------------------------------------------------------------------------


@few
@given(st.lists(st.tuples(st.integers(3, 40), st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=4))
def test_labels_stand_on_the_spans_alone(parts: list[tuple[int, int, int]]) -> None:
    rows = []
    for size, start, length in parts:
        start = min(start, size - 1)
        rows.append(row(size, (start, min(size, start + length))))
    ids, labels, mask = collate(rows, pad=99)
    assert ids.shape == labels.shape == mask.shape == (len(rows), max(len(r.ids) for r in rows))
    for index, made in enumerate(rows):
        size, (start, end) = len(made.ids), made.spans[0]
        assert ids[index].tolist() == [*made.ids, *[99] * (ids.shape[1] - size)]
        assert mask[index].sum() == size
        taught = [n for n, label in enumerate(labels[index].tolist()) if label != -100]
        assert taught == list(range(start, end))
        assert all(labels[index, n] == ids[index, n] for n in taught)


# -- the rate ---------------------------------------------------------------------------------------


@few
@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_rate_warms_up_and_falls_to_nothing(total: int, warmup: float) -> None:
    shares = [rate_share(step, total, warmup) for step in range(total)]
    top = shares.index(max(shares))
    assert all(0 <= s <= 1 for s in shares) and shares[top] == 1.0
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)


# -- recipes ----------------------------------------------------------------------------------------


def test_a_recipe_is_the_preset_the_file_and_the_arguments(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 1\nrank = 4\n")
    made = load_recipe("tiny", path, rank=8, rate=None)
    assert (made.epochs, made.rank, made.rate) == (1.0, 8, TINY_RECIPE.rate)
    assert isinstance(made.epochs, float)
    assert load_recipe("/models/other") == Recipe()
    assert Recipe(**made.to_json()) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 1\n", ("epoch: not a key of a recipe", "known: rank")),
        ("rank = 1.5\n", ("rank: must be int",)),
        ('rate = "fast"\n', ("rate: must be float",)),
        ("rank = true\n", ("rank: must be int",)),
        ("rank = 0\n", ("rank: must be more than zero",)),
        ("epochs = -1\n", ("epochs: -1.0 is not a number from zero up",)),
        ("rate = nan\n", ("rate: nan is not a number",)),
        ("epochs = inf\n", ("epochs: inf is not a number",)),
        ("grad_clip = 0\n", ("grad_clip: must be more than zero",)),
        ("dropout = 1.0\n", ("dropout: 1.0 is not a share",)),
        ("warmup = 2\n", ("warmup: 2.0 is not a share",)),
        ('quantize = "int3"\n', ("quantize: 'int3' is not none or nf4",)),
        ("[lora]\nrank = 2\n", ("lora: not a key",)),
        ("rank = \n", ("not TOML", "line 1")),
    ],
)
def test_a_bad_recipe_is_named_with_its_key(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe("tiny", path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_arguments_are_checked_as_files_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rate: nan"):
        load_recipe("tiny", rate=math.nan)
    with pytest.raises(UserError, match="not there; pass a recipe file"):
        load_recipe("tiny", tmp_path / "none.toml")
