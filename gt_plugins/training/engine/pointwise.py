"""Norms, rotary positions and SwiGLU, forward and backward: all that is bound by memory, not by products.

Each is a plain function over tensors. On a GPU the compiler fuses each into one or two kernels; on a CPU
they run as they stand. Formulas are those of ``transformers`` for the Llama family, which computes the norm
in fp32 and rounds before the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from .projection import Lift

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Heads:
    """How a query-key-value product is cut: numbers of heads and the width of one."""

    queries: int
    keys: int
    width: int

    @property
    def query_outputs(self) -> int:
        return self.queries * self.width

    @property
    def outputs(self) -> int:
        return (self.queries + 2 * self.keys) * self.width


@lru_cache(maxsize=32)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    return torch.compile(function)


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled where its first argument is on a GPU."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        chosen = _compiled(function) if first.is_cuda else function
        result: R = chosen(*args, **kwargs)
        return result

    return call


# -- RMS norm ---------------------------------------------------------------------------------------


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Rows of ``x`` in fp32 over their root mean square, and one over that."""
    wide = x.float()
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * scale, scale


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * _unit(x, eps)[0].to(x.dtype)


def _norm_grad(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """fp32: d/dx of y = w · x/rms(x), which is (g − u · mean(g · u)) / rms with g = w · dy, u = x/rms."""
    unit, scale = _unit(x, eps)
    g = (dy * weight).float()
    return (g - unit * (g * unit).mean(-1, keepdim=True)) * scale


@fused
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    return _norm(x, weight, eps)


@fused
def add_rms_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + more, its norm): a residual and the norm after it in one pass."""
    total = x + more
    return total, _norm(total, weight, eps)


@fused
def _add(x: Tensor, more: Tensor) -> Tensor:
    return x + more


def add(x: Tensor, y: Tensor, lift: Lift | None) -> Tensor:
    """x + the first columns of ``y``, with what LoRA adds to those where that is still to be added."""
    if lift is None:
        return _add(x, y[:, : x.shape[1]])
    from . import kernels

    return kernels.add(x, y, lift)


@fused
def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float, residual: Tensor) -> Tensor:
    """Gradient of ``x`` through the norm, added to the gradient that comes past it."""
    return (residual + _norm_grad(dy, x, weight, eps)).to(x.dtype)


# -- heads ------------------------------------------------------------------------------------------


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [tokens, heads, width]: the halves of a head are the pair's two parts."""
    import torch

    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _cut(y: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    tokens = y.shape[0]
    q = y[:, : heads.query_outputs].view(tokens, heads.queries, heads.width)
    k = y[:, heads.query_outputs : heads.outputs - heads.keys * heads.width]
    v = y[:, heads.outputs - heads.keys * heads.width : heads.outputs]
    shape = (tokens, heads.keys, heads.width)
    return q, k.view(shape), v.view(shape)


@fused
def split_heads(
    y: Tensor, cos: Tensor, sin: Tensor, heads: Heads, norms: tuple[Tensor, Tensor] | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [tokens, heads, width], from the product of ``y``'s first columns.

    Queries and keys are normed where the family does that (Qwen3) and turned to their positions."""
    q, k, v = _cut(y, heads)
    if norms:
        q, k = _norm(q, norms[0], eps), _norm(k, norms[1], eps)
    return _turn(q, cos, sin), _turn(k, cos, sin), v.contiguous()


@fused
def _turned_back(
    dq: Tensor,
    dk: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: Heads,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    dq, dk = _turn(dq, cos, -sin), _turn(dk, cos, -sin)
    if norms:
        q, k, _ = _cut(y, heads)
        dq, dk = _norm_grad(dq, q, norms[0], eps), _norm_grad(dk, k, norms[1], eps)
    return dq.to(y.dtype), dk.to(y.dtype)


def split_heads_backward(
    y: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    heads: Heads,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """The gradient of the product ``y``, followed by ``y``'s own last columns."""
    import torch

    if y.is_cuda and not norms:
        return _side_by_side(y, grads, cos, sin, heads)
    dq, dk = _turned_back(grads[0], grads[1], y, cos, sin, heads, norms, eps)
    parts = [d.reshape(y.shape[0], -1) for d in (dq, dk, grads[2])]
    return torch.cat((*parts, y[:, heads.outputs :]), dim=1)


def _side_by_side(
    y: Tensor, grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, heads: Heads
) -> Tensor:
    """``split_heads_backward`` without norms: each part is written where it belongs."""
    import torch

    from . import kernels

    out = torch.empty_like(y)
    queries, values = heads.query_outputs, heads.outputs - heads.keys * heads.width
    kernels.turn_back(grads[0], cos, sin, out[:, :queries])
    kernels.turn_back(grads[1], cos, sin, out[:, queries:values])
    out[:, values : heads.outputs].unflatten(1, (heads.keys, heads.width)).copy_(grads[2])
    out[:, heads.outputs :].copy_(y[:, heads.outputs :])
    return out


# -- SwiGLU -----------------------------------------------------------------------------------------


@fused
def _swiglu(y: Tensor, width: int) -> Tensor:
    from torch.nn.functional import silu

    return silu(y[:, :width]) * y[:, width : 2 * width]


def swiglu(y: Tensor, width: int, lift: Lift | None) -> Tensor:
    """silu(gate) · up, of ``y``'s first two stretches of ``width`` columns; with what LoRA adds to them
    where that is still to be added."""
    if lift is None:
        return _swiglu(y, width)
    from . import kernels

    return kernels.swiglu(y, width, lift)


def swiglu_backward(y: Tensor, dact: Tensor, width: int, lift: Lift | None) -> None:
    """Put the gradients of gate and up in the place of their values in ``y``, and silu(gate) · up itself in
    the place of its gradient in ``dact``."""
    if y.is_cuda:
        from . import kernels

        kernels.swiglu_backward(y, dact, width, lift)
        return
    import torch
    from torch.nn.functional import silu

    gate, up = y[:, :width], y[:, width : 2 * width]
    on = silu(gate)
    dgate = torch.ops.aten.silu_backward(dact * up, gate)
    act = on * up
    torch.mul(dact, on, out=up)
    gate.copy_(dgate)
    dact.copy_(act)
