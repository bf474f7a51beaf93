"""How sure is the tiny recipe? Tunes a role with several recipes and seeds, and scores each.

    python bench/tiny_recipe.py DATASET --base DIR --grid rate=2e-3,3e-3 --grid epochs=2.5,4 --seeds 3

Prints a line for every run: scores by group of held-out cases (greedy text, the action that constrained
decoding would have written), steps, tokens and seconds. Then the lowest and the mean score of every recipe.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch
from tiny_base import score

from gt_plugins.corpus import dataset
from gt_plugins.rendering.render import TINY, Renderer
from gt_plugins.training.adapter import add_adapter, load_base, pick_device
from gt_plugins.training.callbacks import CallbackGroup
from gt_plugins.training.recipe import Recipe, load_recipe
from gt_plugins.training.run import rows_of
from gt_plugins.training.trainer import Trainer

POOLS = ("common", "wide", "unseen")


def grid(given: list[str]) -> list[dict[str, float]]:
    """Every combination of ``key=value,value`` options; whole numbers stay whole."""
    axes = []
    for option in given:
        key, _, values = option.partition("=")
        axes.append([(key, int(v) if v.isdigit() else float(v)) for v in values.split(",")])
    return [dict(point) for point in itertools.product(*axes)]


def tune(
    base: Path, data: dataset.Dataset, renderer: Renderer, recipe: Recipe, device: str
) -> tuple[object, str]:
    """The tuned model, and a line on how it was made."""
    rows = rows_of(data.train, renderer, TINY, print)
    model = add_adapter(load_base(base, device).float(), recipe)
    with tempfile.TemporaryDirectory() as folder:
        pad = next(iter(renderer.end_ids))
        trainer = Trainer(
            model, rows, recipe, Path(folder), CallbackGroup(()), pad=pad, device=device, say=print
        )
        began = time.perf_counter()
        trained = trainer.run()
    took = time.perf_counter() - began
    return (
        model.eval(),
        f"{trained.steps} steps, {trained.tokens} tokens, {took:.0f} s, loss {trained.last_loss:.3f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--grid", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", type=int, default=300)
    args = parser.parse_args()
    device = pick_device()
    data = dataset.read(args.dataset)
    renderer = Renderer.from_folder(args.base)
    for point in grid(args.grid) or [{}]:
        found = []
        for seed in range(7, 7 + args.seeds):
            recipe = load_recipe("tiny", seed=seed, **point)
            model, how = tune(args.base, data, renderer, recipe, device)
            scores = [score(model, renderer, data.role, pool, args.cases, device) for pool in POOLS]
            found.append(sum(scores) / len(scores))
            shown = "  ".join(f"{p} {s:.3f}" for p, s in zip(POOLS, scores, strict=True))
            print(f"{point} seed {seed}: {how}: {shown}", flush=True)
            del model
            torch.cuda.empty_cache()
        print(f"== {point}: lowest {min(found):.3f}, mean {sum(found) / len(found):.3f}", flush=True)


if __name__ == "__main__":
    main()
