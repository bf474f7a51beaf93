"""The corpus: how fast sessions are captured, beside other exporters and a scanner, in one run.

    python bench/corpus.py [--mb 40] [--rounds 3] [--peers BIN]... [--full]

Ours parses, scrubs and stores (a sweep of a town of its own), or runs layer 1 alone; dataclaw exports, teich
anonymizes, gitleaks scans the same files: each where it is found on PATH or in a folder given by ``--peers``.
Commands take turns, several rounds, and count by the processor time that they and their children used, so
that ratios hold on a busy machine; medians are shown. A round before them is not counted: in it each command
writes its bytecode. ``--full`` adds what takes longer: 10,000 transcripts with nothing new, and a folder of
1 GB (``--gb``) on one processor and on two, with the memory that the sweep and its helpers took.

Lines are as the client writes them: a tool's result stands in its line twice, once as the model sees it
(``message``) and once as the client shows it (``toolUseResult``), and replies carry their usage. ``--text``
chooses what is in them: a mixture with little to find, or text in which there is something in every line
(paths in a home folder) or in every passage (keys and addresses).
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
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
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


def paths(rng: random.Random) -> str:
    """Findings of a linter: every line begins with a path in somebody's home folder."""
    return "\n".join(
        f"/home/ann/proj/src/{rng.choice(WORDS)}/{rng.choice(WORDS)}.py:{rng.randint(1, 999)}: "
        + " ".join(rng.choices(WORDS, k=5))
        for _ in range(20)
    )


def keys(rng: random.Random) -> str:
    """Prose with a key or an address in it."""
    key = f"API_KEY=sk-ant-api03-{scrub_cases.some(rng, scrub_cases.ALNUM, 93)}AA"
    plant = key if rng.random() < 0.3 else f"mail ann.smith{rng.randint(1, 99)}@corp.example"
    return f"{' '.join(rng.choices(WORDS, k=40))} {plant} {' '.join(rng.choices(WORDS, k=40))}"


TEXTS: Mapping[str, Callable[[random.Random], str]] = {"mixed": passage, "paths": paths, "keys": keys}


def _usage(rng: random.Random) -> dict[str, object]:
    counts = {n: rng.randint(1, 9999) for n in ("input_tokens", "output_tokens", "cache_read_input_tokens")}
    return {**counts, "cache_creation_input_tokens": 0, "service_tier": "standard"}


def session(
    rng: random.Random, cwd: str, size: int, make: Callable[[random.Random], str] = passage
) -> tuple[str, str]:
    """A session id and its lines, about ``size`` bytes, with a plant in every fortieth passage."""
    name, parent, made, clock = scrub_cases.uuid4(rng), None, 0, datetime(2026, 11, 1, 8, tzinfo=UTC)
    lines: list[str] = []
    while made < size:
        text = make(rng)
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
                message |= {"stop_reason": None, "stop_sequence": None, "usage": _usage(rng)}
                line["requestId"] = f"req_{call[6:]}"
            else:
                line["toolUseResult"] = {"stdout": text, "stderr": "", "interrupted": False, "isImage": False}
            line |= {"type": role, "message": message, "cwd": cwd, "sessionId": name, "version": "2.1.197"}
            line |= {"userType": "external", "gitBranch": "main"}
            clock += timedelta(seconds=rng.randint(1, 20))
            line["timestamp"] = clock.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            parent = line["uuid"]
            lines.append(json.dumps(line))
            made += len(lines[-1])
    return name, "\n".join(lines) + "\n"


def transcripts(
    folder: Path,
    cwd: str,
    megabytes: float,
    each: int = 700_000,
    make: Callable[[random.Random], str] = passage,
) -> int:
    """Write sessions below ``folder`` and return their size in bytes."""
    rng, size = random.Random(1), 0
    folder.mkdir(parents=True)
    while size < megabytes * 1e6:
        name, text = session(rng, cwd, each, make)
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


def environment(home: Path) -> dict[str, str]:
    """A home of its own; Python keeps its bytecode, as it does wherever it is installed."""
    env = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


class Bench:
    """Folders, the commands, and what they took."""

    def __init__(self, base: Path, megabytes: float, peers: list[Path], text: str) -> None:
        self.base, self.peers = base, peers
        self.town = str(base / "town")
        self.home = base / "home"
        self.projects = self.home / ".claude" / "projects" / "-bench-town"
        self.size = transcripts(self.projects, self.town, megabytes, make=TEXTS[text])
        self.env = {**environment(self.home), "GOMAXPROCS": "1"}

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

    def warm_up(self, jobs: Mapping[str, Callable[[], object]]) -> None:
        """Run every command once over the first of the files."""
        others = sorted(self.projects.iterdir())[1:]
        aside = self.base / "aside"
        aside.mkdir()
        for path in others:
            path.rename(aside / path.name)
        for job in jobs.values():
            job()
        for path in others:
            (aside / path.name).rename(path)

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
    bench.warm_up(jobs)
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
        (projects / f"{name}.jsonl").write_text(text, "utf-8")
    env = environment(base / "many-home")
    command = [sys.executable, "-c", SWEEP, str(town), str(projects.parent)]
    first = used(command, env)
    again = [used(command, env) for _ in range(3)]
    cpu, wall = (statistics.median(t[i] for t in again) for i in (0, 1))
    print(f"{count} transcripts, first sweep: {first[1]:.1f} s on the wall")
    print(f"nothing new: {cpu:.2f} s of processor, {wall:.2f} s on the wall")


def big_folder(base: Path, gigabytes: float) -> None:
    """A large folder on one processor and on two: time, and the most memory that a sweep and its helpers held
    at one time."""
    town, projects = base / "big", base / "big-projects" / "p"
    size = transcripts(projects, str(town), gigabytes * 1000, each=8_000_000)
    walls = []
    for cores in (1, 2):
        shutil.rmtree(town, ignore_errors=True)
        command = [sys.executable, "-c", SWEEP, str(new_town(town)), str(projects.parent)]
        start = time.perf_counter()
        child = subprocess.Popen(
            ["taskset", "-c", f"0-{cores - 1}", *command],
            env=environment(base / "h"),
            stdout=subprocess.DEVNULL,
        )
        peaks = _watched(child)
        walls.append(time.perf_counter() - start)
        held = f"the sweep held {peaks['sweep']} MB, with its helpers {peaks['all']} MB"
        print(
            f"{size / 1e9:.2f} GB on {cores}: exit {child.returncode}, {walls[-1]:.0f} s on the wall; {held}"
        )
    print(f"two over one: {walls[0] / walls[1]:.2f}x (goal 1.7; a busy machine gives less)")


def _watched(child: subprocess.Popen[bytes]) -> dict[str, int]:
    """Wait for a process; the most megabytes that it, and all of its children with it, held at one time."""
    peaks = {"sweep": 0, "all": 0}
    while child.poll() is None:
        rss = _resident(child.pid)
        peaks["sweep"] = max(peaks["sweep"], rss.get(child.pid, 0))
        peaks["all"] = max(peaks["all"], sum(rss.values()))
        time.sleep(0.3)
    return peaks


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
    parser.add_argument("--mb", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, action="append", default=[], help="a folder of executables")
    parser.add_argument("--text", choices=list(TEXTS), default="mixed", help="what the sessions hold")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--gb", type=float, default=1.0, help="size of the large folder of --full")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.mb, args.peers, args.text)
        show(bench, measure(bench, args.rounds))
        if args.full:
            nothing_new(Path(folder))
            big_folder(Path(folder), args.gb)


if __name__ == "__main__":
    main()
