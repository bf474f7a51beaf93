"""``gt model gather``: what peers left becomes one adapter that peft reads, or a version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from training_helpers import RECIPE, request, small_base, write_dataset  # noqa: F401

from gt_plugins.durable import write_json
from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.town.root import Town
from gt_plugins.training.checkpoints import checkpoints, latest
from gt_plugins.training.gather import save_replica, save_shard
from gt_plugins.training.gathered import gather_in_time, plan, write_adapter
from gt_plugins.training.run import train

pytestmark = pytest.mark.slow
SHORT = replace(RECIPE, epochs=1.0, dropout=0.0)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, Path]:
    """The folders of two peers' jobs, each trained for a moment on its own rows."""

    def peer(name: str, count: int) -> Path:
        folder = tmp_path_factory.mktemp(name)
        data = write_dataset(folder / "data", count=count).folder
        (folder / "town").mkdir()
        town = Town(folder / "town")
        return train(request(town, folder, base, data, recipe=SHORT), print).job.folder

    return peer("one", 4), peer("two", 8)


def gather(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt_plugins.cli.model", "gather", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def adapter_of(job: Path) -> tuple[dict, int]:
    found = latest(job / "checkpoints").checkpoint
    assert found is not None
    return found.adapter, found.state["tokens"]


def like(job: Path, to: Path, file: str, **other: object) -> Path:
    """A copy of a job whose ``file`` says something else; of a recipe's key where ``file`` has a recipe."""
    shutil.copytree(job, to)
    value = json.loads((to / file).read_text())
    value.get("recipe", value).update(other)
    write_json(to / file, value)
    return to


def test_two_peers_become_a_version_that_is_their_mean_by_tokens(
    tmp_path: Path, base: Path, peers: tuple[Path, Path]
):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    from gt_plugins.training.adapter import load_base

    done = gather(*peers, "--models", tmp_path / "models", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == "gt-ft-deacon:v1" and report["kind"] == "replica"
    version = tmp_path / "models/gt-ft-deacon/v1"
    (a, n), (b, m) = map(adapter_of, peers)
    assert [p["tokens"] for p in report["parts"]] == [n, m] and n != m
    made = load_file(version / "adapter/adapter_model.safetensors")
    assert set(made) == set(a)
    for name in made:
        torch.testing.assert_close(made[name], (a[name] * n + b[name] * m) / (n + m))
    config = json.loads((version / "adapter/adapter_config.json").read_text())
    assert config["r"] == SHORT.rank and config["base_model_name_or_path"] is None
    PeftModel.from_pretrained(load_base(base, "cpu"), str(version / "adapter"))
    assert (version / "training/prime.txt").is_file()
    manifest = tomllib.loads((version / "manifest.toml").read_text())
    assert manifest["meta"]["gathered"] == [job.name for job in peers]


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(tmp_path: Path, peers: tuple[Path, Path]):
    job = shutil.copytree(peers[1], tmp_path / "job")
    before, newest = checkpoints(job / "checkpoints")[-2:]
    (newest / "adapter.safetensors").write_bytes(b"torn")
    said: list[str] = []
    found = plan([job])
    gathered = gather_in_time(found, 0.0, said.append)
    assert newest.name in said[0] and "its hash does not match" in said[0]
    write_adapter(gathered, found, tmp_path / "out")
    told = json.loads((tmp_path / "out/gathered.json").read_text())
    assert [Path(p["part"]).name for p in told["parts"]] == [before.name]
    with pytest.raises(UserError, match="is there already"):
        write_adapter(gathered, found, tmp_path / "out")


def test_shards_are_waited_for_and_put_together(tmp_path: Path, peers: tuple[Path, Path]):
    import torch

    whole, _ = adapter_of(peers[0])
    halves = [{n: t.chunk(2)[i] for n, t in whole.items()} for i in range(2)]
    paths = [tmp_path / f"part{i}.safetensors" for i in range(2)]
    save_shard(paths[0], halves[0], 0, 2)
    found, said = plan(paths, like=peers[0]), []
    with pytest.raises(NonRetriableError, match="not there yet"):
        gather_in_time(found, 0.0, said.append)
    writer = threading.Timer(0.5, save_shard, (paths[1], halves[1], 1, 2))
    writer.start()
    began = time.monotonic()
    gathered = gather_in_time(found, 60.0, said.append)
    assert time.monotonic() - began < 60.0
    assert len(said) == 1 and "waiting for it" in said[0]
    assert all(torch.equal(gathered.tensors[name], whole[name]) for name in whole)


def test_parts_that_do_not_go_together_are_refused_by_name(tmp_path: Path, peers: tuple[Path, Path]):
    one, _ = peers
    wide = like(one, tmp_path / "wide", "request.json", rank=4)
    boot = like(one, tmp_path / "boot", "job.json", role="boot")
    far = like(one, tmp_path / "far", "job.json", base="/models/other")
    for other, said in (
        (wide, "rank: 4, where 2 is wanted"),
        (boot, "role: boot, where deacon is wanted"),
        (far, "name it with --base"),
    ):
        with pytest.raises(UserError, match=said):
            plan([one, other])
    whole, _ = adapter_of(one)
    alone = save_shard(tmp_path / "part", whole, 0, 1)
    with pytest.raises(UserError, match="name a job of theirs with --job"):
        plan([alone])
    with pytest.raises(NonRetriableError, match="where the base wants"):
        gather_in_time(plan([alone], like=wide), 0.0, print)
    huge = save_replica(tmp_path / "huge", {n: t * 1e4 for n, t in whole.items()}, 10**9)
    with pytest.raises(NonRetriableError, match=r"huge: the norm of its weights is .*; leave it out"):
        gather_in_time(plan([one, huge]), 0.0, print)


@pytest.mark.parametrize(
    ("args", "said"),
    [(("none",), "no job's id"), (("./none",), "no such file or folder; --wait waits for one")],
)
def test_a_part_that_is_nowhere_is_a_wrong_argument(
    town: Town, tmp_path: Path, args: tuple[str, ...], said: str
):
    done = gather(*args, "--town", town.root, "--models", tmp_path / "models")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "models").exists()
