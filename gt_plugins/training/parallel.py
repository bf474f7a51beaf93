"""Several processes on one host, one for each GPU, as ``torchrun`` starts them.

The rows of a step are dealt out, each process makes the gradients of its own, and their sum is every
process's gradient: the step is the same as that of one process, and so is the run. What is summed is the
adapter's gradient alone (some megabytes), in one call a step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process's number among ``size``; 0 of 1 where it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all know: checkpoints, metrics, the job."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a step's rows. They are alike in length, so parts are about equal."""
        return items[self.rank :: self.size]

    def sum_up(self, weights: Sequence[torch.nn.Parameter], figures: torch.Tensor) -> None:
        """Make each gradient and ``figures`` the sum over all processes, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for weight in weights:
            if weight.grad is not None:
                dist.all_reduce(weight.grad)
        dist.all_reduce(figures)


def join() -> Group:
    """The group that ``torchrun`` made this process a part of, by its environment; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    import torch
    import torch.distributed as dist

    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Group(rank, size)


def leave() -> None:
    """Take leave of the group, if there is one."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
