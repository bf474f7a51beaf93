"""From a registered version to a responder: its files, its engine, its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NonRetriableError
from ..registry.versions import TINY as TINY_BASE
from ..registry.versions import Version, base_folder
from ..rendering.render import STANDARD, TINY, Budget
from ..roles.profile import load_profile
from .engines import EngineSource, load_engine
from .grammar import Limits
from .responder import ModelResponder

if TYPE_CHECKING:
    from .engines import Engine

_ORDER = ("q8_0", "f16", "bf16", "f32")


def load_version(version: Version, prefer: str | None = None) -> ModelResponder:
    """A responder for a version, with the profile that it was trained with.

    ``prefer`` names an engine. Raises UserError where the base is not there or the engine is none of ours,
    NonRetriableError where the files cannot be loaded."""
    profile = load_profile(version.role, version.role_dir)
    engine = load_engine(source_of(version), prefer)
    return ModelResponder(engine, profile, budget_of(version, engine))


def source_of(version: Version) -> EngineSource:
    """Where a version's parts lie. Raises NonRetriableError where it has no weights of its own."""
    adapter = version.path / "adapter"
    gguf, lora = gguf_files(version.path / "gguf")
    if not adapter.is_dir() and gguf is None:
        raise NonRetriableError(f"{version.path}: neither an adapter nor a GGUF file; train it again")
    return EngineSource(base_folder(version), adapter if adapter.is_dir() else None, gguf, lora)


def gguf_files(folder: Path) -> tuple[Path | None, Path | None]:
    """The model file to serve and the LoRA file to put on it, from a version's ``gguf/``.

    A merged model wins over base and LoRA; of several the smaller quantization that is known to keep its
    answers. A LoRA without its base serves nothing."""
    files = sorted(folder.glob("*.gguf"))
    loras = [f for f in files if "lora" in f.stem.lower()]
    bases = [f for f in files if f.stem.lower().startswith("base")]
    merged = [f for f in files if f not in loras and f not in bases]
    if merged:
        return _best(merged), None
    if bases and loras:
        return _best(bases), loras[0]
    return None, None


def _best(files: list[Path]) -> Path:
    def rank(path: Path) -> int:
        found = [i for i, name in enumerate(_ORDER) if name in path.stem.lower()]
        return found[0] if found else len(_ORDER)

    return min(files, key=rank)


def budget_of(version: Version, engine: Engine) -> Budget:
    """The token budget that a version was trained for; a base with a short context gets a smaller request."""
    budget = TINY if version.base == TINY_BASE else STANDARD
    room = engine.context - Limits.for_budget(budget).longest
    return budget if budget.request <= room else replace(budget, request=max(room, engine.context // 2))
