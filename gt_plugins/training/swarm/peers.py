"""This peer in the swarm's DHT: joining it by its seeds, announcing itself, finding the others.

The DHT runs in a process of its own (hivemind's ``DHT``) with libp2p's daemon below it; both end when this
process does, however it ends. Nothing here asks for a relay, a hole in a NAT, or a public bootstrap.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FinetuneError, NonRetriableError, RetriableError, call_with_retries
from .identity import Identity

if TYPE_CHECKING:
    from hivemind import DHT

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ANSWER_TIMEOUT = 20.0
"""Seconds after which a DHT that does not answer is taken for dead."""
PROBE_TIMEOUT = 3.0
STARTS = 2
"""How often the DHT's process is started. A process forked beside running threads can stand still over a
lock that one of them held, and a busy machine can start it late: the next one does not."""


@dataclass(frozen=True)
class Place:
    """Where a peer listens, what it says its address is, and whom it joins by."""

    host: tuple[str, ...] = LOOPBACK
    announce: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()


class Peers:
    """A running DHT node. Close it, or leave its ``with`` block."""

    def __init__(self, dht: DHT, identity: Identity, owner: bytes) -> None:
        self.identity = identity
        self._dht, self._owner = dht, owner
        self._pipe = threading.Lock()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can join by this peer. Raises RetriableError where its DHT does not answer."""
        from hivemind import DHT

        return tuple(str(a) for a in self._ask("run_coroutine", DHT._get_visible_maddrs))

    @property
    def dht(self) -> DHT:
        """hivemind's own handle, for what shares its libp2p daemon."""
        return self._dht

    @property
    def alive(self) -> bool:
        """Whether the DHT's process runs."""
        return self._dht.is_alive()

    def announce(self, key: str, value: Mapping[str, Any], lifetime: float) -> bool:
        """Store this peer's signed record under ``key`` for ``lifetime`` seconds; says whether it was
        taken."""
        from hivemind.utils import get_dht_time

        stored = self._ask("store", key, dict(value), get_dht_time() + lifetime, subkey=self._owner)
        return bool(stored)

    def records(self, key: str) -> dict[str, dict[str, Any]]:
        """The live records under ``key`` by peer id; those that the validators refuse are not among them."""
        found = self._ask("get", key, latest=True)
        if found is None or not isinstance(found.value, dict):
            return {}
        values = (entry.value for entry in found.value.values())
        return {v["peer_id"]: v for v in values if isinstance(v, dict) and isinstance(v.get("peer_id"), str)}

    def _ask(self, what: str, *args: Any, **named: Any) -> Any:
        """A call of the DHT's, which must answer in time. Raises RetriableError where it does not."""
        if not self.alive:
            raise RetriableError("the DHT of this peer has ended")
        try:
            with self._pipe:
                future = getattr(self._dht, what)(*args, return_future=True, **named)
            return future.result(timeout=ANSWER_TIMEOUT)
        except TimeoutError:
            raise RetriableError(f"the DHT did not answer within {ANSWER_TIMEOUT:.0f} s") from None
        except OSError as error:  # its pipe was closed meanwhile
            raise RetriableError(f"the DHT of this peer has ended ({error})") from None

    def close(self) -> None:
        """End the DHT's process. It gets the time to end by itself: one that is killed while it answers can
        keep the lock under which all of hivemind's processes of this family do."""
        with self._pipe:
            self._dht.shutdown()
        self._dht.join(1.0)
        _kill(self._dht)

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join(
    place: Place,
    identity: Identity,
    validators: tuple[list[Any], bytes],
    timeout: float,
    say: Callable[[str], None],
    authorizer: Any = None,
) -> Peers:
    """Start this peer's DHT node and join by the seeds of ``place``; without seeds it is the first peer.

    Raises FinetuneError within about ``timeout`` seconds where no seed can be reached, where the clocks of
    this machine and of a seed differ too much, or where the node cannot start. A node that says nothing at
    all is started once more."""
    quiet_hivemind()
    seeds = _reachable([s for s in place.seeds if not s.endswith(f"/{identity.peer_id}")], timeout, say)
    options: dict[str, Any] = {"announce_maddrs": list(place.announce)} if place.announce else {}
    if authorizer is not None:
        options["authorizer"] = authorizer
    owned = _owned_dht()

    def start() -> DHT:
        dht = owned(
            initial_peers=seeds,
            start=False,
            host_maddrs=list(place.host),
            identity_path=str(identity.path),
            check_if_identity_free=False,  # the check would open a peer with a NAT helper
            record_validators=validators[0],
            use_ipfs=False,
            use_relay=False,
            use_auto_relay=False,
            auto_nat=False,
            nat_port_map=False,
            startup_timeout=timeout,
            shutdown_timeout=ANSWER_TIMEOUT,
            **options,
        )
        try:
            dht.run_in_background(timeout=timeout + ANSWER_TIMEOUT)
        except Exception as error:
            _end(dht)
            raise _told(error, seeds) from None
        return dht

    dht = call_with_retries(start, STARTS, 0.5)
    return Peers(dht, identity, validators[1])


