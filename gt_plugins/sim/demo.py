"""``make demo``: the whole thread on the example town, without gt and without a download.

    town ─► teacher's sessions with planted secrets ─► sweep (scrubbed) ─► dataset
         ─► a first version, under-trained: the gate refuses; beside it, the base's score
         ─► a good one: deployed, asked, rolled back

Everything happens in one folder, with a HOME, a town and a models folder of its own. Commands that a user
would type are run as such; training and evaluation run in this process, so that heavy libraries are
imported once. A control trained on shuffled decisions shows what is learnt from the evidence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import write_json, write_text
from ..errors import FinetuneError
from ..town.root import Town

if TYPE_CHECKING:
    from ..evaluation.result import EvalResult
    from ..registry.versions import Version
    from ..training.run import Outcome
    from .sessions import Written

ROLE = "deacon"
MODEL = "gt-ft-deacon"
DECISIONS = 720
CASES = 320
EXAMPLE_KEY = "e8" * 32
"""The example town's key of surrogates, public as all of that town: with it a run can be repeated."""


@dataclass
class Figures:
    """What the demo found, in the order in which it found it; goes into figures.json and the report."""

    values: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def note(self, **values: Any) -> None:
        self.values.update(values)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Stage:
    """The demo's folder and its console."""

    def __init__(self, out: Path) -> None:
        from rich.console import Console

        self.out = out
        self.home = out / "home"
        self.models = out / "models"
        self.town = Town(out / "town")
        self.console = Console(highlight=False)
        self.figures = Figures()

    def headline(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]  [dim]{self.figures.seconds:.0f} s[/dim]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def command(self, *words: str, fine: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """One of our own commands as a user would type it, in the demo's HOME; what it says is shown.

        Raises FinetuneError where it ends with a code that is not among ``fine``."""
        shown = " ".join(words)
        self.console.print(f"  $ {shown}", style="cyan", markup=False)
        module = {"corpus": "gt_plugins.cli.corpus", "model": "gt_plugins.cli.model"}[words[1]]
        done = subprocess.run(
            [sys.executable, "-m", module, *words[2:]],
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=self.town.root,
        )
        for line in (done.stdout + done.stderr).strip().splitlines():
            self.say(f"  {line}")
        if done.returncode not in fine:
            raise FinetuneError(f"`{shown}` ended with exit code {done.returncode}")
        return done

    def environment(self) -> dict[str, str]:
        """This machine's environment with the demo's HOME and models, and nothing of a real town."""
        foreign = ("GT_", "BD_", "BEADS_", "ANTHROPIC_", "CLAUDE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        mine = {"HOME": self.home, "GT_MODELS_HOME": self.models, "GT_TOWN_ROOT": self.town.root}
        return kept | {k: str(v) for k, v in mine.items()} | {"HF_HUB_OFFLINE": "1"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 1 where a step failed."""
    parser = argparse.ArgumentParser(prog="python -m gt_plugins.sim.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder; an old demo is replaced")
    parser.add_argument("--decisions", type=int, default=DECISIONS, help="decisions the teacher makes")
    args = parser.parse_args(argv)
    from ..training.adapter import quiet_libraries

    quiet_libraries()
    stage = Stage(_fresh(args.out.absolute()))
    os.environ.update(stage.environment())
    try:
        play(stage, args.decisions)
    except FinetuneError as error:
        stage.console.print(f"error: {error}", style="red", markup=False)
        return 1
    return 0


def _fresh(out: Path) -> Path:
    """An empty folder; only one that a demo made is emptied."""
    if out.exists() and any(out.iterdir()) and not (out / "home").is_dir():
        raise SystemExit(f"error: {out}: is not empty and no demo's folder; choose another with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def play(stage: Stage, decisions: int) -> None:
    """The demo, scene by scene."""
    from ..training.recipe import load_recipe
    from .report import write_report

    found = make_town(stage, decisions)
    capture(stage, found)
    data = make_dataset(stage)
    recipe = load_recipe("tiny")
    with another_process() as beside:
        untuned = beside.submit(base_result, data)
        weak = refuse_weak(stage, data, replace(recipe, epochs=1.0))
        base = score_base(stage, untuned.result())
        good = train_good(stage, data, recipe)
        result = score_good(stage, data, recipe, good, base, beside)
    deploy_and_ask(stage, good, data)
    stage.figures.note(seconds=round(stage.figures.seconds), weak_version=weak.ref)
    write_json(stage.out / "figures.json", stage.figures.values)
    page = write_report(stage.out / "report.html", stage.figures.values)
    stage.headline("done")
    stage.say(f"report: {page}")
    stage.say(last_line(stage.figures.values, result))


def make_town(stage: Stage, decisions: int) -> list[Written]:
    """The example town and the teacher's sessions in it."""
    from .sessions import write_sessions

    stage.headline("1. An example town, and a scripted teacher that plays its deacon")
    for folder in ("mayor", "settings", "deacon/dogs/boot", "demo/witness", ".beads/formulas"):
        (stage.town.root / folder).mkdir(parents=True)
    write_json(stage.town.root / "mayor/town.json", {"type": "town", "version": 2, "name": "example"})
    write_json(stage.town.root / "mayor/rigs.json", {"version": 1, "rigs": {"demo": {}}})
    # a real town's key is drawn at random; with one of its own each run would train on other surrogates
    write_text(stage.town.own_dir(stage.town.finetune_dir) / "scrub.key", f"{EXAMPLE_KEY}\n")
    projects = stage.home / ".claude" / "projects"
    found = write_sessions(stage.town, projects, ROLE, decisions)
    planted = [p for w in found for p in w.planted]
    stage.say(f"{len(found)} sessions with {decisions} decisions, {len(planted)} secrets planted in them")
    stage.figures.note(sessions=len(found), decisions=decisions, planted=len(planted))
    return found


def capture(stage: Stage, found: list[Written]) -> None:
    """Consent, sweep, and a look at every byte that was stored."""
    stage.headline("2. Capture with consent, scrubbed before the first write")
    stage.command("gt", "corpus", "consent", "--grant", "--by", "demo")
    done = stage.command("gt", "corpus", "sweep", "--json")
    report = json.loads(done.stdout)
    stored = b"".join(p.read_bytes() for p in sorted(stage.town.corpus_dir.rglob("*")) if p.is_file())
    from ..corpus.store import Store

    with Store(stage.town) as store:
        texts = "".join(json.dumps(s.session.to_json()) for s in store.sessions())
    planted = [p for w in found for p in w.planted]
    left = [p for p in planted if p.encode() in stored or p in texts]
    stage.say(f"{len(planted) - len(left)} of {len(planted)} planted secrets are gone from the corpus")
    stage.figures.note(redactions=report.get("redactions", {}), secrets_left=len(left))
    if left:
        raise FinetuneError("a planted secret reached the corpus")


def make_dataset(stage: Stage) -> Path:
    """The role's training set, from what the town's records call good."""
    stage.headline("3. A dataset for the deacon, from the decisions that turned out well")
    stage.command("gt", "corpus", "collect")
    stage.command("gt", "corpus", "outcomes", "--role", ROLE)
    folder = stage.out / "dataset"
    stage.command("gt", "corpus", "dataset", "--role", ROLE, "--out", str(folder))
    card = json.loads((folder / "card.json").read_text())
    stage.figures.note(examples=card["examples"], drops=card["drops"], dataset=card["hash"][:12])
    return folder


def another_process() -> ProcessPoolExecutor:
    """A second process for scoring: it takes one core, and there are two."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def base_result(data: Path) -> EvalResult:
    """The base before any tuning, by choice scoring. For another process."""
    from ..evaluation.result import EvalResult
    from ..evaluation.runner import run_choice
    from ..rendering.render import TINY
    from ..roles.profile import load_profile
    from ..serving.engines import EngineSource, load_engine
    from ..training.adapter import quiet_libraries
    from ..training.base import base_path

    quiet_libraries()
    engine = load_engine(EngineSource(base_path("tiny")), prefer="transformers")
    cases = run_choice(_suite(), engine, load_profile(ROLE), (data / "prime.txt").read_text(), TINY)
    return EvalResult.from_cases("base tiny", "", _suite().name, cases, engine="choice scoring")


def served_result(version: Version) -> EvalResult:
    """A version's score as it is served. For another process."""
    from ..evaluation import evaluate as evaluation
    from ..training.adapter import quiet_libraries

    quiet_libraries()
    return evaluation.evaluate(version, _suite())


def score_base(stage: Stage, result: EvalResult) -> EvalResult:
    """What was found of the base, beside the scene before."""
    stage.headline(f"5. The tiny base on {result.n} held-out situations, untuned")
    stage.say(describe("base", result))
    stage.figures.note(base=figures_of(result))
    return result


def refuse_weak(stage: Stage, data: Path, recipe: Any) -> Version:
    """A first version on too few examples, which the gate must refuse."""
    stage.headline("4. A first version on a handful of examples: the gate refuses it")
    version = _trained(stage, data, recipe, most=24).version
    assert version is not None
    result = _served(stage, version)
    stage.say(describe(version.ref, result))
    done = stage.command("gt", "model", "deploy", version.ref, "--role", ROLE, fine=(3,))
    stage.say(f"exit code {done.returncode}")
    stage.figures.note(weak=figures_of(result), refusal=done.stderr.strip())
    return version


def train_good(stage: Stage, data: Path, recipe: Any) -> Version:
    """The real thing."""
    stage.headline("6. Tuning on all of them")
    outcome = _trained(stage, data, recipe)
    assert outcome.version is not None
    trained = outcome.trained
    stage.say(f"{trained.steps} steps, {trained.tokens:,} tokens, {trained.seconds:.0f} s")
    stage.say(f"loss {sparkline(trained.losses)} {trained.last_loss:.3f}")
    stage.figures.note(
        tuning_seconds=round(trained.seconds, 1),
        tokens_per_second=round(trained.tokens / trained.seconds),
        curve=[round(x, 4) for x in trained.losses],
    )
    return outcome.version


def score_good(
    stage: Stage, data: Path, recipe: Any, version: Version, base: EvalResult, beside: ProcessPoolExecutor
) -> EvalResult:
    """The tuned version as it is served, against the base and the shuffled control."""
    from ..evaluation import evaluate as evaluation
    from ..registry import evals

    stage.headline("7. The tuned version as it is served, and a control tuned on shuffled decisions")
    control_version = _trained(stage, data, recipe, model="gt-ft-control", shuffle=True).version
    assert control_version is not None
    shuffled = beside.submit(served_result, control_version)
    result = _served(stage, version, store=False)
    control = shuffled.result()
    evals.store(stage.models, control_version, control)
    result = evaluation.compare("base", result, base)
    result = evaluation.compare("control", result, control)
    evals.store(stage.models, version, result)
    stage.say(describe(version.ref, result))
    for name, row in result.versus.items():
        stage.say(
            f"against {name}: {row['score']:.2f}, difference {row['difference']:+.2f}, p {row['p']:.1e}"
        )
    stage.figures.note(tuned=figures_of(result), control=figures_of(control), versus=result.versus)
    return result


def deploy_and_ask(stage: Stage, version: Version, data: Path) -> None:
    """Through the gate into the town, one live request, and back."""
    from ..rollout.deployed import read_deployment
    from .ask import ask_patrol

    stage.headline("8. Through the gate; one patrol is served; rolled back")
    stage.command("gt", "model", "deploy", version.ref, "--role", ROLE)
    try:
        stage.command("gt", "model", "list")
        deployment = read_deployment(stage.town, ROLE)
        assert deployment is not None
        before, after, turns = ask_patrol(stage.town, deployment.url, ROLE, (data / "prime.txt").read_text())
        stage.say(f"prime: {before:,} characters before, {after:,} after")
        for turn in turns:
            stage.say(f"  {turn}")
        stage.figures.note(prime_before=before, prime_after=after, patrol=turns)
    finally:
        stage.command("gt", "model", "rollback", "--role", ROLE)


def _suite() -> Any:
    from ..evaluation.suites import find_suite

    return find_suite(f"{ROLE}-decisions", ROLE)


def _trained(
    stage: Stage, data: Path, recipe: Any, *, most: int = 0, model: str = MODEL, shuffle: bool = False
) -> Outcome:
    from ..cli.progress import TrainingLine
    from ..training.run import Request, train

    request = Request(stage.town, stage.models, ROLE, "tiny", data, recipe, model, shuffle=shuffle, most=most)
    with TrainingLine() as line:
        return train(request, stage.say, line)


def _served(stage: Stage, version: Version, store: bool = True) -> EvalResult:
    from ..evaluation import evaluate as evaluation
    from ..registry import evals

    with bar(stage, version.ref) as told:
        result = evaluation.evaluate(version, _suite(), told=told)
    if store:
        evals.store(stage.models, version, result)
    return result


def bar(stage: Stage, name: str) -> Any:
    """Progress over the suite's cases."""
    from ..cli.model_eval import Bar

    return Bar(name, len(_suite().cases()), quiet=False)


def figures_of(result: EvalResult) -> dict[str, Any]:
    """A result's figures for the report."""
    return {
        "score": round(result.score, 4),
        "low": round(result.low, 4),
        "high": round(result.high, 4),
        "n": result.n,
        "groups": {k: round(v, 4) for k, v in result.groups.items()},
        "engine": result.engine,
    }


def describe(name: str, result: EvalResult) -> str:
    """One line on a result."""
    groups = ", ".join(f"{k} {v:.2f}" for k, v in result.groups.items())
    from ..evaluation.gate_text import floor2

    return f"{name}: {floor2(result.score)} ({result.low:.2f} to {result.high:.2f}) of {result.n}: {groups}"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line of text."""
    if not values:
        return ""
    marks = "▁▂▃▄▅▆▇█"
    size = max(1, len(values) // width)
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join(marks[int((m - low) / max(1e-9, high - low) * 7)] for m in means)


def last_line(values: dict[str, Any], result: EvalResult) -> str:
    """The figures in one line."""
    from ..evaluation.gate_text import floor2

    versus = values["versus"]
    unseen = values["tuned"]["groups"].get("unseen", 0.0)
    return (
        f"deacon: base {values['base']['score']:.2f} -> tuned {floor2(result.score)} "
        f"[{result.low:.2f}, {result.high:.2f}], unseen templates {unseen:.2f}, "
        f"control {values['control']['score']:.2f}, "
        f"p {versus['base']['p']:.0e} and {versus['control']['p']:.0e}, "
        f"tuning {values['tuning_seconds']:.0f} s, secrets left {values['secrets_left']}, "
        f"prime {values['prime_before']} -> {values['prime_after']} characters, {values['seconds']} s in all"
    )


if __name__ == "__main__":
    raise SystemExit(main())
