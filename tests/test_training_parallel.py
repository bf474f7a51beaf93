"""Two processes that share a step's rows train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from base_helpers import write_model

SCRIPT = """
import json, sys
from pathlib import Path
from gt_plugins.rendering.render import Row
from gt_plugins.training import parallel
from gt_plugins.training.adapter import adapter_state, add_adapter, load_base
from gt_plugins.training.callbacks import CallbackGroup
from gt_plugins.training.recipe import Recipe
from gt_plugins.training.trainer import Trainer

base, out = Path(sys.argv[1]), Path(sys.argv[2])
group = parallel.join()
recipe = Recipe(rank=2, epochs=2, batch_tokens=90, rate=1e-2, checkpoint_steps=2)
rows = [Row(tuple((7 * i + j) % 300 for j in range(20 + i)), ((8, 20 + i),), 0, 2, 0) for i in range(9)]
model = add_adapter(load_base(base, "cpu"), recipe)
trainer = Trainer(
    *(model, rows, recipe, out / "checkpoints", CallbackGroup([])),
    pad=0, device="cpu", say=print, heldout=rows[:2], group=group,
)
done = trainer.run()
sums = {k: float(v.double().abs().sum()) for k, v in adapter_state(model).items()}
(out / f"{group.size}-{group.rank}.json").write_text(json.dumps([done.losses, sums, done.tokens]))
parallel.leave()
"""


def run(base: Path, out: Path, size: int) -> list[tuple[list[float], dict[str, float], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(base), str(out)],
            env=os.environ | known | {"WORLD_SIZE": str(size), "RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n in range(size)
    ]
    assert [p.wait(timeout=400) for p in running] == [0] * size
    return [json.loads((out / f"{size}-{n}.json").read_text()) for n in range(size)]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (alone,) = run(base, tmp_path / "one", 1)
    first, second = run(base, tmp_path / "two", 2)
    assert first == second, "every process has the same adapter and has seen the same losses"
    assert first[0] == pytest.approx(alone[0], rel=1e-4) and first[2] == alone[2]
    assert first[1] == pytest.approx(alone[1], rel=1e-3)
    names = sorted(p.name for p in (tmp_path / "two/checkpoints").glob("step-*"))
    assert names and names == sorted(p.name for p in (tmp_path / "one/checkpoints").glob("step-*"))
