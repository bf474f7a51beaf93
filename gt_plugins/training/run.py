"""``gt model train``: from a dataset folder to a registered version, as a job that beads can see.

    dataset ─► checks ─► rows ─► Trainer (checkpoints, metrics) ─► adapter ─► registry

The job's states follow what really happens here; bd being slow or gone changes nothing.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus import dataset as datasets
from ..corpus.dataset import Dataset, Example
from ..durable import nearest_existing, parse_json, write_json, write_text
from ..errors import UserError, in_file
from ..rendering.conversation import Conversation, Message
from ..rendering.render import STANDARD, TINY, Renderer, Row
from ..town.root import Town
from .base import TINY as TINY_NAME
from .base import base_path
from .callbacks import CallbackGroup
from .estimate import Estimate, disk_gib, estimate, read_network
from .job import Job, load_job, new_job, resumable, unreadable
from .parallel import ALONE, Group
from .preflight import check_disk, check_memory, check_products, heldout_rows
from .preflight import rows_of as rows_of
from .recipe import Recipe
from .sharding import check as check_shard
from .stop import Stop, stoppable

if TYPE_CHECKING:
    from ..registry.versions import Version
    from .lifecycle import JobLifecycle
    from .swarm.enrol import SwarmRequest
    from .swarm.member import SwarmMember
    from .trainer import Trained, Trainer

BUDGETS = {"tiny": TINY, "standard": STANDARD}
KEPT = ("base", "model", "shuffle", "most", "threads", "gguf")
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
    dataset: Path | None
    """A dataset folder; None when a job is resumed: the one that it was begun with."""
    recipe: Recipe
    model: str = ""
    resume: bool = False
    shuffle: bool = False
    most: int = 0
    threads: int = 0
    gguf: tuple[str, ...] = ()
    """GGUF kinds to export into the version: f16, q8_0, q4_k_m, lora."""
    swarm: SwarmRequest | None = None
    """The swarm to train in, if not alone."""
    group: Group = ALONE
    """The processes of this host that train together; every one has the same request."""


@dataclass(frozen=True)
class Prepared:
    """A request that has been looked through: what it learns from, and the job that it goes on with."""

    request: Request
    data: Dataset
    rows: list[Row]
    heldout: list[Row]
    renderer: Renderer
    begun: Job | None


@dataclass(frozen=True)
class Outcome:
    """A finished run; ``version`` is None where it was stopped and can be resumed."""

    version: Version | None
    trained: Trained
    job: Job


def budget_name(base: str) -> str:
    """``tiny`` for the shipped base, ``standard`` for all others."""
    return TINY_NAME if base == TINY_NAME else "standard"


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
    """Run the job; returns when it is registered, or stopped by a signal with its state saved. In a further
    process of a group it returns with the job alone: the first one registers.

    Raises UserError before any work for a wrong base, dataset or name; FinetuneError while working."""
    with stoppable() as stop:
        ready = prepare(request, say)
        if not request.group.first:
            return _help(ready, stop, say)
        with _company(ready.request, say) as member:
            job = ready.begun or begin(ready.request, ready.data, say)
            return _train(ready, job, stop, member, say, listeners)


@contextmanager
def _company(request: Request, say: Callable[[str], None]) -> Iterator[SwarmMember | None]:
    """This peer in its swarm, which is joined before a job is made; None for training alone."""
    if request.swarm is None:
        yield None
        return
    from .swarm.enrol import enrol

    with enrol(request.swarm, request.role, base_path(request.base), say) as member:
        yield member


def prepare(request: Request, say: Callable[[str], None]) -> Prepared:
    """Everything that can be wrong, looked at before there is a job: base, dataset, rows, disk.

    Raises UserError or NonRetriableError, in one line, for what cannot be trained."""
    from ..export.checked import check_kinds
    from ..registry.versions import check_model_name
    from .tokenizer_check import validate_base

    if request.model:
        check_model_name(request.model)
    if request.base != TINY_NAME:
        request = replace(request, base=str(base_path(request.base)))
    begun = _unfinished(request) if request.resume else None
    if begun is not None:
        request = _as_begun(request, begun, say)
    data = _data(request, begun)
    check_kinds(request.gguf)
    _check_home(request)
    check_shard(request.recipe.shard, request.group)
    validate_base(base_path(request.base))
    renderer, budget = Renderer.from_folder(base_path(request.base)), BUDGETS[budget_name(request.base)]
    most = request.recipe.max_length
    rows = rows_of(_chosen(request, data), renderer, budget, say, most)
    heldout = heldout_rows(data.heldout, renderer, budget, most)
    network = read_network(base_path(request.base))
    check_products(network, request.recipe)
    check_disk(request.town.checkpoints_dir, disk_gib(network.adapter(request.recipe), request.recipe.keep))
    return Prepared(request, data, rows, heldout, renderer, begun)


def _help(ready: Prepared, stop: Stop, say: Callable[[str], None]) -> Outcome:
    """A further process of a group: the steps of the first one's job, of its own rows. It writes nothing."""
    group = ready.request.group
    job = load_job(Path(group.once(str)))
    trainer = _trainer(ready, job.folder, CallbackGroup([], say), say)
    stop.attach(trainer)
    if ready.begun is not None:
        trainer.resume()
    return Outcome(None, trainer.run(), job)


