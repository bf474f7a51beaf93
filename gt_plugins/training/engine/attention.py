"""Causal attention inside each row of a packed sequence: q, k and v are [tokens, heads, width].

On a GPU flash attention for variable lengths; where the rows are alike in length (the loader brings such
together) cuDNN's kernels on rows padded to one length, which are twice as fast on Hopper. On a CPU flash
attention row by row. Nothing is ever spent on what a mask would hide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


PADDED = 1.2
"""Rows are padded to one length if that makes at most so many times their tokens."""
GRAIN = 128
"""Padded lengths are multiples of this, so that there are few shapes to prepare kernels for."""


@dataclass(frozen=True)
class Span:
    """The rows of a packed sequence; ``bounds`` is int32 [rows + 1] on the device. ``padded`` is the length
    to pad rows to, 0 where they stay as they are; ``places`` then says where in the padded rows each token
    stands (int64 [tokens]), and is None where nothing has to be padded. ``masks``: where only some tokens
    ask, for each row fp32 [asking, tokens], 0 for what one sees and -inf for the rest; () where all ask."""

    bounds: Tensor
    lengths: tuple[int, ...]
    longest: int
    padded: int = 0
    places: Tensor | None = None
    masks: tuple[Tensor, ...] = ()

    @property
    def asking(self) -> tuple[int, ...]:
        """How many tokens of each row ask."""
        return tuple(m.shape[0] for m in self.masks) or self.lengths


def span_of(bounds: Tensor, lengths: tuple[int, ...]) -> Span:
    """The span of rows of these lengths."""
    longest = max(lengths)
    if not bounds.is_cuda:
        return Span(bounds, lengths, longest)
    if len(set(lengths)) == 1:
        return Span(bounds, lengths, longest, longest)
    padded = -(-longest // GRAIN) * GRAIN
    if padded * len(lengths) > PADDED * sum(lengths):
        return Span(bounds, lengths, longest)
    import torch

    places = torch.cat([torch.arange(n) + i * padded for i, n in enumerate(lengths)])
    return Span(bounds, lengths, longest, padded, places.to(bounds.device))


def asked_by(span: Span, at: Tensor) -> Span:
    """The span with queries of the tokens ``at`` (int64, ascending) alone, if that costs less: on a CPU,
    where they are fewer than half. A kernel with a mask skips nothing of what it hides; one without a query
    ends the process, so all ask where a row has none."""
    if span.bounds.is_cuda or 2 * at.numel() >= sum(span.lengths):
        return span
    import torch

    masks, begin = [], 0
    for length in span.lengths:
        within = at[(at >= begin) & (at < begin + length)] - begin
        if not within.numel():
            return span
        hidden = torch.arange(length)[None, :] > within[:, None]
        masks.append(torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf")))
        begin += length
    return replace(span, masks=tuple(masks))


@dataclass(frozen=True)
class Attended:
    """What the backward needs beside q, k and v."""

    out: Tensor
    normalizers: tuple[Tensor, ...]
    extra: tuple[Any, ...] = ()


def attend(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Attended:
    """softmax(q·kᵀ/√width)·v over the tokens up to one's own in one's row; ``q`` is of those that ask."""
    if not q.is_cuda:
        return _cpu(q, k, v, span)
    if span.padded and cudnn_agrees(q.shape[1], k.shape[1], q.shape[2]):
        return _cudnn(q, k, v, span)
    return _flash(q, k, v, span)


def attend_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Attended, span: Span
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    if not q.is_cuda:
        return _cpu_backward(dout, q, k, v, kept, span)
    if kept.extra:
        return _cudnn_backward(dout, q, k, v, kept, span)
    return _flash_backward(dout, q, k, v, kept, span)


# -- CPU --------------------------------------------------------------------------------------------


def _rows(lengths: Sequence[int], *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Each row's part of tensors, as the kernels want it: [1, heads, tokens, width]."""
    begin = 0
    for length in lengths:
        yield [t[begin : begin + length].transpose(0, 1)[None] for t in tensors]
        begin += length


def _masks(span: Span) -> tuple[Tensor | None, ...]:
    """Each row's mask; None where its kernel is to be the causal one."""
    return span.masks or (None,) * len(span.lengths)


