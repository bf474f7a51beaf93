"""A base's weights and a LoRA's, one tensor at a time, as float32 numpy arrays.

Files are mapped, not loaded, so that a merge needs memory for one tensor and not for the model. bfloat16 is
decoded by hand: numpy has no such type, and torch is not needed to export.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import NonRetriableError, RetriableError, UserError, call_with_retries, in_file
from ..training.safefile import Header, TensorInfo, TornFile, read_header
from ..training.tokenizer_check import weight_headers

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_UNUSUAL = ("use_dora", "fan_in_fan_out", "modules_to_save", "trainable_token_indices", "lora_bias")


class Weights:
    """The tensors of a folder of safetensors files."""

    def __init__(self, headers: list[Header]) -> None:
        self._where: dict[str, tuple[Path, TensorInfo]] = {
            name: (header.path, info) for header in headers for name, info in header.tensors.items()
        }

    @classmethod
    def of_base(cls, folder: Path) -> Weights:
        """The weights of a base. Raises UserError or NonRetriableError as the base's own check does."""
        return cls(weight_headers(folder))

    def names(self) -> set[str]:
        """The tensors that are there."""
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises NonRetriableError where it is not there."""
        return self._find(name)[1].shape

    def kind(self, name: str) -> str:
        """A tensor's type as safetensors calls it (F32, F16, BF16). Raises NonRetriableError for others."""
        path, info = self._find(name)
        if info.dtype not in ("F32", "F16", "BF16"):
            raise NonRetriableError(in_file(path, name, f"is of type {info.dtype}", "use a base in bf16"))
        return info.dtype

    def array(self, name: str) -> np.ndarray:
        """A tensor as a float32 array of its own. Raises NonRetriableError for a type it cannot read."""
        import numpy as np

        path, info = self._find(name)
        kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
        if info.dtype not in kinds:
            raise NonRetriableError(in_file(path, name, f"is of type {info.dtype}", "use a base in bf16"))
        if 0 in info.shape:
            return np.zeros(info.shape, np.float32)
        raw = np.memmap(path, kinds[info.dtype], "r", info.start, info.shape)
        if info.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)

    def _find(self, name: str) -> tuple[Path, TensorInfo]:
        if name not in self._where:
            raise NonRetriableError(f"{name}: not in these weights")
        return self._where[name]


@dataclass(frozen=True)
class Lora:
    """A plain LoRA: for each module its two matrices and the scale of their product."""

    folder: Path
    alpha: float
    scales: Mapping[str, float]
    """Module name as in the base (``model.layers.0.self_attn.q_proj``) → scale."""
    weights: Weights
    stems: Mapping[str, str]

    def pair(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """A (rank × in) and B (out × rank) of a module."""
        import numpy as np

        down = self.weights.array(self.stems[module] + _DOWN)
        up = self.weights.array(self.stems[module] + _UP)
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise NonRetriableError(in_file(self.folder, module, "NaN or infinity in it", "train it again"))
        return down, up

    def delta(self, module: str) -> np.ndarray:
        """What is added to the module's weight: scale · B · A."""
        down, up = self.pair(module)
        return (up @ down) * self.scales[module]


def settled(read: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Read a file that may still be being written: one that is cut off is tried again, for a few seconds."""

    def once() -> T:
        try:
            return read()
        except TornFile as error:
            raise RetriableError(str(error)) from None
        except UserError as error:
            raise NonRetriableError(str(error)) from None

    return call_with_retries(once, 4, 0.5, sleep=sleep)


def load_lora(folder: Path, base: Weights) -> Lora:
    """A peft adapter folder, checked against the base's shapes.

    Raises NonRetriableError where it is no plain LoRA or does not fit.
    """
    config = _plain_config(folder)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise NonRetriableError(in_file(path, "", "not there", "give a peft adapter saved as safetensors"))
    weights = Weights([read_header(path)])
    stems = {
        name.removesuffix(_DOWN).removeprefix(_PREFIX): name.removesuffix(_DOWN)
        for name in weights.names()
        if name.endswith(_DOWN)
    }
    known = {stem + part for stem in stems.values() for part in (_DOWN, _UP)}
    other = sorted(weights.names() ^ known)
    if not stems or other:
        problem = f"{other[0]}: not a plain LoRA's" if other else "no LoRA tensors in it"
        raise NonRetriableError(in_file(path, "", problem, "use plain LoRA"))
    scales = {}
    for module, stem in stems.items():
        rank = weights.shape(stem + _DOWN)[0]
        _check_fit(folder, module, base, weights.shape(stem + _DOWN), weights.shape(stem + _UP))
        scales[module] = _scale(config, module, rank)
    return Lora(folder, float(config.get("lora_alpha", 8)), scales, weights, stems)


def _check_fit(folder: Path, module: str, base: Weights, down: tuple[int, ...], up: tuple[int, ...]) -> None:
    target = f"{module}.weight"
    if target not in base.names():
        raise NonRetriableError(in_file(folder, module, "the base has no such layer", "use its own base"))
    shape = base.shape(target)
    if len(down) != 2 or len(up) != 2 or up[1] != down[0] or (up[0], down[1]) != shape:
        problem = f"{up} times {down} does not fit {shape}"
        raise NonRetriableError(in_file(folder, module, problem, "use the base it was trained on"))


def _plain_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NonRetriableError(in_file(path, "", "not there", "give a peft adapter folder")) from None
    except ValueError as error:
        raise NonRetriableError(in_file(path, "", f"not JSON ({error})", "save the adapter again")) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise NonRetriableError(in_file(path, "peft_type", "not a LoRA", "use plain LoRA"))
    unusual = [field for field in _UNUSUAL if config.get(field)]
    if config.get("bias") not in (None, "none"):
        unusual.append("bias")
    if unusual:
        raise NonRetriableError(in_file(path, unusual[0], "cannot be exported", "use plain LoRA"))
    return config


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """peft's scaling: alpha / r, or alpha / sqrt(r) with rsLoRA; a pattern for the module wins."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
