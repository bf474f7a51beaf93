"""``gt model train`` and ``gt model base build``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FinetuneError, UserError
from .common import JsonOption, ModelsOption, TownOption, checked_town, new_app, print_json
from .recipe_flags import Chosen, recipe_flags

if TYPE_CHECKING:
    from ..training.parallel import Group
    from ..training.pretrain import Progress as PretrainProgress
    from ..training.run import Outcome


def register(app: typer.Typer) -> None:
    """Mount these commands."""
    app.command("train")(train)
    base = new_app("base", "The tiny base: pre-trained from scratch, from a seed.")
    base.command("build")(base_build)
    base.callback()(lambda: None)
    app.add_typer(base, name="base")


@recipe_flags
def train(
    role: Annotated[str, typer.Argument(help="deacon, boot, witness, polecat or crew.")],
    chosen: Chosen,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="A dataset folder; built from the corpus if left out.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Name of the model (gt-ft-ROLE).")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the role's last job.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what memory, disk and time it needs, and end.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Train on its own; outlives the shell or agent that began it.")
    ] = False,
    gguf: Annotated[
        str, typer.Option("--gguf", help="Export too: f16, q8_0, q4_k_m, lora (comma between).")
    ] = "",
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads (0: all).")] = 0,
    shuffle_labels: Annotated[
        bool, typer.Option("--shuffle-labels", help="A control: decisions dealt out anew.")
    ] = False,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune an adapter for a role and register it as the model's next version."""
    from ..roles.profile import check_tunable
    from ..settings import models_home
    from ..training.adapter import quiet_libraries

    check_tunable(role)
    place = checked_town(town)
    quiet_libraries()
    from ..training.parallel import together
    from ..training.run import Request

    with together() as group:
        if not group.alone and (estimate or detach):
            raise UserError("--estimate and --detach are for one process: leave torchrun out")
        request = Request(
            place,
            models_home(models),
            role,
            chosen.base,
            dataset_for(group, place, role, chosen.base, dataset, resume),
            chosen.recipe,
            model,
            resume,
            shuffle_labels,
            threads=threads,
            gguf=tuple(k.strip().lower() for k in gguf.split(",") if k.strip()),
            group=group,
        )
        if estimate:
            show_estimate(request, as_json)
        elif detach:
            run_detached(request, as_json)
        else:
            outcome = run_with_progress(request, as_json)
            if as_json and group.first:
                print_json(outcome_json(outcome))


def dataset_for(
    group: Group, place: Any, role: str, base: str, given: Path | None, resume: bool
) -> Path | None:
    """The dataset folder, which the first process of a group alone builds if it is built."""
    found = group.once(lambda: str(_dataset(place, role, base, given, resume) or ""))
    return Path(found) if found else None


def _dataset(place: Any, role: str, base: str, given: Path | None, resume: bool) -> Path | None:
    """The dataset folder that is named; else one built from the corpus, or (None) the resumed job's own."""
    if given is not None:
        return given.absolute()
    return None if resume else _built(place, role, base)


def _built(place: Any, role: str, base: str) -> Path:
    """The dataset that stands for ``the corpus as it is``, built anew."""
    folder = place.own_dir(place.corpus_dir) / "datasets" / role
    if not _beside(_build, place, role, folder, base):
        raise UserError(f"the corpus has no example of {role} to train on; see `gt corpus stats`")
    return Path(folder)


def _build(place: Any, role: str, folder: Path, base: str) -> int:
    """Build a dataset; how many examples it has to train on."""
    from ..corpus.assemble import build_dataset

    return len(build_dataset(place, role, folder, base).train)


def _beside(work: Callable[..., int], *args: Any) -> int:
    """``work`` in a process of its own, while this one imports what training needs: each takes seconds.

    Not where processes cannot be forked, or where torch is here already: its threads would not be there."""
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from contextlib import suppress
    from multiprocessing import get_context
    from threading import Thread

    if not sys.platform.startswith("linux") or "torch" in sys.modules:
        return work(*args)
    from ..training.adapter import import_libraries

    def ahead() -> None:
        with suppress(ImportError):  # who needs them says what is missing
            import_libraries()

    importing = Thread(target=ahead, name="imports", daemon=True)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        found = pool.submit(work, *args)
        importing.start()
        try:
            done = found.result()  # what it raises is not kept waiting by the imports
        except BrokenProcessPool:
            raise FinetuneError("the dataset's process was killed; is there memory enough?") from None
    if done:
        importing.join()
    return done