def _spread(x: Tensor, heads: int) -> Tensor:
    """Keys or values for as many heads as the queries have."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _gather(dx: Tensor, heads: int) -> Tensor:
    """The inverse of ``_spread`` for gradients."""
    return dx if dx.shape[1] == heads else dx.view(dx.shape[0], heads, -1, dx.shape[2]).sum(2)


def _cpu(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Attended:
    import torch

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    heads = q.shape[1]
    out = torch.empty_like(q)
    asking = _rows(span.asking, q, out)
    seen = _rows(span.lengths, _spread(k, heads), _spread(v, heads))
    normalizers = []
    for (one_q, one_out), (one_k, one_v), mask in zip(asking, seen, _masks(span), strict=True):
        made, normalizer = kernel(one_q, one_k, one_v, 0.0, mask is None, attn_mask=mask)
        one_out.copy_(made)
        normalizers.append(normalizer)
    return Attended(out, tuple(normalizers))


def _cpu_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Attended, span: Span
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    heads = q.shape[1]
    wide_k, wide_v = _spread(k, heads), _spread(v, heads)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(wide_k), torch.empty_like(wide_v)
    asking = _rows(span.asking, dout, q, kept.out, dq)
    seen = _rows(span.lengths, wide_k, wide_v, dk, dv)
    for ours, theirs, normalizer, mask in zip(asking, seen, kept.normalizers, _masks(span), strict=True):
        given = (ours[0], ours[1], theirs[0], theirs[1], ours[2], normalizer)
        made = kernel(*given, 0.0, mask is None, attn_mask=mask)
        for place, gradient in zip((ours[3], *theirs[2:]), made, strict=True):
            place.copy_(gradient)
    return dq, _gather(dk, k.shape[1]), _gather(dv, k.shape[1])


# -- GPU --------------------------------------------------------------------------------------------


def _flash(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Attended:
    import torch

    bounds, most = span.bounds, span.longest
    out, normalizer, state, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, most, most, 0.0, True, False
    )
    return Attended(out, (normalizer, state, unused))


def _flash_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Attended, span: Span
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    bounds, most = span.bounds, span.longest
    normalizer, state, unused = kept.normalizers
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        dout, q, k, v, kept.out, normalizer, bounds, bounds, most, most, 0.0, True, state, unused
    )
    return dq, dk, dv


def _even(x: Tensor, span: Span) -> Tensor:
    """[rows, heads, padded, width] of packed tokens."""
    if span.places is not None:
        whole = x.new_zeros(len(span.lengths) * span.padded, *x.shape[1:])
        whole[span.places] = x
        x = whole
    return x.view(len(span.lengths), span.padded, *x.shape[1:]).transpose(1, 2)


def _uneven(x: Tensor, span: Span) -> Tensor:
    """The inverse."""
    flat = x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])
    return flat if span.places is None else flat[span.places]


def _cudnn(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Attended:
    import torch

    kernel = torch.ops.aten._scaled_dot_product_cudnn_attention
    even = (_even(x, span) for x in (q, k, v))
    out, normalizer, *rest = kernel(*even, None, True, 0.0, True, False)
    return Attended(_uneven(out, span), (normalizer,), tuple(rest))


def _cudnn_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Attended, span: Span
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    bounds_q, bounds_k, most_q, most_k, seed, offset, _ = kept.extra
    dout, q, k, v, out = (_even(x, span) for x in (dout, q, k, v, kept.out))
    dq, dk, dv = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *(dout, q, k, v, out, kept.normalizers[0], seed, offset, None),
        *(bounds_q, bounds_k, most_q, most_k, 0.0, True),
    )
    return _uneven(dq, span), _uneven(dk, span), _uneven(dv, span)


@lru_cache(maxsize=8)
def cudnn_agrees(heads: int, keys: int, width: int) -> bool:
    """Whether cuDNN's attention runs here on rows alike in length and gives what flash attention gives."""
    import torch

    if torch.cuda.get_device_capability()[0] < 9:
        return False
    lengths = (384, 370, 380)
    bounds = torch.tensor([0, *lengths], dtype=torch.int32, device="cuda").cumsum(0, dtype=torch.int32)
    span = span_of(bounds, lengths)
    draw = torch.Generator(device="cuda").manual_seed(1)
    q, k, v, dout = (
        torch.randn(sum(lengths), n, width, dtype=torch.bfloat16, device="cuda", generator=draw)
        for n in (heads, keys, keys, heads)
    )
    try:
        ours, theirs = _cudnn(q, k, v, span), _flash(q, k, v, span)
        pairs = [(ours.out, theirs.out)]
        pairs += zip(
            _cudnn_backward(dout, q, k, v, ours, span),
            _flash_backward(dout, q, k, v, theirs, span),
            strict=True,
        )
        return all(float((a - b).norm() / b.norm()) < 0.02 for a, b in pairs)
    except (RuntimeError, TypeError, ValueError):
        return False
