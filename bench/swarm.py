"""Swarms on loopback against one peer with the same plan of tokens, on the same held-out rows.

    python bench/swarm.py [--scenes churn 2 4] [--dataset DIR] [--base tiny] [--decisions 200] [--epochs 2]
        [--batch-tokens 6144] [--sync-steps 10]

The peers are processes of ``node0-finetune`` with DHT nodes of their own. A number is a scene of so many
peers from beginning to end; in ``churn`` two begin together, a third comes when a quarter of the plan is
dealt, and the second is killed (-9) when half is. Prints, as JSON, the loss of the base, of the one peer and
of each swarm on learnt and on held-out rows, the ratios to one peer, steps and tokens.

``--batch-tokens`` is a step's, for the one peer too; with fewer rows in it than peers, a swarm makes fewer
steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROLE = "deacon"


def make_dataset(out: Path, decisions: int) -> Path:
    """The example town's deacon, captured and built as ``make demo`` does it."""
    from gt_plugins.corpus import consent
    from gt_plugins.corpus.assemble import build_dataset
    from gt_plugins.corpus.sweep import sweep
    from gt_plugins.durable import write_json
    from gt_plugins.sim.sessions import write_sessions
    from gt_plugins.town.root import Town

    town = Town(out / "town")
    for folder in ("mayor", "settings", "deacon/dogs/boot", "demo/witness", ".beads/formulas"):
        (town.root / folder).mkdir(parents=True)
    write_json(town.root / "mayor/town.json", {"type": "town", "version": 2, "name": "example"})
    write_json(town.root / "mayor/rigs.json", {"version": 1, "rigs": {"demo": {}}})
    write_sessions(town, out / "projects", ROLE, decisions)
    consent.grant(town, "bench")
    sweep(town, out / "projects")
    build_dataset(town, ROLE, out / "data", "tiny")
    return out / "data"


class Peer:
    """A process of ``node0-finetune``, and what can be seen of it in its folder."""

    def __init__(self, folder: Path, dataset: Path, args: argparse.Namespace, *swarm: str | Path) -> None:
        self.folder = folder
        folder.mkdir()
        command: list[str | Path] = [sys.executable, "-m", "gt_plugins.run_finetune", "--role", ROLE]
        command += ["--dataset", dataset, "--checkpoints", folder / "jobs", "--models", folder / "models"]
        command += ["--base", args.base, "--epochs", str(args.epochs), "--threads", "1", "--json", *swarm]
        command += ["--batch-tokens", str(args.batch_tokens)]
        command += args.more.split()
        command += ["--patience", "0", "--no-keep-best"]
        self.out, self.err = folder / "out.json", folder / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, cwd=folder)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a journal in its job's folder."""
        found = list(self.folder.glob(f"jobs/*/{name}"))
        text = found[0].read_text() if found else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def border(self) -> dict[str, Any]:
        """The last border that it crossed."""
        found = [e for e in self.lines("swarm.jsonl") if e["event"] == "border"]
        return found[-1] if found else {"done": 0, "total": 1, "peers": []}

    def address(self) -> str:
        """What it prints as its address, once it does."""
        while "this peer: " not in self.err.read_text():
            self.alive()
            time.sleep(0.1)
        return self.err.read_text().partition("this peer: ")[2].split()[0]

    def wait_for(self, share: float) -> None:
        """Until so much of the plan is dealt out."""
        while self.border()["done"] < share * self.border()["total"]:
            self.alive()
            time.sleep(0.1)

    def alive(self) -> None:
        if self.process.poll():
            raise SystemExit(f"{self.folder.name}: exit {self.process.returncode}: {self.err.read_text()}")

    def finish(self) -> dict[str, Any]:
        self.process.wait()
        self.alive()
        return dict(json.loads(self.out.read_text()))

    def steps(self) -> int:
        return sum(1 for line in self.lines("metrics.jsonl") if line["event"] == "step")

    def adapter(self) -> Path:
        return next(self.folder.glob("models/*/*/adapter"))


