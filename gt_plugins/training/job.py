"""A training job: what it is, where it stands, and who may listen to it.

A job is one folder ``<town>/.checkpoints/<id>/`` with ``job.json`` (what it was started with, never changed),
``journal.jsonl`` (every state it went through), its checkpoints, metrics and heartbeat. Its states are:

    corpus_validating → ready → training ⇄ syncing, checkpointing, evaluating, degraded → done | failed

Done is written to beads as a close with a reason (a custom "done" would block what depends on it for ever);
failed stays an open status, so that what depends on the job waits for a retry or for somebody to close it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..durable import private_dir, read_lines, write_json
from ..errors import FinetuneError, UserError, in_file
from ..town.root import Town, read_json

STATES = (
    "corpus_validating",
    "ready",
    "training",
    "syncing",
    "checkpointing",
    "evaluating",
    "degraded",
    "failed",
)
"""The custom statuses of a job's bead, in the order in which a job that goes well meets them."""

DONE = "done"
"""The end of a job that went well; beads know it as closed."""

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Job:
    """One training job: who it is for, what it starts from, what it learns from, where it lives."""

    id: str
    role: str
    base: str
    dataset: str
    folder: Path
    bead: str | None = None

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL


@dataclass(frozen=True)
class Progress:
    """Where a job stands by its journal: its last state, when and why, and what beads do not know yet."""

    state: str = "new"
    at: float = 0.0
    reason: str = ""
    bead: str | None = None
    created: bool = False
    """bd was asked for a bead; whether there is one only bd knows as long as ``bead`` is None."""
    local: bool = False
    """The job last ran without bd."""
    next_seq: int = 0
    bd_seconds: float = 0.0
    """Processor time of the calls that have given bd the states."""
    pending: tuple[dict[str, Any], ...] = ()


@runtime_checkable
class TrainCallbacks(Protocol):
    """What a listener of a training job may hear; see ``callbacks.Listener`` for one that ignores it all."""

    def on_start(self) -> None:
        """Training begins, or goes on after a resume."""

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """An optimizer step is done; metrics has loss, lr, grad_norm, tokens_per_second and what there is."""

    def on_nan(self, step: int, metrics: dict[str, Any]) -> None:
        """A step was skipped because its loss or gradient was not finite."""

    def on_state(self, state: str) -> None:
        """The trainer does something else for a while (checkpointing, evaluating, syncing), or trains on."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint is on disk, whole."""

    def on_eval(self, step: int, metrics: dict[str, Any]) -> None:
        """The held-out rows were looked at: heldout_loss, and best, the lowest so far."""

    def on_end(self, state: str) -> None:
        """Training ended: done, failed, or ready (it can be resumed)."""


def new_job(town: Town, role: str, base: str, dataset: str, *, folder: Path | None = None) -> Job:
    """Make a job and its folder: ``<town>/.checkpoints/<id>``, or ``<folder>/<id>`` where one is given."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    identity = f"{role}-{stamp}-{secrets.token_hex(2)}"
    parent = town.own_dir(town.checkpoints_dir) if folder is None else folder
    job = Job(identity, role, base, dataset, parent / identity)
    private_dir(job.folder)
    record = asdict(job) | {"created": time.time()}
    del record["folder"], record["bead"]
    write_json(job.folder / "job.json", record)
    return job


def load_job(folder: Path) -> Job:
    """The job of a folder, with the bead that its journal names. Raises UserError where it is none."""
    job = _recorded(folder)
    return replace(job, bead=progress(job).bead)


def _recorded(folder: Path) -> Job:
    """The job as its folder was made for it."""
    path = folder / "job.json"
    if not path.is_file():
        raise UserError(in_file(path, "", "not there", "name the folder of a training job"))
    value = read_json(path)
    missing = [k for k in ("id", "role", "base", "dataset") if not isinstance(value.get(k), str)]
    if missing:
        raise UserError(in_file(path, missing[0], "not there", "name the folder of a training job"))
    return Job(value["id"], value["role"], value["base"], value["dataset"], folder)


def jobs(checkpoints: Path) -> Iterator[Job]:
    """The jobs below a checkpoints folder, the oldest first; folders that are none are passed over."""
    if not checkpoints.is_dir():
        return
    found = []
    for folder in checkpoints.iterdir():
        try:
            created = float(read_json(folder / "job.json").get("created", 0.0))
            found.append((created, folder.name, load_job(folder)))
        except (OSError, ValueError, TypeError, FinetuneError):
            continue
    for _, _, job in sorted(found, key=lambda f: f[:2]):
        yield job


def unreadable(checkpoints: Path) -> list[str]:
    """What is wrong with folders that look like a job's and are none, each in a line."""
    found = []
    for path in sorted(checkpoints.glob("*/job.json")):
        try:
            _recorded(path.parent)
        except FinetuneError as error:
            found.append(str(error))
        except OSError as error:
            found.append(in_file(path, "", error.strerror or str(error), ""))
    return found


def resumable(checkpoints: Path, role: str) -> Job | None:
    """The newest job of a role, if it has not ended well: what ``--resume`` means without a name."""
    mine = [j for j in jobs(checkpoints) if j.role == role]
    return mine[-1] if mine and progress(mine[-1]).state != DONE else None


def progress(job: Job) -> Progress:
    """Fold a job's journal. A journal with torn lines gives what its whole lines say."""
    now, unsent = Progress(), []
    for record in read_lines(job.journal):
        match record:
            case {"seq": int(seq), "state": str(state), "at": int() | float() as at}:
                now = replace(now, state=state, at=float(at), reason=str(record.get("reason") or ""))
                now = replace(now, next_seq=max(now.next_seq, seq + 1))
                if not record.get("quiet"):
                    unsent.append(record)
            case {"sent": int(sent)}:
                unsent = [r for r in unsent if r["seq"] > sent]
                if isinstance(used := record.get("processor"), int | float):
                    now = replace(now, bd_seconds=now.bd_seconds + used)
            case {"creating": True}:
                now = replace(now, created=True)
            case {"bead": str(bead)}:
                now = replace(now, bead=bead)
            case {"bd": bool(there)}:
                now = replace(now, local=not there)
    return replace(now, pending=tuple(unsent))
