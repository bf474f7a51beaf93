"""``gt model list`` with 1,000 versions against ``python -c pass``, in one run: the difference and the ratio.

    python bench/model_list.py [--versions 1000] [--runs 15]

The target is less than 150 ms more than Python itself. The versions stand in a journal with three results
and one deployment for every tenth of them, as a long life of ten roles leaves it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_MS = 150.0
ROLES = ("deacon", "boot", "witness", "polecat", "crew")


def write_journal(home: Path, versions: int) -> int:
    """A journal of ``versions`` versions; returns how many lines it has."""
    lines = []
    for index in range(versions):
        role, number = ROLES[index % len(ROLES)], index // len(ROLES) + 1
        who = {"model": f"gt-ft-{role}", "version": f"v{number}"}
        facts = {"role": role, "base": "tiny", "manifest_sha256": "0" * 64, "bytes": 400_000}
        lines.append({"at": "2026-01-01T00:00:00Z", "event": "registered", **who, **facts})
        for suite in ("decisions", "unseen", "safety"):
            result = {"file": f"x/{suite}.json", "sha256": "0" * 64, "score": 0.9, "served": True}
            lines.append(
                {"at": "2026-01-01T00:00:00Z", "event": "evaluated", **who, "suite": suite, **result}
            )
        if index % 10 == 0:
            lines.append(
                {"at": "2026-01-01T00:00:00Z", "event": "deployed", **who, "town": "/t", "role": role}
            )
    home.mkdir()
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (home / "journal.jsonl").write_text(text, encoding="utf-8")
    return len(lines)


def median_ms(command: list[str], runs: int, environ: dict[str, str]) -> float:
    """Median wall time of a command in milliseconds, after one run that warms the caches."""
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "models")
        lines = write_journal(home, options.versions)
        environ = {**os.environ, "GT_MODELS_HOME": str(home)}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps what it has compiled
        bare = median_ms([sys.executable, "-c", "pass"], options.runs, environ)
        script = str(Path(sys.executable).with_name("gt-model"))
        listing = median_ms([script, "list"], options.runs, environ)
    figures = {
        "versions": options.versions,
        "journal_lines": lines,
        "python_ms": round(bare, 1),
        "list_ms": round(listing, 1),
        "more_ms": round(listing - bare, 1),
        "ratio": round(listing / bare, 2),
        "target_more_ms": TARGET_MS,
        "holds": listing - bare < TARGET_MS,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
