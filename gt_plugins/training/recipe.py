"""How an adapter is trained: every number in one frozen record, which a TOML file or a flag can set.

Each key says in its own metadata what it is and what it may be, so that the file, the flags
(``cli/recipe_flags.py``), ``--print-config`` and the checks cannot differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..settings import read_toml

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of the Llama, Qwen and Mistral families, as they are called in all of them."""
ALL_LINEAR = "all-linear"


def _key(default: Any, words: str, limit: str = "", one_of: tuple[str, ...] = ()) -> Any:
    """A key: its default, what it is, ``above`` (more than zero) or ``share`` (below one), or its values."""
    return field(default=default, metadata={"words": words, "limit": limit, "one_of": one_of})


@dataclass(frozen=True)
class Recipe:
    """LoRA after Hu et al. 2021 (arXiv 2106.09685), AdamW, a rate that warms up and falls again.

    ``batch_tokens`` are the tokens of one optimizer step; with ``accumulation`` they are computed in that
    many pieces, which needs less memory and learns the same.
    """

    rank: int = _key(16, "rank of the adapter", "above")
    alpha: int = _key(32, "its scale: alpha / rank", "above")
    dropout: float = _key(0.0, "share of the adapter's inputs that is left out at random", "share")
    targets: str = _key(ALL_LINEAR, "all-linear, or layers with commas: q_proj,v_proj")
    rslora: bool = _key(False, "scale by alpha / sqrt(rank) (rsLoRA)")
    dora: bool = _key(False, "learn the length of each row apart (DoRA); slower")
    quantize: str = _key("none", "the base in 4 bits: nf4 (QLoRA)", one_of=("none", "nf4"))
    rate: float = _key(2e-4, "learning rate at its highest", "above")
    schedule: str = _key("cosine", "how the rate falls", one_of=("cosine", "wsd", "linear", "constant"))
    warmup: float = _key(0.06, "share of the steps in which the rate rises", "share")
    decay: float = _key(0.2, "wsd: share of the steps, at the end, in which the rate falls", "share")
    floor: float = _key(0.0, "share of the rate that is left at the end", "share")
    epochs: float = _key(3.0, "passes over the dataset", "above")
    batch_tokens: int = _key(16_384, "tokens of one optimizer step", "above")
    accumulation: int = _key(1, "pieces in which a step is computed", "above")
    packing: bool = _key(True, "rows share a sequence, each seeing itself alone")
    max_length: int = _key(0, "longer rows are left out (0: what the base reads)")
    weight_decay: float = _key(0.0, "of AdamW")
    grad_clip: float = _key(1.0, "longest gradient", "above")
    precision: str = _key("auto", "auto: bf16 on a GPU, fp32 on a CPU", one_of=("auto", "bf16", "fp32"))
    products: str = _key(
        "bf16", "on a GPU, of what does not train; fp8: faster, rounds more", one_of=("bf16", "fp8")
    )
    grad_checkpointing: bool = _key(False, "compute activations twice: less memory, a third slower")
    shard: bool = _key(False, "under torchrun: each process holds a part of the base (FSDP2); slower")
    seed: int = _key(7, "order of the rows, first weights of the adapter")
    eval_steps: int = _key(0, "steps between looks at the held-out rows (0: after each pass)")
    patience: int = _key(3, "looks without a better held-out loss before it stops early (0: never stops)")
    keep_best: bool = _key(True, "end with the adapter of the best held-out loss")
    checkpoint_steps: int = _key(25, "steps between checkpoints", "above")
    keep: int = _key(2, "checkpoints that are kept", "above")
    max_nan: int = _key(3, "steps in a row that are not finite before it stops", "above")

    def to_json(self) -> dict[str, Any]:
        """Every key with its value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """A recipe as a job was begun with; keys that are newer than the job have their defaults.

        Raises UserError for a key that is not known or a value that is none for it."""
        if not isinstance(value, Mapping):
            raise UserError("the recipe is not an object")
        return _override(cls(), value, "recipe")

    def half(self, device: str) -> bool:
        """Whether the base is in bf16 on a device: CPUs without units for it are far slower in it."""
        return self.precision == "bf16" or (self.precision == "auto" and device.startswith("cuda"))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that are adapted."""
        if self.targets == ALL_LINEAR:
            return LINEAR
        return tuple(name.strip() for name in self.targets.split(",") if name.strip())


TINY_RECIPE = Recipe(rate=3e-3, epochs=1.0, batch_tokens=1536, checkpoint_steps=50)
MOST, MOST_EPOCHS = 1_000_000_000, 10_000
"""What no run needs: a plan over so much would never be done."""
HEAD = ("base", "preset")
"""Keys of a recipe file that choose what the others start from."""


