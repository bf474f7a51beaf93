"""What a swarm's DHT takes and refuses, with real nodes on loopback; how joining fails, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarm_helpers import KEY, RUN, STAGE, start_peer

from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.training.swarm.identity import load_identity
from gt_plugins.training.swarm.peers import Peers, Place, join

HERE = Path(__file__).parent
METRICS = "training_metrics_training_metrics"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peers, Peers]]:
    """Two peers that know each other."""
    folder = tmp_path_factory.mktemp("pair")
    with start_peer(folder, "one") as one, start_peer(folder, "two", one.addresses) as two:
        yield one, two


def metrics(peers: Peers, **other: Any) -> dict[str, Any]:
    value = {"role": STAGE, "step": 3, "loss": 0.5, "tokens_per_second": 10.0, "epoch": 0}
    return {"peer_id": peers.identity.peer_id} | value | other


def store(peers: Peers, key: str, value: Any, subkey: Any = None, lifetime: float = 30.0) -> bool:
    """As a stranger's program would, past our own code."""
    from hivemind.utils import get_dht_time

    return bool(peers.dht.store(key, value, get_dht_time() + lifetime, subkey=subkey))


def test_every_address_is_on_loopback(pair: tuple[Peers, Peers]) -> None:
    for peers in pair:
        assert peers.addresses and all(a.startswith("/ip4/127.0.0.1/tcp/") for a in peers.addresses)


def test_a_signed_record_with_the_right_types_is_seen_by_the_other(pair: tuple[Peers, Peers]) -> None:
    one, two = pair
    assert one.announce(METRICS, metrics(one), 30.0)
    assert two.records(METRICS)[one.identity.peer_id] == metrics(one)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 3.0},
        {"step": "3"},
        {"step": True},
        {"loss": 1},
        {"loss": "0.5"},
        {"loss": float("nan")},
        {"tokens_per_second": None},
        {"epoch": 0.5},
        {"peer_id": 7},
        {"extra": 1},
    ],
)
def test_a_mistyped_record_is_refused(pair: tuple[Peers, Peers], wrong: dict[str, Any]) -> None:
    one, two = pair
    before = two.records(METRICS)
    assert not two.announce(METRICS, metrics(two, **wrong), 30.0)
    assert two.records(METRICS) == one.records(METRICS) == before


def test_a_record_without_a_key_is_refused(pair: tuple[Peers, Peers]) -> None:
    one, _ = pair
    missing = metrics(one)
    del missing["loss"]
    assert not one.announce(METRICS, missing, 30.0)


def test_an_unsigned_record_is_refused(pair: tuple[Peers, Peers]) -> None:
    one, _ = pair
    for subkey in (None, b"plain", one.identity.peer_id):
        assert not store(one, METRICS, metrics(one), subkey)


def test_a_record_under_a_key_that_is_not_its_signers_is_refused(pair: tuple[Peers, Peers]) -> None:
    one, two = pair
    assert one.announce(METRICS, metrics(one), 30.0)
    foreign = b"[owner:" + one.identity.public_key.encode() + b"]"
    assert not store(two, METRICS, metrics(one, loss=99.0), foreign, lifetime=60.0)
    assert one.records(METRICS)[one.identity.peer_id]["loss"] == 0.5


def test_a_record_that_claims_another_peer_is_refused(pair: tuple[Peers, Peers]) -> None:
    one, two = pair
    assert not two.announce(METRICS, metrics(two, peer_id=one.identity.peer_id), 30.0)


def test_a_record_for_ever_and_one_under_a_key_of_nobodys_are_refused(pair: tuple[Peers, Peers]) -> None:
    one, _ = pair
    assert not one.announce(METRICS, metrics(one), 86_400.0)
    assert not one.announce("something_else", metrics(one), 30.0)


def test_adapters_are_typed_as_strictly(pair: tuple[Peers, Peers]) -> None:
    one, two = pair
    numbers = {"round": 1, "step": 5, "done": 10, "total": 60, "rows": 8, "tokens": 64, "size": 9}
    entry = {**numbers, "sha256": "0" * 64}
    record = {"peer_id": one.identity.peer_id, "role": STAGE, "shape": "x", "state": "training"}
    assert one.announce(KEY, {**record, "adapters": [entry]}, 30.0)
    assert two.records(KEY)[one.identity.peer_id]["adapters"] == [entry]
    for wrong in ({**entry, "round": 1.0}, {**entry, "sha256": b"0"}, {**entry, "more": 1}, numbers):
        assert not one.announce(KEY, {**record, "adapters": [entry, wrong]}, 30.0)


def test_node0s_own_way_of_making_validators_works() -> None:
    from gt_plugins.training.swarm.records import TrainingMetricSchema, make_validators

    validators, key = make_validators(experiment_prefix="pluralis", peer_id="Qm", stage="head-0")
    kinds = [type(v).__name__ for v in validators]
    assert kinds == ["SchemaValidator", "RSASignatureValidator", "SchemaValidator"]
    assert key.startswith(b"[owner:ssh-rsa ")
    assert set(TrainingMetricSchema.__fields__) == {"training_metrics"}


