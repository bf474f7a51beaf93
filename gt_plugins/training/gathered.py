"""What ``gt model gather`` makes of gathered parts: an adapter's folder, or a version in the registry.

    parts ─► gather (wait, verify, merge) ─► adapter that fits the base ─► folder | version

It is for swarms that did not come to one end: peers that lost each other, a peer's checkpoint that was
brought over from a dead machine, adapters that were trained apart. The jobs say which base and recipe the
parts have; they must agree.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import parse_json, private_dir, staged_dir, write_json, write_text
from ..errors import NonRetriableError, UserError, in_file
from .base import TINY, base_path
from .gather import REPLICA, Gathered, gather_with_retries
from .job import Job, load_job
from .recipe import Recipe
from .run import BEGUN

if TYPE_CHECKING:
    from ..registry.versions import Version

SAME = ("rank", "alpha", "targets", "rslora", "dora")
"""Keys of the recipe in which jobs must agree, or their adapters mean different things."""
POLL, LONGEST_POLL = 0.5, 5.0


@dataclass(frozen=True)
class Origin:
    """What a job's folder says of the adapter in it."""

    job: Job
    recipe: Recipe
    dataset: Path | None


@dataclass(frozen=True)
class Plan:
    """What is to be gathered: the parts, and the jobs that say what they are of."""

    parts: tuple[Path, ...]
    origins: tuple[Origin, ...]
    base: str

    @property
    def recipe(self) -> Recipe:
        return self.origins[0].recipe

    @property
    def role(self) -> str:
        return self.origins[0].job.role


def plan(parts: Sequence[Path], like: Path | None = None, base: str = "") -> Plan:
    """Look the parts' jobs through; ``like`` is a job of which parts are that lie outside a job's folder, and
    ``base`` is where the base lies here, where the jobs name another place.

    Raises UserError where no job says what the parts are of, or two jobs do not agree."""
    places = [path.resolve() for path in parts]
    if twice := next((path for at, path in enumerate(places) if path in places[:at]), None):
        raise UserError(f"{twice}: given twice; each part counts once")
    folders = [folder for path in parts if (folder := _job_of(path)) is not None]
    origins = tuple(_origin(folder) for folder in dict.fromkeys([*folders, *([like] if like else [])]))
    if not origins:
        raise UserError("none of the parts lies in a job's folder; name a job of theirs with --job")
    first = origins[0]
    for other in origins[1:]:
        if other.job.role != first.job.role:
            raise UserError(_differ(other, "role", other.job.role, first.job.role))
        for key in SAME:
            if getattr(other.recipe, key) != getattr(first.recipe, key):
                raise UserError(_differ(other, key, getattr(other.recipe, key), getattr(first.recipe, key)))
        if not base and Path(other.job.base).name != Path(first.job.base).name:
            problem = _differ(other, "base", other.job.base, first.job.base)
            raise UserError(f"{problem}; if both are the same one, name it with --base")
    return Plan(tuple(parts), origins, base or first.job.base)


def _differ(origin: Origin, key: str, value: Any, wanted: Any) -> str:
    return in_file(origin.job.folder, key, f"{value}, where {wanted} is wanted", "")


def _job_of(path: Path) -> Path | None:
    """The job's folder that a part is, or lies in: JOB, JOB/checkpoints, JOB/checkpoints/step-…"""
    return next((p for p in (path, *path.parents[:2]) if (p / "job.json").is_file()), None)


