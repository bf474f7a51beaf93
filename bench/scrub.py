"""How well scrubbing works, by type: ``make bench-scrub``.

    python bench/scrub.py [--seeds 40] [--json]

Plants of bench/scrub_cases.py and bench/scrub_people.py go into transcripts of the client's own shape. The
folder is scrubbed as ``gt corpus scrub IN OUT`` does it, and what comes out is searched for every plant, as
it is and undone from every encoding that it may have been nested in. Printed: recall by type, the hard
negatives that stayed, and lines whose ids changed. Nothing of the rules is imported here. The set that judges
is others' and not in the project.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import html
import json
import random
import re
import sys
import tempfile
import urllib.parse
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import scrub_cases
import scrub_people
from scrub_cases import Plant

from gt_plugins.corpus.scrub.engine import Scrubber
from gt_plugins.corpus.scrub.exact import exact_person, exact_user
from gt_plugins.corpus.scrub.files import scrub_path
from gt_plugins.corpus.scrub.policy import build_policy

_RUN = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_BLOCKS = ("text", "tool_use", "tool_result")


def transcript(texts: list[str], rng: random.Random) -> str:
    """JSON lines as the client writes them, each text in a prompt, a reply, a command or a result."""
    lines: list[dict[str, Any]] = []
    session = scrub_cases.uuid4(rng)
    for text in texts:
        name, kind = f"toolu_{scrub_cases.some(rng, scrub_cases.ALNUM, 24)}", rng.choice(_BLOCKS)
        block: dict[str, Any] = {"type": kind}
        if kind == "text":
            block["text"] = text
        elif kind == "tool_use":
            block |= {"id": name, "name": "Bash", "input": {"command": text, "description": "run it"}}
        else:
            block |= {"tool_use_id": name, "content": rng.choice((text, [{"type": "text", "text": text}]))}
        role = "user" if kind == "tool_result" else "assistant"
        line = {"type": role, "uuid": scrub_cases.uuid4(rng), "sessionId": session, "cwd": "/town/deacon"}
        line |= {"timestamp": "2026-11-23T08:06:14.063Z", "message": {"role": role, "content": [block]}}
        if kind == "tool_result":
            line["toolUseResult"] = {"stdout": text, "stderr": "", "interrupted": False}
        lines.append(line)
    return "".join(json.dumps(line, ensure_ascii=rng.random() < 0.5) + "\n" for line in lines)


def undone(text: str) -> str:
    """The text and everything that can be read in it: escapes, percent signs, entities, base64."""
    found = [text]
    for _ in range(4):
        last = found[-1]
        plain = re.sub(r"\\u00([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), last)
        plain = plain.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"').replace("\\\\", "\\")
        if plain == last:
            break
        found.append(plain)
    found += [urllib.parse.unquote(found[-1]), html.unescape(found[-1])]
    for run in _RUN.findall(found[-1]):
        try:
            found.append(base64.b64decode(run.replace("-", "+").replace("_", "/") + "==").decode("utf-8"))
        except (binascii.Error, UnicodeDecodeError):
            continue
    return "\n".join(found)


def shape(line: str) -> Any:
    """What must stay of a line: its ids and roles."""
    value = json.loads(line)
    blocks = value["message"]["content"]
    ids = [(b["type"], b.get("id"), b.get("tool_use_id")) for b in blocks]
    return value["type"], value["uuid"], value["sessionId"], ids


class Tally:
    """What was planted, and what was left."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], int] = defaultdict(int)
        self.left: dict[tuple[str, str], list[Plant]] = defaultdict(list)
        self.kept = self.negatives = self.lines = self.broken = 0
        self.changed: list[str] = []

    def recall(self, group: str) -> tuple[float, int]:
        total = sum(n for (g, _), n in self.seen.items() if g == group)
        lost = sum(len(p) for (g, _), p in self.left.items() if g == group)
        return 1 - lost / max(1, total), total

    def to_json(self) -> dict[str, Any]:
        kinds = {f"{g}/{k}": 1 - len(self.left[g, k]) / n for (g, k), n in self.seen.items()}
        groups = {g: self.recall(g)[0] for g in ("secret", "personal", "name", "free name")}
        kept = self.kept / max(1, self.negatives)
        return {"groups": groups, "hard_negatives": kept, "kinds": kinds, "broken_lines": self.broken}


