"""A process of a group for tests: trains the small base as it is and cut over the group, in fp32 and in nf4.

torchrun --nproc-per-node 2 tests/parallel_ranks.py BASE ROWS.json OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from training_helpers import RECIPE

from gt_plugins.rendering.render import Row
from gt_plugins.training.adapter import adapter_state, add_adapter, load_base, quiet_libraries
from gt_plugins.training.callbacks import CallbackGroup
from gt_plugins.training.metrics import parameters_of
from gt_plugins.training.parallel import Group, together
from gt_plugins.training.sharding import shard
from gt_plugins.training.trainer import Trainer


def held(model: Any) -> int:
    """Bytes of the decoder layers' frozen weights that this process holds."""
    layers = model.get_base_model().model.layers
    found = [getattr(p, "_local_tensor", p) for n, p in layers.named_parameters() if "lora_" not in n]
    return sum(t.numel() * t.element_size() for t in found)


def run(base: Path, rows: list[Row], group: Group, quantize: str, cut: bool) -> dict[str, Any]:
    recipe = replace(RECIPE, quantize=quantize, shard=cut, packing=False, dropout=0.0, epochs=2.0)
    model = add_adapter(load_base(base, "cpu", recipe), recipe)
    if cut:
        model = shard(model, "cpu", group)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(group.once(lambda: name))
        trainer = Trainer(
            *(model, rows, recipe, folder, CallbackGroup([])),
            **{"pad": 0, "device": "cpu", "say": print, "heldout": rows[:3], "group": group},
        )
        done = trainer.run()
        group.wait()
    adapter = sum(float(t.double().abs().sum()) for t in adapter_state(model).values())
    looks = [loss for _, loss in done.heldout.looks]
    return {
        "losses": done.losses,
        "looks": looks,
        "held": held(model),
        "adapter": adapter,
        "parameters": parameters_of(model),
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    quiet_libraries()
    base, rows_file, out = map(Path, sys.argv[1:])
    rows = [
        Row(tuple(ids), tuple(map(tuple, spans)), 0, 2, 0) for ids, spans in json.loads(rows_file.read_text())
    ]
    with together() as group:
        found = {
            f"{quantize} {'cut' if cut else 'whole'}": run(base, rows, group, quantize, cut)
            for quantize in ("none", "nf4")
            for cut in (False, True)
        }
        if group.first:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
