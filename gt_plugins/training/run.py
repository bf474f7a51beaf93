"""``gt model train``: from a dataset folder to a registered version, as a job that beads can see.

    dataset ─► checks ─► rows ─► Trainer (checkpoints, metrics) ─► adapter ─► registry

The job's states follow what really happens here; bd being slow or gone changes nothing.
"""

from __future__ import annotations

import json
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
from ..errors import UserError
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
    from .trainer import Trained, Trainer

BUDGETS = {"tiny": TINY, "standard": STANDARD}


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


@dataclass(frozen=True)
class Outcome:
    """A finished run; ``version`` is None where it was stopped and can be resumed."""

    version: Version | None
    trained: Trained
    job: Job


def budget_name(base: str) -> str:
    """``tiny`` for the shipped base, ``standard`` for all others."""
    return TINY_NAME if base == TINY_NAME else "standard"


def rows_of(examples: Sequence[Example], renderer: Renderer, budget: Budget) -> list[Row]:
    """Token rows of examples. Raises UserError where not one has a supervised token."""
    rows = [r for e in examples for r in renderer.rows(e.conversation, budget, e.silent)]
    rows = [r for r in rows if len(r.ids) <= renderer.context]
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
    from .lifecycle import JobLifecycle, bd_for, replay_pending
    from .monitor import MonitorWorker
    from .tokenizer_check import validate_base

    folder = base_path(request.base)
    validate_base(folder)
    data = datasets.read(request.dataset)
    if data.role != request.role:
        raise UserError(f"{request.dataset}: a dataset for {data.role}, not for {request.role}")
    renderer = Renderer.from_folder(folder)
    rows = rows_of(_chosen(request, data), renderer, BUDGETS[budget_name(request.base)])
    job, bd = _job(request, data), bd_for(request.town)
    if bd is not None:
        replay_pending(request.town.checkpoints_dir, bd)
    with JobLifecycle(request.town, job, bd, say=say) as life:
        life.transition("corpus_validating", metadata={"dataset": data.hash[:16], "base": request.base})
        life.transition("ready", metadata={"rows": len(rows)})
        watchers = (MonitorWorker(life), *listeners)
        trainer = _trainer(request, job, rows, renderer, folder, say, watchers)
        if request.resume:
            say(f"resuming job {job.id} at step {trainer.resume()} of {len(trainer.steps)}")
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


def _job(request: Request, data: Dataset) -> Job:
    if request.resume:
        job = resumable(request.town.checkpoints_dir, request.role)
        if job is None:
            raise UserError(f"no job of {request.role} to resume in {request.town.checkpoints_dir}")
        if job.dataset != data.hash:
            raise UserError(f"job {job.id} was begun with dataset {job.dataset[:12]}, not {data.hash[:12]}")
        return job
    return new_job(request.town, request.role, request.base, data.hash)


def _trainer(
    request: Request,
    job: Job,
    rows: list[Row],
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
            "control": "shuffled labels" if request.shuffle else "",
            "signals": signals(request.town, request.role),
        }
        model = request.model or f"gt-ft-{request.role}"
        version = register(request.home, model, request.role, stage, request.base, meta)
    _remember(request, data, version)
    return version


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
