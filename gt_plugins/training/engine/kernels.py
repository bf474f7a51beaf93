"""SwiGLU and residuals on a GPU, with what LoRA adds to their inputs made in passing: one reading of a
layer's widest matrices instead of three. SwiGLU's backward is in place, which the compiler's own kernels are
slow at, as they are at putting the gradients of turned heads side by side and at rounding wide rows to 8
bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from .projection import Lift

PLAIN = (4, 512, 8)
FORWARD = ADD = (32, 128, 4)
BACKWARD = (16, 256, 8)
"""Tokens and columns of a tile, and warps: the fastest of two dozen on an H200 at 8,192 × 18,944; PLAIN is
where nothing is added in passing."""
TURN = 16
"""Tokens of a tile whose heads are turned back."""
ROUND = (4096, 8)
"""Columns of a row that are rounded at once, and warps."""
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
    rank = lift.rank if lift else 1
    at = (*lift.at, *lift.b) if lift else (0, 0, y, y)
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


@triton.jit
def _add(  # type: ignore[no-untyped-def]
    x, y, out, tokens, width, stride, at, b, rank,
    RANK: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    mask = (rows < tokens)[:, None] & inside[None, :]
    place = rows[:, None] * width + columns[None, :]
    value = tl.load(y + rows[:, None] * stride + columns[None, :], mask, other=0.0).to(tl.float32)
    known = tl.minimum(rows, tokens - 1)
    value = _lifted(value, y + at, known, columns, inside, stride, b, rank, RANK)
    value += tl.load(x + place, mask, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask)


def add(x: Tensor, y: Tensor, lift: Lift) -> Tensor:
    """``pointwise.add`` of a contiguous ``x`` [tokens, width], with what the one pair adds to ``y``."""
    import torch

    out = torch.empty_like(x)
    (tokens, width), (at_once, columns, warps) = x.shape, ADD
    _add[(triton.cdiv(tokens, at_once), triton.cdiv(width, columns))](
        *(x, y, out, tokens, width, y.stride(0), lift.at[0], lift.b[0], lift.rank),
        RANK=max(LEAST_RANK, triton.next_power_of_2(lift.rank)),
        TOKENS=at_once,
        COLUMNS=columns,
        num_warps=warps,
    )
    return out


@triton.jit
def _turn_back(  # type: ignore[no-untyped-def]
    grad, of_token, of_head, cos, sin, out, stride, tokens, half,
    HALF: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    head, columns = tl.program_id(1), tl.arange(0, HALF)
    mask = (rows < tokens)[:, None] & (columns < half)[None, :]
    at = grad + rows[:, None] * of_token + head * of_head + columns[None, :]
    a = tl.load(at, mask, other=0.0).to(tl.float32)
    b = tl.load(at + half, mask, other=0.0).to(tl.float32)
    angle = rows[:, None] * (2 * half) + columns[None, :]
    c = tl.load(cos + angle, mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask, other=0.0).to(tl.float32)
    to = out + rows[:, None] * stride + head * (2 * half) + columns[None, :]
    tl.store(to, (a * c + b * s).to(out.dtype.element_ty), mask)
    tl.store(to + half, (b * c - a * s).to(out.dtype.element_ty), mask)


def turn_back(grad: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """The gradient of turned heads [tokens, heads, width], turned back, into the columns ``out``, a part of a
    wider matrix; ``cos`` and ``sin`` are contiguous [tokens, width]."""
    tokens, heads, width = grad.shape
    grad = grad if grad.stride(2) == 1 else grad.contiguous()
    _turn_back[(triton.cdiv(tokens, TURN), heads)](
        *(grad, grad.stride(0), grad.stride(1), cos, sin, out, out.stride(0), tokens, width // 2),
        HALF=triton.next_power_of_2(width // 2),
        TOKENS=TURN,
        num_warps=4,
    )


@triton.jit
def _round_rows(  # type: ignore[no-untyped-def]
    x, out, scales, width, stride, largest, least, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    most = tl.zeros((COLUMNS,), tl.float32)
    for begin in range(0, width, COLUMNS):
        at = begin + columns
        most = tl.maximum(most, tl.abs(tl.load(x + row * stride + at, at < width, other=0.0).to(tl.float32)))
    scale = tl.maximum(tl.max(most, 0) / largest, least)
    tl.store(scales + row, scale)
    for begin in range(0, width, COLUMNS):
        at = begin + columns
        value = tl.load(x + row * stride + at, at < width, other=0.0).to(tl.float32) / scale
        value = tl.minimum(tl.maximum(value, -largest), largest)
        tl.store(out + row * width + at, value.to(out.dtype.element_ty), at < width)


def round_rows(x: Tensor, largest: float, least: float) -> tuple[Tensor, Tensor]:
    """``eight.round_rows`` of a matrix [tokens, width] whose rows are each in one piece."""
    import torch

    tokens, width = x.shape
    out = torch.empty(tokens, width, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(tokens, 1, dtype=torch.float32, device=x.device)
    columns, warps = ROUND
    _round_rows[(tokens,)](
        *(x, out, scales, width, x.stride(0), largest, least), COLUMNS=columns, num_warps=warps
    )
    return out, scales
