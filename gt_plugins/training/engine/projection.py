"""Linear layers that read the same input, with their LoRA pairs, as one product.

The matrix holds the layers' weights one below the other and under them the pairs' A: one product gives the
outputs and, in its last columns, x·Aᵀ. What B makes of those is then added in place. In fp32 B·A is added to
the weights instead, once a step: on a CPU thin products cost more than that, and nothing is lost to rounding.

    y    = [x·Wᵀ | x·Aᵀ],  y[:, i] += s · (x·Aᵀ)ᵢ · Bᵢᵀ
    dB   = s · dyᵢᵀ · (x·Aᵀ)ᵢ        dA = (s · dyᵢ · Bᵢ)ᵀ · x        dx = [dy | s · dy·B] · [W; A]

The base's weights have no gradient. They are kept as views of the one matrix, so that nothing is held twice;
those in nf4 stay as they are and are made whole for each product in a space that all layers share. With
products in 8 bits (:mod:`.eight`) it is W alone that is multiplied so; the pairs' part stays in bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .eight import multiply, scale_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

ALIGN = 16
"""Columns of a product are a multiple of this: kernels read 16 bytes at once."""


@dataclass(frozen=True)
class Pair:
    """A layer's LoRA pair: the layer's outputs [start, end), and where the pair's A stands in the tail."""

    start: int
    end: int
    tail: int
    scale: float
    a: Parameter
    b: Parameter

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Lift:
    """Of one layer, or of two that share an input: in which columns of the product their pairs' x·Aᵀ begin,
    and the scaled B of each, [outputs, rank]."""

    at: tuple[int, ...]
    b: tuple[Tensor, ...]

    @property
    def rank(self) -> int:
        return int(self.b[0].shape[1])


LARGEST_LIFT = 64
"""Rank from which on adding in passing costs more than a product of its own."""


