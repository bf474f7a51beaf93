"""The training loop: steps over planned batches, with checkpoints from which it resumes to the bit.

It knows nothing of towns, beads or the registry (``training/run.py`` does); it is given rows and a folder
and leaves an adapter. Order of a step: forward and backward over the batch in pieces that fit, the NaN
handler's word, clip, optimizer, listeners, checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rendering.render import Row
from . import checkpoints
from .adapter import adapter_state, set_adapter_state, token_loss
from .callbacks import CallbackGroup
from .loader import Batch, collate, plan_batches
from .numerics import NanHandler, finite_or_raise
from .recipe import Recipe

if TYPE_CHECKING:
    import torch

KEEP = 2


@dataclass(frozen=True)
class Trained:
    """What a run came to. ``stopped``: it was asked to stop and can be resumed."""

    steps: int
    tokens: int
    seconds: float
    losses: tuple[float, ...]
    skipped: int
    stopped: bool
    device: str

    @property
    def last_loss(self) -> float:
        """Mean of the last ten steps."""
        return sum(self.losses[-10:]) / max(1, len(self.losses[-10:]))


@dataclass
class _State:
    """What changes while training, and is in a checkpoint."""

    step: int
    tokens: int
    seconds: float
    losses: list[float]


def rate_share(step: int, total: int, warmup: float) -> float:
    """Share of the recipe's rate at a step counted from 0: a straight warm-up, then half a cosine to zero."""
    up = max(1, round(total * warmup))
    if step < up:
        return (step + 1) / up
    return 0.5 * (1.0 + math.cos(math.pi * (step - up) / max(1, total - up)))


class Trainer:
    """One run over one set of rows; ``folder`` takes the checkpoints."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        recipe: Recipe,
        folder: Path,
        listeners: CallbackGroup,
        *,
        pad: int,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        import torch

        self.model, self.rows, self.recipe, self.folder = model, rows, recipe, folder
        self.listeners, self.pad, self.device, self.say = listeners, pad, device, say
        self.steps = plan_batches(rows, recipe.batch_tokens, recipe.epochs, recipe.seed)
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.nan = NanHandler(recipe.max_nan, folder)
        self.state = _State(0, 0, 0.0, [])
        self.stop_asked = False

    def resume(self) -> int:
        """Go on from the newest intact checkpoint; returns its step, 0 where there is none."""
        found = checkpoints.latest(self.folder)
        for problem in found.problems:
            self.say(problem)
        if found.checkpoint is None:
            return 0
        point = found.checkpoint
        set_adapter_state(self.model, point.adapter)
        if point.optimizer is not None:
            checkpoints.restore_optimizer(self.optimizer, point.optimizer.tensors, point.optimizer.meta)
        if point.rng is not None:
            checkpoints.set_rng_state(point.rng.tensors, point.rng.meta)
        state = point.state
        self.nan.restore(state["nan"])
        self.state = _State(point.step, state["tokens"], state["seconds"], list(state["losses"]))
        return point.step

    def run(self) -> Trained:
        """Train to the end, or until ``stop_asked``; the newest state is always in a checkpoint then.

        Raises NonRetriableError after too many NaN steps, and for an adapter that is not finite."""
        self.model.train()
        self.listeners.on_start()
        while self.state.step < len(self.steps) and not self.stop_asked:
            self._step(self.steps[self.state.step])
            if self.state.step % self.recipe.checkpoint_steps == 0:
                self.checkpoint()
        if self.stop_asked:
            self.checkpoint()
        else:
            finite_or_raise(adapter_state(self.model))
        s = self.state
        stopped = s.step < len(self.steps)
        return Trained(s.step, s.tokens, s.seconds, tuple(s.losses), self.nan.skipped, stopped, self.device)

    def _step(self, batch: Batch) -> None:
        import torch

        began = time.perf_counter()
        loss, tokens = self._backward(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.grad_clip))
        share = rate_share(self.state.step, len(self.steps), self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * share
        number = self.state.step + 1
        if self.nan.check(loss, norm, step=number, batch=batch.rows) == "ok":
            self.optimizer.step()
        else:
            self.listeners.on_nan(number, {"loss": loss, "grad_norm": norm})
        self.optimizer.zero_grad(set_to_none=True)
        took = time.perf_counter() - began
        s = self.state
        s.step, s.tokens, s.seconds = number, s.tokens + tokens, s.seconds + took
        if math.isfinite(loss):
            s.losses.append(loss)
        metrics = {
            "loss": loss,
            "lr": self.recipe.rate * share,
            "grad_norm": norm,
            "tokens_per_second": tokens / took,
            "epoch": batch.epoch,
            "steps": len(self.steps),
        }
        self.listeners.on_step(number, metrics)

    def _backward(self, batch: Batch) -> tuple[float, int]:
        """Gradients of the mean loss per supervised token; (loss, tokens seen without padding)."""
        ids, labels, mask = collate([self.rows[i] for i in batch.rows], self.pad)
        seen = int(mask.sum())
        loss, count = self._loss(ids, labels, mask)
        mean = loss / max(1, count)
        mean.backward()
        return float(mean.detach()), seen

    def _loss(self, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, int]:
        import torch

        on = self.device
        with torch.autocast(on, torch.bfloat16, enabled=on == "cuda"):
            return token_loss(self.model, ids.to(on), labels.to(on), mask.to(on))

    def checkpoint(self) -> Path:
        """Write everything that the run needs to go on."""
        s = self.state
        path = checkpoints.save(
            self.folder,
            s.step,
            adapter_state(self.model),
            {"tokens": s.tokens, "seconds": s.seconds, "losses": s.losses, "nan": self.nan.state()},
            optimizer=checkpoints.flatten_optimizer(self.optimizer),
            rng=checkpoints.rng_state(),
        )
        checkpoints.keep_last(self.folder, KEEP)
        self.listeners.on_checkpoint(path)
        return path