def loss_on(rows: list[Any], base: str, adapter: Path | None) -> float:
    """Mean loss per supervised token of rows, for the base with an adapter or without one."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    from gt_plugins.training.adapter import load_base, token_loss
    from gt_plugins.training.base import base_path
    from gt_plugins.training.loader import collate

    model: Any = load_base(base_path(base), "cpu")
    if adapter is None:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    else:
        model = PeftModel.from_pretrained(model, str(adapter))
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in rows:
            loss, tokens = token_loss(model, *collate([row], pad=0))
            total, count = total + float(loss), count + tokens
    return total / count


def rows_to_judge_by(base: str, dataset: Path, most: int = 60) -> dict[str, list[Any]]:
    """Some rows of what was learnt, spread evenly, and the held-out ones."""
    from gt_plugins.corpus import dataset as datasets
    from gt_plugins.rendering.render import Renderer
    from gt_plugins.training.base import base_path
    from gt_plugins.training.preflight import rows_of
    from gt_plugins.training.run import BUDGETS, budget_name

    renderer, data = Renderer.from_folder(base_path(base)), datasets.read(dataset)
    found = {}
    for name, examples in (("train", data.train), ("held-out", data.heldout)):
        if examples:
            rows = rows_of(examples, renderer, BUDGETS[budget_name(base)], lambda _: None)
            found[name] = rows[:: -(-len(rows) // most)]
    return found


def run_file(path: Path, args: argparse.Namespace, min_peers: int) -> Path:
    """A run of this machine's own."""
    run = {"run_config": "bench", "auth_server": "", "seeds": [], "bypass_auth": True}
    knobs = {"sync_steps": args.sync_steps, "min_peers": min_peers, "lifetime": 6, "averaging_timeout": 120}
    path.write_text(json.dumps({**run, "swarm": knobs}))
    return path


def steady(folder: Path, dataset: Path, args: argparse.Namespace, count: int) -> list[Peer]:
    """So many peers, from beginning to end."""
    begin = ("--run", run_file(folder / "run.json", args, count), "--local-mode")
    first = Peer(folder / "first", dataset, args, *begin)
    join = (*begin, "--initial-peers", first.address())
    return [first, *(Peer(folder / f"peer{n}", dataset, args, *join) for n in range(2, count + 1))]


def churn(folder: Path, dataset: Path, args: argparse.Namespace) -> list[Peer]:
    """Two peers, a late third, and the second killed; those that are left."""
    begin = ("--run", run_file(folder / "run.json", args, 2), "--local-mode")
    first = Peer(folder / "first", dataset, args, *begin)
    join = (*begin, "--initial-peers", first.address())
    victim = Peer(folder / "victim", dataset, args, *join)
    first.wait_for(0.25)
    run_file(folder / "run.json", args, 1)
    late = Peer(folder / "late", dataset, args, *join)
    first.wait_for(0.5)
    os.kill(victim.process.pid, signal.SIGKILL)
    victim.process.wait()
    return [first, late]


def swarm(scene: str, folder: Path, dataset: Path, args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Run a scene; what happened, and the adapter that its peers share."""
    folder.mkdir()
    churned = scene == "churn"
    peers = churn(folder, dataset, args) if churned else steady(folder, dataset, args, int(scene))
    told = [peer.finish() for peer in peers]
    first = peers[0]
    adapters = {p.adapter().joinpath("adapter_model.safetensors").read_bytes() for p in peers}
    states = [r["state"] for r in first.lines("journal.jsonl") if "state" in r]
    found = {
        "tokens": sum(t["tokens"] for t in told),
        "steps": {p.folder.name: p.steps() for p in peers},
        "peers at the borders": [1 + len(e["peers"]) for e in first.lines("swarm.jsonl") if "peers" in e],
        "one adapter": len(adapters) == 1,
        "states": sorted(set(states), key=states.index),
    }
    return found, first.adapter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", default=["churn", "2", "4"], help="churn, or numbers of peers")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--sync-steps", type=int, default=10)
    parser.add_argument("--more", default="", help="Further flags of node0-finetune, in one string.")
    parser.add_argument("--keep", type=Path, help="Leave the peers' folders here.")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="swarm-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        dataset = (args.dataset or make_dataset(folder, args.decisions)).absolute()
        alone = Peer(folder / "alone", dataset, args)
        one = alone.finish()
        ran = {scene: swarm(scene, folder / scene, dataset, args) for scene in args.scenes}
        models = {"base": None, "one peer": alone.adapter()} | {k: adapter for k, (_, adapter) in ran.items()}
        losses = {
            kind: {who: loss_on(rows, args.base, which) for who, which in models.items()}
            for kind, rows in rows_to_judge_by(args.base, dataset).items()
        }
        report = {
            "loss": {kind: {w: round(v, 5) for w, v in by.items()} for kind, by in losses.items()},
            "times one peer's": {
                kind: {scene: round(by[scene] / by["one peer"], 4) for scene in ran}
                for kind, by in losses.items()
            },
            "one peer": {"steps": one["steps"], "tokens": one["tokens"]},
            "swarms": {scene: told for scene, (told, _) in ran.items()},
        }
        print(json.dumps(report, indent=2))
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
