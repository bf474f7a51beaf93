"""What to do when a number stops being one: skip the step, go back, and stop before it is hopeless."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..durable import write_json
from ..errors import NonRetriableError

if TYPE_CHECKING:
    from torch import Tensor


class NanHandler:
    """Judges each step by its loss and gradient norm; after ``max_consecutive`` bad ones in a row it stops.

    A single bad batch (a row of odd text, an overflow in bf16) is common and harmless if its step is
    skipped; several in a row mean that the weights themselves are lost, so from the second on the last good
    state is to be restored. Each bad step halves ``scale``, by which the rate is multiplied; it doubles again
    (up to one) after ``calm`` good steps.
    """

    def __init__(self, max_consecutive: int = 3, folder: Path | None = None, calm: int = 20) -> None:
        if max_consecutive < 1:
            raise ValueError("max_consecutive must be at least 1")
        self.max_consecutive = max_consecutive
        self.folder = folder
        self.calm = calm
        self.skipped = 0
        self.scale = 1.0
        self._good = 0
        self._row: list[dict[str, Any]] = []

    @property
    def consecutive(self) -> int:
        """Bad steps in a row, up to now."""
        return len(self._row)

    def check(
        self, loss: float, grad_norm: float | None = None, *, step: int = 0, batch: Sequence[str | int] = ()
    ) -> Literal["ok", "skip", "restore"]:
        """Say whether the optimizer may take this step, and if not, whether the last good state is to be
        restored. ``batch`` names the examples, for the record.

        Raises NonRetriableError at the last bad step in a row, with the examples saved in the job's folder.
        """
        if math.isfinite(loss) and (grad_norm is None or math.isfinite(grad_norm)):
            self._row.clear()
            self._good += 1
            if self.scale < 1.0 and self._good % self.calm == 0:
                self.scale = min(1.0, self.scale * 2)
            return "ok"
        self.skipped += 1
        self.scale, self._good = self.scale / 2, 0
        self._row.append({"step": step, "loss": str(loss), "grad_norm": str(grad_norm), "batch": [*batch]})
        if len(self._row) >= self.max_consecutive:
            raise NonRetriableError(self._verdict(step))
        return "restore" if len(self._row) > 1 else "skip"

    def _verdict(self, step: int) -> str:
        where = ""
        if self.folder is not None:
            path = self.folder / f"nan-step-{step:06d}.json"
            try:
                write_json(path, {"at": time.time(), "steps": self._row})
                where = f"; the batches are in {path}"
            except OSError as error:
                where = f"; the batches could not be saved ({error.strerror or error})"
        worst = "loss" if self._row[-1]["loss"] in ("nan", "inf", "-inf") else "gradient"
        return (
            f"{worst} was not finite {len(self._row)} times in a row, at step {step}{where}; "
            "lower the learning rate or look at these batches, then resume"
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run counts on."""
        return {"skipped": self.skipped, "row": list(self._row), "scale": self.scale, "good": self._good}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The counterpart of ``state``."""
        self.skipped = int(state.get("skipped", 0))
        self.scale, self._good = float(state.get("scale", 1.0)), int(state.get("good", 0))
        self._row = [dict(entry) for entry in state.get("row", [])]


def finite_or_raise(tensors: Mapping[str, Tensor], what: str = "the adapter") -> None:
    """Raise NonRetriableError naming the first tensor that holds a NaN or an infinity."""
    import torch

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise NonRetriableError(f"{what}: {name}: {bad} of {tensor.numel()} numbers are not finite")
