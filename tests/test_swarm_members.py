"""Members of a swarm with real peers: they learn together, come late, die, are left out when wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarm_helpers import FAST, STAGE, LinearTrainer, make_member, read, start_peer, together

from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.training.monitor import MonitorWorker
from gt_plugins.training.swarm.member import SwarmMember
from gt_plugins.training.swarm.peers import Peers

HERE = Path(__file__).parent
Start = Callable[..., Peers]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start peers that know the first; all are closed in the end."""
    with ExitStack() as stack:
        made: list[Peers] = []

        def begin(name: str, **more: Any) -> Peers:
            seeds = made[0].addresses if made and made[0].alive else ()
            made.append(stack.enter_context(start_peer(tmp_path, name, seeds, **more)))
            return made[-1]

        yield begin


def train(member: SwarmMember, trainer: LinearTrainer, folder: Path, life: Any = None) -> None:
    member.enter(trainer, folder, life)
    trainer.run(member)
    member.on_end("done")


def events(member: SwarmMember, kind: str) -> list[dict[str, Any]]:
    lines = (member.folder / "swarm.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def same(*trainers: LinearTrainer) -> bool:
    import torch

    first, *others = trainers
    return all(torch.equal(first.model[n], t.model[n]) for t in others for n in first.model)


def test_three_peers_go_through_one_plan_and_end_with_one_adapter(start: Start, tmp_path: Path) -> None:
    settings = replace(FAST, min_peers=3)
    members = [make_member(start(n), settings) for n in "abc"]
    trainers = [LinearTrainer() for _ in members]
    together(
        *(
            lambda m=m, t=t, n=n: train(m, t, tmp_path / n)
            for m, t, n in zip(members, trainers, "abc", strict=True)
        )
    )
    assert same(*trainers)
    assert sorted(i for t in trainers for i in t.seen) == list(range(60)), "each batch once, by one of them"
    assert trainers[0].loss() < 0.1 * LinearTrainer().loss()
    for member, trainer in zip(members, trainers, strict=True):
        assert [len(e["peers"]) for e in events(member, "border")] == [2] * 5
        assert trainer.listeners.told == ["syncing", "training"] * 4
        assert not events(member, "dropped")


def test_what_they_measure_stands_in_the_dht(start: Start, tmp_path: Path) -> None:
    first, other = start("a"), start("b")
    member, trainer = make_member(first), LinearTrainer()
    member.enter(trainer, tmp_path)
    trainer.run(member, until=7)
    found = other.records("training_metrics_training_metrics")[first.identity.peer_id]
    assert found["role"] == STAGE and found["step"] == 5 and math.isfinite(found["loss"])
    member.close()


def test_a_peer_that_comes_late_takes_over_what_was_reached(start: Start, tmp_path: Path) -> None:
    early, late = make_member(start("a")), make_member(start("b"))
    first, second = LinearTrainer(), LinearTrainer()
    first.pause = 0.05
    reached: list[float] = []

    def come_late() -> None:
        while first.state.step < 20:
            time.sleep(0.02)
        late.enter(second, tmp_path / "b")
        reached.append(second.loss())
        second.pause = 0.05
        second.run(late)
        late.on_end("done")

    together(lambda: train(early, first, tmp_path / "a"), come_late)
    assert reached[0] < 0.3 * LinearTrainer().loss(), "it did not begin anew"
    assert same(first, second)
    assert 0 < len(second.seen) <= 25 and len(first.seen) < 60, "they shared what was left"
    assert any("joining 1 peers at round" in line for line in late.said)


@pytest.mark.slow
def test_a_killed_peer_is_missed_and_the_others_finish(start: Start, tmp_path: Path) -> None:
    settings = replace(FAST, min_peers=3)
    members = [make_member(start(n), settings) for n in "ab"]
    trainers = [LinearTrainer(batches=120) for _ in members]
    for trainer in trainers:
        trainer.pause = 0.1
    address = members[0].peers.addresses[0]
    command = [sys.executable, str(HERE / "swarm_peer.py"), str(tmp_path), "victim", address]
    victim = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None and victim.stdout.readline().startswith("/ip4/127.0.0.1/")
    told: list[tuple[str, str]] = []
    monitors = [MonitorWorker(Told(told), every=0.2, peers=m.company) for m in members]

    def kill() -> None:
        while trainers[0].state.step < 12:
            time.sleep(0.05)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()

    def go(index: int) -> None:
        monitors[index].on_start()
        train(members[index], trainers[index], tmp_path / str(index))
        monitors[index].on_end("done")

    together(lambda: go(0), lambda: go(1), kill, timeout=180)
    assert same(*trainers)
    assert any("is lost" in line for line in members[0].said)
    sizes = [len(e["peers"]) for e in events(members[0], "border")]
    assert sizes[1] == 2 and sizes[-1] == 1
    assert ("degraded", "1 of 2 peers are lost") in told
    assert told[-1][0] == "recovered", "well again after some rounds without it"
    done = len(set(trainers[0].seen) | set(trainers[1].seen))
    assert done >= 120 - 12 - FAST.sync_steps, "all that the dead one had not taken"


class Told:
    """Keeps what a monitor reports."""

    def __init__(self, told: list[tuple[str, str]]) -> None:
        self.told = told

    def degrade(self, reason: str) -> None:
        self.told.append(("degraded", reason))

    def recover(self, reason: str = "") -> None:
        self.told.append(("recovered", reason))

    def fail(self, reason: str) -> None:
        self.told.append(("failed", reason))


def poisoned(how: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a bad peer reads of its own model, to send it to the others."""

    def bad(model: dict[str, Any]) -> dict[str, Any]:
        import torch

        state = read(model)
        if how == "nan":
            state["a"][0, 0] = math.nan
        elif how == "huge":
            state["a"] = state["a"] * 1e6 + 1e6
        elif how == "shape":
            state["a"] = torch.zeros(2, 2)
        return state

    return bad


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nan", "1 of 36 numbers are not finite"),
        ("huge", "more than 5 times the median"),
        ("shape", "shape (2, 2) where ours is (6, 6)"),
    ],
)
def test_a_bad_adapter_is_dropped_and_its_peer_reported(
    start: Start, tmp_path: Path, how: str, reason: str
) -> None:
    settings = replace(FAST, min_peers=3, averaging_timeout=10.0, compression="none")
    peers = [start(n) for n in ("a", "b", "bad")]
    notes: list[dict[str, Any]] = []
    members = [make_member(p, settings) for p in peers[:2]]
    trainers = [LinearTrainer(batches=45) for _ in members]
    for trainer in trainers:
        write_start(trainer)
    bad = make_member(peers[2], settings, kind=Poisoner)
    together(
        lambda: train(members[0], trainers[0], tmp_path / "a", Notes(notes)),
        lambda: train(members[1], trainers[1], tmp_path / "b"),
        lambda: bad.attend(LinearTrainer(batches=45), tmp_path / "bad", how, members[0].board.me),
    )
    assert same(*trainers) and math.isfinite(trainers[0].loss()) and trainers[0].loss() < 1.0
    for member in members:
        dropped = events(member, "dropped")
        assert {e["peer"] for e in dropped} == {peers[2].identity.peer_id}
        assert any(reason in e["reason"] for e in dropped) and len(dropped) == 3
        assert any("not asked again" in line for line in member.said)
    assert any(reason in str(n.get("dropped_peer")) for n in notes)


def test_a_peer_that_meets_only_a_bad_one_takes_nothing_over(start: Start, tmp_path: Path) -> None:
    settings = replace(FAST, min_peers=2, averaging_timeout=10.0, compression="none")
    bad, late = make_member(start("bad"), settings, kind=Poisoner), make_member(start("late"), settings)
    bad.appear(LinearTrainer(batches=10), tmp_path / "bad", "huge", late.board.me)
    trainer = LinearTrainer(batches=10)
    write_start(trainer)
    before = trainer.loss()
    late.enter(trainer, tmp_path / "late")
    assert trainer.loss() == before, "it begins from its own"
    assert "more than 20 times a fresh one's" in events(late, "dropped")[0]["reason"]
    late.close()
    bad.close()


def write_start(trainer: LinearTrainer) -> None:
    """Adapters of some size from the start: of zeros, every other is absurdly many times larger."""
    trainer.model["a"] += 1.0


class Notes:
    def __init__(self, notes: list[dict[str, Any]]) -> None:
        self.notes = notes

    def note(self, **metadata: Any) -> None:
        self.notes.append(metadata)


class Poisoner(SwarmMember):
    """A peer that trains along and sends nonsense, under a true hash and a true signature."""

    def appear(self, trainer: LinearTrainer, folder: Path, how: str, company: str) -> None:
        write_start(trainer)
        self.folder = folder
        self._read, self._company = poisoned(how), company
        self.board.shape = shape_of_honest(trainer)
        self._trainer, self._plan, self._total = trainer, tuple(trainer.steps), len(trainer.steps)
        self._offer(self._read(trainer.model), 0, 0, 0, 0)

    def attend(self, trainer: LinearTrainer, folder: Path, how: str, company: str) -> None:
        self.appear(trainer, folder, how, company)
        self._average(0, {}, 0)
        trainer.run(self)
        self.close()

    def _average(self, at: int, state: Any, done: int, reference: Any = None) -> Any:
        """It keeps what it has: it is there to harm."""
        own = read(self._trainer.model)
        return self._go_on(at, self._trainer.state.step, done, [self._company], own)


def shape_of_honest(trainer: LinearTrainer) -> str:
    from gt_plugins.training.swarm.member import shape_of

    return shape_of(read(trainer.model), "base")


def test_a_peer_that_sends_other_bytes_than_it_announced_is_dropped(start: Start, tmp_path: Path) -> None:
    a, b = start("a"), start("b")
    honest, liar = make_member(a), make_member(b)
    first, second = LinearTrainer(batches=20), LinearTrainer(batches=20)
    honest.enter(first, tmp_path)
    liar.board.shape, liar._trainer, liar._total = honest.board.shape, second, 20
    sha256 = liar._exchange.offer(b"x" * 100)
    liar._exchange._blobs[sha256] = b"y" * 100
    from gt_plugins.training.swarm.board import Entry

    liar._entries = (Entry(1, 5, 5, 20, 1, 64, 100, sha256),)
    liar._announce()
    first.run(honest, until=5)
    (dropped,) = events(honest, "dropped")
    assert dropped["reason"] == "sent other bytes than it announced"
    assert dropped["peer"] == b.identity.peer_id
    liar.close()
    honest.close()


def test_another_recipe_or_base_is_refused_at_the_door(start: Start, tmp_path: Path) -> None:
    here = make_member(start("a"))
    here.enter(LinearTrainer(), tmp_path / "a")
    other = make_member(start("b"), base="another")
    with pytest.raises(UserError, match="train another base or another shape of adapter"):
        other.enter(LinearTrainer(), tmp_path / "b")
    other.board.announce(STAGE, "training", here._entries, 30.0)  # it stays all the same
    assert here.board.look() == {} and here.company() == (0, 0)
    assert any("left out" in line for line in here.said)
    other.close()
    here.close()


def test_a_swarm_that_is_done_takes_nobody_in(start: Start, tmp_path: Path) -> None:
    here, late = make_member(start("a")), make_member(start("b"))
    trainer = LinearTrainer(batches=10)
    here.enter(trainer, tmp_path / "a")
    trainer.run(here)
    with pytest.raises(NonRetriableError, match="end of its plan"):
        late.enter(LinearTrainer(batches=10), tmp_path / "b")
    late.close()
    here.close()


def test_alone_it_trains_as_without_a_swarm(start: Start, tmp_path: Path) -> None:
    member, trainer = make_member(start("a")), LinearTrainer()
    plain = LinearTrainer()
    train(member, trainer, tmp_path)
    plain.run(Deaf())  # type: ignore[arg-type]
    assert trainer.seen == plain.seen and same(trainer, plain), "nothing is lost to compression either"


class Deaf:
    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        pass


def test_a_resumed_job_goes_on_where_the_swarm_stood(start: Start, tmp_path: Path) -> None:
    first, trainer = make_member(start("a")), LinearTrainer()
    first.enter(trainer, tmp_path)
    trainer.run(first, until=20)
    first.close()
    again, resumed = make_member(start("b")), LinearTrainer()
    resumed.model, resumed.state.step = read(trainer.model), 20
    train(again, resumed, tmp_path)
    assert trainer.seen + resumed.seen == list(range(60))
