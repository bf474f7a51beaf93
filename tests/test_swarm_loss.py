"""The real trainer in a swarm of three, one killed and one late, against one peer with the same plan.

The swarm shares each batch, so it makes as many steps as one peer; what is left between them is the noise of
local steps. Judged on rows that nobody learned from."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import make_base
from swarm_helpers import KEY, STAGE, start_peer, together

from gt_plugins.rendering.render import Row
from gt_plugins.training.callbacks import CallbackGroup, Listener
from gt_plugins.training.recipe import Recipe
from gt_plugins.training.swarm.member import SwarmMember
from gt_plugins.training.swarm.runfile import SwarmSettings

RECIPE = Recipe(rank=8, alpha=16, rate=1e-2, epochs=10.0, batch_tokens=200, patience=0, keep_best=False)
SETTINGS = SwarmSettings(sync_steps=5, averaging_timeout=60.0, lifetime=4.0, min_peers=2)


LEARNT, HELD_OUT = 96, 96


def learnable_rows(count: int = LEARNT, length: int = 24) -> list[Row]:
    """Rows whose second half follows from the first: ids that step by one of three strides."""
    dice = random.Random(5)
    made = []
    for _ in range(count):
        start, stride = dice.randrange(10, 200), dice.choice((1, 2, 3))
        ids = tuple(10 + (start + stride * n) % 200 for n in range(length))
        made.append(Row(ids, ((length // 2, length),), 0, 2, 0))
    return made


class Dying(Listener):
    """At some step it freezes this peer for good, as kill -9 does: no goodbye, no DHT, no libp2p."""

    def __init__(self, member: SwarmMember, at: int) -> None:
        self.member, self.at = member, at

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        from hivemind.utils import MPFuture

        if step != self.at:
            return
        self.member._over.set()
        dht = self.member.peers.dht
        children = Path(f"/proc/{dht.pid}/task/{dht.pid}/children").read_text().split()
        with MPFuture._update_lock:  # shared by the peers of this one process; the dead would keep it
            for pid in (dht.pid, *map(int, children)):
                os.kill(pid, signal.SIGKILL)
        raise SystemExit  # past the listeners' group, which keeps exceptions from the trainer


class Peer:
    """A trainer of the small base, in a swarm or alone."""

    def __init__(self, folder: Path, name: str, rows: list[Row], lock: threading.Lock) -> None:
        from gt_plugins.training.adapter import add_adapter, load_base
        from gt_plugins.training.trainer import Trainer

        with lock:
            self.model = add_adapter(load_base(folder / "base", "cpu"), RECIPE)
        self.folder, self.rows, self.listeners = folder / name, rows, CallbackGroup([])
        checkpoints = self.folder / "checkpoints"
        self.trainer = Trainer(
            self.model, rows, RECIPE, checkpoints, self.listeners, pad=0, device="cpu", say=print
        )

    def join(self, member: SwarmMember, *listeners: Listener) -> None:
        self.listeners.listeners += [member, *listeners]
        self.folder.mkdir(parents=True, exist_ok=True)
        member.enter(self.trainer, self.folder)
        self.trainer.run()
        member.close()

    def loss(self, rows: list[Row]) -> float:
        """Mean loss per supervised token of rows."""
        self.trainer.heldout = rows
        return self.trainer.heldout_loss()


@pytest.mark.slow
def test_a_swarm_with_a_killed_and_a_late_peer_finishes_and_learns(tmp_path: Path) -> None:
    import torch

    from gt_plugins.training.adapter import adapter_state, quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    make_base(tmp_path / "base")
    lock, drawn = threading.Lock(), learnable_rows(LEARNT + HELD_OUT)
    rows, unseen = drawn[:LEARNT], drawn[LEARNT:]
    alone, *three = (Peer(tmp_path, name, rows, lock) for name in ("alone", "first", "killed", "late"))
    before = alone.loss(unseen)
    alone.trainer.run()

    dhts = [start_peer(tmp_path, "first")]
    dhts += [start_peer(tmp_path, name, dhts[0].addresses) for name in ("killed", "late")]
    members = [SwarmMember(d, KEY, STAGE, "base", SETTINGS, print) for d in dhts]
    first, killed, late = zip(three, members, strict=True)

    def be_killed() -> None:
        with pytest.raises(SystemExit):
            killed[0].join(killed[1], Dying(killed[1], at=28))

    def come_late() -> None:
        while first[0].trainer.state.step < 12:
            time.sleep(0.02)
        late[0].join(late[1])

    together(lambda: first[0].join(first[1]), be_killed, come_late, timeout=400)
    states = [adapter_state(p.model) for p in (first[0], late[0])]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    tokens = sum(p.trainer.state.tokens for p in three)
    share = tokens / alone.trainer.state.tokens
    losses = [p.loss(unseen) for p in (alone, first[0])]
    print(f"base {before:.4f}, one peer {losses[0]:.4f}, swarm {losses[1]:.4f}: {losses[1] / losses[0]:.3f}")
    print(f"tokens {share:.3f} of one peer's, steps {[p.trainer.state.step for p in three]}")
    assert 0.9 < share < 1.1
    assert losses[0] < 0.8 * before, "there was something to learn"
    assert losses[1] <= 1.05 * losses[0]
