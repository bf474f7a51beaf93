"""Where a recipe starts from: one preset for each size of base.

A preset is chosen by the base's own number of parameters, read from its ``config.json``; ``preset`` in a
recipe file or ``--preset`` names another. What memory each needs is what ``--estimate`` computes for that
size with rows of at most 4,096 tokens, half of them with loss: each is meant for one GPU of 24 GiB. On a
larger one ``--accumulation 1 --no-grad-checkpointing`` is faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..durable import parse_json
from ..errors import UserError
from .recipe import TINY_RECIPE, Recipe


@dataclass(frozen=True)
class Preset:
    """A recipe for bases of about ``billions`` of parameters; memory in GiB on one GPU, LoRA and nf4."""

    name: str
    billions: float
    recipe: Recipe
    gib: float
    gib_nf4: float


_BIG = Recipe()
PRESETS = {
    p.name: p
    for p in (
        Preset("tiny", 0.003, TINY_RECIPE, 1, 1),
        Preset("0.5b", 0.5, _BIG, 14, 14),
        Preset("1.5b", 1.5, replace(_BIG, accumulation=2), 17, 15),
        Preset("3b", 3.0, replace(_BIG, accumulation=4), 18, 14),
        Preset("7b", 7.0, replace(_BIG, accumulation=4, grad_checkpointing=True, rate=1e-4), 20, 10),
    )
}


def recipe_of(preset: str, base: str) -> Recipe:
    """The recipe of a preset, or of the one whose size is nearest to the base's; ``tiny`` has its own.

    Raises UserError for a preset that is not there."""
    if preset:
        found = PRESETS.get(preset.lower())
        if found is None:
            raise UserError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        return found.recipe
    if base == "tiny":
        return TINY_RECIPE
    size = billions_of(Path(base).expanduser())
    if size is None:
        return Recipe()
    bases = [p for p in PRESETS.values() if p.name != "tiny"]
    return min(bases, key=lambda p: abs(p.billions - size)).recipe


def billions_of(folder: Path) -> float | None:
    """A base's parameters in billions, by its config.json; None where that does not tell."""
    from .estimate import network_of

    try:
        return network_of(parse_json((folder / "config.json").read_text(encoding="utf-8"))).parameters / 1e9
    except (OSError, ValueError, AttributeError):
        return None