def _origin(folder: Path) -> Origin:
    job, path = load_job(folder), folder / BEGUN
    try:
        begun = parse_json(path.read_text(encoding="utf-8"))
        recipe, dataset = Recipe.from_json(begun["recipe"]), begun.get("dataset")
        if not isinstance(dataset, str | None):
            raise TypeError("dataset is no path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(in_file(path, "", f"does not say how the job was begun ({error})", "")) from None
    return Origin(job, recipe, Path(dataset) if dataset else None)


def gather_in_time(found: Plan, wait: float, say: Callable[[str], None]) -> Gathered:
    """The parts as one adapter, waiting at most ``wait`` seconds for those that are not there yet.

    Raises UserError for a base that is not here; else as ``gather`` does, NonRetriableError after the wait;
    and NonRetriableError where the adapter does not fit the base."""
    if not (base_path(found.base) / "config.json").is_file():
        raise UserError(in_file(base_path(found.base), "", "no base is there", "name it with --base"))
    seeds = sorted({origin.recipe.seed for origin in found.origins})
    if len(seeds) > 1:
        say(f"these jobs began with seeds {seeds}: unless a swarm joined them, their mean means nothing")
    until = time.monotonic() + wait

    def not_yet(attempt: int, error: BaseException, _pause: float) -> None:
        if time.monotonic() >= until:
            raise NonRetriableError(str(error)) from None
        if attempt == 0:
            say(f"{error}; waiting for it, {wait:g} s at most")

    gathered = gather_with_retries(
        found.parts, 1_000_000, POLL, max_delay=LONGEST_POLL, say=say, on_retry=not_yet
    )
    _check_norms(gathered)
    _check_fits(gathered, found)
    return gathered


def _check_norms(gathered: Gathered) -> None:
    """One replica of absurd norm would drown the others. Raises NonRetriableError naming it."""
    from .swarm.guard import Offer, sift
    from .swarm.runfile import SwarmSettings

    if gathered.parts[0].kind == REPLICA:
        offers = {str(part.path): Offer(part.tensors, part.tokens) for part in gathered.parts}
        for path, problem in sift(offers, None, SwarmSettings().norm_factor).dropped.items():
            raise NonRetriableError(f"{path}: {problem}; leave it out")


def _check_fits(gathered: Gathered, found: Plan) -> None:
    """Raises NonRetriableError where the adapter is not one of this recipe on this base."""
    from .adapter import adapter_shapes

    wanted = adapter_shapes(base_path(found.base), found.recipe)
    have = {name: tuple(tensor.shape) for name, tensor in gathered.tensors.items()}
    odd = sorted(name for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name))
    if odd:
        problem = f"{have.get(odd[0], 'not there')}, where the base wants {wanted.get(odd[0], 'nothing')}"
        raise NonRetriableError(in_file(gathered.parts[0].path, odd[0], problem, ""))


def write_adapter(gathered: Gathered, found: Plan, folder: Path) -> None:
    """The adapter as peft reads it, in a folder that appears whole, with ``gathered.json`` beside it.

    Raises UserError where the folder is there already."""
    if folder.exists():
        raise UserError(f"{folder}: is there already; name a new folder with --out")
    private_dir(folder.parent)
    with staged_dir(folder) as stage:
        _write(gathered, found, stage)
        write_json(stage / "gathered.json", told(gathered))


def _write(gathered: Gathered, found: Plan, folder: Path) -> None:
    from .adapter import save_state

    save_state(dict(gathered.tensors), base_path(found.base), found.recipe, folder)


def register_gathered(gathered: Gathered, found: Plan, home: Path, model: str) -> Version:
    """The adapter as the next version of ``model``, with the recipe, and with the data card and the prime
    where the jobs' dataset is here. Raises as ``registry.versions.register`` does."""
    from ..registry.versions import register

    first = found.origins[0]
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        _write(gathered, found, stage / "adapter")
        write_json(stage / "training" / "recipe.json", found.recipe.to_json())
        write_json(stage / "training" / "gathered.json", told(gathered))
        _write_data(first, stage / "training")
        meta = {
            "job": first.job.id,
            "dataset": first.job.dataset,
            "tokens": sum(part.tokens for part in gathered.parts),
            "gathered": [origin.job.id for origin in found.origins],
        }
        base = found.base if found.base == TINY else str(base_path(found.base))
        return register(home, model or f"gt-ft-{found.role}", found.role, stage, base, meta)


def _write_data(origin: Origin, folder: Path) -> None:
    """The data card and the prime, where the dataset is still the one that the job was begun with."""
    from ..corpus import dataset

    if origin.dataset is None or not (origin.dataset / "card.json").is_file():
        return
    data = dataset.read(origin.dataset)
    if data.hash == origin.job.dataset:
        write_json(folder / "dataset.json", dict(data.card))
        write_text(folder / "prime.txt", data.prime)


def told(gathered: Gathered) -> dict[str, Any]:
    """What was gathered, for a file or ``--json``."""
    parts = [{"part": str(p.path), "kind": p.kind, "tokens": p.tokens} for p in gathered.parts]
    return {"kind": gathered.parts[0].kind, "parts": parts}
