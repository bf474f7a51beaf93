"""Summed cross entropy at the supervised positions, with the gradient of the hidden states made at once.

The output layer is frozen, so the gradient of its input is all that is wanted; it is made stretch by stretch
in the forward, and a whole matrix of logits never stands in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pointwise import fused

if TYPE_CHECKING:
    from torch import Tensor

LOGITS = 512 * 1024 * 1024
"""Bytes that the logits of one stretch may take."""


@fused
def entropy_(logits: Tensor, wanted: Tensor) -> Tensor:
    """Summed −log p(wanted), fp32; ``logits`` [tokens, vocabulary] become its gradient."""
    import torch

    wide = logits.float()
    normalizer = torch.logsumexp(wide, dim=-1, keepdim=True)
    loss = (normalizer - wide.gather(1, wanted[:, None])).sum()
    gradient = (wide - normalizer).exp()
    places = torch.arange(logits.shape[1], device=logits.device)[None, :] == wanted[:, None]
    logits.copy_(gradient - places.to(gradient.dtype))
    return loss


def linear_entropy(hidden: Tensor, weight: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(summed cross entropy of hidden·weightᵀ, its gradient by ``hidden`` in that one's type)."""
    import torch

    step = max(128, LOGITS // (weight.shape[0] * weight.element_size()) // 128 * 128)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    gradient = torch.empty_like(hidden)
    for begin in range(0, hidden.shape[0], step):
        part = slice(begin, begin + step)
        logits = torch.mm(hidden[part], weight.t())
        total += entropy_(logits, wanted[part])
        torch.mm(logits, weight, out=gradient[part])
    return total, gradient


def loss_of(hidden: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    """``linear_entropy`` as a differentiable scalar."""
    import torch

    class Entropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Tensor) -> Tensor:
            total, gradient = linear_entropy(hidden, weight, wanted)
            ctx.save_for_backward(gradient)
            return total

        @staticmethod
        def backward(ctx: Any, by: Tensor) -> Tensor:  # type: ignore[override]
            (gradient,) = ctx.saved_tensors
            return gradient.mul_(by.to(gradient.dtype))

    result: Tensor = Entropy.apply(hidden)
    return result
