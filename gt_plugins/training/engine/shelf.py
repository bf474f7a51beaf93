"""Activations that wait in the computer's own memory for their backward, copied while the GPU goes on.

With checkpointing, what is left of a layer is little more than its input, and most of the memory is such
inputs: 117 MB a layer for 16,384 tokens of a 7B, which takes 50 ms to compute and a few to copy. They leave
as the forward makes them and come back one layer before the backward wants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEAVING = 2
"""Tensors that may be on their way out: the GPU waits for the one before them, so that nothing it does next
takes that one's memory too early. Nobody but the GPU waits."""


@dataclass
class Shelved:
    """A tensor that was put away: on the GPU (``here``), in pinned memory (``host``), or both while it is
    copied; ``copied`` is the event of the copy last begun. ``below`` is the one put away before it. Where the
    computer gives no memory, the tensor stays ``here``."""

    here: Tensor | None
    host: Tensor | None
    copied: Any
    below: Shelved | None

    def settle(self) -> None:
        """Let go of the GPU's memory; what the GPU does from here on waits for the copy."""
        import torch

        torch.cuda.current_stream().wait_event(self.copied)
        self.here = None


class Shelf:
    """A stack: taken are the tensors in the reverse order in which they were put. ``stream`` is the one that
    copies."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._top: Shelved | None = None
        self._leaving: list[Shelved] = []

    def put(self, x: Tensor) -> Shelved:
        """Begin to copy ``x``, which nobody may write to any more; its memory is free again when nobody else
        holds it and two more were put."""
        host = _pinned_like(x)
        if host is None:
            self._top = Shelved(x, None, None, self._top)
            return self._top
        self._top = Shelved(x, host, self._copy(host, x), self._top)
        self._leaving.append(self._top)
        if len(self._leaving) > LEAVING:
            self._leaving.pop(0).settle()
        return self._top

    def take(self, kept: Shelved) -> Tensor:
        """The tensor back on the GPU; begins to fetch the one below."""
        import torch

        self._leaving.clear()
        x = self._fetched(kept)
        if kept.copied is not None:
            torch.cuda.current_stream().wait_event(kept.copied)
        if kept.below is not None:
            self._fetched(kept.below)
        kept.here = self._top = None
        return x

    def _fetched(self, kept: Shelved) -> Tensor:
        """The tensor, which its copy may still be on the way to."""
        import torch

        if kept.here is None:
            assert kept.host is not None
            kept.here = torch.empty(kept.host.shape, dtype=kept.host.dtype, device=self._stream.device)
            kept.copied = self._copy(kept.here, kept.host)
        return kept.here

    def _copy(self, to: Tensor, source: Tensor) -> Any:
        """The event of a copy behind all that the GPU has been given to do so far."""
        import torch

        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)
            return self._stream.record_event()


def _pinned_like(x: Tensor) -> Tensor | None:
    """Memory that the GPU can read and write by itself; None where the computer has none to give."""
    import torch

    try:
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    except RuntimeError:
        return None
