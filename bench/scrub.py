"""Scrubbing: megabytes per second of one core, layer by layer, beside others; recall and what must stay.

    python bench/scrub.py [--mb 20] [--transcripts DIR] [--seeds 20] [--no-quality]

Everything is measured in one run, in processor time, so that ratios hold on a busy machine. The text is
generated in the shape of transcripts unless a folder of real ones is given. scrubadub runs as it comes, with
the detectors that layer 2 asks; gitleaks runs where it is on PATH. The figures of quality are of plants that
this project made itself (tests/scrub_plants.py): a floor for regressions, no independent judgement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from scrub_helpers import policy, scrubber
from scrub_plants import (
    CONTEXTS,
    HARD_NEGATIVES,
    TOKENS,
    Plant,
    draw,
    personal,
    secret_of,
    structured,
    transcript,
)

from gt_plugins.corpus.scrub import exact, secrets
from gt_plugins.corpus.scrub import personal as people

WORDS = (
    "the deacon patrol finds a witness that has not answered since its last heartbeat and nudges it "
    "once more before the refinery merges what polecats have pushed to their branches while gates "
    "stay green and no escalation waits"
).split()


def passage(rng: random.Random) -> str:
    """One tool result or reply: prose, a git log, a listing, a test run, code or JSON."""
    lines: list[str] = []
    kind = rng.randrange(6)
    for number in range(rng.randint(4, 60)):
        words = " ".join(rng.choices(WORDS, k=rng.randint(4, 14)))
        lines.append(
            (
                words.capitalize() + ".",
                f"{draw(rng, '0123456789abcdef', 40)} {words}",
                f"-rw-r--r-- 1 root root {rng.randint(1, 99999)} Nov 23 08:{number % 60:02d} {words[:12]}.py",
                f"tests/test_{words.split()[0]}.py::test_{number} PASSED [{number}%] in {rng.random():.3f}s",
                f"    def {words.split()[0]}_{number}(self, token: str, count: int = {number}) -> None:",
                json.dumps(
                    {"id": f"hq-{draw(rng, 'abcdefgh', 3)}", "title": words, "status": "open", "n": number}
                ),
            )[kind]
        )
    return "\n".join(lines)


def generated(megabytes: float) -> list[str]:
    rng = random.Random(1)
    out: list[str] = []
    size = 0
    while size < megabytes * 1e6:
        texts = [passage(rng) for _ in range(40)]
        texts.append(rng.choice(structured(rng) + personal(rng)).text)
        for line in transcript(texts, rng).splitlines():
            line = line.replace("/town/deacon", "/home/rwaldau/town/deacon")
            out.append(line)
            size += len(line) + 1
    return out


def real(folder: Path, megabytes: float) -> list[str]:
    lines = [
        x for p in sorted(folder.rglob("*.jsonl")) for x in p.read_text("utf-8", "replace").splitlines() if x
    ]
    if not lines:
        raise SystemExit(f"error: no *.jsonl below {folder}")
    size = sum(map(len, lines))
    return lines * max(1, round(megabytes * 1e6 / size))


def rate(call: Callable[[], Any], size: int, rounds: int = 2) -> float:
    """Megabytes of ``size`` per second of processor time, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return size / 1e6 / best


def all_values(lines: list[str]) -> None:
    scrub = scrubber()
    for at in range(0, len(lines), 200):
        scrub.value([json.loads(x) for x in lines[at : at + 200]])


def many_times(lines: list[str]) -> None:
    """So often that handing the lines to a process does not count."""
    for _ in range(8):
        all_values(lines)


