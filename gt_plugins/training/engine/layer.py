"""A decoder layer, forward and backward by hand: what is kept, and what the backward makes again.

    x ─► norm ─► q,k,v ─► heads ─► attention ─► o ─► + x ─► norm ─► gate,up ─► SwiGLU ─► down ─► + ─► out

Kept for the backward: x, the q,k,v product, the attention's output, the stream after it, and the gate,up
product. Norms, turned heads and SwiGLU are made again: they cost little beside the products and would take
more memory than all that is kept. With checkpointing only x and the attention's output are kept, and the
products are made again, but for ``down``, whose output nothing needs; on a GPU x waits on a ``Shelf``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .attention import Attended, Span, attend, attend_backward
from .pointwise import (
    Heads,
    add,
    add_rms_norm,
    rms_norm,
    rms_norm_backward,
    split_heads,
    split_heads_backward,
    swiglu,
    swiglu_backward,
)
from .projection import Projection

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from .shelf import Shelf


STRETCH = 4096
"""Tokens that go through the MLP at once when checkpointing."""


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; ``head_norms`` are Qwen3's norms of queries and keys."""

    norm: Tensor
    qkv: Projection
    o: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection
    heads: Heads
    head_norms: tuple[Tensor, Tensor] | None
    eps: float
    head_eps: float

    @property
    def projections(self) -> tuple[Projection, ...]:
        return (self.qkv, self.o, self.gate_up, self.down)

    def parameters(self) -> list[Parameter]:
        """The LoRA parameters in the order of the gradients."""
        return [p for projection in self.projections for p in projection.parameters()]


@dataclass(frozen=True)
class Stage:
    """What all layers of one forward share. ``chosen``: the tokens that the last layer goes on with after
    its attention, since nobody looks at the others' output; None for all. Where the span says so they alone
    ask in its attention. ``shelf``: where the layers' inputs wait, if not where they are."""

    span: Span
    cos: Tensor
    sin: Tensor
    checkpointing: bool
    chosen: Tensor | None = None
    shelf: Shelf | None = None

    @property
    def few_ask(self) -> bool:
        return bool(self.span.masks)

    def attended(self, out: Tensor) -> Tensor:
        """The attention's output of the tokens to go on with, [tokens, width]."""
        flat = out.reshape(out.shape[0], -1)
        return flat if self.chosen is None or self.few_ask else flat[self.chosen]


@dataclass
class Kept:
    """What a backward needs beside x; the parts that are None are made again from it and ``attended``."""

    attended: Attended
    qkv: Tensor | None
    middle: Tensor | None
    gate_up: Tensor | None
    inner_o: Tensor
    inner_down: Tensor


def forward(layer: Layer, x: Tensor, stage: Stage) -> tuple[Tensor, Kept]:
    """The layer's output [tokens, width], and what its backward needs."""
    qkv = layer.qkv.forward(rms_norm(x, layer.norm, layer.eps))
    q, k, v = _heads(layer, qkv, stage)
    attended = attend(q, k, v, stage.span)
    middle, normed, inner_o = _middle(layer, x, attended, stage)
    if not stage.checkpointing:
        out, gate_up, inner_down = _mlp(layer, middle, normed)
        return out, Kept(attended, qkv, middle, gate_up, inner_o, inner_down)
    import torch

    out, inner = torch.empty_like(middle), []
    for part in _parts(layer, middle):
        out[part], _, inner_down = _mlp(layer, middle[part], normed[part])
        inner.append(inner_down)
    return out, Kept(attended, None, None, None, inner_o, torch.cat(inner))


