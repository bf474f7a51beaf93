"""Several GPUs of one host: the base whole in each, and cut over them (FSDP2), in bf16 and in nf4.

    torchrun --nproc-per-node 2 bench/train_fsdp.py                   7B, one row of 4,096 tokens on each GPU
    torchrun --nproc-per-node 2 bench/train_fsdp.py --shape 1.5b --rows 2 --steps 10

Random weights of Qwen2's shapes. Four runs, one after the other: one GPU alone; all GPUs with the base whole
in each; cut in bf16; cut in nf4. Prints tokens a second, the most memory that tensors took on the first GPU
while training, the last loss, and the ratios. Two minutes on two H100. The first two run the engine; a base
that is cut goes through the model's own forward, so that its speed is what sharding costs in all.
Other options are those of ``bench/train.py``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from train import Measured, make_rows, ours, parser_of, reset_memory

from gt_plugins.training.adapter import quiet_libraries
from gt_plugins.training.parallel import ALONE, Group, together

VOCAB = 152_000
"""Below that of every shape, so that the same rows do for all."""


def run(options: argparse.Namespace, group: Group, name: str, shard: bool, quantize: str) -> Measured:
    """One run over a group's processes."""
    own = argparse.Namespace(**vars(options) | {"shard": shard, "quantize": quantize, "group": group})
    found = replace(ours(own, make_rows(own, VOCAB), "cuda"), name=name)
    reset_memory("cuda")
    return found


def report(runs: list[Measured], cards: int) -> None:
    print(f"{'':24}{'tokens/s':>10}{'GiB a GPU':>11}{'MFU':>7}{'last loss':>11}")
    for one in runs:
        figures = f"{one.rate:>10,.0f}{one.memory / 2**30:>11.1f}{one.mfu:>7.3f}{one.losses[-1]:>11.4f}"
        print(f"{one.name:24}{figures}")
    alone, whole, *cut = runs
    print(f"{cards} GPUs are {whole.rate / alone.rate:.2f} times one")
    for one in cut:
        speed, memory = one.rate / whole.rate, one.memory / whole.memory
        print(f"{one.name}: {speed:.2f} times the speed of whole, {memory:.2f} of its memory")
    apart = max(abs(a - b) for a, b in zip(whole.losses, cut[0].losses, strict=True))
    print(f"losses of whole and cut in bf16 are at most {apart:.4f} apart")


def main() -> int:
    parser = parser_of(__doc__)
    parser.set_defaults(shape="7b", rows=1, length=4096, steps=8, warm=3)
    options = parser.parse_args()
    quiet_libraries()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            "this measures GPUs; tests/test_training_parallel.py shows on CPUs that it learns the same"
        )
    with together() as group:
        if group.alone:
            raise SystemExit("start it with torchrun --nproc-per-node 2")
        runs = []
        if group.first:
            runs.append(run(options, ALONE, "one GPU", False, "none"))
        group.wait()
        runs.append(run(options, group, f"{group.size} GPUs, whole", False, "none"))
        runs.append(run(options, group, f"{group.size} GPUs, cut, bf16", True, "none"))
        runs.append(run(options, group, f"{group.size} GPUs, cut, nf4", True, "nf4"))
        if group.first:
            report(runs, group.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