def speed(lines: list[str]) -> dict[str, float]:
    text = "\n".join(lines)
    size = len(text.encode())
    rules = policy()
    find = exact.make_find(rules)
    people.find("write to zora@quist.dev, (415) 555-0132")
    found = {
        "json.loads alone": rate(lambda: [json.loads(x) for x in lines], size),
        "layer 1 secrets": rate(lambda: secrets.find(text), size),
        "layer 2 personal": rate(lambda: people.find(text), size),
        "layer 3 exact": rate(lambda: find(text), size),
        "layers 1 + 3": rate(lambda: (secrets.find(text), find(text)), size),
        "parse, all layers, surrogates": rate(lambda: all_values(lines), size),
    }
    small = "\n".join(lines[: max(1, len(lines) // 20)])
    found["scrubadub as it comes"] = rate(lambda: plain_scrubadub(small), len(small.encode()), 1)
    found |= gitleaks(text)
    return found


def plain_scrubadub(text: str) -> None:
    from scrubadub import Scrubber
    from scrubadub.detectors import CreditCardDetector, EmailDetector, PhoneDetector

    scrub = Scrubber(detector_list=[EmailDetector, PhoneDetector, CreditCardDetector])
    for line in text.splitlines():
        scrub.clean(line)


def gitleaks(text: str) -> dict[str, float]:
    tool = shutil.which("gitleaks")
    if tool is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.jsonl").write_text(text)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**os.environ, "GOMAXPROCS": "1"}
        command = [tool, "dir", folder, "--no-banner", "--exit-code", "0", "--max-target-megabytes", "1000"]
        subprocess.run(command, check=False, capture_output=True, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"gitleaks": len(text.encode()) / 1e6 / used}


def two_cores(lines: list[str]) -> float:
    """Wall time of one process over that of two with half each; 2.0 is perfect, a busy machine gives less."""
    half = len(lines) // 2
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(all_values, [lines[:200], lines[:200]])
        start = time.perf_counter()
        pool.apply(many_times, (lines,))
        one = time.perf_counter() - start
        start = time.perf_counter()
        pool.map(many_times, [lines[:half], lines[half:]], chunksize=1)
        return one / (time.perf_counter() - start)


def quality(seeds: int) -> None:
    scrub = scrubber()
    missed: dict[str, int] = {}
    seen = {"secrets": 0, "personal": 0}
    lost = {"secrets": 0, "personal": 0}
    for seed in range(seeds):
        rng = random.Random(seed)
        tokens = [Plant(kind, text, text) for kind, make in TOKENS.items() for text in [make(rng)]]
        for group, plants in (("secrets", tokens + structured(rng)), ("personal", personal(rng))):
            for plant in plants:
                for wrap in CONTEXTS.values():
                    out = scrub.text(wrap(plant.text))[0]
                    seen[group] += 1
                    if secret_of(plant) in out or json.dumps(secret_of(plant))[1:-1] in out:
                        lost[group] += 1
                        missed[plant.kind] = missed.get(plant.kind, 0) + 1
    for group in seen:
        print(f"recall, {group:<26} {1 - lost[group] / seen[group]:8.4f}   of {seen[group]} plants")
    kept = [wrap(text) for text in HARD_NEGATIVES for wrap in CONTEXTS.values()]
    same = sum(scrub.text(text)[0] == text for text in kept)
    print(f"hard negatives unchanged           {same / len(kept):8.4f}   of {len(kept)}")
    for kind, number in sorted(missed.items()):
        print(f"  missed: {kind} {number}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, default=20.0)
    parser.add_argument("--transcripts", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--no-quality", action="store_true")
    args = parser.parse_args()
    lines = real(args.transcripts, args.mb) if args.transcripts else generated(args.mb)
    print(f"{sum(map(len, lines)) / 1e6:.1f} MB, {len(lines)} lines; MB/s of one core, and times scrubadub")
    found = speed(lines)
    base = found["scrubadub as it comes"]
    for name, value in found.items():
        print(f"{name:<32} {value:9.1f} {value / base:8.1f}x")
    print(f"{'two processes over one, wall':<32} {two_cores(lines):9.2f}x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':<32} {peak:9.0f} MB, the text included")
    if not args.no_quality:
        quality(args.seeds)


if __name__ == "__main__":
    main()
