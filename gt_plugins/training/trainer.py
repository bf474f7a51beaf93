"""The training loop: steps over planned batches, with checkpoints from which it resumes to the bit.

It knows nothing of towns, beads or the registry (``training/run.py`` does); it is given rows and a folder
and leaves an adapter. Order of a step: forward and backward over the batch in pieces that fit, the NaN
handler's word, clip, optimizer, listeners, a look at the held-out rows, checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..rendering.render import Row
from . import checkpoints
from .adapter import adapter_state, set_adapter_state
from .callbacks import CallbackGroup
from .engine.packing import pieces
from .flat import FlatWeights
from .heldout import Best, in_batches, looks_at, sample
from .loader import Batch, plan_batches
from .losses import RowLoss, supervised
from .metrics import Meter, parameters_of
from .numerics import NanHandler, finite_or_raise
from .parallel import ALONE, Group
from .recipe import Recipe
from .schedule import rate_share

BEST = "best"
"""The folder, beside the checkpoints, of the adapter with the best held-out loss."""


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
    early: bool = False
    """It ended before its last step, as the held-out loss no longer became better."""
    heldout: Best = field(default_factory=Best)
    """The looks at the held-out rows; the adapter that is left is that of ``heldout.step`` if kept."""

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
    best: Best = field(default_factory=Best)


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
        heldout: Sequence[Row] = (),
        group: Group = ALONE,
    ) -> None:
        import torch

        self.model, self.rows, self.recipe, self.folder = model, rows, recipe, folder
        self.listeners, self.pad, self.device, self.say = listeners, pad, device, say
        self.steps = plan_batches(rows, recipe.batch_tokens, recipe.epochs, recipe.seed)
        self.group = group
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.flat = FlatWeights(self.weights)
        self.loss = RowLoss(
            *(model, device, pad),
            packing=recipe.packing,
            checkpointing=recipe.grad_checkpointing,
            eight=recipe.products == "fp8",
        )
        self.optimizer = torch.optim.AdamW(
            self.flat.vectors,
            lr=recipe.rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.99),
            fused=device in ("cuda", "cpu"),
        )
        self.nan = NanHandler(recipe.max_nan, folder)
        self.heldout = sample(heldout)
        self.looks = looks_at([b.epoch for b in self.steps], recipe.eval_steps) if heldout else frozenset()
        self.meter = Meter(parameters_of(model), device, group.size)
        self.state = _State(0, 0, 0.0, [])
        self.stop_asked, self._all_stop = False, False
        self.rate_factor = 1.0
        """What the recipe's rate is multiplied by; a swarm sets it by the number of its peers."""

    def resume(self) -> int:
        """Go on from the newest intact checkpoint; returns its step, 0 where there is none."""
        found = checkpoints.latest(self.folder)
        for problem in found.problems:
            self.say(problem)
        if found.checkpoint is None:
            if found.problems:
                self.say("no checkpoint is intact: the job begins again at step 0")
            return 0
        point = found.checkpoint
        self._put_back(point)
        if point.rng is not None:
            checkpoints.set_rng_state(point.rng.tensors, point.rng.meta)
        state = point.state
        self.nan.restore(state["nan"])
        best = Best.from_json(state["best"]) if "best" in state else Best()
        self.state = _State(point.step, state["tokens"], state["seconds"], list(state["losses"]), best)
        return point.step

    def _put_back(self, point: checkpoints.Checkpoint) -> None:
        """A checkpoint's adapter and optimizer; where the run stands is not touched."""
        set_adapter_state(self.model, point.adapter)
        self.loss.changed()
        if point.optimizer is not None:
            checkpoints.restore_optimizer(self.optimizer, point.optimizer.tensors, point.optimizer.meta)

    def run(self) -> Trained:
        """Train to the end, or until ``stop_asked``; the newest state is always in a checkpoint then.

        Raises NonRetriableError after too many NaN steps, and for an adapter that is not finite."""
        self.model.train()
        self.listeners.on_start()
        if not checkpoints.checkpoints(self.folder):
            self.checkpoint()  # a state to go back to, should numbers be lost before the first one is due
        while self.state.step < len(self.steps) and not self._ends() and not self._early():
            self._step(self.steps[self.state.step])
            if self.state.step in self.looks:
                self._look()
            if self.state.step % self.recipe.checkpoint_steps == 0:
                self.checkpoint()
        s = self.state
        stopped = s.step < len(self.steps) and not self._early()
        if stopped:
            self.checkpoint()
        else:
            self.group.wait()  # the first process may still be writing the best one
            if self._take_best() or s.step % self.recipe.checkpoint_steps:
                self.checkpoint()  # what the run came to, for whoever gathers it
            finite_or_raise(adapter_state(self.model))
        early = not stopped and s.step < len(self.steps)
        if early:
            looks = f"{s.best.worse} looks" if s.best.worse > 1 else "a look"
            self.say(
                f"stopped early at step {s.step} of {len(self.steps)}: {looks} without a better held-out loss"
            )
        skipped, losses = self.nan.skipped, tuple(s.losses)
        return Trained(s.step, s.tokens, s.seconds, losses, skipped, stopped, self.device, early, s.best)

    def _ends(self) -> bool:
        """Whether it was asked to stop; of several processes all have to know, or some wait for ever."""
        return self.stop_asked if self.group.alone else self._all_stop

    def _early(self) -> bool:
        """Whether the held-out loss has not become better for as many looks as the recipe waits."""
        return 0 < self.recipe.patience <= self.state.best.worse

    def _step(self, batch: Batch) -> None:

        began = time.perf_counter()
        loss, norm, tokens = self._gradients(batch)
        r = self.recipe
        share = rate_share(self.state.step, len(self.steps), r.warmup, r.schedule, r.decay, r.floor)
        share *= self.nan.scale * self.rate_factor
        for options in self.optimizer.param_groups:
            options["lr"] = self.recipe.rate * share
        number = self.state.step + 1
        word = self.nan.check(loss, norm, step=number, batch=batch.rows)
        if word == "ok":
            self.optimizer.step()
            self.loss.changed()
        else:
            self.listeners.on_nan(number, {"loss": loss, "grad_norm": norm, "scale": self.nan.scale})
        if word == "restore":
            self._go_back()
        self.flat.zero()
        took = time.perf_counter() - began
        s = self.state
        s.step, s.tokens, s.seconds = number, s.tokens + tokens, s.seconds + took
        if math.isfinite(loss):
            s.losses.append(loss)
        metrics = {
            "loss": loss,
            "lr": self.recipe.rate * share,
            "grad_norm": norm,
            "epoch": batch.epoch,
            "steps": len(self.steps),
            **self.meter.read(tokens, took),
        }
        self.listeners.on_step(number, metrics)

    def _gradients(self, batch: Batch) -> tuple[float, float, int]:
        """Clipped gradients of the mean loss per supervised token; (loss, gradient norm, tokens).

        Numbers are read from the device once, at the end: until then it is not waited for."""
        import torch

        rows = [self.rows[i] for i in batch.rows]
        tokens, count = sum(len(row.ids) for row in rows), max(1, supervised(rows))
        figures = torch.zeros(2, dtype=torch.float32, device=self.device)
        for part, weight in self._parts(rows):
            loss, _ = self.loss(part)
            (loss * (weight / count)).backward()
            figures[0] += loss.detach() * weight
        figures[1] = float(self.stop_asked)
        self.group.sum_up(self.flat.vectors, figures)
        norm = torch.nn.utils.clip_grad_norm_(self.flat.vectors, self.recipe.grad_clip)
        total, stop, length = torch.cat((figures, norm.float().reshape(1))).tolist()
        self._all_stop = stop > 0
        return total / count, length, tokens

    def _parts(self, rows: Sequence[Row]) -> list[tuple[Sequence[Row], float]]:
        """This process's rows of a step in pieces that fit, each with its weight in the loss.

        Through a sharded base all processes must go equally often: who has fewer pieces goes once more for
        nothing."""
        group = self.group
        cuts = [self._cut(group.share(rows, rank)) for rank in range(group.size)]
        idle = max(map(len, cuts)) - len(cuts[group.rank]) if self.loss.sharded else 0
        return [*((part, 1.0) for part in cuts[group.rank]), *[(rows[:1], 0.0)] * idle]

    def _cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        return pieces(rows, -(-sum(len(row.ids) for row in rows) // self.recipe.accumulation))

    # -- the held-out rows --------------------------------------------------------------------------

    def _look(self) -> None:
        """The held-out loss now; an adapter that is the best so far is kept apart."""
        with self.listeners.during("evaluating"):
            s, loss = self.state, self.heldout_loss()
            s.best = s.best.after(s.step, loss)
            if s.best.step == s.step and self.recipe.keep_best and self.group.first:
                checkpoints.save(self.folder / BEST, s.step, adapter_state(self.model), {"loss": loss})
                checkpoints.keep_last(self.folder / BEST, 1)
            self.listeners.on_eval(s.step, {"heldout_loss": loss, "best": s.best.loss})

    def heldout_loss(self) -> float:
        """Mean loss per supervised token over the held-out rows, without dropout."""
        import torch

        total, count, group = 0.0, 0, self.group
        batches = in_batches(self.heldout, self.recipe.batch_tokens)
        self.model.eval()
        with torch.no_grad():
            for begin in range(0, len(batches), group.size):
                mine = group.share(batches[begin : begin + group.size])
                loss, tokens = self.loss(mine[0] if mine else batches[begin])  # equally often: see _parts
                if mine:
                    total, count = total + float(loss), count + tokens
        self.model.train()
        whole, tokens_seen = group.total(total, count)
        return whole / max(1.0, tokens_seen)

    def _take_best(self) -> bool:
        """End with the adapter of the best look, where that was not the last step; whether it was taken."""
        best = self.state.best
        if not self.recipe.keep_best or best.step in (0, self.state.step):
            return False
        found = checkpoints.latest(self.folder / BEST)
        if found.checkpoint is None:
            self.say(f"the best adapter (step {best.step}) cannot be read; the last one is kept")
            return False
        set_adapter_state(self.model, found.checkpoint.adapter)
        self.loss.changed()
        self.say(f"kept the adapter of step {found.checkpoint.step}: held-out loss {best.loss:.4f}")
        return True

    # -- checkpoints --------------------------------------------------------------------------------

    def _go_back(self) -> None:
        """The adapter and optimizer of the last good state; the run goes on with the next batch."""
        found = checkpoints.latest(self.folder)
        if found.checkpoint is not None:
            self._put_back(found.checkpoint)
            self.say(f"back to the state of step {found.checkpoint.step}, at {self.nan.scale:g} of the rate")

    def checkpoint(self) -> None:
        """Write everything that the run needs to go on; of several processes the first does.

        Raises NonRetriableError for an adapter with NaN."""
        if not self.group.first:
            return
        s = self.state
        with self.listeners.during("checkpointing"):
            adapter = adapter_state(self.model)
            finite_or_raise(adapter)
            state = {"tokens": s.tokens, "seconds": s.seconds, "losses": s.losses, "nan": self.nan.state()}
            path = checkpoints.save(
                self.folder,
                s.step,
                adapter,
                state | {"best": s.best.to_json()},
                optimizer=checkpoints.flatten_optimizer(self.optimizer),
                rng=checkpoints.rng_state(),
            )
            checkpoints.keep_last(self.folder, self.recipe.keep)
            self.listeners.on_checkpoint(path)
