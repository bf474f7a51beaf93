"""Several processes on one host, one for each GPU, as ``torchrun`` starts them.

The rows of a step are dealt out, each process makes the gradients of its own, and their sum is every
process's gradient: the step is the same as that of one process, and so is the run. What is summed is the
adapter's gradient alone (some megabytes), in one call a step. The first process has the job: it writes
checkpoints, tells the states and registers the version; the others make steps and write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, items: Sequence[T], rank: int | None = None) -> Sequence[T]:
        """A process's part of a step's rows, this one's where none is named. They are alike in length, so
        parts are about equal."""
        return items[self.rank if rank is None else rank :: self.size]

    def sum_up(self, weights: Sequence[torch.nn.Parameter], figures: torch.Tensor) -> None:
        """Make each gradient and ``figures`` the sum over all processes, in place."""
        if self.alone:
            return
        import torch.distributed as dist

        for weight in weights:
            if weight.grad is not None:
                dist.all_reduce(weight.grad)
        dist.all_reduce(figures)

    def total(self, *figures: float) -> tuple[float, ...]:
        """Each figure summed over all processes; the same bits in each of them."""
        if self.alone:
            return figures
        import torch
        import torch.distributed as dist

        summed = torch.tensor(figures, dtype=torch.float64, device=_device())
        dist.all_reduce(summed)
        return tuple(summed.tolist())

    def once(self, make: Callable[[], str]) -> str:
        """What ``make`` gives in the first process, in all of them; it is called there alone."""
        if self.alone:
            return make()
        import torch
        import torch.distributed as dist

        told = make().encode() if self.first else b""
        length = torch.tensor([len(told)], device=_device())
        dist.broadcast(length, 0)
        text = torch.zeros(int(length), dtype=torch.uint8, device=_device())
        if told:
            text.copy_(torch.frombuffer(bytearray(told), dtype=torch.uint8))
        if len(text):
            dist.broadcast(text, 0)
        return bytes(text.tolist()).decode()

    def wait(self) -> None:
        """Until all processes have come here."""
        self.total(0.0)


ALONE = Group()


def expected() -> int:
    """How many processes ``torchrun`` has started, by the environment; imports nothing."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Group:
    """The group that ``torchrun`` made this process a part of, by its environment; alone without it."""
    size = expected()
    if size == 1:
        return ALONE
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


@contextmanager
def together() -> Iterator[Group]:
    """The group for the length of a block; alone costs nothing."""
    group = join()
    try:
        yield group
    finally:
        if not group.alone:
            leave()


def _device() -> str:
    import torch.distributed as dist

    return "cuda" if dist.get_backend() == "nccl" else "cpu"
