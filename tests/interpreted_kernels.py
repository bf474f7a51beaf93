"""Run with TRITON_INTERPRET=1: each GPU kernel of the engine beside the plain computation, on a CPU.

Prints JSON: by kernel and case the largest difference, over the largest number of what is right."""

from __future__ import annotations

import json
from collections.abc import Iterator

import bitsandbytes.functional as bnb
import torch

from gt_plugins.training.engine import eight, kernels, nf4
from gt_plugins.training.engine.pointwise import Heads, split_heads_backward
from gt_plugins.training.engine.projection import Lift

Case = tuple[str, torch.Tensor, torch.Tensor]
RANKS = (4, 16, 24)


def lifted(tokens: int, width: int, layers: int, rank: int) -> tuple[torch.Tensor, Lift, list[torch.Tensor]]:
    """A product with its tail, what is to be added to it, and the layers' outputs with that added."""
    outputs = layers * width
    y = torch.randn(tokens, outputs + layers * rank + 3)
    at = tuple(outputs + i * rank for i in range(layers))
    b = tuple(torch.randn(width, rank) for _ in range(layers))
    whole = [y[:, i * width : (i + 1) * width] + y[:, at[i] : at[i] + rank] @ b[i].t() for i in range(layers)]
    return y, Lift(at, b), whole


def swiglu() -> Iterator[Case]:
    for rank in RANKS:
        y, lift, (gate, up) = lifted(37, 150, 2, rank)
        yield f"swiglu {rank}", kernels.swiglu(y, 150, lift), torch.nn.functional.silu(gate) * up


def swiglu_backward() -> Iterator[Case]:
    for rank in (0, *RANKS):
        y, lift, (gate, up) = lifted(37, 150, 2, max(1, rank))
        if not rank:
            gate, up = y[:, :150].clone(), y[:, 150:300].clone()
        gate, up = gate.requires_grad_(), up.requires_grad_()
        act = torch.nn.functional.silu(gate) * up
        dact = torch.randn_like(act)
        act.backward(dact)
        kernels.swiglu_backward(y, dact, 150, lift if rank else None)
        right = torch.cat((gate.grad, up.grad, act.detach()), 1)
        yield f"swiglu_backward {rank}", torch.cat((y[:, :300], dact), 1), right


def add() -> Iterator[Case]:
    for rank in RANKS:
        y, lift, (whole,) = lifted(37, 150, 1, rank)
        x = torch.randn(37, 150)
        yield f"add {rank}", kernels.add(x, y, lift), x + whole


def turn_back() -> Iterator[Case]:
    for heads in (Heads(4, 2, 16), Heads(3, 1, 24)):
        y = torch.randn(21, heads.outputs + 5)
        grads = tuple(torch.randn(n, 21, heads.width).transpose(0, 1) for n in (heads.queries, heads.keys))
        cos, sin = (f(torch.randn(21, heads.width // 2)).repeat(1, 2) for f in (torch.cos, torch.sin))
        right = split_heads_backward(y, (*grads, grads[1]), cos, sin, heads, None, 0.0)
        out = torch.zeros_like(right)
        queries = heads.query_outputs
        kernels.turn_back(grads[0], cos, sin, out[:, :queries])
        kernels.turn_back(grads[1], cos, sin, out[:, queries : queries + heads.keys * heads.width])
        out[:, queries + heads.keys * heads.width :] = right[:, queries + heads.keys * heads.width :]
        yield f"turn_back {heads.width}", out, right


def whole() -> Iterator[Case]:
    for nested in (False, True):
        for shape in ((96, 64), (33, 64), (7, 320)):
            weight, state = bnb.quantize_4bit(
                torch.randn(shape), quant_type="nf4", compress_statistics=nested
            )
            out = torch.empty(shape)
            assert nf4.can_make(weight, state)
            nf4.make_whole(weight, state, out)
            yield f"nf4 {shape[0]} {nested}", out, bnb.dequantize_4bit(weight, state)


def rounded() -> Iterator[Case]:
    """Of numbers that 8 bits hold: the interpreter loses a carry where one is rounded to a power of two."""
    for width in (48, 5000):
        wide = eight.round_rows(torch.randn(9, width + 7)).numbers.float()
        wide[:, 5] = eight.LARGEST
        wide *= torch.tensor([2.0**n for n in range(-4, 5)])[:, None]
        wide[3] = 0.0
        numbers, scale = kernels.round_rows(wide[:, :width], eight.LARGEST, 1e-12)
        yield f"eight {width}", numbers.float() * scale, wide[:, :width]


def main() -> None:
    torch.manual_seed(1)
    found = {}
    for cases in (swiglu, swiglu_backward, add, turn_back, whole, rounded):
        for name, ours, right in cases():
            found[name] = float((ours - right).abs().max() / right.abs().max())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
