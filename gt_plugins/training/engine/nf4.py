"""Weights in bitsandbytes' nf4 made whole on a GPU, in one reading and one writing.

A byte holds two numbers, the first in its upper half: each an index into sixteen values, times the scale of
its block. With double quantization scales are bytes themselves: values of a second code, times the scale of
256 of them, and an offset (Dettmers et al. 2023, arXiv 2305.14314). bitsandbytes makes those scales in four
further kernels; here it is done in passing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS, WARPS = 32, 4
"""Blocks of a program, and its warps: as fast as any of a dozen on an H100."""


@triton.jit
def _whole(  # type: ignore[no-untyped-def]
    packed, scales, code, coarse, values, offset, out, blocks,
    NESTED: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    scale = tl.load(scales + block, inside, other=0)
    if NESTED:
        fine = tl.load(values + scale.to(tl.int32), inside, other=0.0)
        scale = fine * tl.load(coarse + block // GROUP, inside, other=0.0) + tl.load(offset)
    place = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(packed + place, inside[:, None], other=0).to(tl.int32)
    first = tl.load(code + (byte >> 4)) * scale[:, None]
    second = tl.load(code + (byte & 15)) * scale[:, None]
    both = tl.interleave(first, second).to(out.dtype.element_ty)
    to = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    tl.store(out + to, both, inside[:, None])


def can_make(weight: Tensor, state: Any) -> bool:
    """Whether ``make_whole`` knows a weight's packing; bitsandbytes knows all."""
    plain = state.quant_type == "nf4" and state.blocksize in (32, 64, 128, 256, 512, 1024)
    return plain and weight.element_size() == 1 and 2 * weight.numel() % int(state.blocksize) == 0


def make_whole(weight: Tensor, state: Any, out: Tensor) -> None:
    """Write the weight that ``state`` (bitsandbytes' ``QuantState``) describes into ``out``, contiguous, of
    as many numbers, in ``out``'s own type."""
    import torch

    nested = state.state2 is not None
    second = state.state2 if nested else state
    blocks = 2 * weight.numel() // state.blocksize
    _whole[(triton.cdiv(blocks, BLOCKS),)](
        weight.view(torch.uint8),
        state.absmax,
        state.code,
        *(second.absmax, second.code, state.offset if nested else state.code),
        out,
        blocks,
        NESTED=nested,
        GROUP=int(second.blocksize),
        HALF=state.blocksize // 2,
        BLOCKS=BLOCKS,
        num_warps=WARPS,
    )
