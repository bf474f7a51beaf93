"""Loading weights without running anybody's code: safetensors only, and a LoRA merged by hand.

Unpickling a ``.bin`` can run anything its maker wrote into it, so such a folder is refused. The adapter is
merged here and not with peft, whose import alone takes longer than everything else a start does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NonRetriableError, in_file
from ...town.root import read_json

if TYPE_CHECKING:
    import torch

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_PLAIN_FIELDS = {"peft_type": ("LORA",), "bias": (None, "none")}
_UNUSUAL = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "alora_invocation_tokens",
)


def require_safetensors(folder: Path, stem: str) -> None:
    """Refuse a folder whose weights are pickled. Raises NonRetriableError naming the file."""
    if any(folder.glob(f"{stem}*.safetensors")):
        return
    pickled = sorted(p for suffix in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{suffix}"))
    if pickled:
        raise NonRetriableError(
            in_file(pickled[0], "", "pickled weights can run code when loaded", "convert to safetensors")
        )
    raise NonRetriableError(
        in_file(folder, "", f"no {stem}*.safetensors in it", "give a folder with weights")
    )


def merge_lora(model: torch.nn.Module, adapter: Path) -> None:
    """Add a peft LoRA to a model's weights in place: W += scale · B · A.

    Raises NonRetriableError where the adapter is of another kind or does not fit the model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_safetensors(adapter, "adapter_model")
    config = _plain_config(adapter)
    path = adapter / "adapter_model.safetensors"
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise NonRetriableError(in_file(path, "", f"not a safetensors file ({error})", "")) from None
    named = dict(model.named_parameters())
    modules = [key.removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)]
    if not modules or len(tensors) != 2 * len(modules):
        problem = "tensors other than LoRA's A and B in it" if modules else "no LoRA tensors in it"
        raise NonRetriableError(in_file(path, "", problem, "use plain LoRA"))
    for stem in modules:
        module = stem.removeprefix(_PREFIX)
        target = named.get(f"{module}.weight")
        if target is None:
            raise NonRetriableError(
                in_file(adapter, module, "the base has no such layer", "use its own base")
            )
        _add(target, tensors[stem + _DOWN], tensors[stem + _UP], _scale(config, module), adapter, module)


def _add(
    target: torch.nn.Parameter, down: torch.Tensor, up: torch.Tensor, scale: float, adapter: Path, module: str
) -> None:
    import torch

    with torch.no_grad():
        fits = down.shape[0] == up.shape[-1] and (up.shape[0], down.shape[-1]) == tuple(target.shape)
        if not fits:
            problem = f"{tuple(up.shape)} times {tuple(down.shape)} does not fit {tuple(target.shape)}"
            raise NonRetriableError(in_file(adapter, module, problem, "use the base it was trained on"))
        delta = (up.float() @ down.float()) * scale
        if not torch.isfinite(delta).all():
            raise NonRetriableError(in_file(adapter, module, "NaN or infinity in it", "train it again"))
        target.add_(delta.to(target.dtype))


def _plain_config(adapter: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises NonRetriableError for what plain merging would get wrong."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise NonRetriableError(in_file(path, "", "not there", "give a peft adapter folder"))
    config = read_json(path)
    for field, fine in _PLAIN_FIELDS.items():
        if config.get(field) not in fine:
            raise NonRetriableError(
                in_file(path, field, f"{config.get(field)!r} cannot be served", "use plain LoRA")
            )
    for field in _UNUSUAL:
        if config.get(field):
            raise NonRetriableError(in_file(path, field, "cannot be served", "use plain LoRA"))
    return config


def _scale(config: dict[str, Any], module: str) -> float:
    """peft's scaling: alpha / r, or alpha / sqrt(r) with rsLoRA; patterns per module win."""
    rank = _for_module(config.get("rank_pattern"), module, config.get("r", 8))
    alpha = _for_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    return float(alpha) / (float(rank) ** 0.5 if config.get("use_rslora") else float(rank))


def _for_module(pattern: Any, module: str, default: float) -> float:
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
