"""What our ``gt`` in front of the real one costs: ``gt version`` through the shim against the real one.

    python bench/shim.py [--gt PATH] [--runs 200]

Wall time of the whole process, taken in turns in one run. The target is at most 3 ms more. Without a gt on
PATH a program that does nothing stands in for it, which shows the shim's own cost just as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gt_plugins.settings import resource
from gt_plugins.town.gt import gt_on_path

TARGET_MS = 3.0


def attach(folder: Path, real: Path) -> Path:
    """A shim before ``real``, as install puts it; returns the shim."""
    shim = folder / "bin" / "gt"
    shim.parent.mkdir(parents=True)
    shutil.copy(resource("hooks") / "gt.sh", shim)
    shim.chmod(0o755)
    (folder / "shim.state").write_text(f"{real}\n{sys.executable}\n{Path(__file__).parent.parent}\n")
    return shim


def once(command: list[str], env: dict[str, str]) -> float:
    """Milliseconds of one run."""
    begun = time.perf_counter()
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    """Print one JSON document; exit 1 where the target is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gt", type=Path, help="the real gt (default: the one on PATH)")
    options.add_argument("--runs", type=int, default=200)
    args = options.parse_args()
    real = args.gt or gt_on_path() or Path(shutil.which("true") or "/bin/true")
    with tempfile.TemporaryDirectory() as folder:
        shim = attach(Path(folder), real)
        env = {"HOME": folder, "PATH": f"{shim.parent}:{real.parent}:/usr/bin:/bin"}
        pairs = [
            (once([str(real), "version"], env), once([str(shim), "version"], env)) for _ in range(args.runs)
        ]
    direct, through = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "gt": str(real),
        "real_ms": round(direct, 2),
        "shim_ms": round(through, 2),
        "more_ms": round(through - direct, 2),
        "ratio": round(through / direct, 3),
        "target_more_ms": TARGET_MS,
    }
    print(json.dumps(result, indent=2))
    raise SystemExit(0 if through - direct <= TARGET_MS else 1)


if __name__ == "__main__":
    main()
