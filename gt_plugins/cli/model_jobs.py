"""``gt model jobs``: what trains, how far it is, and stopping it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, TownOption, new_app, print_json
from .exits import one_line

if TYPE_CHECKING:
    from ..training.jobs import JobView

JobArgument = Annotated[
    str, typer.Argument(help="A job, the beginning of one, or a role; the one that runs, or the newest.")
]
FolderOption = Annotated[
    Path | None, typer.Option("--checkpoints", help="The folder of the jobs (the town's .checkpoints).")
]


def register(app: typer.Typer) -> None:
    """Mount these commands."""
    group = new_app("jobs", "Training jobs: list, follow, stop.")
    group.callback(invoke_without_command=True, no_args_is_help=False)(default)
    group.command("list")(list_jobs)
    group.command("follow")(follow_job)
    group.command("stop")(stop_job)
    app.add_typer(group, name="jobs")


def default(
    context: typer.Context,
    role: Annotated[str, typer.Option("--role", help="Only this role's.")] = "",
    checkpoints: FolderOption = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Training jobs: list (what it does alone), follow, stop."""
    if context.invoked_subcommand is None:
        list_jobs(role, checkpoints, town, as_json)


def list_jobs(
    role: Annotated[str, typer.Option("--role", help="Only this role's.")] = "",
    checkpoints: FolderOption = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """The jobs of the town, the newest first."""
    from ..town.roles import check_role
    from ..training.job import unreadable
    from ..training.jobs import views

    if role:
        check_role(role)
    folder = _folder(checkpoints, town)
    found = views(folder, role)
    for problem in unreadable(folder):
        print(f"note: {problem}", file=sys.stderr)
    if as_json:
        print_json([v.to_json() for v in found])
        return
    if not found:
        print("no jobs yet; `gt model train ROLE` begins one")
        return
    from .tables import print_table

    print_table(("job", "state", "step", "loss", "tokens/s", "left", "bead"), [_row(v) for v in found])


def follow_job(
    job: JobArgument = "",
    checkpoints: FolderOption = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job's steps until it ends; to leave it (Ctrl-C) does not stop it."""
    from ..errors import FinetuneError
    from ..training.job import load_job
    from ..training.jobs import follow, last_words, pick, view

    chosen = pick(_folder(checkpoints, town), job)
    for record in _paced(follow(chosen)):
        if not as_json:
            print(_line(record), flush=True)
    end = view(load_job(chosen.folder))
    if as_json:
        print_json(end.to_json())
    else:
        print(_ending(end))
    if end.state == "failed":
        raise FinetuneError(f"job {end.id} failed: {end.reason or last_words(chosen)}")


def _paced(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records as they come, of steps one a second and the last before anything else."""
    shown, held = 0.0, None
    for record in records:
        step = record.get("event") == "step"
        if step and time.monotonic() - shown < 1.0:
            held = record
            continue
        if held is not None and not step:
            yield held
        held = None
        yield record
        shown = time.monotonic() if step else shown
    if held is not None:
        yield held


def stop_job(
    job: JobArgument = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for it.")] = 300.0,
    kill: Annotated[bool, typer.Option("--kill", help="Kill it if it has not ended by then.")] = False,
    checkpoints: FolderOption = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save a job's state and end it; `gt model train ROLE --resume` goes on."""
    from ..training.jobs import pick, stop

    end = stop(pick(_folder(checkpoints, town), job, running=True), timeout, kill)
    print_json(end.to_json()) if as_json else print(_ending(end))


def _folder(checkpoints: Path | None, town: Path | None) -> Path:
    from ..errors import UserError
    from ..town.root import find_town

    if checkpoints is None:
        return find_town(town).checkpoints_dir
    if not checkpoints.is_dir():
        problem = "a file, not a folder" if checkpoints.exists() else "no such folder"
        raise UserError(f"{checkpoints}: {problem} (--checkpoints)")
    return checkpoints.absolute()


def _row(v: JobView) -> tuple[str, ...]:
    steps = f"{v.step}/{v.steps}" if v.steps else str(v.step or "")
    state = f"{v.state} ({v.reason})" if v.reason and v.state in ("failed", "degraded") else v.state
    speed = f"{v.tokens_per_second:,.0f}" if v.tokens_per_second and v.running else ""
    loss = "" if v.loss is None else f"{v.loss:.3f}"
    return (v.id, state, steps, loss, speed, _duration(v.seconds_left), v.bead or "")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _line(record: dict[str, Any]) -> str:
    """One record of the metrics for a person."""
    step, steps = record.get("step", "?"), record.get("steps", "?")
    match record.get("event"):
        case "step":
            speed = _figure(record.get("tokens_per_second"), ",.0f", "?")
            loss = _figure(record.get("loss"), ".3f", "not finite")
            words = f"step {step}/{steps}  loss {loss}  {speed} tokens/s"
        case "eval":
            words = f"step {step}  held-out loss {_figure(record.get('heldout_loss'), '.4f', 'not finite')}"
        case "nan":
            words = f"step {step}  skipped: not finite"
        case "checkpoint":
            words = f"checkpoint {record.get('name')}"
        case event:
            words = str(event)
    return one_line(words)


def _figure(value: Any, form: str, otherwise: str) -> str:
    return format(value, form) if isinstance(value, int | float) else otherwise


def _ending(v: JobView) -> str:
    words = f"job {v.id}: {v.state}"
    if v.reason:
        words += f" ({v.reason})"
    if v.state in ("ready", "interrupted", "failed"):
        words += f"; go on with `gt model train {v.role} --resume`"
    return words


def say_detached(job: str, pid: int, folder: Path, begun: bool) -> None:
    """Where a detached job is, on stderr."""
    words = (
        f"job {job} runs on its own (process {pid}); `gt model jobs follow {job}`, log {folder / 'log.txt'}"
    )
    print(words if begun else f"{words}; it has not begun its work yet", file=sys.stderr)
