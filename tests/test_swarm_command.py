"""``node0-finetune --run run.json --local-mode`` with real peers: processes, trainer, registry."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training_helpers import write_dataset, write_small_base

QUICK = ("--epochs", "4", "--batch-tokens", "700", "--rank", "2", "--rate", "0.005", "--threads", "1")


def write_run(folder: Path, **swarm: Any) -> Path:
    """A run that would ask an auth server that nobody has; local mode must not."""
    knobs = {"sync_steps": 2, "min_peers": 2, "lifetime": 20, "averaging_timeout": 120} | swarm
    value = {"run_config": "test", "auth_server": "https://auth.invalid", "seeds": [], "swarm": knobs}
    path = folder / "run.json"
    path.write_text(json.dumps(value))
    return path


def begin(folder: Path, name: str, *args: str | Path) -> subprocess.Popen[str]:
    base, data = folder / "base", folder / "data"
    command = [sys.executable, "-m", "gt_plugins.run_finetune", "--role", "deacon", "--json", "--local-mode"]
    places = [
        "--base",
        base,
        "--dataset",
        data,
        "--checkpoints",
        folder / name,
        "--models",
        folder / f"{name}-m",
    ]
    with (folder / f"{name}.err").open("w") as err:
        return subprocess.Popen(
            [*command, *map(str, places), *QUICK, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            cwd=folder,
        )


def address(folder: Path, name: str, process: subprocess.Popen[str]) -> str:
    """What a peer prints as its address, once it does."""
    path = folder / f"{name}.err"
    while "this peer: " not in path.read_text():
        assert process.poll() is None, path.read_text()
        time.sleep(0.1)
    return path.read_text().partition("this peer: ")[2].split()[0]


@pytest.mark.slow
def test_two_peers_of_one_machine_register_the_same_adapter(tmp_path: Path) -> None:
    write_small_base(tmp_path / "base")
    write_dataset(tmp_path / "data", count=8)
    run = write_run(tmp_path)
    one = begin(tmp_path, "one", "--run", run)
    two = begin(tmp_path, "two", "--run", run, "--initial_peers", address(tmp_path, "one", one))
    reports = []
    for name, process in (("one", one), ("two", two)):
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, (tmp_path / f"{name}.err").read_text()
        reports.append(json.loads(out))
    adapters = [
        tmp_path / f"{name}-m/gt-ft-deacon/v1/adapter/adapter_model.safetensors" for name in ("one", "two")
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    folder = tmp_path / "one" / reports[0]["job"]
    states = [json.loads(line).get("state") for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert "syncing" in states and states[-1] == "done"
    events = [json.loads(line) for line in (folder / "swarm.jsonl").read_text().splitlines()]
    borders = [e for e in events if e["event"] == "border"]
    assert borders[-1]["done"] == borders[-1]["total"] and all(len(b["peers"]) == 1 for b in borders)
    assert {r["steps"] for r in reports} == {borders[-1]["total"]}, "each takes its share of every batch"
    assert (tmp_path / "one" / "private.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--local-mode",), "a swarm needs its run file: pass --run run.json"),
        (("--run", "none.json"), "none.json: not there"),
        (
            ("--run", "RUN", "--initial-peers", "here"),
            "--initial-peers: 'here' is not a peer's address",
        ),
        (
            ("--run", "RUN", "--host-maddrs", "here"),
            "--host-maddrs: 'here' is no address",
        ),
        (("--run", "RUN", "--announce-maddrs", "x"), "--announce-maddrs: 'x' is no address"),
        (
            ("--run", "RUN", "--local-mode", "--host-maddrs", "/ip4/0.0.0.0/tcp/0"),
            "--host-maddrs: --local",
        ),
        (("--run", "RUN"), "https://auth.invalid gives places for a token"),
        (("--run", "RUN", "--config", "none.toml"), "none.toml: not there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(
    tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    write_small_base(tmp_path / "base")
    write_dataset(tmp_path / "data", count=2)
    run = str(write_run(tmp_path))
    command = [
        sys.executable,
        "-m",
        "gt_plugins.run_finetune",
        "--role",
        "deacon",
        "--base",
        tmp_path / "base",
    ]
    command += ["--dataset", tmp_path / "data", "--checkpoints", tmp_path / "jobs"]
    command += [run if a == "RUN" else a for a in args]
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list((tmp_path / "jobs").glob("*/job.json")), "no job was made"
