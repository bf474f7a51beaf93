"""SwiGLU on a GPU, with what LoRA adds to gate and up made in passing: one reading of the widest matrix of a
layer instead of three. In place, which the compiler's own kernels are slow at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from .projection import Lift

PLAIN = (4, 512, 8)
FORWARD = (32, 128, 4)
BACKWARD = (16, 256, 8)
"""Tokens and columns of a tile, and warps: the fastest of two dozen on an H200 at 8,192 × 18,944; PLAIN is
where nothing is added in passing."""
LEAST_RANK = 16
"""Matrix units want at least so many; what is missing is read as zeros."""


@triton.jit
def _lifted(value, inner, rows, columns, inside, stride, weight, rank, RANK: tl.constexpr):  # type: ignore[no-untyped-def]
    """value + inner·weightᵀ over a tile; ``inner`` points at the first column of x·Aᵀ."""
    ranks = tl.arange(0, RANK)
    known = ranks < rank
    left = tl.load(inner + rows[:, None] * stride + ranks[None, :], known[None, :], other=0.0)
    right = tl.load(
        weight + columns[None, :] * rank + ranks[:, None], known[:, None] & inside[None, :], other=0.0
    )
    return value + tl.dot(left, right)


@triton.jit
def _gate_up(  # type: ignore[no-untyped-def]
    y, width, stride, rows, columns, inside, mask, first_at, second_at, first, second, rank,
    LIFT: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    at = y + rows[:, None] * stride + columns[None, :]
    gate = tl.load(at, mask, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask, other=0.0).to(tl.float32)
    if LIFT:
        gate = _lifted(gate, y + first_at, rows, columns, inside, stride, first, rank, RANK)
        up = _lifted(up, y + second_at, rows, columns, inside, stride, second, rank, RANK)
    return gate, up


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    y, act, tokens, width, stride, first_at, second_at, first, second, rank,
    LIFT: tl.constexpr, RANK: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    mask = (rows < tokens)[:, None] & inside[None, :]
    gate, up = _gate_up(
        y, width, stride, tl.minimum(rows, tokens - 1), columns, inside, mask,
        first_at, second_at, first, second, rank, LIFT, RANK,
    )  # fmt: skip
    value = gate * tl.sigmoid(gate) * up
    tl.store(act + rows[:, None] * width + columns[None, :], value.to(act.dtype.element_ty), mask)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    y, dact, tokens, width, stride, first_at, second_at, first, second, rank,
    LIFT: tl.constexpr, RANK: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    mask = (rows < tokens)[:, None] & inside[None, :]
    gate, up = _gate_up(
        y, width, stride, tl.minimum(rows, tokens - 1), columns, inside, mask,
        first_at, second_at, first, second, rank, LIFT, RANK,
    )  # fmt: skip
    place = dact + rows[:, None] * width + columns[None, :]
    d = tl.load(place, mask, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    on = gate * share
    at = y + rows[:, None] * stride + columns[None, :]
    tl.store(at, (d * up * share * (1.0 + gate * (1.0 - share))).to(y.dtype.element_ty), mask)
    tl.store(at + width, (d * on).to(y.dtype.element_ty), mask)
    tl.store(place, (on * up).to(dact.dtype.element_ty), mask)


def _launch(  # type: ignore[no-untyped-def]
    kernel, y: Tensor, other: Tensor, width: int, lift: Lift | None, tile: tuple[int, int, int]
) -> None:
    tokens = y.shape[0]
    at_once, columns, warps = tile if lift else PLAIN
    grid = (triton.cdiv(tokens, at_once), triton.cdiv(width, columns))
    rank = lift.first.shape[1] if lift else 1
    at = (lift.first_at, lift.second_at, lift.first, lift.second) if lift else (0, 0, y, y)
    kernel[grid](
        *(y, other, tokens, width, y.stride(0), *at, rank),
        LIFT=lift is not None,
        RANK=max(LEAST_RANK, triton.next_power_of_2(rank)),
        TOKENS=at_once,
        COLUMNS=columns,
        num_warps=warps,
    )


def swiglu(y: Tensor, width: int, lift: Lift | None) -> Tensor:
    """``pointwise.swiglu``; ``y`` is [tokens, 2 · width and more], its columns one after the other."""
    import torch

    act = torch.empty(y.shape[0], width, dtype=y.dtype, device=y.device)
    _launch(_forward, y, act, width, lift, FORWARD)
    return act


def swiglu_backward(y: Tensor, dact: Tensor, width: int, lift: Lift | None) -> None:
    """``pointwise.swiglu_backward``; ``dact`` is contiguous."""
    _launch(_backward, y, dact, width, lift, BACKWARD)