def _mlp(layer: Layer, middle: Tensor, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The stream after the MLP, the gate,up product, and the down projection's x·Aᵀ."""
    lift = layer.gate_up.lift()
    gate_up = layer.gate_up.forward(normed, bare=lift is not None)
    act, of_down = swiglu(gate_up, layer.gate_up.outputs // 2, lift), layer.down.lift()
    down = layer.down.forward(act, bare=of_down is not None)
    return add(middle, down, of_down), gate_up, down[:, layer.down.outputs :].clone()


def _parts(layer: Layer, x: Tensor) -> list[slice]:
    """Stretches of tokens to go through the MLP one after the other when memory matters; longer ones in nf4,
    where each costs making the weights whole again."""
    most = 2 * STRETCH if layer.gate_up.packed else STRETCH
    return [slice(begin, begin + most) for begin in range(0, x.shape[0], most)]


def backward(
    layer: Layer, x: Tensor, kept: Kept, dout: Tensor, stage: Stage, need_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """(gradient of x, gradients of ``layer.parameters()``); consumes what was kept."""
    if kept.middle is not None and kept.gate_up is not None:
        normed = rms_norm(kept.middle, layer.mlp_norm, layer.eps)
        gate_up, kept.gate_up = kept.gate_up, None
        dmiddle, of_mlp = _mlp_backward(layer, gate_up, kept.inner_down, dout, kept.middle, normed)
    else:
        dmiddle, of_mlp = _mlp_again(layer, x, kept, dout, stage)
    dx, of_attention = _attention_backward(layer, x, kept, dmiddle, stage, need_dx)
    return dx, [*of_attention, *of_mlp]


def _mlp_again(
    layer: Layer, x: Tensor, kept: Kept, dout: Tensor, stage: Stage
) -> tuple[Tensor, list[Tensor]]:
    """The MLP's backward where nothing of it was kept, stretch by stretch."""
    import torch

    middle, normed, _ = _middle(layer, x, kept.attended, stage)
    dmiddle = torch.empty_like(middle)
    total: list[Tensor] = []
    for part in _parts(layer, middle):
        gate_up = layer.gate_up.forward(normed[part], bare=layer.gate_up.lift() is not None)
        dmiddle[part], grads = _mlp_backward(
            layer, gate_up, kept.inner_down[part], dout[part], middle[part], normed[part]
        )
        total = [a.add_(b) for a, b in zip(total, grads, strict=True)] if total else grads
    return dmiddle, total


def _heads(layer: Layer, qkv: Tensor, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = split_heads(qkv, stage.cos, stage.sin, layer.heads, layer.head_norms, layer.head_eps)
    return (q[stage.chosen] if stage.few_ask else q), k, v


def _middle(layer: Layer, x: Tensor, attended: Attended, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    """The stream after the attention, its norm, and the output projection's x·Aᵀ."""
    y = layer.o.forward(stage.attended(attended.out))
    x = x if stage.chosen is None else x[stage.chosen]
    middle, normed = add_rms_norm(x, y[:, : layer.o.outputs], layer.mlp_norm, layer.eps)
    return middle, normed, y[:, layer.o.outputs :].clone()


def _joined(gradient: Tensor, inner: Tensor) -> Tensor:
    """A gradient and the x·Aᵀ that belongs to it, as ``Projection.backward`` takes them."""
    import torch

    return torch.cat((gradient, inner), dim=1)


def _mlp_backward(
    layer: Layer, gate_up: Tensor, inner_down: Tensor, dout: Tensor, middle: Tensor, normed: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """(gradient of the stream before the MLP, gradients of its pairs); overwrites ``gate_up``."""
    dy = _joined(dout, inner_down)
    act, of_b = layer.down.backward(dy)
    assert act is not None
    swiglu_backward(gate_up, act, layer.gate_up.outputs // 2, layer.gate_up.lift())
    of_down = layer.down.gradients(dy, act, of_b)
    del act, dy
    dnormed, of_b = layer.gate_up.backward(gate_up)
    assert dnormed is not None
    of_gate_up = layer.gate_up.gradients(gate_up, normed, of_b)
    dmiddle = rms_norm_backward(dnormed, middle, layer.mlp_norm, layer.eps, dout)
    return dmiddle, [*of_gate_up, *of_down]


def _attention_backward(
    layer: Layer, x: Tensor, kept: Kept, dmiddle: Tensor, stage: Stage, need_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    tokens, chosen = x.shape[0], stage.chosen
    dy = _joined(dmiddle, kept.inner_o)
    dflat, of_b = layer.o.backward(dy)
    assert dflat is not None
    of_o = layer.o.gradients(dy, stage.attended(kept.attended.out), of_b)
    del dy
    if chosen is not None:
        dmiddle = _placed(dmiddle, chosen, tokens)
        dflat = dflat if stage.few_ask else _placed(dflat, chosen, tokens)
    normed = rms_norm(x, layer.norm, layer.eps)
    qkv = layer.qkv.forward(normed) if kept.qkv is None else kept.qkv
    kept.qkv = None
    q, k, v = _heads(layer, qkv, stage)
    dq, dk, dv = attend_backward(dflat.view_as(kept.attended.out), q, k, v, kept.attended, stage.span)
    if stage.few_ask and chosen is not None:
        dq = _placed(dq, chosen, tokens)
    del q, k, v
    dqkv = split_heads_backward(
        qkv, (dq, dk, dv), stage.cos, stage.sin, layer.heads, layer.head_norms, layer.head_eps
    )
    dnormed, of_b = layer.qkv.backward(dqkv, need_dx)
    of_qkv = layer.qkv.gradients(dqkv, normed, of_b)
    if dnormed is None:
        return None, [*of_qkv, *of_o]
    return rms_norm_backward(dnormed, x, layer.norm, layer.eps, dmiddle), [*of_qkv, *of_o]


def _placed(part: Tensor, chosen: Tensor, tokens: int) -> Tensor:
    """Rows of ``part`` at their places among ``tokens``, zeros elsewhere."""
    whole = part.new_zeros(tokens, *part.shape[1:])
    whole[chosen] = part
    return whole


def apply(layer: Layer, x: Tensor, stage: Stage) -> Tensor:
    """The layer as a differentiable function of x and its LoRA parameters."""
    result: Tensor = _function().apply(x, layer, stage, *layer.parameters())
    return result


_FUNCTION: list[Any] = []


def _function() -> Any:
    """The autograd function; made at first use, as torch is not imported with this module."""
    if _FUNCTION:
        return _FUNCTION[0]
    import torch

    class DecoderLayer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, layer: Layer, stage: Stage, *_parameters: Tensor) -> Tensor:
            out, ctx.kept = forward(layer, x, stage)
            ctx.x = x if stage.shelf is None else stage.shelf.put(x)
            ctx.layer, ctx.stage = layer, stage
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> Any:  # type: ignore[override]
            (x, kept), ctx.x, ctx.kept = (ctx.x, ctx.kept), None, None
            x = x if ctx.stage.shelf is None else ctx.stage.shelf.take(x)
            need_dx = ctx.needs_input_grad[0]
            dx, grads = backward(ctx.layer, x, kept, dout.contiguous(), ctx.stage, need_dx)
            return (dx, None, None, *grads)

    _FUNCTION.append(DecoderLayer)
    return DecoderLayer
