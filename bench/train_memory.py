"""What training takes on a GPU, beside what ``--estimate`` says it will: every preset, in bf16 and in nf4.

    python bench/train_memory.py                       each preset with its own recipe, rows of 4,096 tokens
    python bench/train_memory.py --presets 7b --length 8192

Random weights of Qwen2's shapes; rows have loss on their second half. Each run is a process of its own, three
steps long. Measured is what the card has less of while it runs at its most: tensors, what torch's allocator
holds back, and CUDA's own; nothing else may run on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

from train import SHAPES, make_model

from gt_plugins.training.adapter import add_adapter, quiet_libraries
from gt_plugins.training.callbacks import CallbackGroup
from gt_plugins.training.estimate import GIB, memory_parts, network_of
from gt_plugins.training.presets import PRESETS
from gt_plugins.training.recipe import Recipe

STEPS = 3
SHARE = 0.5
"""Of a row's tokens, that have loss."""


def recipe_of(preset: str, quantize: str) -> Recipe:
    """The preset's own recipe, as long as ``STEPS`` steps."""
    return replace(PRESETS[preset].recipe, quantize=quantize, epochs=1.0, keep_best=False)


def estimated(preset: str, quantize: str, length: int) -> float:
    """GiB that ``--estimate`` says."""
    net = network_of(SHAPES[preset] | {"model_type": "qwen2"})
    return sum(memory_parts(net, recipe_of(preset, quantize), "cuda", length, SHARE).values())


def measure(preset: str, quantize: str, length: int, seed: int) -> dict[str, float]:
    """One run in this process: GiB of the card, of tensors alone, and tokens a second of the last step."""
    import tempfile
    import time
    from pathlib import Path

    import torch

    from gt_plugins.rendering.render import Row
    from gt_plugins.training.trainer import Trainer

    quiet_libraries()
    recipe = recipe_of(preset, quantize)
    options = argparse.Namespace(shape=preset, quantize=quantize, shard=False, seed=seed)
    model = add_adapter(make_model(options, "cuda"), recipe)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    rows_a_step = max(1, recipe.batch_tokens // length)
    draw = torch.Generator().manual_seed(seed)
    size = (STEPS * rows_a_step, length)
    ids = torch.randint(0, SHAPES[preset]["vocab_size"], size, generator=draw).tolist()
    rows = [Row(tuple(row), ((round(length * (1 - SHARE)), length),), 0, 2, 0) for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        say: Any = lambda _text: None  # noqa: E731
        trainer = Trainer(
            *(model, rows, recipe, Path(folder), CallbackGroup([], say)), pad=0, device="cuda", say=say
        )
        began = time.perf_counter()
        trained = trainer.run()
        took = time.perf_counter() - began
    free, whole = torch.cuda.mem_get_info()
    own = whole - free - torch.cuda.memory_reserved()
    return {
        "card": (torch.cuda.max_memory_reserved() + own) / GIB,
        "tensors": torch.cuda.max_memory_allocated() / GIB,
        "rate": trained.tokens / took,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--presets", default=",".join(SHAPES), help="with commas")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("PRESET", "QUANTIZE"), help="measure here, print JSON")
    options = parser.parse_args()
    if options.one:
        preset, quantize = options.one
        print(json.dumps(measure(preset, quantize, options.length, options.seed)))
        return 0
    print(f"{'':14}{'estimate GiB':>14}{'card':>8}{'tensors':>9}")
    for preset in options.presets.split(","):
        for quantize in ("none", "nf4"):
            command = [sys.executable, __file__, "--one", preset, quantize, "--length", str(options.length)]
            done = subprocess.run([*command, "--seed", str(options.seed)], capture_output=True, text=True)
            said = estimated(preset, quantize, options.length)
            if done.returncode:
                print(
                    f"{preset:5} {quantize:8}{said:>14.1f}  failed: {done.stderr.strip().splitlines()[-1:]}"
                )
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{preset:5} {quantize:8}{said:>14.1f}{found['card']:>8.1f}{found['tensors']:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