class Workspace:
    """Room for one matrix at a time, shared by all projections in nf4."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """A [rows, columns] matrix; what the last caller took is overwritten."""
        import torch

        if self._room is None or self._room.numel() < rows * columns:
            self._room = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
        return self._room[: rows * columns].view(rows, columns)


class Projection:
    """The layers ``modules`` (peft's, or plain ones without a pair) over one input of ``width`` numbers."""

    def __init__(
        self, modules: Sequence[Any], adapter: str, workspace: Workspace, eight: bool = False
    ) -> None:
        import torch

        self.pairs: list[Pair] = []
        self._rows: list[slice] = []
        start = tail = 0
        for module in modules:
            end = start + int(_base(module).out_features)
            self._rows.append(slice(start, end))
            if hasattr(module, "lora_A") and adapter in module.lora_A:
                a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
                self.pairs.append(Pair(start, end, tail, float(module.scaling[adapter]), a, b))
                tail += a.shape[0]
            start = end
        self.outputs, self.width = start, int(_base(modules[0]).in_features)
        self.used = tail
        self.tail = -(-(start + tail) // ALIGN) * ALIGN - start
        self._modules, self._workspace = list(modules), workspace
        weights = [_base(m).weight for m in modules]
        self.packed = any(hasattr(w, "quant_state") for w in weights)
        self.dtype = _compute_dtype(weights[0], modules[0])
        self.merged = self.dtype == torch.float32 and not self.packed
        self.bias = _biases(modules, self.tail)
        self._a = torch.zeros(self.tail, self.width, dtype=self.dtype, device=weights[0].device)
        self._b = [p.b.detach().to(self.dtype).clone() for p in self.pairs]
        self._matrix: Tensor | None = None
        self._frozen: Tensor | None = None
        if not self.packed:
            self._adopt(weights)
        self._eight = scale_of(self.matrix()[: self.outputs]) if eight and not self.merged else None

    def _adopt(self, weights: Sequence[Any]) -> None:
        """One matrix for all; the modules' own weights become views of it."""
        import torch

        rows = self.outputs + self.tail
        matrix = torch.zeros(rows, self.width, dtype=self.dtype, device=weights[0].device)
        for place, weight in zip(self._rows, weights, strict=True):
            matrix[place].copy_(weight.detach())
        self._matrix, self._a = matrix, matrix[self.outputs :]
        home = matrix
        if self.merged:
            home = self._frozen = matrix[: self.outputs].clone()
        for place, weight in zip(self._rows, weights, strict=True):
            weight.data = home[place]

    def parameters(self) -> list[Parameter]:
        """A and B of each pair, in the order of the gradients that ``backward`` gives."""
        return [p for pair in self.pairs for p in (pair.a, pair.b)]

    def kept(self) -> tuple[list[Tensor], list[Tensor]]:
        """Where each pair's A and scaled B are kept in the products' own type."""
        return [self._a[p.tail : p.tail + p.rank] for p in self.pairs], self._b

    def merge(self) -> None:
        """Add B·A to the weights, where that is how the product is made."""
        import torch

        if self._frozen is None or self._matrix is None:
            return
        for pair in self.pairs:
            rows = slice(pair.start, pair.end)
            torch.addmm(self._frozen[rows], pair.b, pair.a, alpha=pair.scale, out=self._matrix[rows])

    def matrix(self) -> Tensor:
        """[outputs + tail, width]: the layers' weights, whole, and the pairs' A."""
        if self._matrix is not None:
            return self._matrix
        whole = self._workspace.take(self.outputs + self.tail, self.width, self._a)
        for place, module in zip(self._rows, self._modules, strict=True):
            _unpack(_base(module).weight, whole[place])
        whole[self.outputs :].copy_(self._a)
        return whole

    def lift(self) -> Lift | None:
        """What is to be added to the product, for a kernel that does it in passing; None where ``forward``
        adds it."""
        ranks = {pair.rank for pair in self.pairs}
        alike = len(self.pairs) == len(self._rows) and len(ranks) == 1
        if self.merged or not alike or not self._a.is_cuda or max(ranks) > LARGEST_LIFT:
            return None
        return Lift(tuple(self.outputs + pair.tail for pair in self.pairs), tuple(self._b))

    def forward(self, x: Tensor, bare: bool = False) -> Tensor:
        """[tokens, outputs + tail]: the layers' outputs, then x·Aᵀ of each pair. ``bare``: what B makes of
        that is left to be added."""
        import torch

        if self._eight is not None:
            y = self._forward_in_eight(x, self._eight)
        else:
            whole = self.matrix().t()
            y = torch.mm(x, whole) if self.bias is None else torch.addmm(self.bias, x, whole)
        if not self.merged and not bare:
            for pair, b in zip(self.pairs, self._b, strict=True):
                y[:, pair.start : pair.end].addmm_(self._inner(y, pair), b.t())
        return y

    def _forward_in_eight(self, x: Tensor, scale: Tensor) -> Tensor:
        """The product with the layers' weights by way of 8 bits, its last columns by way of bf16."""
        import torch

        y = multiply(x, self.matrix(), scale, turned=False)
        y[:, self.outputs :] = torch.mm(x, self._a.t())
        return y if self.bias is None else y.add_(self.bias)

    def _inner(self, y: Tensor, pair: Pair) -> Tensor:
        begin = self.outputs + pair.tail
        return y[:, begin : begin + pair.rank]

    def backward(self, dy: Tensor, need_dx: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of x and of each pair's B. ``dy`` is [tokens, outputs + tail]: gradients, then x·Aᵀ as
        ``forward`` gave it, which is overwritten with its own gradient."""
        import torch

        of_b, inner = [], []
        for pair, b in zip(self.pairs, self._b, strict=True):
            out = dy[:, pair.start : pair.end]
            of_b.append(_product(out.t(), self._inner(dy, pair), pair.scale))
            inner.append(torch.mm(out, b))
        for pair, gradient in zip(self.pairs, inner, strict=True):
            self._inner(dy, pair).copy_(gradient)
        if not need_dx:
            return None, of_b
        if self.merged:
            return torch.mm(dy[:, : self.outputs], self.matrix()[: self.outputs]), of_b
        dy[:, self.outputs + self.used :].zero_()
        if self._eight is not None:
            weights = self.matrix()[: self.outputs]
            dx = multiply(dy[:, : self.outputs], weights, self._eight, turned=True)
            return dx.addmm_(dy[:, self.outputs :], self._a), of_b
        return torch.mm(dy, self.matrix()), of_b

    def gradients(self, dy: Tensor, x: Tensor, of_b: list[Tensor]) -> list[Tensor]:
        """Gradients of ``parameters()``, after ``backward`` with the same ``dy``."""
        of_a = _product(dy[:, self.outputs : self.outputs + self.used].t(), x, 1.0)
        found = []
        for pair, gradient in zip(self.pairs, of_b, strict=True):
            found += [of_a[pair.tail : pair.tail + pair.rank], gradient]
        return found


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """a·b in fp32: the pairs' own precision, whatever the operands'."""
    import torch

    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32).mul_(scale)
    product = torch.mm(a, b).float()
    return product if scale == 1.0 else product.mul_(scale)


def _unpack(weight: Any, out: Tensor) -> None:
    """A weight in 4 bits, made whole in ``out``."""
    state = weight.quant_state
    if out.is_cuda:
        from . import nf4

        if nf4.can_make(weight.data, state):
            nf4.make_whole(weight.data, state, out)
            return
    from bitsandbytes.functional import dequantize_4bit

    out.copy_(dequantize_4bit(weight.data, state))


def _base(module: Any) -> Any:
    return module.base_layer if hasattr(module, "base_layer") else module


def _compute_dtype(weight: Any, module: Any) -> Any:
    if hasattr(weight, "quant_state"):
        return _base(module).compute_dtype
    return weight.dtype


def _biases(modules: Sequence[Any], tail: int) -> Tensor | None:
    """The layers' biases one after the other, zeros where a layer has none and for the tail; or None."""
    import torch

    found = [_base(m).bias for m in modules]
    if all(b is None for b in found):
        return None
    like = next(b for b in found if b is not None).detach()
    parts = [
        like.new_zeros(_base(m).out_features) if b is None else b.detach()
        for m, b in zip(modules, found, strict=True)
    ]
    return torch.cat([*parts, like.new_zeros(tail)])


def refresh(projections: Sequence[Projection]) -> None:
    """Take over the values of all pairs: call once after they changed."""
    import torch

    with torch.no_grad():
        pairs = [pair for projection in projections for pair in projection.pairs]
        if pairs:
            kept = [projection.kept() for projection in projections]
            torch._foreach_copy_([t for a, _ in kept for t in a], [p.a for p in pairs])
            scaled = torch._foreach_mul([p.b for p in pairs], [p.scale for p in pairs])
            torch._foreach_copy_([t for _, b in kept for t in b], scaled)
        for projection in projections:
            projection.merge()
