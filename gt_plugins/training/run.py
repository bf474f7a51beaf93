"""``gt model train``: from a dataset folder to a registered version, as a job that beads can see.

    dataset ─► checks ─► rows ─► Trainer (checkpoints, metrics) ─► adapter ─► registry

The job's states follow what really happens here; bd being slow or gone changes nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..corpus import dataset as datasets
from ..corpus.dataset import Dataset, Example
from ..durable import write_json, write_text
from ..errors import UserError, in_file
from ..rendering.conversation import Conversation, Message
from ..rendering.render import STANDARD, TINY, Budget, Renderer, Row
from ..town.root import Town
from .base import TINY as TINY_NAME
from .base import base_path
from .job import Job, new_job, resumable
from .recipe import Recipe

if TYPE_CHECKING:
    from ..registry.versions import Version
    from .lifecycle import JobLifecycle
    from .swarm.enrol import SwarmRequest
    from .swarm.member import SwarmMember
    from .trainer import Trained, Trainer

BUDGETS = {"tiny": TINY, "standard": STANDARD}
BEGUN = "request.json"
"""In a job's folder: what it was begun with, and goes on with when it is resumed."""


@dataclass(frozen=True)
class Request:
    """What is asked: a role, a base, a dataset, a recipe; ``home`` is the models folder.

    ``shuffle`` permutes the decisions among the examples: the control that shows what is learnt from the
    evidence and what from the form alone. ``most`` limits the examples, ``model`` names the model."""

    town: Town
    home: Path
    role: str
    base: str
    dataset: Path
    recipe: Recipe
    model: str = ""
    resume: bool = False
    shuffle: bool = False
    most: int = 0
    threads: int = 0
    gguf: tuple[str, ...] = ()
    """GGUF kinds to export into the version: f16, q8_0, lora."""
    swarm: SwarmRequest | None = None
    """The swarm to train in, if not alone."""


@dataclass(frozen=True)
class Outcome:
    """A finished run; ``version`` is None where it was stopped and can be resumed."""

    version: Version | None
    trained: Trained
    job: Job


def budget_name(base: str) -> str:
    """``tiny`` for the shipped base, ``standard`` for all others."""
    return TINY_NAME if base == TINY_NAME else "standard"


