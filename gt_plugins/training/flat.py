"""What is trained as one vector: clipping, the optimizer and the sum over processes take one call each.

An adapter has hundreds of small tensors; a step over them one by one leaves a GPU idle for longer than the
step's own work takes. The parameters stay where they are, as views of the vector; so do their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Parameter


class FlatWeights:
    """``vectors``: a parameter for each kind (type and device) of parameters, usually one in all."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        import torch

        kinds: dict[object, list[Parameter]] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self.vectors: list[Parameter] = []
        for alike in kinds.values():
            vector = torch.nn.Parameter(torch.cat([p.detach().reshape(-1) for p in alike]))
            vector.grad = torch.zeros_like(vector)
            begin = 0
            for parameter in alike:
                part = slice(begin, begin + parameter.numel())
                parameter.data = vector.detach()[part].view(parameter.shape)
                parameter.grad = vector.grad[part].view(parameter.shape)
                begin = part.stop
            self.vectors.append(vector)

    def zero(self) -> None:
        """Forget all gradients, in place: they stay views."""
        for vector in self.vectors:
            if vector.grad is not None:
                vector.grad.zero_()