def _train(
    ready: Prepared,
    job: Job,
    stop: Stop,
    member: SwarmMember | None,
    say: Callable[[str], None],
    listeners: Sequence[Any],
) -> Outcome:
    """The job through its states, its role locked."""
    from .callbacks import listeners_of
    from .lifecycle import JobLifecycle, StateTeller, bd_for, replay_pending
    from .monitor import MonitorWorker

    request, bd = ready.request, bd_for(ready.request.town)
    with _alive(JobLifecycle(request.town, job, bd, say=say), request) as life:
        about = {"dataset": ready.data.hash[:16], "base": request.base}
        life.transition("corpus_validating", metadata=about)
        check_memory(_estimate(ready), say)
        life.transition("ready", metadata={"rows": len(ready.rows)})
        monitor = MonitorWorker(life, peers=member.company if member else None)
        watchers = (StateTeller(life), monitor, *listeners, *([member] if member else []))
        request.group.once(lambda: str(job.folder))
        if member is None:
            life.transition("training")  # bd hears of it while the base is loaded
        trainer = _trainer(ready, job.folder, listeners_of(job, *watchers, say=say), say)
        stop.attach(trainer)
        if ready.begun is not None and (step := trainer.resume()):
            say(f"resuming job {job.id} at step {step} of {len(trainer.steps)}")
        if member is not None:
            member.enter(trainer, job.folder, life)
            life.transition("training")
        life.step_back()
        trained = trainer.run()
        told = {"step": trained.steps, **({"loss": round(trained.last_loss, 4)} if trained.losses else {})}
        if trained.stopped:
            trainer.listeners.on_end("ready")
            life.transition("ready", "stopped", told)
            return Outcome(None, trained, job)
        version = _register(request, ready.data, trainer, trained, job, life)
        trainer.listeners.on_end("done")
        early = f" (stopped early at step {trained.steps} of {len(trainer.steps)})" if trained.early else ""
        life.done(f"completed: {version.ref}{early}", {"version": version.ref, **told})
    if bd is not None:  # what jobs before this one could not tell; nobody waits for it before training
        replay_pending(request.town.checkpoints_dir, bd)
    return Outcome(version, trained, job)


def estimate_of(request: Request, say: Callable[[str], None]) -> Estimate:
    """What the run that is asked for will need; nothing is begun. Raises as ``prepare`` does."""
    return _estimate(prepare(request, say))


def _estimate(ready: Prepared) -> Estimate:
    from .loader import plan_batches

    recipe, rows = ready.request.recipe, ready.rows
    steps = len(plan_batches(rows, recipe.batch_tokens, recipe.epochs, recipe.seed))
    supervised = sum(end - start for row in rows for start, end in row.spans)
    lengths = [len(row.ids) for row in rows]
    return estimate(base_path(ready.request.base), recipe, lengths, supervised, steps)


def _check_home(request: Request) -> None:
    """The registry, into which the result will go, can be written to. Raises UserError."""
    there = nearest_existing(request.home)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        problem = "cannot be written to" if there.is_dir() else "not a folder"
        raise UserError(in_file(there, "", problem, "name another folder with --models"))


def _chosen(request: Request, data: Dataset) -> Sequence[Example]:
    """The examples to train on, as many and in the form that was asked for."""
    examples = data.train[: request.most] if request.most else data.train
    return shuffled(examples, request.recipe.seed) if request.shuffle else examples


