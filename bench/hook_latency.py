"""How long ``gt-hook session-end`` keeps the client waiting, with a 15 MB transcript.

    python bench/hook_latency.py [--runs 200]

Wall time of the whole process, from spawn to exit, in a scratch town with consent, beside a bare
``python -c pass`` on the same machine. Between two runs the worker that the hook started is left to finish.
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

BUDGET_MS = 50.0


def scratch_town(root: Path) -> Path:
    """A town with consent and one 15 MB session; returns the payload's file."""
    for folder in ("mayor", "settings", "deacon"):
        (root / folder).mkdir(parents=True)
    (root / "mayor/town.json").write_text('{"type": "town"}')
    (root / "settings/finetune.toml").write_text('[consent]\ngranted = true\nby = "bench"\n')
    transcript = root.parent / "projects/p/00000000-0000-4000-8000-000000000000.jsonl"
    transcript.parent.mkdir(parents=True)
    line = {"type": "user", "uuid": "", "sessionId": transcript.stem, "cwd": str(root / "deacon")}
    with transcript.open("w") as handle:
        for number in range(1500):
            record = {**line, "uuid": f"u{number}", "message": {"role": "user", "content": "word " * 2000}}
            handle.write(json.dumps(record) + "\n")
    payload = root.parent / "payload.json"
    session = {"session_id": transcript.stem, "transcript_path": str(transcript), "cwd": line["cwd"]}
    payload.write_text(json.dumps({**session, "hook_event_name": "SessionEnd", "reason": "other"}))
    return payload


def idle(root: Path, seconds: float = 30.0) -> None:
    """Wait until the worker has emptied the spool."""
    end = time.monotonic() + seconds
    while any((root / ".corpus/spool").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.05)


def wall_ms(command: list[str], stdin: Path) -> float:
    with stdin.open() as handle:
        start = time.perf_counter()
        subprocess.run(command, stdin=handle, check=True)
        return (time.perf_counter() - start) * 1000.0


def report(name: str, times: list[float]) -> float:
    times = sorted(times)
    p95 = times[max(0, int(len(times) * 0.95) - 1)]
    print(f"{name:24} p50 {statistics.median(times):6.1f} ms   p95 {p95:6.1f} ms   n {len(times)}")
    return p95


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    hook = str(Path(sys.executable).with_name("gt-hook"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "town"
        payload = scratch_town(root)
        os.environ.pop("GT_TOWN_ROOT", None)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps what it has compiled
        wall_ms([hook, "session-end"], payload)
        idle(root)
        bare, hooked = [], []
        for _ in range(runs):
            bare.append(wall_ms([sys.executable, "-c", "pass"], payload))
            hooked.append(wall_ms([hook, "session-end"], payload))
            idle(root)
    report("python -c pass", bare)
    p95 = report("gt-hook session-end", hooked)
    print(f"{statistics.median(hooked) / statistics.median(bare):.2f} times a bare Python, in the middle")
    print(f"budget {BUDGET_MS:.0f} ms: {'kept' if p95 < BUDGET_MS else 'EXCEEDED'}")
    return 0 if p95 < BUDGET_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
