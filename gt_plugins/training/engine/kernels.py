"""Kernels for the GPU where the compiler's own are slow: writing two stretches of one matrix in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 2048


@triton.jit
def _swiglu_backward(y, dact, width, stride, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    at = y + row * stride + columns
    gate = tl.load(at, inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, inside, other=0.0).to(tl.float32)
    d = tl.load(dact + row * width + columns, inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    tl.store(at, (d * up * share * (1.0 + gate * (1.0 - share))).to(y.dtype.element_ty), inside)
    tl.store(at + width, (d * gate * share).to(y.dtype.element_ty), inside)


def swiglu_backward(y: Tensor, dact: Tensor, width: int) -> None:
    """``pointwise.swiglu_backward`` on a GPU; ``dact`` is contiguous, ``y`` has rows one after the other."""
    grid = (y.shape[0], triton.cdiv(width, COLUMNS))
    _swiglu_backward[grid](y, dact, width, y.stride(0), COLUMNS=COLUMNS, num_warps=8)