def _unfinished(request: Request) -> Job:
    """The role's job to go on with. Raises UserError where there is none."""
    job = resumable(request.town.checkpoints_dir, request.role)
    if job is None:
        wrong = unreadable(request.town.checkpoints_dir)
        also = f"; {wrong[-1]}" if wrong else ""
        raise UserError(f"no job of {request.role} to resume in {request.town.checkpoints_dir}{also}")
    return job


def _data(request: Request, begun: Job | None) -> Dataset:
    """The dataset, checked against its card. Raises UserError where it is another role's or job's."""
    if request.dataset is None:
        raise UserError("no dataset; name one with --dataset")
    data = datasets.read(request.dataset)
    if data.role != request.role:
        raise UserError(f"{request.dataset}: a dataset for {data.role}, not for {request.role}")
    if begun is not None and begun.dataset != data.hash:
        raise UserError(f"job {begun.id} was begun with dataset {begun.dataset[:12]}, not {data.hash[:12]}")
    return data


def begin(request: Request, data: Dataset, say: Callable[[str], None]) -> Job:
    """A new job, with what it is begun with in its folder; one that is left unfinished is named."""
    if (before := resumable(request.town.checkpoints_dir, request.role)) is not None:
        say(f"job {before.id} is left unfinished: this is a new one (--resume would have gone on with it)")
    job = new_job(request.town, request.role, request.base, data.hash)
    kept = {k: getattr(request, k) for k in KEPT}
    write_json(
        job.folder / BEGUN,
        {**kept, "recipe": request.recipe.to_json(), "dataset": str(data.folder.absolute())},
    )
    return job


def _as_begun(request: Request, job: Job, say: Callable[[str], None]) -> Request:
    """The request with the base, the recipe and all else that a job was begun with: with others it would
    be another run. What the caller asked for instead is said. Raises UserError where that is not known."""
    path = job.folder / BEGUN
    try:
        kept = parse_json(path.read_text(encoding="utf-8"))
        kept["recipe"], kept["gguf"] = Recipe.from_json(kept["recipe"]), tuple(kept["gguf"])
        folder = kept.pop("dataset", None)
        if request.dataset is None and folder:
            kept["dataset"] = Path(folder)
        wrong = [k for k in kept if type(kept[k]) is not type(getattr(request, k)) and k != "dataset"]
        if wrong:
            raise TypeError(f"{wrong[0]}: {kept[wrong[0]]!r}")
        begun = replace(request, **kept)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(in_file(path, "", f"cannot be resumed from ({error})", "begin a new job")) from None
    asked = request.recipe.to_json() | {"base": request.base}
    kept_to = begun.recipe.to_json() | {"base": begun.base}
    other = [f"{key} {kept_to[key]}" for key in kept_to if kept_to[key] != asked[key]]
    if other and (job.folder / "checkpoints").is_dir():  # a detached job begins here, too
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


def _trainer(ready: Prepared, folder: Path, listeners: CallbackGroup, say: Callable[[str], None]) -> Trainer:
    import torch

    from .adapter import add_adapter, load_base, pick_device
    from .sharding import shard
    from .trainer import Trainer

    request, recipe = ready.request, ready.request.recipe
    if request.threads:
        torch.set_num_threads(request.threads)
    device = pick_device()
    model = add_adapter(load_base(base_path(request.base), device, recipe), recipe)
    return Trainer(
        shard(model, device, request.group) if recipe.shard else model,
        ready.rows,
        recipe,
        folder / "checkpoints",
        listeners,
        pad=next(iter(ready.renderer.end_ids)),
        device=device,
        say=say,
        heldout=ready.heldout,
        group=request.group,
    )


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
    """The GGUF files asked for; only what llama.cpp answers as the adapter does is registered."""
    if request.gguf:
        from ..export.checked import export_checked

        found = export_checked(base_path(request.base), stage / "adapter", stage / "gguf", request.gguf)
        write_json(stage / "training" / "parity.json", found.to_json())


def _remember(request: Request, data: Dataset, version: Version) -> None:
    """Note in the corpus which version was trained on it, so that a purge can name it."""
    from ..corpus.store import Store, exists

    if exists(request.town):
        with Store(request.town) as store:
            store.record_training(version.ref, data.hash)


def curve(version: Version) -> list[float]:
    """The training losses of a version, one a step."""
    path = version.path / "training" / "curve.json"
    return list(parse_json(path.read_text(encoding="utf-8"))) if path.is_file() else []