def rows_of(
    examples: Sequence[Example], renderer: Renderer, budget: Budget, say: Callable[[str], None]
) -> list[Row]:
    """Token rows of examples; those that the base cannot read are left out, and said.

    Raises UserError where not one has a supervised token."""
    made = [r for e in examples for r in renderer.rows(e.conversation, budget, e.silent)]
    rows = [r for r in made if len(r.ids) <= renderer.context]
    if len(rows) < len(made):
        left, most = len(made) - len(rows), renderer.context
        say(f"{left} of {len(made)} rows were left out: longer than the {most} tokens that the base reads")
    if not rows:
        raise UserError("the dataset has no example with a supervised token; collect more sessions first")
    return rows


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Decisions with their answers dealt out anew; chats are left out, their answers are inside."""
    import random

    asked = [e for e in examples if e.kind == "decision"]
    answers = [m for e in asked for m in e.conversation.messages if m.role == "assistant"]
    random.Random(seed).shuffle(answers)
    dealt = iter(answers)
    return [replace(e, conversation=_answered(e.conversation, dealt)) for e in asked]


def _answered(conversation: Conversation, answers: Iterator[Message]) -> Conversation:
    messages = tuple(next(answers) if m.role == "assistant" else m for m in conversation.messages)
    return replace(conversation, messages=messages)


def train(request: Request, say: Callable[[str], None], *listeners: Any) -> Outcome:
    """Run the job; returns when it is registered, or stopped by SIGTERM or SIGINT with its state saved.

    Raises UserError before any work for a wrong base, dataset or name; FinetuneError while working."""
    from .tokenizer_check import validate_base

    data = datasets.read(request.dataset)
    if data.role != request.role:
        raise UserError(f"{request.dataset}: a dataset for {data.role}, not for {request.role}")
    begun = _unfinished(request, data) if request.resume else None
    if begun is not None:
        request = _as_begun(request, begun, say)
    folder = base_path(request.base)
    validate_base(folder)
    renderer = Renderer.from_folder(folder)
    rows = rows_of(_chosen(request, data), renderer, BUDGETS[budget_name(request.base)], say)
    with _company(request, folder, say) as member:
        return _job(request, data, begun, rows, renderer, say, listeners, member)


@contextmanager
def _company(request: Request, base: Path, say: Callable[[str], None]) -> Iterator[SwarmMember | None]:
    """This peer in its swarm, which is joined before a job is made; None for training alone."""
    if request.swarm is None:
        yield None
        return
    from .swarm.enrol import enrol

    with enrol(request.swarm, request.role, base, say) as member:
        yield member


def _job(
    request: Request,
    data: Dataset,
    begun: Job | None,
    rows: list[Row],
    renderer: Renderer,
    say: Callable[[str], None],
    listeners: Sequence[Any],
    member: SwarmMember | None,
) -> Outcome:
    """The job itself, with its states; ``begun`` is the one to go on with."""
    from .lifecycle import JobLifecycle, StateTeller, bd_for, replay_pending
    from .monitor import MonitorWorker

    job, bd = begun or _begin(request, data), bd_for(request.town)
    if bd is not None:
        replay_pending(request.town.checkpoints_dir, bd)
    with _alive(JobLifecycle(request.town, job, bd, say=say), request) as life:
        life.transition("corpus_validating", metadata={"dataset": data.hash[:16], "base": request.base})
        life.transition("ready", metadata={"rows": len(rows)})
        monitor = MonitorWorker(life, peers=member.company if member else None)
        watchers = (StateTeller(life), monitor, *listeners, *([member] if member else []))
        trainer = _trainer(
            request,
            job,
            rows,
            _heldout(request, data, renderer),
            renderer,
            base_path(request.base),
            say,
            watchers,
        )
        if request.resume:
            say(f"resuming job {job.id} at step {trainer.resume()} of {len(trainer.steps)}")
        if member is not None:
            member.enter(trainer, job.folder, life)
        life.transition("training")
        trained = _run(trainer)
        if trained.stopped:
            trainer.listeners.on_end("ready")
            return Outcome(None, trained, job)
        version = _register(request, data, trainer, trained, job, life)
        trainer.listeners.on_end("done")
        life.done(f"completed: {version.ref}", {"version": version.ref, "loss": trained.last_loss})
        return Outcome(version, trained, job)


def _chosen(request: Request, data: Dataset) -> Sequence[Example]:
    """The examples to train on, as many and in the form that was asked for."""
    examples = data.train[: request.most] if request.most else data.train
    return shuffled(examples, request.recipe.seed) if request.shuffle else examples


def _heldout(request: Request, data: Dataset, renderer: Renderer) -> list[Row]:
    """Rows of the held-out examples, as many as the base can read; none is no reason to stop."""
    budget = BUDGETS[budget_name(request.base)]
    made = [r for e in data.heldout for r in renderer.rows(e.conversation, budget, e.silent)]
    return [r for r in made if len(r.ids) <= renderer.context]


def _unfinished(request: Request, data: Dataset) -> Job:
    """The role's job to go on with. Raises UserError where there is none for this dataset."""
    job = resumable(request.town.checkpoints_dir, request.role)
    if job is None:
        raise UserError(f"no job of {request.role} to resume in {request.town.checkpoints_dir}")
    if job.dataset != data.hash:
        raise UserError(f"job {job.id} was begun with dataset {job.dataset[:12]}, not {data.hash[:12]}")
    return job


def _begin(request: Request, data: Dataset) -> Job:
    """A new job, with what it is begun with in its folder."""
    job = new_job(request.town, request.role, request.base, data.hash)
    kept = {k: getattr(request, k) for k in ("base", "model", "shuffle", "most", "gguf")}
    write_json(job.folder / BEGUN, {**kept, "recipe": request.recipe.to_json()})
    return job


def _as_begun(request: Request, job: Job, say: Callable[[str], None]) -> Request:
    """The request with the base, the recipe and all else that a job was begun with: with others it would
    be another run. What the caller asked for instead is said. Raises UserError where that is not known."""
    path = job.folder / BEGUN
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["recipe"], kept["gguf"] = Recipe.from_json(kept["recipe"]), tuple(kept["gguf"])
        begun = replace(request, **kept)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(in_file(path, "", f"cannot be resumed from ({error})", "begin a new job")) from None
    asked = request.recipe.to_json() | {"base": request.base}
    kept_to = begun.recipe.to_json() | {"base": begun.base}
    if other := [f"{key} {kept_to[key]}" for key in kept_to if kept_to[key] != asked[key]]:
        say(f"job {job.id} goes on as it was begun: {', '.join(other)}")
    return begun


