"""How an adapter is trained: every number in one frozen record, with presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..settings import read_toml


@dataclass(frozen=True)
class Recipe:
    """LoRA after Hu et al. 2021 on all linear layers; AdamW, cosine from a warm-up to zero.

    ``batch_tokens`` is the number of tokens (padding included) of one optimizer step; rates are per step.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    rate: float = 2e-4
    epochs: float = 3.0
    batch_tokens: int = 16_384
    warmup: float = 0.06
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    seed: int = 7
    checkpoint_steps: int = 25
    max_nan: int = 3
    quantize: str = "none"
    """``none`` or ``nf4`` (QLoRA through bitsandbytes)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


TINY_RECIPE = Recipe(rate=3e-3, epochs=2.5, batch_tokens=1536, checkpoint_steps=50)


_ABOVE_ZERO = ("rank", "alpha", "rate", "epochs", "batch_tokens", "grad_clip", "checkpoint_steps", "max_nan")
_SHARES = ("dropout", "warmup")


def default_recipe(base: str) -> Recipe:
    """The preset of a base."""
    return TINY_RECIPE if base == "tiny" else Recipe()


def load_recipe(base: str, config: Path | None = None, **given: Any) -> Recipe:
    """The base's preset, overridden by a TOML file and then by arguments that are not None.

    Raises UserError naming file and key of an unknown name, a wrong type or a value out of range."""
    recipe = default_recipe(base)
    if config is not None:
        if not config.is_file():
            raise UserError(in_file(config, "", "not there", "pass a recipe file"))
        recipe = _override(recipe, read_toml(config), str(config))
    return _override(recipe, {k: v for k, v in given.items() if v is not None}, "arguments")


def _override(recipe: Recipe, values: dict[str, Any], where: str) -> Recipe:
    known = {f.name: type(getattr(recipe, f.name)) for f in fields(recipe)}
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(in_file(where, key, "not a key of a recipe", f"known: {', '.join(known)}"))
        wanted = known[key]
        if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else wanted):
            raise UserError(in_file(where, key, f"must be {wanted.__name__}", ""))
        clean[key] = wanted(value)
    made = replace(recipe, **clean)
    for key in (k for k, kind in known.items() if kind is not str):
        number = getattr(made, key)
        if not math.isfinite(number) or number < 0:
            raise UserError(in_file(where, key, f"{number} is not a number from zero up", ""))
        if key in _ABOVE_ZERO and number == 0:
            raise UserError(in_file(where, key, "must be more than zero", ""))
        if key in _SHARES and number >= 1:
            raise UserError(in_file(where, key, f"{number} is not a share below 1", ""))
    if made.quantize not in ("none", "nf4"):
        raise UserError(in_file(where, "quantize", f"{made.quantize!r} is not none or nf4", ""))
    return made