def load_recipe(base: str, config: Path | None = None, preset: str = "", **given: Any) -> Recipe:
    """The preset of the base (or the one named), overridden by a TOML file and then by what is not None.

    Raises UserError naming file and key of an unknown name, a wrong type or a value out of range."""
    from .presets import recipe_of

    values = read_recipe_file(config)
    recipe = recipe_of(preset or values.get("preset", ""), base)
    own = {k: v for k, v in values.items() if k not in HEAD}
    recipe = _override(recipe, own, str(config))
    return _override(recipe, {k: v for k, v in given.items() if v is not None}, "")


def base_of(base: str | None, config: Path | None) -> str:
    """The base that is meant: the argument, else the file's ``base`` (from the file's folder), else tiny."""
    if base is not None:
        return _given(base, "--base")
    named = _given(str(read_recipe_file(config).get("base", "tiny")), f"{config}: base")
    if config is None or named == "tiny":
        return named
    return str(config.absolute().parent / Path(named).expanduser())


def _given(base: str, where: str) -> str:
    if not base:
        raise UserError(f"{where}: empty; give tiny or a Hugging Face folder")
    return base


def read_recipe_file(config: Path | None) -> dict[str, Any]:
    """A recipe file as it stands, {} for none. Raises UserError where it is not there or no TOML."""
    if config is None:
        return {}
    if not config.is_file():
        problem = "a folder" if config.is_dir() else "not there"
        raise UserError(in_file(config, "", problem, "pass a recipe file with --config"))
    values = read_toml(config)
    for key in HEAD:
        if key in values and not isinstance(values[key], str):
            raise UserError(in_file(config, key, "must be str", ""))
    return values


def as_toml(base: str, recipe: Recipe) -> str:
    """The recipe as a file that ``--config`` reads, each key with what it is."""
    lines = [f"base = {json.dumps(base, ensure_ascii=False)}"]
    for spec in fields(recipe):
        value = getattr(recipe, spec.name)
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
        lines.append(f"{spec.name} = {text}".ljust(30) + f"  # {spec.metadata['words']}")
    return "\n".join(lines) + "\n"


def _at(where: str, key: str, problem: str, mend: str = "") -> UserError:
    """What is wrong with a key, in the file ``where`` or, where that is empty, with its flag."""
    if where:
        return UserError(in_file(where, key, problem, mend))
    return UserError(in_file(f"--{key.replace('_', '-')}", "", problem, mend))


def _override(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    """``recipe`` with these values, from the file ``where`` or, where that is empty, from the flags."""
    known = {f.name: f for f in fields(recipe)}
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            names = ", ".join((*known, *HEAD))
            raise _at(where, key, "not a key of a recipe", f"known: {names}")
        clean[key] = _typed(known[key], value, where)
    for key, value in clean.items():
        _check(known[key], value, where)
    return replace(recipe, **clean)


def _typed(spec: Field[Any], value: Any, where: str) -> Any:
    """A value in its key's type; a whole number will do for a fraction, a list for layers."""
    wanted: Any = type(spec.default)
    if spec.name == "targets" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ",".join(value)
    allowed = (int, float) if wanted is float else wanted
    if isinstance(value, bool) is not (wanted is bool) or not isinstance(value, allowed):
        raise _at(where, spec.name, f"must be {wanted.__name__}")
    return wanted(value)


def _check(spec: Field[Any], value: Any, where: str) -> None:
    limit, one_of = spec.metadata["limit"], spec.metadata["one_of"]
    if one_of and value not in one_of:
        raise _at(where, spec.name, f"{value!r} is not {_either(one_of)}")
    if spec.name == "targets":
        _check_targets(value, where)
    if isinstance(value, str | bool):
        return
    most = MOST_EPOCHS if spec.name == "epochs" else MOST
    if value > most and math.isfinite(value):
        raise _at(where, spec.name, f"{value} is too much", f"{most:,} at most")
    if not math.isfinite(value) or value < 0:
        raise _at(where, spec.name, f"{value} is not a number from zero up")
    if limit == "above" and value == 0:
        raise _at(where, spec.name, "must be more than zero")
    if limit == "share" and value >= 1:
        raise _at(where, spec.name, f"{value} is not a share below 1")


def _check_targets(value: str, where: str) -> None:
    names = Recipe(targets=value).layers
    wrong = [name for name in names if name not in LINEAR]
    if wrong or not names:
        problem = f"{wrong[0]!r} is no layer" if wrong else "names no layer"
        raise _at(where, "targets", problem, f"use all-linear, or of {', '.join(LINEAR)}")


def _either(names: tuple[str, ...]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