@contextmanager
def _alive(life: JobLifecycle, request: Request) -> Iterator[JobLifecycle]:
    """The job's states while it runs. A new job that cannot begin, because the role has another one,
    leaves no folder: ``--resume`` would take it for the role's last."""
    try:
        with life:
            yield life
    finally:
        if life.state == "new" and not request.resume:
            shutil.rmtree(life.job.folder, ignore_errors=True)


def _trainer(
    request: Request,
    job: Job,
    rows: list[Row],
    heldout: list[Row],
    renderer: Renderer,
    folder: Path,
    say: Callable[[str], None],
    listeners: Sequence[Any],
) -> Trainer:
    import torch

    from .adapter import add_adapter, load_base, pick_device
    from .callbacks import listeners_of
    from .trainer import Trainer

    if request.threads:
        torch.set_num_threads(request.threads)
    device = pick_device()
    model = add_adapter(load_base(folder, device, request.recipe.quantize), request.recipe)
    return Trainer(
        model,
        rows,
        request.recipe,
        job.folder / "checkpoints",
        listeners_of(job, *listeners, say=say),
        pad=next(iter(renderer.end_ids)),
        device=device,
        say=say,
        heldout=heldout,
    )


def _run(trainer: Trainer) -> Trained:
    with _asked_to_stop(trainer):
        return trainer.run()


@contextmanager
def _asked_to_stop(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and SIGINT end training after the step at hand, with everything saved."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        trainer.stop_asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever runs us there has its own way to stop
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _register(
    request: Request, data: Dataset, trainer: Trainer, trained: Trained, job: Job, life: JobLifecycle
) -> Version:
    """Save the adapter with what it was made from, and enter it into the registry."""
    from ..registry.versions import register
    from ..rollout.staleness import signals
    from .adapter import save_adapter

    with life.during("checkpointing"), tempfile.TemporaryDirectory(dir=job.folder) as name:
        stage = Path(name)
        save_adapter(trainer.model, stage / "adapter")
        _export(request, stage)
        write_json(stage / "training" / "recipe.json", request.recipe.to_json())
        write_json(stage / "training" / "dataset.json", dict(data.card))
        write_json(stage / "training" / "curve.json", list(trained.losses))
        write_json(stage / "training" / "heldout.json", trained.heldout.to_json())
        write_text(stage / "training" / "prime.txt", data.prime)
        meta = {
            "job": job.id,
            "dataset": data.hash,
            "sessions": len(data.card.get("sessions", [])),
            "steps": trained.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "loss": round(trained.last_loss, 4),
            "skipped_steps": trained.skipped,
            "heldout_loss": _shown(trained.heldout.loss),
            "best_step": trained.heldout.step,
            "control": "shuffled labels" if request.shuffle else "",
            "signals": signals(request.town, request.role),
        }
        model = request.model or f"gt-ft-{request.role}"
        version = register(request.home, model, request.role, stage, request.base, meta)
    _remember(request, data, version)
    return version


def _shown(loss: float) -> float | None:
    """A loss as a manifest has it; None where nobody looked."""
    return round(loss, 4) if math.isfinite(loss) else None


def _export(request: Request, stage: Path) -> None:
    """The GGUF files asked for, checked against the adapter where llama.cpp is there to check with."""
    if not request.gguf:
        return
    from ..export import parity
    from ..export.gguf import export

    base = base_path(request.base)
    files = export(base, stage / "adapter", stage / "gguf", request.gguf)
    if parity.available():
        parity.verify(base, stage / "adapter", files)


def _remember(request: Request, data: Dataset, version: Version) -> None:
    """Note in the corpus which version was trained on it, so that a purge can name it."""
    from ..corpus.store import Store, exists

    if exists(request.town):
        with Store(request.town) as store:
            store.record_training(version.ref, data.hash)


def curve(version: Version) -> list[float]:
    """The training losses of a version, one a step."""
    path = version.path / "training" / "curve.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []
