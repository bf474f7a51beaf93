"""Products of numbers in 8 bits: what does not train is multiplied in them where the recipe says so.

Floating point of 4 exponent and 3 fraction bits (e4m3: Micikevicius et al. 2022, arXiv 2209.05433), with one
scale for each token and one for a whole matrix of weights; sums are in fp32. Matrix units of an H100 and
newer do twice as many of these as of bf16. A product is off by 4 % of its length (measured), less than half
of what nf4 does to weights. LoRA's own thin products stay in bf16, forward and backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pointwise import fused

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 448.0
"""Of e4m3."""
LEAST_CAPABILITY = (8, 9)
"""CUDA's number of the first cards that multiply so."""
MULTIPLE = 16
"""Both sides of a matrix are a multiple of this."""
_TINY = 1e-12


@dataclass(frozen=True)
class Rounded:
    """A matrix in 8 bits; its own numbers are these times ``scale``, [rows, 1], fp32."""

    numbers: Tensor
    scale: Tensor


def why_not(device: str) -> str:
    """Why a device cannot multiply so, or nothing if it can."""
    import torch

    if device != "cuda":
        return f"8-bit products need a GPU of NVIDIA, not {device}"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name()} has no units for 8-bit products"
    return ""


def round_rows(x: Tensor) -> Rounded:
    """Each row of [tokens, width] by a scale of its own."""
    if x.is_cuda:
        from . import kernels

        return Rounded(*kernels.round_rows(x, LARGEST, _TINY))
    scale = _scale(x.abs().amax(-1, keepdim=True))
    return Rounded(_eight(x.float() / scale), scale)


def scale_of(weight: Tensor) -> Tensor:
    """[1, 1]: the scale that a matrix of weights needs."""
    return _scale(weight.abs().amax()).view(1, 1)


def multiply(x: Tensor, weight: Tensor, scale: Tensor, turned: bool) -> Tensor:
    """x · weightᵀ, or x · weight where ``turned``, of bf16 matrices, by way of 8 bits; ``scale`` is the
    weight's."""
    import torch

    rounded = round_rows(x)
    right = _round_turned(weight, scale) if turned else _round_weight(weight, scale)
    made: Tensor = torch._scaled_mm(
        rounded.numbers,
        right.t(),
        scale_a=rounded.scale,
        scale_b=scale.expand(1, right.shape[0]).contiguous(),
        out_dtype=torch.bfloat16,
    )
    return made


def _scale(most: Tensor) -> Tensor:
    """What the largest number is divided by to be the largest of e4m3."""
    return (most.float() / LARGEST).clamp_min(_TINY)


def _eight(x: Tensor) -> Tensor:
    import torch

    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


@fused
def _round_weight(weight: Tensor, scale: Tensor) -> Tensor:
    return _eight(weight.float() / scale)


@fused
def _round_turned(weight: Tensor, scale: Tensor) -> Tensor:
    return _eight(weight.float() / scale).t().contiguous()
