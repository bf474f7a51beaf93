"""A decoder layer, forward and backward by hand: what is kept, and what the backward makes again.

    x ─► norm ─► q,k,v ─► heads ─► attention ─► o ─► + x ─► norm ─► gate,up ─► SwiGLU ─► down ─► + ─► out

Kept for the backward: x, the q,k,v product, the attention's output, the stream after it, and the gate,up
product. Norms, turned heads and SwiGLU are made again: they cost little beside the products and would take
more memory than all that is kept. With checkpointing only x and the attention's output are kept, and the
products are made again, but for ``down``, whose output nothing needs.
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
    its attention, since nobody looks at the others' output; None for all."""

    span: Span
    cos: Tensor
    sin: Tensor
    checkpointing: bool
    chosen: Tensor | None = None


@dataclass
class Kept:
    """What a backward needs; the parts that are None are made again from ``x`` and ``attended``."""

    x: Tensor
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
    gate_up = layer.gate_up.forward(normed)
    down = layer.down.forward(swiglu(gate_up, layer.gate_up.outputs // 2))
    out = add(middle, down[:, : layer.down.outputs])
    inner_down = down[:, layer.down.outputs :].clone()
    if stage.checkpointing:
        return out, Kept(x, attended, None, None, None, inner_o, inner_down)
    return out, Kept(x, attended, qkv, middle, gate_up, inner_o, inner_down)


def backward(
    layer: Layer, kept: Kept, dout: Tensor, stage: Stage, need_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """(gradient of x, gradients of ``layer.parameters()``); consumes what was kept."""
    middle, normed = _made_again(layer, kept, stage)
    dmiddle, of_mlp = _mlp_backward(layer, kept, dout, middle, normed)
    dx, of_attention = _attention_backward(layer, kept, dmiddle, stage, need_dx)
    return dx, [*of_attention, *of_mlp]


def _heads(layer: Layer, qkv: Tensor, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    return split_heads(qkv, stage.cos, stage.sin, layer.heads, layer.head_norms, layer.head_eps)


def _middle(layer: Layer, x: Tensor, attended: Attended, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    """The stream after the attention, its norm, and the output projection's x·Aᵀ."""
    flat = attended.out.reshape(x.shape[0], -1)
    if stage.chosen is not None:
        flat, x = flat[stage.chosen], x[stage.chosen]
    y = layer.o.forward(flat)
    middle, normed = add_rms_norm(x, y[:, : layer.o.outputs], layer.mlp_norm, layer.eps)
    return middle, normed, y[:, layer.o.outputs :].clone()


def _made_again(layer: Layer, kept: Kept, stage: Stage) -> tuple[Tensor, Tensor]:
    """The stream after the attention and its norm; the products too where they were not kept."""
    if kept.middle is None:
        kept.middle, normed, _ = _middle(layer, kept.x, kept.attended, stage)
        kept.gate_up = layer.gate_up.forward(normed)
        return kept.middle, normed
    return kept.middle, rms_norm(kept.middle, layer.mlp_norm, layer.eps)


def _joined(gradient: Tensor, inner: Tensor) -> Tensor:
    """A gradient and the x·Aᵀ that belongs to it, as ``Projection.backward`` takes them."""
    import torch

    return torch.cat((gradient, inner), dim=1)


def _mlp_backward(
    layer: Layer, kept: Kept, dout: Tensor, middle: Tensor, normed: Tensor
) -> tuple[Tensor, list[Tensor]]:
    gate_up, kept.gate_up = kept.gate_up, None
    assert gate_up is not None
    width = layer.gate_up.outputs // 2
    act = swiglu(gate_up, width)
    dact, of_down = layer.down.backward(_joined(dout, kept.inner_down), act)
    del act
    assert dact is not None
    swiglu_backward(gate_up, dact, width)
    del dact
    dnormed, of_gate_up = layer.gate_up.backward(gate_up, normed)
    assert dnormed is not None
    dmiddle = rms_norm_backward(dnormed, middle, layer.mlp_norm, layer.eps, dout)
    return dmiddle, [*of_gate_up, *of_down]


def _attention_backward(
    layer: Layer, kept: Kept, dmiddle: Tensor, stage: Stage, need_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    tokens = kept.x.shape[0]
    flat = kept.attended.out.reshape(tokens, -1)
    chosen = stage.chosen
    dflat, of_o = layer.o.backward(_joined(dmiddle, kept.inner_o), flat if chosen is None else flat[chosen])
    assert dflat is not None
    if chosen is not None:
        dflat = _placed(dflat, chosen, tokens)
        dmiddle = _placed(dmiddle, chosen, tokens)
    normed = rms_norm(kept.x, layer.norm, layer.eps)
    qkv = layer.qkv.forward(normed) if kept.qkv is None else kept.qkv
    kept.qkv = None
    q, k, v = _heads(layer, qkv, stage)
    grads = attend_backward(dflat.view_as(kept.attended.out), q, k, v, kept.attended, stage.span)
    del q, k, v
    dqkv = split_heads_backward(
        qkv, grads, stage.cos, stage.sin, layer.heads, layer.head_norms, layer.head_eps
    )
    dnormed, of_qkv = layer.qkv.backward(dqkv, normed, need_dx)
    if dnormed is None:
        return None, [*of_qkv, *of_o]
    return rms_norm_backward(dnormed, kept.x, layer.norm, layer.eps, dmiddle), [*of_qkv, *of_o]


def _placed(part: Tensor, chosen: Tensor, tokens: int) -> Tensor:
    """Rows of ``part`` at their places among ``tokens``, zeros elsewhere."""
    whole = part.new_zeros(tokens, part.shape[1])
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
            ctx.layer, ctx.stage = layer, stage
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> Any:  # type: ignore[override]
            kept, ctx.kept = ctx.kept, None
            need_dx = ctx.needs_input_grad[0]
            dx, grads = backward(ctx.layer, kept, dout.contiguous(), ctx.stage, need_dx)
            return (dx, None, None, *grads)

    _FUNCTION.append(DecoderLayer)
    return DecoderLayer
