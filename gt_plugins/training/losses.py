"""The loss of rows under a model with an adapter: by the engine, or by the model's own forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..rendering.render import Row
from .adapter import token_loss
from .loader import collate
from .sharding import sharded

if TYPE_CHECKING:
    import torch

    from .engine.network import Network


class RowLoss:
    """Summed cross entropy over the supervised tokens of rows, and their number; each row sees itself alone.

    ``reason`` says why the engine does not run this model, and is empty where it does."""

    def __init__(
        self,
        model: Any,
        device: str,
        pad: int,
        *,
        packing: bool = True,
        checkpointing: bool = False,
        eight: bool = False,
    ) -> None:
        self.model, self.device, self.pad = model, device, pad
        self.sharded = sharded(model)
        self.reason = "its base is cut over processes" if self.sharded else _why_not(model, device, packing)
        self.engine: Network | None = None
        if not self.reason:
            from .engine.network import Network

            self.engine = Network(model, checkpointing=checkpointing, eight=eight)
        elif checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()

    def __call__(self, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
        import torch

        if self.engine is not None:
            from .engine.packing import pack

            packed = pack(rows).to(self.device)
            return self.engine.loss(packed), int(packed.wanted.numel())
        ids, labels, mask = (t.to(self.device) for t in collate(rows, self.pad))
        half = self.model.get_base_model().lm_head.weight.dtype == torch.bfloat16
        with torch.autocast(self.device, torch.bfloat16, enabled=half):
            return token_loss(self.model, ids, labels, mask)

    def changed(self) -> None:
        """The adapter's weights were changed: by a step, a resume, an average with others."""
        if self.engine is not None:
            self.engine.refresh()


def supervised(rows: Sequence[Row]) -> int:
    """How many tokens of rows carry loss: those in a span, but for a row's first, which nothing foretells."""
    return sum(max(0, end - max(1, start)) for row in rows for start, end in row.spans)


def _why_not(model: Any, device: str, packing: bool) -> str:
    import torch

    from .engine.network import why_not

    if not packing:
        return "packing is off"
    if device not in ("cuda", "cpu"):
        return f"it has no kernels for {device}"
    kind = model.get_base_model().lm_head.weight.dtype
    if device == "cuda" and kind != torch.bfloat16:
        return "its kernels on a GPU are for bf16"
    if device == "cpu" and kind != torch.float32:
        return "its products on a CPU are for fp32"
    return why_not(model)
