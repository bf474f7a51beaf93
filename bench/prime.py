"""``gt prime`` for a deployed role beside the real ``gt prime --hook``: at most 1.05 times, plus 50 ms.

    python bench/prime.py --town TOWN [--role deacon] [--pairs 10] [--source startup|compact] [--mark]
    python bench/prime.py --stand-in SECONDS        no gt: a stand-in that takes this long and prints 36 kB

Pairs, real and ours in turn, ours through the shim as a session's hook calls it. A real gt is taken from
PATH. ``--mark`` makes the role count as deployed for the time of the run: for a scratch town only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gt_plugins
from gt_plugins.prime.ask import place_of
from gt_plugins.settings import resource
from gt_plugins.town.gt import gt_on_path
from gt_plugins.town.root import Town

RATIO, EXTRA_MS = 1.05, 50.0


def stand_in(folder: Path, seconds: float) -> tuple[Path, Town]:
    """A gt that sleeps and prints, and a town of folders."""
    town = folder / "town"
    for name in ("mayor", "settings", "deacon/dogs/boot"):
        (town / name).mkdir(parents=True)
    (town / "mayor/town.json").write_text('{"type": "town"}')
    text = "GAS TOWN role:deacon pid:1 session:s\n# Deacon Context\n\n## Your Role: DEACON\n\n"
    text += "Do NOT skip. Run `gt hook` and then `gt mail inbox`.\n\n" * 700
    (folder / "text").write_text(text)
    gt = folder / "gt"
    gt.write_text(f"#!/bin/sh\nsleep {seconds}\ncat {folder}/text\n")
    gt.chmod(0o755)
    return gt, Town(town)


@contextmanager
def marked(town: Town, role: str, mark: bool) -> Iterator[None]:
    """The role deployed; where ``mark`` made it so, undone at the end."""
    folder = town.finetune_dir / role
    there = folder.exists()
    if not there and not mark:
        raise SystemExit(
            f"error: {role} is not deployed in {town.root}; --mark makes it so in a scratch town"
        )
    if not there:
        folder.mkdir(parents=True)
        (folder / "role.json").write_text(json.dumps({"model": f"gt-ft-{role}", "version": "v1"}))
        (folder / "claude").write_text("#!/bin/sh\nexit 1\n")
    try:
        yield
    finally:
        if not there:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def wall_ms(command: list[str], cwd: Path, environ: dict[str, str], payload: bytes) -> tuple[float, int]:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environ, input=payload, capture_output=True, check=True)
    return (time.perf_counter() - start) * 1000.0, len(done.stdout.decode("utf-8", "replace"))


def measure(gt: Path, town: Town, role: str, source: str, pairs: int, data_home: Path) -> bool:
    """Run the pairs and print the figures; whether the budget holds for the median pair."""
    place = place_of(town, role)
    state = data_home / "gastown-finetune" / "shim.state"
    state.parent.mkdir(parents=True)
    state.write_text(f"{gt}\n{sys.executable}\n{Path(gt_plugins.__file__).parent}\n")
    base = {k: v for k, v in os.environ.items() if k not in ("GT_FINETUNE_SHIM", "PYTHONDONTWRITEBYTECODE")}
    environ = {**base, "GT_ROLE": place.gt_role, "PWD": str(place.folder), "GT_TOWN_ROOT": str(town.root)}
    payload = json.dumps(
        {"session_id": "bench", "source": source, "hook_event_name": "SessionStart"}
    ).encode()
    shim = ["sh", str(resource("hooks") / "gt.sh"), "prime", "--hook"]
    real, ours, sizes = [], [], (0, 0)
    for _ in range(pairs):
        a, before = wall_ms([str(gt), "prime", "--hook"], place.folder, environ, payload)
        b, after = wall_ms(shim, place.folder, {**environ, "XDG_DATA_HOME": str(data_home)}, payload)
        real.append(a)
        ours.append(b)
        sizes = (before, after)
    print(f"prime of {place.gt_role}, source {source}, {pairs} pairs: {sizes[0]} -> {sizes[1]} characters")
    print(f"real   median {statistics.median(real):7.0f} ms")
    print(f"ours   median {statistics.median(ours):7.0f} ms")
    found = list(zip(real, ours, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    over = statistics.median(b - RATIO * a for a, b in found)
    print(f"paired medians: ratio {ratio:.3f}, over {RATIO} times {over:.0f} ms of {EXTRA_MS:.0f}")
    return over <= EXTRA_MS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--town", type=Path)
    parser.add_argument("--role", default="deacon")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--source", default="startup")
    parser.add_argument("--mark", action="store_true")
    parser.add_argument("--stand-in", type=float, default=0.0, metavar="SECONDS")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if chosen.stand_in:
            gt, town = stand_in(folder, chosen.stand_in)
        else:
            found = gt_on_path()
            if chosen.town is None or found is None:
                raise SystemExit("error: give --town and have the real gt on PATH, or --stand-in SECONDS")
            gt, town = found, Town(chosen.town.absolute())
        with marked(town, chosen.role, chosen.mark or bool(chosen.stand_in)):
            holds = measure(gt, town, chosen.role, chosen.source, chosen.pairs, folder / "data")
    print("within budget" if holds else "OVER BUDGET")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
