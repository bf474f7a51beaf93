"""A small base, a small dataset and requests to train on them: seconds, not minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataset_helpers import NUDGE, build, session, stored
from serving_helpers import make_base

from gt_plugins.corpus import dataset
from gt_plugins.corpus.dataset import Dataset, Facts, held_out
from gt_plugins.rendering.render import STANDARD, Renderer, Row
from gt_plugins.town.root import Town
from gt_plugins.training.recipe import Recipe
from gt_plugins.training.run import Request, rows_of

RECIPE = Recipe(rank=2, alpha=4, rate=5e-3, epochs=4.0, batch_tokens=700, checkpoint_steps=3, dropout=0.1)
"""With dropout, so that a resume has random numbers to get right."""
HEARTBEAT = ("All is well.", "gt deacon heartbeat 'ok nux'", "ok")


def write_dataset(folder: Path, count: int = 6, role: str = "deacon") -> Dataset:
    """A chat and a decision of each of ``count`` sessions; none is held out."""
    names = [name for n in range(count * 3) if not held_out(name := f"s{n}")][:count]
    found = []
    for index, name in enumerate(names):
        steps = (("", f"cat reports/{index:02}.txt", f"nux{index} is idle for {index * 9} minutes"),)
        found.append(stored(session(*steps, (NUDGE, HEARTBEAT)[index % 2], name=name)))
    built = build(*found, slim=lambda _: "You watch the town.")
    assert not built.heldout
    train = tuple(replace(e, role=role) for e in built.train)
    return dataset.write(folder, role, replace(built, train=train), Facts(budget="standard"))


def write_small_base(folder: Path) -> Path:
    return make_base(folder, context=1024)


@pytest.fixture(scope="module", name="base")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small base, for a module that imports this."""
    import torch

    torch.set_num_threads(1)
    return write_small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", name="rows")
def small_rows(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a small dataset as the small base reads them."""
    made = write_dataset(tmp_path_factory.mktemp("data"))
    return rows_of(dataset.read(made.folder).train, Renderer.from_folder(base), STANDARD, print)


def request(town: Town, tmp: Path, base: Path, data: Path, **more: Any) -> Request:
    """A request to train on the small base, one thread."""
    recipe = more.pop("recipe", RECIPE)
    return Request(town, tmp / "models", "deacon", str(base), data, recipe, threads=1, **more)


def row(length: int, *spans: tuple[int, int]) -> Row:
    """A row of that many ids, each its own place."""
    return Row(tuple(range(length)), spans or ((length - 1, length),), 0, 2, 0)