def show_estimate(request: Any, as_json: bool) -> None:
    """What the run will need, on stdout; nothing is begun."""
    from ..training.run import estimate_of
    from .progress import note

    found = estimate_of(request, note)
    if as_json:
        print_json(found.to_json())
        return
    free = "" if found.free is None else f" of {found.free:.1f} GiB free"
    parts = ", ".join(f"{name} {gib:.2f}" for name, gib in found.parts.items())
    print(f"device     {found.device}")
    print(f"parameters {found.parameters:,}, trained {found.trained:,}")
    print(f"work       {found.rows:,} rows, {found.tokens:,} tokens, {found.steps:,} steps")
    print(f"memory     {found.memory:.1f} GiB{free} ({parts}){'' if found.fits else ': too little'}")
    print(f"disk       {found.disk:.2f} GiB")
    print(f"time       about {_time(found.seconds)}")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def run_detached(request: Any, as_json: bool) -> None:
    """Begin the job, hand it to a process of its own, and say where it is. What is wrong is found before."""
    import sys

    from ..training.job import progress
    from ..training.jobs import LOG, detach, wait_begun
    from ..training.lifecycle import check_free
    from ..training.run import begin, prepare
    from .model_jobs import say_detached
    from .progress import note

    check_free(request.town.own_dir(request.town.checkpoints_dir), request.role)
    ready = prepare(request, note)
    job = ready.begun or begin(ready.request, ready.data, note)
    known = progress(job).next_seq
    argv = [sys.executable, "-m", "gt_plugins.cli.model", "train", request.role, "--resume"]
    pid = detach(job, [*argv, "--town", str(request.town.root), "--models", str(request.home)])
    begun = wait_begun(job, pid, known)
    if as_json:
        print_json({"job": job.id, "pid": pid, "folder": str(job.folder), "log": str(job.folder / LOG)})
    else:
        say_detached(job.id, pid, job.folder, begun)


def run_with_progress(request: Any, quiet: bool = False) -> Outcome:
    """Train with a live line of loss and speed on stderr; says where the version stands."""
    from ..training.run import train as run
    from .progress import TrainingLine, note

    if not request.group.first:
        return run(request, lambda _line: None)
    with TrainingLine(enabled=not quiet) as line:
        outcome = run(request, note, line)
    if not quiet:
        trained = outcome.trained
        if outcome.version is None:
            note(f"stopped at step {trained.steps}; go on with `gt model train {request.role} --resume`")
        else:
            note(
                f"{outcome.version.ref}: {trained.steps} steps, {trained.tokens} tokens in "
                f"{trained.seconds:.0f} s, loss {trained.last_loss:.3f} (mean of the last ten steps)"
            )
    return outcome


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """A run for ``--json``."""
    trained = outcome.trained
    return {
        "version": outcome.version.ref if outcome.version else None,
        "job": outcome.job.id,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "seconds": round(trained.seconds, 2),
        "loss": trained.last_loss,
        "heldout_loss": trained.heldout.to_json()["loss"],
        "best_step": trained.heldout.step,
        "early_stop": trained.early,
        "skipped_steps": trained.skipped,
        "resumable": trained.stopped,
        "device": trained.device,
    }


def base_build(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    documents: Annotated[int | None, typer.Option("--documents", min=1, help="Generated documents.")] = None,
    passes: Annotated[float | None, typer.Option("--passes", help="Passes over them.")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", min=1)] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0)] = None,
    device: Annotated[str, typer.Option("--device", help="cuda, cpu or mps; the best there is.")] = "",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that make text (0: all cores).")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Pre-train the tiny base from scratch on generated text. Takes minutes on a GPU."""
    from dataclasses import replace

    from ..training.adapter import pick_device, quiet_libraries
    from ..training.pretrain import PretrainPlan, pretrain

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: {'is not empty' if out.is_dir() else 'a file'}; choose a new folder")
    if passes is not None and not 0 < passes < math.inf:
        raise UserError(f"--passes: {passes} is no number of passes; give one above zero")
    if device and device.partition(":")[0] not in ("cuda", "cpu", "mps"):
        raise UserError(f"--device: {device!r} is no device; give cuda, cpu or mps")
    quiet_libraries()
    given: dict[str, Any] = {
        "documents": documents,
        "passes": passes,
        "batch_tokens": batch_tokens,
        "seed": seed,
    }
    plan = replace(PretrainPlan(), **{k: v for k, v in given.items() if v is not None})
    from .progress import Stages

    with Stages(enabled=not as_json) as stages:

        def told(p: PretrainProgress) -> None:
            stages.update(p.stage, p.done, p.total, "" if p.loss != p.loss else f"loss {p.loss:.3f}")

        card = pretrain(plan, out, device or pick_device(), workers or os.cpu_count() or 1, told)
    print_json(card) if as_json else print(
        f"{out}: {card['tokens_seen']} tokens, loss {card['final_loss']:.3f}"
    )
