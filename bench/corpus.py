"""The corpus: how fast sessions are captured, beside other exporters and a scanner, in one run.

    python bench/corpus.py [--mb 20] [--rounds 3] [--peers BIN]... [--full]

Ours parses, scrubs and stores (a sweep of a town of its own), or runs layer 1 alone; dataclaw exports, teich
anonymizes, gitleaks scans the same files: each where it is found on PATH or in a folder given by ``--peers``.
Commands take turns, several rounds, and count by the processor time that they and their children used, so
that ratios hold on a busy machine; medians are shown. ``--full`` adds what takes longer: 10,000 transcripts
with nothing new, and a folder of 1 GB with the memory that the sweep and its helpers took.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import scrub_cases
import scrub_people

WORDS = (
    "the deacon patrol finds a witness that has not answered since its last heartbeat and nudges it once "
    "more before the refinery merges what polecats have pushed to their branches while gates stay green"
).split()


def passage(rng: random.Random) -> str:
    """One tool result or reply: prose, a git log, a listing, a test run, code or JSON."""
    lines: list[str] = []
    kind = rng.randrange(6)
    for number in range(rng.randint(8, 80)):
        words = " ".join(rng.choices(WORDS, k=rng.randint(4, 14)))
        lines.append(
            (
                words.capitalize() + ".",
                f"{scrub_cases.some(rng, scrub_cases.HEX, 40)} {words}",
                f"-rw-r--r-- 1 root root {rng.randint(1, 99999)} Nov 23 08:{number % 60:02d} {words[:12]}.py",
                f"tests/test_{words.split()[0]}.py::test_{number} PASSED [{number}%] in {rng.random():.3f}s",
                f"    def {words.split()[0]}_{number}(self, token: str, count: int = {number}) -> None:",
                json.dumps({"id": f"hq-{number}", "title": words, "status": "open", "n": number}),
            )[kind]
        )
    return "\n".join(lines)


def session(rng: random.Random, cwd: str, size: int) -> tuple[str, str]:
    """A session id and its lines, about ``size`` bytes, with a plant in every fortieth passage."""
    name, parent, made = scrub_cases.uuid4(rng), None, 0
    lines: list[str] = []
    while made < size:
        text = passage(rng)
        if rng.random() < 1 / 40:
            text += "\n" + rng.choice(scrub_cases.plants(rng) + scrub_people.plants(rng)).text
        call = f"toolu_{scrub_cases.some(rng, scrub_cases.ALNUM, 24)}"
        use = {"type": "tool_use", "id": call, "name": "Bash", "input": {"command": text.split("\n")[0]}}
        result = {"type": "tool_result", "tool_use_id": call, "content": text, "is_error": False}
        for role, block in (("assistant", use), ("user", result)):
            line = {"parentUuid": parent, "isSidechain": False, "uuid": scrub_cases.uuid4(rng)}
            message: dict[str, object] = {"role": role, "content": [block]}
            if role == "assistant":
                message |= {"id": f"msg_{call[6:]}", "model": "claude-x", "type": "message"}
            line |= {"type": role, "message": message, "cwd": cwd, "sessionId": name, "version": "2.1.197"}
            line["timestamp"] = f"2026-11-{1 + made % 28:02d}T08:06:14.063Z"
            parent = line["uuid"]
            lines.append(json.dumps(line))
            made += len(lines[-1])
    return name, "\n".join(lines) + "\n"


def transcripts(folder: Path, cwd: str, megabytes: float, each: int = 700_000) -> int:
    """Write sessions below ``folder`` and return their size in bytes."""
    rng, size = random.Random(1), 0
    folder.mkdir(parents=True)
    while size < megabytes * 1e6:
        name, text = session(rng, cwd, each)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
        size += len(text.encode())
    return size


def new_town(folder: Path) -> Path:
    """A bare town with consent."""
    from gt_plugins.corpus import consent
    from gt_plugins.town.root import find_town

    (folder / "mayor").mkdir(parents=True)
    (folder / "mayor" / "town.json").write_text('{"name": "bench"}')
    consent.grant(find_town(folder), "bench")
    return folder


def used(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """(processor seconds of a command and its children, seconds on the wall)."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"error: {command[0]}: {done.stderr.decode('utf-8', 'replace')[-400:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


SWEEP = "import sys; from gt_plugins.corpus.sweep import sweep; from gt_plugins.town.root import find_town; \
from pathlib import Path; print(sweep(find_town(Path(sys.argv[1])), Path(sys.argv[2])).to_json())"
LAYER1 = "import sys, json; from pathlib import Path; from gt_plugins.corpus.scrub import secrets\n\
for path in sorted(Path(sys.argv[1]).rglob('*.jsonl')): secrets.find(path.read_text('utf-8'))"


class Bench:
    """Folders, the commands, and what they took."""

    def __init__(self, base: Path, megabytes: float, peers: list[Path]) -> None:
        self.base, self.peers = base, peers
        self.town = str(base / "town")
        self.home = base / "home"
        self.projects = self.home / ".claude" / "projects" / "-bench-town"
        self.size = transcripts(self.projects, self.town, megabytes)
        self.env = {**os.environ, "HOME": str(self.home), "GOMAXPROCS": "1", "PYTHONWARNINGS": "ignore"}

    def tool(self, name: str) -> str | None:
        places = [str(p) for p in self.peers] + [os.environ.get("PATH", "")]
        return shutil.which(name, path=os.pathsep.join(places))

    def sweep(self, cores: int = 1) -> tuple[float, float]:
        """Parse, scrub and store everything into a fresh town."""
        shutil.rmtree(self.town, ignore_errors=True)
        new_town(Path(self.town))
        command = [sys.executable, "-c", SWEEP, self.town, str(self.projects.parent)]
        return used(
            ["taskset", "-c", f"0-{cores - 1}", *command] if shutil.which("taskset") else command, self.env
        )

    def layer1(self) -> tuple[float, float]:
        return used([sys.executable, "-c", LAYER1, str(self.projects)], self.env)

    def dataclaw(self, tool: str) -> tuple[float, float]:
        out = self.base / "dataclaw.jsonl"
        command = [tool, "export", "--no-push", "--source", "claude", "--all-projects", "-o", str(out)]
        took = used(command, self.env)
        out.unlink(missing_ok=True)
        return took

    def teich(self, tool: str) -> tuple[float, float]:
        out = self.base / "teich"
        took = used([tool, "anonymize", str(self.projects), "-o", str(out)], self.env)
        shutil.rmtree(out, ignore_errors=True)
        return took

    def gitleaks(self, tool: str) -> tuple[float, float]:
        flags = ["--no-banner", "--exit-code", "0", "--max-target-megabytes", "1000"]
        return used([tool, "dir", str(self.projects), *flags], self.env)

    def prepare_dataclaw(self, tool: str) -> None:
        """dataclaw exports only after its configuration names a source and what to leave out."""
        for more in (["--source", "claude"], ["--confirm-projects"]):
            subprocess.run([tool, "config", *more], env=self.env, capture_output=True, check=False)


def measure(bench: Bench, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Every command in turn, ``rounds`` times."""
    jobs: dict[str, Callable[[], tuple[float, float]]] = {
        "parse, scrub, store": bench.sweep,
        "the same, two cores": lambda: bench.sweep(2),
        "layer 1 alone": bench.layer1,
    }
    for name in ("dataclaw", "teich", "gitleaks"):
        tool = bench.tool(name)
        if tool is None:
            print(f"{name}: not found; see --peers", file=sys.stderr)
            continue
        if name == "dataclaw":
            bench.prepare_dataclaw(tool)
        jobs[name] = lambda run=getattr(bench, name), tool=tool: run(tool)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            took[name].append(job())
    return took


def show(bench: Bench, took: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{bench.size / 1e6:.1f} MB of transcripts; medians of processor time, all processes of a command")
    rate = {n: bench.size / 1e6 / statistics.median(t[0] for t in runs) for n, runs in took.items()}
    wall = {n: statistics.median(t[1] for t in runs) for n, runs in took.items()}
    for name, value in rate.items():
        print(f"{name:<22} {value:8.2f} MB/s per core   {wall[name]:7.2f} s on the wall")
    pairs = (
        ("parse, scrub, store", "dataclaw", 5.0),
        ("parse, scrub, store", "teich", 15.0),
        ("layer 1 alone", "gitleaks", 2.0),
    )
    for ours, theirs, goal in pairs:
        if theirs in rate:
            print(f"{ours} over {theirs:<10} {rate[ours] / rate[theirs]:6.1f}x  (goal {goal:g})")
    two = wall["parse, scrub, store"] / wall["the same, two cores"]
    print(f"two cores over one, wall             {two:6.2f}x  (goal 1.7; a busy machine gives less)")


def nothing_new(base: Path, count: int = 10_000) -> None:
    """A sweep that finds nothing new over many transcripts."""
    town, projects = new_town(base / "many"), base / "many-projects" / "p"
    projects.mkdir(parents=True)
    rng = random.Random(2)
    for _ in range(count):
        name, text = session(rng, str(town), 1)
        (projects / f"{name}.jsonl").write_text(text[:6000] if len(text) < 6000 else text, "utf-8")
    env = {**os.environ, "HOME": str(base / "many-home")}
    command = [sys.executable, "-c", SWEEP, str(town), str(projects.parent)]
    first = used(command, env)
    again = [used(command, env) for _ in range(3)]
    cpu, wall = (statistics.median(t[i] for t in again) for i in (0, 1))
    print(f"{count} transcripts, first sweep: {first[1]:.1f} s on the wall")
    print(f"nothing new: {cpu:.2f} s of processor, {wall:.2f} s on the wall")


def big_folder(base: Path, gigabytes: float = 1.0) -> None:
    """The most memory that a sweep of a large folder and its helpers held at one time."""
    town, projects = new_town(base / "big"), base / "big-projects" / "p"
    size = transcripts(projects, str(town), gigabytes * 1000, each=8_000_000)
    command = [sys.executable, "-c", SWEEP, str(town), str(projects.parent)]
    child = subprocess.Popen(command, env={**os.environ, "HOME": str(base / "h")}, stdout=subprocess.DEVNULL)
    peaks = {"sweep": 0, "all": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            rss = _resident(child.pid)
            peaks["sweep"] = max(peaks["sweep"], rss.get(child.pid, 0))
            peaks["all"] = max(peaks["all"], sum(rss.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    stop.set()
    watcher.join()
    held = f"{peaks['sweep']} MB, with its helpers {peaks['all']} MB"
    print(f"{size / 1e9:.2f} GB, exit {code}: the sweep held {held}")


def _resident(root: int) -> dict[int, int]:
    """Megabytes resident of a process and its descendants (Linux)."""
    found: dict[int, int] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (OSError, IndexError):
            continue
        found[pid] = pages * os.sysconf("SC_PAGE_SIZE") >> 20
        waiting += map(int, children)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, action="append", default=[], help="a folder of executables")
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.mb, args.peers)
        show(bench, measure(bench, args.rounds))
        if args.full:
            nothing_new(Path(folder))
            big_folder(Path(folder))


if __name__ == "__main__":
    main()