def _end(dht: DHT) -> None:
    """End a DHT's process that did not come up. One that has said why ends by itself: killed while it still
    holds the lock under which hivemind's processes answer, it would silence every other one for good."""
    dht.join(ANSWER_TIMEOUT if dht._ready.done() else 0)
    _kill(dht)


def _kill(dht: DHT) -> None:
    """Kill a DHT's process that would not end, and libp2p's daemon below it; what is started after it has
    a lock of its own."""
    from hivemind.utils import MPFuture

    if dht.is_alive():
        below = Path(f"/proc/{dht.pid}/task/{dht.pid}/children")
        daemons = below.read_text(encoding="ascii").split() if below.exists() else []
        dht.kill()
        for pid in map(int, daemons):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        dht.join()
        MPFuture.reset_backend()


def _reachable(seeds: Sequence[str], timeout: float, say: Callable[[str], None]) -> list[str]:
    """The seeds whose port answers, tried again until the time is over. Raises RetriableError for none."""
    if not seeds:
        return []
    deadline = time.monotonic() + timeout

    def look() -> list[str]:
        with ThreadPoolExecutor(len(seeds)) as pool:
            problems = dict(zip(seeds, pool.map(_problem, seeds), strict=True))
        there = [s for s in seeds if not problems[s]]
        if not there:
            told = "; ".join(f"{s} ({p})" for s, p in problems.items())
            message = f"no seed peer answered within {timeout:.0f} s: {told}; start a seed, or name others"
            raise (RetriableError if time.monotonic() < deadline else NonRetriableError)(message)
        for seed in (s for s in seeds if problems[s]):
            say(f"seed {seed} does not answer ({problems[seed]}); going on with the others")
        return there

    return call_with_retries(look, 1000, 0.5, max_delay=2.0)


def _problem(seed: str) -> str:
    """Why a seed's port does not answer, or the empty string."""
    _, _, host, _, port, *_ = seed.split("/")
    try:
        socket.create_connection((host, int(port)), PROBE_TIMEOUT).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def _told(error: Exception, seeds: Sequence[str]) -> FinetuneError:
    """What a failed start means for the operator."""
    text = " ".join(str(error).split()) or type(error).__name__
    by = ", ".join(seeds)
    if "local time must be within" in text:
        return NonRetriableError(
            f"the clock of this machine and that of {by} differ by more than 3 s; set both by NTP ({text})"
        )
    if "can't access this node" in text:
        return NonRetriableError(f"{by} cannot reach this peer; open its port, or announce the right address")
    if "bootstrap" in text:
        return NonRetriableError(f"{by} did not answer as a peer; is another program or key at that address?")
    kind = RetriableError if isinstance(error, TimeoutError) else NonRetriableError
    return kind(f"this peer's DHT did not start: {text}")


def quiet_hivemind() -> None:
    """Keep hivemind and libp2p from writing over the live display; what matters is said by us."""
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    os.environ.setdefault("GOLOG_LOG_LEVEL", "error")


def _owned_dht() -> type[DHT]:
    """A DHT process that ends with its parent, even by kill -9, and takes libp2p's daemon with it.

    As hivemind has it, both would live on, and the others would take the dead peer for one that listens."""
    from hivemind import DHT

    class OwnedDHT(DHT):
        def run(self) -> None:
            threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()
            super().run()

        def _watch(self) -> None:
            while os.getppid() == self._parent_pid:
                time.sleep(0.5)
            node = getattr(self, "_node", None)
            if node is not None and node.p2p._child is not None:
                node.p2p._child.kill()
            os._exit(1)

    return OwnedDHT
