"""Several processes on one host, by torchrun and gloo: the curve of one process, and a base cut over them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from training_helpers import RECIPE, small_base, small_rows, write_dataset  # noqa: F401

from gt_plugins.durable import read_lines
from gt_plugins.rendering.render import Row
from gt_plugins.town.root import Town
from gt_plugins.training.callbacks import read_metrics
from gt_plugins.training.parallel import Group

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(argv: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        argv, env=os.environ | paths | environ, capture_output=True, text=True, timeout=500, check=False
    )


def test_alone_nothing_is_shared_and_nothing_imported() -> None:
    group = Group()
    assert group.alone and group.first and group.share([1, 2, 3]) == [1, 2, 3]
    assert group.once(lambda: "x") == "x" and group.total(1.0, 2.0) == (1.0, 2.0)
    parts = [Group(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(n for part in parts for n in part) == list(range(8))


def test_two_processes_of_the_command_learn_as_one_with_two_pieces(
    town: Town, tmp_path: Path, base: Path
) -> None:
    data = write_dataset(tmp_path / "data").folder
    recipe = tmp_path / "recipe.toml"
    values = RECIPE.to_json() | {"epochs": 2.0, "dropout": 0.0, "patience": 0, "rate": 1e-3}
    recipe.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()) + "\n")
    one = Town(tmp_path / "one")
    for place in ("mayor", "settings"):
        (one.root / place).mkdir(parents=True)
    (one.root / "mayor/town.json").write_text((town.root / "mayor/town.json").read_text())

    def command(place: Town, *more: str) -> list[str]:
        argv = ["-m", "gt_plugins.cli.model", "train", "deacon", "--town", str(place.root), "--json"]
        argv += ["--threads", "1", "--models", str(place.root / "models"), "--base", str(base)]
        return [*argv, "--dataset", str(data), "--config", str(recipe), *more]

    alone = run([sys.executable, *command(one, "--accumulation", "2")])
    both = run([*TORCHRUN, *command(town)])
    assert alone.returncode == 0, alone.stderr
    assert both.returncode == 0, both.stderr
    told = json.loads(both.stdout)
    assert told["version"] == "gt-ft-deacon:v1", "one document, one version"
    assert told["tokens"] == json.loads(alone.stdout)["tokens"]
    curves = []
    for place in (town, one):
        (folder,) = [p for p in place.checkpoints_dir.iterdir() if p.is_dir()]
        curves.append([r["loss"] for r in read_metrics(folder)])
        states = [r["state"] for r in read_lines(folder / "journal.jsonl") if "state" in r]
        assert states[-1] == "done" and states.count("ready") == 1
    assert len(curves[0]) > 8 and curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_a_base_cut_over_two_processes_learns_as_a_whole_one(
    tmp_path: Path, base: Path, rows: list[Row]
) -> None:
    """In fp32 and in nf4: each process holds half of it, and losses and adapter are the same."""
    (tmp_path / "rows.json").write_text(json.dumps([[r.ids, r.spans] for r in rows]))
    out = tmp_path / "out.json"
    done = run([*TORCHRUN, str(HERE / "parallel_ranks.py"), str(base), str(tmp_path / "rows.json"), str(out)])
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    for kind in ("none", "nf4"):
        whole, cut = found[f"{kind} whole"], found[f"{kind} cut"]
        assert 2 * cut["held"] == whole["held"] > 0
        assert cut["losses"] == pytest.approx(whole["losses"], abs=1e-5) and len(cut["losses"]) > 8
        assert cut["looks"] == pytest.approx(whole["looks"], abs=1e-5)
        assert cut["adapter"] == pytest.approx(whole["adapter"], rel=1e-5)
        assert cut["losses"][-1] < cut["losses"][0]
    assert len({f["parameters"] for f in found.values()}) == 1, "four bits are as many parameters"
    assert found["nf4 whole"]["held"] < found["none whole"]["held"] / 4


def test_a_base_is_not_cut_for_one_process(town: Town, tmp_path: Path, base: Path) -> None:
    from training_helpers import request

    from gt_plugins.errors import UserError
    from gt_plugins.training.recipe import Recipe
    from gt_plugins.training.run import prepare

    data = write_dataset(tmp_path / "data").folder
    asked = request(town, tmp_path, base, data, recipe=Recipe(**{**asdict(RECIPE), "shard": True}))
    with pytest.raises(UserError, match="there is one process to hold the base; start several: torchrun"):
        prepare(asked, print)
