"""``make demo-live``: the thread in a real town, with the real gt, bd, dolt, tmux and agent client.

    town up ─► plugins installed ─► the teacher's patrols, run by the real client through `gt deacon start`
            ─► SessionEnd ─► sweep ─► dataset ─► training (a bead) ─► gate ─► `gt model deploy`
            ─► `gt deacon start`: the tuned model patrols ─► a stock witness from its environment
            ─► endpoint killed: the stock agent starts ─► rollback, uninstall, the town as before

It works in a folder of its own, with a HOME of its own and loopback only, and stops what it started. The
teacher's live sessions are joined by written ones of the same town, so that there is enough to learn from;
how many of each is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..durable import write_json
from ..errors import FinetuneError
from ..evaluation.runner import NOTHING, action_in
from ..town.root import Town
from .live_town import LiveTown, Ran, bring_up, missing_tools, own_processes, point_role, tear_down, wait_for
from .reports import role_report
from .situations import POLICIES, Situation, situations, stream
from .teacher import DONE, Teacher, report_name, report_of

ROLE = "deacon"
AGENTS = ("demo/witness", "demo/refinery")
"""Agents that the live town has, so that real commands find them."""
TOKEN_WORDS = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL", "ANTHROPIC_API_KEY")


@dataclass
class Scene:
    """A live town with our plugins, and what was found so far."""

    live: LiveTown
    say: Callable[[str], None]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def town(self) -> Town:
        return self.live.town

    @property
    def reports(self) -> Path:
        return self.town.root / ROLE / "reports"

    def gt(self, *words: str, fine: Sequence[int] = (0,), timeout: float = 900.0) -> Ran:
        """A command as somebody would type it in the town, through the shim; it is shown."""
        self.say(f"$ gt {' '.join(words)}")
        done = self.live.run("gt", *words, timeout=timeout)
        if done.code not in fine:
            raise FinetuneError(
                f"gt {' '.join(words)}: exit code {done.code}: {(done.err or done.out)[-400:]}"
            )
        for line in (done.out + done.err).strip().splitlines()[-12:]:
            self.say(f"    {line}")
        return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live demo; exit code 1 where a step failed, 2 where a tool is missing."""
    parser = argparse.ArgumentParser(prog="python -m gt_plugins.sim.demo_live")
    parser.add_argument("--out", type=Path, default=Path("demo-out-live"))
    parser.add_argument("--patrols", type=int, default=3, help="patrols that the real client runs")
    parser.add_argument("--reports", type=int, default=4, help="reports a patrol")
    parser.add_argument("--decisions", type=int, default=720, help="decisions to learn from in all")
    parser.add_argument("--epochs", type=float, default=0.0, help="passes over the dataset (the recipe's)")
    args = parser.parse_args(argv)
    absent = missing_tools()
    if absent:
        print(f"error: {', '.join(absent)}: not on PATH; the live demo needs them", file=sys.stderr)
        return 2
    out = args.out.absolute()
    if out.exists() and any(out.iterdir()) and not (out / "home").is_dir():
        print(f"error: {out}: is not empty and no demo's folder; choose another with --out", file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what runs is stopped then too
    try:
        found = play(out, print, args.patrols, args.reports, args.decisions, args.epochs)
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(out / "figures.json", found)
    print(json.dumps({k: v for k, v in found.items() if not isinstance(v, list | dict)}))
    return 0


def play(
    out: Path, say: Callable[[str], None], patrols: int, reports: int, decisions: int, epochs: float = 0.0
) -> dict[str, Any]:
    """All scenes, with the town torn down at the end whatever happens; returns what was found."""
    began = time.monotonic()
    live = bring_up(out, say=say)
    scene = Scene(live, say)
    try:
        attach(scene)
        teach(scene, patrols, reports)
        write_more(scene, decisions - patrols * reports)
        tune(scene, epochs)
        patrol_tuned(scene, reports)
        fall_back(scene)
        leave(scene)
    finally:
        for name in tear_down(live):
            say(f"stopped {name}")
    scene.found["seconds"] = round(time.monotonic() - began)
    return scene.found


def attach(scene: Scene) -> None:
    """Install the plugins, as the README says."""
    from .live_town import snapshot

    scene.found["before"] = snapshot(scene.live)
    scene.found["before_settings"] = _settings(scene)
    own = Path(sys.executable).parent
    ran = scene.live.run(str(own / "gt-plugins"), "install", "--yes", "--consent-by", "demo").checked()
    scene.say(ran.out.strip())
    shell = scene.live.run(str(own / "gt-plugins"), "shellenv").checked().out
    folder = re.search(r'PATH="?([^":$]+)', shell)
    if folder is None:
        raise FinetuneError("gt-plugins shellenv names no folder")
    scene.live.extra_path[:] = [folder.group(1)]
    scene.gt("version")


def put_reports(scene: Scene, found: Sequence[Situation], seed: str) -> None:
    """Write one report file for each situation into the deacon's folder, in the place of the last ones."""
    shutil.rmtree(scene.reports, ignore_errors=True)
    scene.reports.mkdir(parents=True)
    rng = stream(ROLE, "live reports", seed)
    for index, situation in enumerate(found):
        text = role_report(ROLE, situation, "common", rng)
        (scene.reports / report_name(index)).write_text(text + "\n")


def live_situations(count: int, seed: str) -> list[Situation]:
    """Situations about agents that the town has, so that real commands find them."""
    rng = stream(ROLE, "live", seed)
    found = situations(ROLE, count, rng)
    return [replace(s, target=rng.choice(AGENTS)) for s in found]


def teach(scene: Scene, patrols: int, reports: int) -> None:
    """The real client runs patrols with the scripted teacher behind it, started and stopped by gt."""
    from ..serving.app import make_app
    from ..serving.local import served_locally
    from ..serving.responder import ScriptResponder
    from ..town.agents import restore

    for number in range(patrols):
        found = live_situations(reports, f"teach {number}")
        put_reports(scene, found, f"teach {number}")
        teacher = _Watched(Teacher(ROLE, found))
        app = make_app(ScriptResponder("teacher", teacher.blocks), "teacher-token", ["teacher"])
        with served_locally(app) as url:
            change = point_role(scene.live, ROLE, url, "teacher-token")
            try:
                with running(scene, ROLE):
                    wait_for("the teacher's patrol", lambda t=teacher: t.finished, 180)  # type: ignore[misc]
                    time.sleep(1.0)
            finally:
                restore(change)
        scene.say(f"patrol {number + 1}: {len(found)} decisions by the teacher through the real client")
    wait_for("SessionEnd", lambda: len(_captured(scene)) >= patrols, 60)
    scene.found["live_sessions"] = len(_captured(scene))


class _Watched:
    """The teacher, and whether it has said its last word."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.finished = False

    def blocks(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        blocks = self.teacher.blocks(body)
        self.finished = self.finished or any(b.get("text") == DONE for b in blocks)
        return blocks


@contextmanager
def running(scene: Scene, role: str) -> Iterator[None]:
    """The role's session between `gt ROLE start` and `gt ROLE stop`."""
    scene.live.gt(role, "start")
    try:
        yield
    finally:
        scene.live.gt(role, "stop")


def _captured(scene: Scene) -> list[str]:
    """Session ids that have reached spool or corpus, by the SessionEnd hook's own work."""
    from ..corpus.store import Store, exists

    if not exists(scene.town):
        return []
    with Store(scene.town) as store:
        return [s.session.id for s in store.sessions(ROLE)]


def write_more(scene: Scene, decisions: int) -> None:
    """More of the teacher's sessions in the same town, written in the client's format: with the prime, the
    prompt and the hook of those that the real client ran, which is how the tuned one will begin too."""
    from .sessions import frame_of, write_sessions

    if decisions > 0:
        frames = [frame_of(path) for path in _transcripts(scene)]
        projects = scene.live.home / ".claude" / "projects"
        written = write_sessions(scene.town, projects, ROLE, decisions, frames=frames)
        scene.say(f"{len(written)} more sessions written in the client's format ({decisions} decisions)")
        scene.found["written_sessions"] = len(written)


def tune(scene: Scene, epochs: float) -> None:
    """Sweep, dataset, training, gate, deploy: the commands of the README."""
    scene.gt("corpus", "sweep")
    scene.gt("corpus", "collect")
    scene.gt("corpus", "outcomes", "--role", ROLE)
    scene.gt("corpus", "stats")
    more = ("--epochs", str(epochs)) if epochs else ()
    scene.gt("model", "train", ROLE, "--base", "tiny", *more, timeout=1800)
    scene.gt("model", "deploy", f"gt-ft-{ROLE}", "--role", ROLE, fine=(3,))
    scene.gt("model", "eval", f"gt-ft-{ROLE}", timeout=1800)
    scene.gt("model", "deploy", f"gt-ft-{ROLE}", "--role", ROLE)
    jobs = scene.live.run("bd", "list", "--all", "--json", "--limit", "0").checked().out
    beads = [b for b in json.loads(jobs[jobs.find("[") :]) if b["title"].startswith("Fine-tune")]
    scene.found["job_beads"] = [f"{b['id']} {b['status']}" for b in beads]
    scene.say(f"the job as a bead: {', '.join(scene.found['job_beads'])}")


def patrol_tuned(scene: Scene, reports: int) -> None:
    """`gt deacon start`: the real client talks to the tuned model and finishes a patrol."""
    found = live_situations(reports, "tuned")
    put_reports(scene, found, "tuned")
    before = set(_transcripts(scene))
    with running(scene, ROLE):
        wait_for("the tuned patrol", lambda: _finished(scene, before), 240)
        stock_witness(scene, client_environment(scene.live, ROLE))
    path = next(p for p in _transcripts(scene) if p not in before)
    turns = [_turn(line) for line in path.read_text().splitlines() if '"type":"assistant"' in line]
    scene.found["tuned_turns"] = [t for t in turns if t]
    primes = [c for c in _hook_outputs(path) if c.startswith("<gt-prime")]
    if not primes:
        raise FinetuneError("the slim prime did not reach the tuned session")
    scene.found["prime_characters"] = len(primes[0])
    scene.found["prime_whole"] = primes[0].rstrip().endswith("</gt-prime>")
    for turn in scene.found["tuned_turns"]:
        scene.say(f"    {turn}")
    check_patrol(scene, found)


def check_patrol(scene: Scene, found: Sequence[Situation]) -> None:
    """Every report was read and decided on; how many decisions were the teacher's own is counted.

    Raises FinetuneError where a report was left out or an action is none of the role's."""
    turns: list[str] = scene.found["tuned_turns"]
    decided = [action_in({"content": [{"type": "text", "text": turn}]}) for turn in turns]
    decided = [action for action in decided if action != NOTHING]
    read = [name for name in map(report_of, turns) if name]
    scene.found["reports_read"] = len(set(read))
    scene.found["decisions_right"] = sum(
        action == one.action for action, one in zip(decided, found, strict=False)
    )
    scene.say(
        f"the tuned patrol: {len(set(read))} of {len(found)} reports read, {len(decided)} decisions, "
        f"{scene.found['decisions_right']} as the teacher decides"
    )
    strange = set(decided) - set(POLICIES[ROLE].actions)
    if len(set(read)) < len(found) or len(decided) < len(found) or strange:
        raise FinetuneError(f"the tuned patrol went astray: {', '.join(strange) or 'reports left out'}")


def _transcripts(scene: Scene) -> list[Path]:
    return sorted((scene.live.home / ".claude" / "projects").glob("*deacon/*.jsonl"))


def _finished(scene: Scene, before: set[Path]) -> bool:
    """Whether a fresh session's agent has said its last word: a turn that calls for nothing more."""
    fresh = [p for p in _transcripts(scene) if p not in before]
    return any('"stop_reason":"end_turn"' in p.read_text(errors="replace") for p in fresh)


def _hook_outputs(path: Path) -> list[str]:
    contents = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            attachment = json.loads(line).get("attachment") or {}
        except ValueError:
            continue
        if isinstance(attachment.get("content"), str):
            contents.append(attachment["content"].strip())
    return contents


def _turn(line: str) -> str:
    blocks = json.loads(line)["message"]["content"]
    return " ".join(str(b.get("text") or b.get("input", {}).get("command") or "") for b in blocks).strip()


def client_environment(live: LiveTown, role: str) -> dict[str, str]:
    """The environment of the agent client that runs for a role, with what its settings add for its tools."""
    for pid in own_processes(live.home):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
            pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        if not words or Path(words[0]).name != "claude":
            continue
        found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if found.get("GT_ROLE") != role:
            continue
        if "--settings" in words:
            settings = json.loads(Path(words[words.index("--settings") + 1]).read_text())
            found.update(settings.get("env", {}))
        return found
    raise FinetuneError(f"no agent client runs for {role}")


def stock_witness(scene: Scene, session: Mapping[str, str]) -> None:
    """A stock witness, started as the tuned session's own tools would start it, has nothing of ours."""
    from ..rollout.deployed import read_deployment, read_token

    env = {k: v for k, v in session.items() if not k.startswith("TMUX")}
    token, deployment = read_token(scene.town, ROLE), read_deployment(scene.town, ROLE)
    assert deployment is not None
    started = scene.live.run("gt", "witness", "start", scene.live.rig, more=env)
    if started.code != 0:
        raise FinetuneError(f"gt witness start: {started.err[-300:]}")
    try:
        witness = f"{scene.live.rig}/witness"
        wait_for("the witness", lambda: _has_client(scene.live, witness), 30)
        theirs = client_environment(scene.live, witness)
        ours = (token or "-", deployment.url, f"gt-ft-{ROLE}")
        leaked = {k: v for k, v in theirs.items() if any(o in v for o in ours)}
        leaked |= {k: v for k, v in theirs.items() if k in TOKEN_WORDS and v}
        scene.found["leaked"] = sorted(leaked)
        scene.say(
            f"a stock witness started from the tuned session: {len(leaked)} of our values in its environment"
        )
        if leaked:
            raise FinetuneError(f"the stock witness inherited {', '.join(sorted(leaked))}")
    finally:
        scene.live.gt("witness", "stop", scene.live.rig)


def _has_client(live: LiveTown, role: str) -> bool:
    try:
        client_environment(live, role)
    except FinetuneError:
        return False
    return True


def fall_back(scene: Scene) -> None:
    """The endpoint dies; the next deacon is the stock agent, with exactly the arguments gt gave."""
    from ..rollout.deploy import running_endpoint

    endpoint = running_endpoint(scene.town, ROLE)
    if endpoint is None:
        raise FinetuneError("the endpoint is not running")
    os.kill(endpoint.pid, signal.SIGKILL)
    wait_for("the endpoint's end", lambda: running_endpoint(scene.town, ROLE) is None, 15)
    with running(scene, ROLE):
        wait_for("the stock client", lambda: _has_client(scene.live, ROLE), 30)
        theirs = client_environment(scene.live, ROLE)
        ours = [k for k in TOKEN_WORDS if theirs.get(k)]
    scene.found["stock_after_kill"] = not ours
    scene.say(f"endpoint killed: the next deacon is the stock agent ({ours or 'nothing'} of ours)")
    if ours:
        raise FinetuneError("the fallback still has our endpoint in its environment")


def leave(scene: Scene) -> None:
    """Roll back, uninstall, and hold the town against what it was."""
    from .live_town import snapshot

    scene.gt("model", "rollback", "--role", ROLE)
    shutil.rmtree(scene.reports, ignore_errors=True)
    own = Path(sys.executable).parent
    done = scene.live.run(str(own / "gt-plugins"), "uninstall", "--purge").checked()
    scene.say(done.out.strip())
    scene.live.extra_path.clear()
    before, after = scene.found.pop("before"), snapshot(scene.live)
    changed = sorted(k for k in {**before, **after} if before.get(k) != after.get(k))
    left = [k for k in changed if _is_ours(k)]
    if scene.found.pop("before_settings") == _settings(scene):
        left = [k for k in left if k != "settings/config.json"]
    if "gt-hook" in _text(scene.live.home / ".claude/settings.json"):
        left.append("~/.claude/settings.json")
    scene.found["changed_by_gt"] = [k for k in changed if k not in left]
    scene.found["left_behind"] = left
    scene.say(
        f"uninstalled; left behind: {left or 'nothing'}; changed by gt: {len(changed) - len(left)} files"
    )
    if left:
        raise FinetuneError(f"uninstall left {', '.join(left)}")


def _is_ours(name: str) -> bool:
    """Whether a path of the town is one that we write to; all others are gt's, bd's and the client's."""
    folders = (".corpus", ".checkpoints", ".finetune", ".beads/formulas", "settings", "plugins")
    return name.startswith(folders) or "finetune" in name


def _settings(scene: Scene) -> Any:
    """The town's settings by content: gt writes them anew in its own form."""
    text = _text(scene.town.root / "settings/config.json")
    return json.loads(text) if text else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main())