def test_only_peers_on_the_operators_list_are_heard(tmp_path: Path) -> None:
    allowed = frozenset(load_identity(tmp_path / f"{name}.key").peer_id for name in ("host", "friend"))
    with (
        start_peer(tmp_path, "host", allowed=allowed) as host,
        start_peer(tmp_path, "friend", host.addresses, allowed) as known,
        start_peer(tmp_path, "stranger", host.addresses) as stranger,
    ):
        assert host.announce(METRICS, metrics(host), 30.0)
        assert known.announce(METRICS, metrics(known), 30.0)
        stranger.announce(METRICS, metrics(stranger), 30.0)  # its own node takes it; the others do not
        both = {host.identity.peer_id, known.identity.peer_id}
        assert set(host.records(METRICS)) == set(known.records(METRICS)) == both


# -- joining ----------------------------------------------------------------------------------------


def joining(folder: Path, seed: str, timeout: float = 3.0) -> tuple[str, list[str], float]:
    """What joining by a seed fails with, what it said, and how long it took."""
    from gt_plugins.training.swarm.records import make_validators

    identity, said = load_identity(folder / "late.key"), []
    validators = make_validators(RUN, identity.peer_id, STAGE, identity)
    began = time.monotonic()
    with pytest.raises(FinetuneError) as caught:
        join(Place(seeds=(seed,)), identity, validators, timeout, said.append).close()
    return str(caught.value), said, time.monotonic() - began


def test_a_seed_that_is_not_there_is_said_in_time(tmp_path: Path) -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    peer = load_identity(tmp_path / "x.key").peer_id
    message, _, took = joining(tmp_path, f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")
    assert message.startswith("no seed peer answered within 3 s: ") and "Connection refused" in message
    assert "start a seed, or name others" in message and took < 30


def test_a_seed_that_is_another_program_or_has_another_key_is_said(
    tmp_path: Path, pair: tuple[Peers, Peers]
) -> None:
    address = pair[0].addresses[0].rpartition("/")[0]
    message, _, took = joining(tmp_path, f"{address}/{load_identity(tmp_path / 'x.key').peer_id}")
    assert "did not answer as a peer" in message and took < 60


def test_one_seed_of_two_is_enough(tmp_path: Path, pair: tuple[Peers, Peers]) -> None:
    from gt_plugins.training.swarm.records import make_validators

    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{load_identity(tmp_path / 'x.key').peer_id}"
    identity, said = load_identity(tmp_path / "me.key"), []
    validators = make_validators(RUN, identity.peer_id, STAGE, identity)
    place = Place(seeds=(dead, *pair[0].addresses))
    with join(place, identity, validators, 20.0, said.append) as peers:
        assert peers.announce(METRICS, metrics(peers), 30.0)
        assert identity.peer_id in pair[1].records(METRICS)
    assert len(said) == 1 and "does not answer" in said[0] and "going on with the others" in said[0]


@pytest.mark.parametrize("skew", [-60.0, 60.0])
def test_a_clock_that_is_off_is_named(
    tmp_path: Path, pair: tuple[Peers, Peers], monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    monkeypatch.setattr("hivemind.dht.protocol.get_dht_time", lambda: time.time() + skew)
    message, _, _ = joining(tmp_path, pair[0].addresses[0], timeout=20.0)
    assert message.startswith("the clock of this machine and that of /ip4/127.0.0.1/")
    assert "differ by more than 3 s; set both by NTP" in message


def test_a_node_that_stands_still_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hivemind

    from gt_plugins.training.swarm.records import make_validators

    real, seen = hivemind.DHT.run, tmp_path / "started"

    def run(dht: hivemind.DHT) -> None:
        if not seen.exists():
            seen.touch()
            time.sleep(600)
        real(dht)

    monkeypatch.setattr(hivemind.DHT, "run", run)
    monkeypatch.setattr("gt_plugins.training.swarm.peers.ANSWER_TIMEOUT", 1.0)
    identity = load_identity(tmp_path / "me.key")
    validators = make_validators(RUN, identity.peer_id, STAGE, identity)
    with join(Place(), identity, validators, 10.0, print) as peers:
        assert seen.exists() and peers.alive and peers.addresses


def test_a_key_that_others_may_read_is_refused_before_anything_starts(tmp_path: Path) -> None:
    load_identity(tmp_path / "late.key").path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        start_peer(tmp_path, "late")


# -- ending -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dht_that_stands_still_is_ended_with_its_daemon(tmp_path: Path) -> None:
    peers = start_peer(tmp_path, "one")
    pid = peers.dht.pid
    daemons = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert daemons
    peers.dht.shutdown_timeout = 0.5
    os.kill(pid, signal.SIGSTOP)
    peers.close()
    assert not peers.alive
    deadline = time.monotonic() + 20
    while running(daemons) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(daemons)
    with start_peer(tmp_path, "two") as after:  # what is started after it answers
        assert after.addresses


def running(pids: list[str]) -> list[str]:
    """Those that are there and no zombies."""
    states = {p: Path(f"/proc/{p}/stat") for p in pids}
    return [p for p, s in states.items() if s.exists() and s.read_text().rpartition(")")[2].split()[0] != "Z"]


def test_a_peer_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from swarm_helpers import start_peer\n"
        "peer = start_peer(Path(sys.argv[1]), 'p')\n"
        "print(peer.dht.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)
    assert process.stdout is not None
    below = [int(process.stdout.readline())]
    below += [int(p) for p in Path(f"/proc/{below[0]}/task/{below[0]}/children").read_text().split()]
    assert len(below) == 2, "the DHT, and libp2p's daemon below it"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
