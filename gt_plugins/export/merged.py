"""A base with a LoRA merged into it, as a Hugging Face folder of safetensors: for engines without adapters.

Weights are merged in float32 and written in the base's own type, shard by shard, so that memory is needed
for one shard and not for the model. The folder appears by one rename.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import nearest_existing, staged_dir, write_json
from ..errors import FinetuneError, NonRetriableError, UserError, in_file
from ..training.safefile import save_tensors
from ..training.tokenizer_check import INDEX, validate_base
from .weights import Lora, Weights, load_lora, settled

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2 * 2**30
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_F16_MAX = 65504.0
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def write_merged(base: Path, adapter: Path, target: Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write ``target`` (which must not be there) and return it.

    Raises UserError where it is there, NonRetriableError for an adapter that does not fit or is not finite,
    FinetuneError where the disk is full."""
    validate_base(base)
    weights = settled(lambda: Weights.of_base(base))
    lora = settled(lambda: load_lora(adapter, weights))
    parent = nearest_existing(target.absolute().parent)
    need = sum(_size(weights, name) for name in weights.names())
    if (free := shutil.disk_usage(parent).free) < need:
        problem = f"no space: {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        raise FinetuneError(in_file(target, "", problem, "free some and export again"))
    try:
        with staged_dir(target) as stage:
            for name in _COPIED:
                if (base / name).is_file():
                    shutil.copyfile(base / name, stage / name)
            _write_shards(stage, weights, lora, shard_bytes)
    except FileExistsError:
        raise UserError(in_file(target, "", "is there already", "choose a new folder")) from None
    except OSError as error:
        problem = f"not written: {error.strerror or error}"
        raise FinetuneError(in_file(target, "", problem, "free space and export again")) from None
    return target


def _write_shards(stage: Path, weights: Weights, lora: Lora, shard_bytes: int) -> None:
    shards = list(_shards(weights, shard_bytes))
    single = len(shards) == 1
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _merged(name, weights, lora) for name in names}
        save_tensors(stage / file, tensors, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    if not single:
        total = sum(_size(weights, name) for name in where)
        write_json(stage / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _shards(weights: Weights, most: int) -> Iterator[list[str]]:
    """Names of tensors, in order, in groups of at most ``most`` bytes."""
    group: list[str] = []
    size = 0
    for name in sorted(weights.names()):
        own = _size(weights, name)
        if group and size + own > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += own
    yield group


def _size(weights: Weights, name: str) -> int:
    return math.prod(weights.shape(name)) * _BYTES[weights.kind(name)]


def _merged(name: str, weights: Weights, lora: Lora) -> Tensor:
    """A tensor with the adapter's part, in the base's own type."""
    import numpy as np
    import torch

    array, module = weights.array(name), name.removesuffix(".weight")
    if module in lora.scales:
        array += lora.delta(module)
    if not np.isfinite(array).all():
        raise NonRetriableError(f"{name}: NaN or infinity in it; train the adapter again")
    kind = weights.kind(name)
    if kind == "F16" and float(np.abs(array).max(initial=0.0)) > _F16_MAX:
        raise NonRetriableError(f"{name}: too large for float16; use a base in bf16")
    return torch.from_numpy(array).to(getattr(torch, _NAMES[kind]))