def scrubber() -> Scrubber:
    exact = [e for name in scrub_people.PEOPLE for e in exact_person(name)]
    exact += [e for name in scrub_people.USERS for e in exact_user(name)]
    return Scrubber(build_policy(bytes(range(32)), exact, (), ()))


def run(seeds: int) -> Tally:
    tally = Tally()
    scrub = scrubber()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        planted: list[list[Plant]] = []
        negatives: list[list[str]] = []
        for seed in range(seeds):
            rng = random.Random(seed)
            planted.append(scrub_cases.plants(rng) + scrub_people.plants(rng))
            wrap = rng.choice(list(scrub_cases.WRAPPERS.values()))
            negatives.append([t for n in scrub_people.negatives(rng) for t in (n, wrap(n))])
            (source / f"{seed}-plants.jsonl").write_text(
                transcript([p.text for p in planted[-1]], rng), "utf-8"
            )
            (source / f"{seed}-stay.jsonl").write_text(transcript(negatives[-1], rng), "utf-8")
        scrub_path(scrub, str(source), str(target))
        for seed in range(seeds):
            _judge_plants(
                tally, planted[seed], source / f"{seed}-plants.jsonl", target / f"{seed}-plants.jsonl"
            )
            _judge_negatives(
                tally, negatives[seed], source / f"{seed}-stay.jsonl", target / f"{seed}-stay.jsonl"
            )
    return tally


def _judge_plants(tally: Tally, plants: list[Plant], before: Path, after: Path) -> None:
    old, new = before.read_text("utf-8").splitlines(), after.read_text("utf-8").splitlines()
    for plant, was, line in zip(plants, old, new, strict=True):
        tally.seen[plant.group, plant.kind] += 1
        tally.lines += 1
        tally.broken += shape(was) != shape(line)
        if plant.value in undone(line):
            tally.left[plant.group, plant.kind].append(plant)


def _judge_negatives(tally: Tally, texts: list[str], before: Path, after: Path) -> None:
    for text, was, line in zip(
        texts, before.read_text("utf-8").splitlines(), after.read_text("utf-8").splitlines(), strict=True
    ):
        tally.negatives += 1
        tally.kept += was == line
        if was != line:
            tally.changed.append(f"{text!r} → {line}")


def show(tally: Tally, everything: bool) -> None:
    for (group, kind), seen in sorted(tally.seen.items()):
        left = tally.left[group, kind]
        print(f"{group:<10} {kind:<24} {1 - len(left) / seen:7.3f}  of {seen}")
        for plant in left if everything else left[:0]:
            print(f"      {plant.where}: {plant.text[:200]!r} [{plant.value[:40]}]")
    for text in tally.changed if everything else ():
        print(f"  changed: {text[:400]}")
    print()
    for group, goal in (("secret", 0.99), ("personal", 0.97), ("name", 0.97), ("free name", None)):
        recall, total = tally.recall(group)
        kinds = sum(g == group for g, _ in tally.seen)
        wanted = f"goal {goal}" if goal else "names that no list holds: no goal"
        print(f"recall, {group:<12} {recall:7.4f}  of {total} plants of {kinds} types   ({wanted})")
    kept = tally.kept / max(1, tally.negatives)
    print(f"hard negatives kept  {kept:7.4f}  of {tally.negatives}   (goal 0.995)")
    print(f"lines with other ids {tally.broken:7d}  of {tally.lines}   (goal 0)")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--misses", action="store_true", help="show each miss")
    args = parser.parse_args()
    tally = run(args.seeds)
    if args.json:
        print(json.dumps(tally.to_json(), indent=2))
    else:
        show(tally, args.misses)
    fine = tally.recall("secret")[0] >= 0.99 and tally.recall("personal")[0] >= 0.97
    return 0 if fine and tally.recall("name")[0] >= 0.97 and tally.kept >= 0.995 * tally.negatives else 1


if __name__ == "__main__":
    sys.exit(main())
