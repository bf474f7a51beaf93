"""How long `gt model train` takes to its first step on the tiny base: the real command, several times.

    python bench/startup.py [--runs 5] [--decisions 200] [--threads 1] [--dataset] [--modules 15]

In a new town with the example town's sessions; each run builds the dataset from the corpus (with
``--dataset`` it is given one). The clock stops when the first step stands in the job's metrics; the run is
stopped then, by SIGTERM. One run before them is not counted: it compiles the modules. Prints for each run the
seconds that passed and the processor's (user and system, all threads), and for ``--modules`` the imports that
took the longest by themselves (-X importtime).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from swarm import make_dataset

GOAL = 10.0
"""Seconds to the first step."""


def one_run(folder: Path, command: list[str], flags: tuple[str, ...] = ()) -> dict[str, float]:
    """Run the command until its first step; wall and processor seconds up to it."""
    seen = set(folder.glob("town/.checkpoints/*/metrics.jsonl"))
    with (folder / "err.txt").open("w") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *flags, *command], stdout=err, stderr=err, cwd=folder / "town"
        )
        while not any(stepped(p) for p in set(folder.glob("town/.checkpoints/*/metrics.jsonl")) - seen):
            if process.poll() is not None:
                raise SystemExit(f"it ended before its first step:\n{(folder / 'err.txt').read_text()}")
            time.sleep(0.005)
        wall, cpu = time.perf_counter() - began, processor_seconds(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait()
    return {"wall": wall, "cpu": cpu}


def stepped(metrics: Path) -> bool:
    return '"event":"step"' in metrics.read_text().replace(" ", "")


def processor_seconds(pid: int) -> float:
    """What a process has used so far, user and system, with its threads and the children it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def slowest_imports(text: str, count: int) -> list[tuple[float, str]]:
    """Seconds by top-level package, from what -X importtime wrote."""
    total: dict[str, float] = {}
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", text):
        top = ".".join(name.split(".")[:2]) if name.startswith("torch.") else name.split(".")[0]
        total[top] = total.get(top, 0.0) + int(own) / 1e6
    return sorted(((s, n) for n, s in total.items()), reverse=True)[:count]


def report(runs: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"runs": [{k: round(v, 2) for k, v in r.items()} for r in runs]}
    for key in ("wall", "cpu"):
        found[f"median {key}"] = round(statistics.median(r[key] for r in runs), 2)
    return found | {"under the goal": all(r["wall"] < GOAL for r in runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dataset", action="store_true", help="name a dataset instead of building one")
    parser.add_argument("--modules", type=int, default=0, help="also print so many slow imports")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps what it has compiled
        os.environ.update(HOME=name, GT_MODELS_HOME=str(folder / "models"))
        data = make_dataset(folder, args.decisions)
        command = ["-m", "gt_plugins.cli.model", "train", "deacon", "--threads", str(args.threads)]
        command += ["--dataset", str(data)] if args.dataset else []
        one_run(folder, command)  # compiles the modules, as the first run after an installation does
        print(json.dumps(report([one_run(folder, command) for _ in range(args.runs)]), indent=2))
        if args.modules:
            one_run(folder, command, ("-X", "importtime"))
            for seconds, module in slowest_imports((folder / "err.txt").read_text(), args.modules):
                print(f"{seconds:7.2f} s  {module}")


if __name__ == "__main__":
    main()
