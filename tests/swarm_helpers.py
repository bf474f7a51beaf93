"""Peers of a swarm for tests: real DHT nodes and transfers on loopback, and a small problem to train on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gt_plugins.training.loader import Batch
from gt_plugins.training.swarm.identity import load_identity
from gt_plugins.training.swarm.member import SwarmMember
from gt_plugins.training.swarm.peers import Peers, Place, join
from gt_plugins.training.swarm.runfile import SwarmSettings

RUN, STAGE = "test", "deacon"
KEY = f"{RUN}_{STAGE}_adapters"
FAST = SwarmSettings(sync_steps=5, averaging_timeout=20.0, join_timeout=20.0, lifetime=4.0)


def start_peer(
    folder: Path,
    name: str,
    seeds: tuple[str, ...] = (),
    allowed: frozenset[str] = frozenset(),
    say: Callable[[str], None] | None = None,
) -> Peers:
    """A DHT node on a free port of loopback, with an identity of its own."""
    from gt_plugins.training.swarm.records import make_validators

    identity = load_identity(folder / f"{name}.key")
    validators = make_validators(RUN, identity.peer_id, STAGE, identity, allowed)
    return join(Place(seeds=seeds), identity, validators, 20.0, say or print)


class States:
    """The trainer's listeners, as far as a member calls them: keeps the states that it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def during(self, state: str) -> Iterator[None]:
        self.told.append(state)
        yield
        self.told.append("training")


@dataclass
class State:
    step: int = 0
    tokens: int = 0


class LinearTrainer:
    """Linear regression by SGD with the interface that a member needs: quick, and with a known answer.

    A batch names the seed of its own eight examples, so that peers with one plan see the same data."""

    TOKENS = 64

    def __init__(self, batches: int = 60, size: int = 6, rate: float = 0.1) -> None:
        import torch

        self.truth = torch.randn(size, size, generator=torch.Generator().manual_seed(9))
        self.model: dict[str, Any] = {"a": torch.zeros(size, size), "b": torch.zeros(3)}
        self.steps = [Batch(0, (index,)) for index in range(batches)]
        self.state = State()
        self.listeners = States()
        self.stop_asked = False
        self.rate_factor = 1.0
        self.rate = rate
        self.seen: list[int] = []
        self.pause = 0.0

    def loss(self) -> float:
        return float((self.model["a"] - self.truth).pow(2).mean())

    def run(self, member: SwarmMember, until: int = 10**9) -> None:
        """The loop of a trainer: a step, then the listener; ends as a trainer does."""
        import time

        import torch

        while self.state.step < min(len(self.steps), until) and not self.stop_asked:
            (seed,) = self.steps[self.state.step].rows
            x = torch.randn(8, self.truth.shape[0], generator=torch.Generator().manual_seed(seed))
            gradient = x.T @ (x @ (self.model["a"] - self.truth)) / 8
            self.model["a"] = self.model["a"] - self.rate * gradient
            self.seen.append(seed)
            self.state.step += 1
            self.state.tokens += self.TOKENS
            time.sleep(self.pause)
            metrics = {"loss": self.loss(), "tokens_per_second": 100.0, "epoch": 0}
            member.on_step(self.state.step, metrics)


def read(model: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.items()}


def write(model: dict[str, Any], state: dict[str, Any]) -> None:
    model.update({name: tensor.clone() for name, tensor in state.items()})


def make_member(
    peers: Peers,
    settings: SwarmSettings = FAST,
    base: str = "base",
    kind: type[SwarmMember] = SwarmMember,
    **more: Any,
) -> Any:
    """A member of the test's stage; what it says goes to ``member.said``."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(peers.identity.peer_id[-4:], line, file=sys.stderr)

    member = kind(peers, KEY, STAGE, base, settings, say, read=read, write=write, **more)
    member.said = said  # type: ignore[attr-defined]
    return member


def together(*jobs: Callable[[], None], timeout: float = 90.0) -> None:
    """Run several peers at once, each in a thread; raises what the first of them raised."""
    problems: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if problems:
        raise problems[0]
    assert not any(thread.is_alive() for thread in threads), "a peer did not come to its end"
