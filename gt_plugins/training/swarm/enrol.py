"""From what the operator asked for to a member of a swarm: identity, place in the run, DHT."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from .identity import allow_list, load_identity
from .member import SwarmMember
from .peers import LOOPBACK, Place, join, quiet_hivemind
from .runfile import RunFile, addresses, is_address, load_run

PRIVATE_KEY = "private.key"
"""node0's name for a peer's key file."""
EVERYWHERE = ("/ip4/0.0.0.0/tcp/49200",)
"""Where a peer of a run on several machines listens; the port is node0's."""

_LISTENER = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}")


@dataclass(frozen=True)
class SwarmRequest:
    """What an operator asks for. Empty: as the run file and ``local`` have it."""

    run: RunFile
    identity: Path
    local: bool = False
    host: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    email: str = ""

    def place(self) -> Place:
        """Where this peer listens and whom it joins by. Raises UserError for a listener that local mode
        forbids."""
        host = self.host or (LOOPBACK if self.local else EVERYWHERE)
        if self.local and any(not h.startswith(("/ip4/127.", "/ip6/::1/")) for h in host):
            raise UserError(f"--host-maddrs: --local-mode listens on loopback only, not on {', '.join(host)}")
        return Place(host, self.announce, self.seeds or self.run.peers_to_ask(self.local))


def request_for(
    run_file: Path,
    key: Path,
    local: bool,
    seeds: Sequence[str],
    host: Sequence[str],
    announce: Sequence[str],
    token: str,
    email: str,
) -> SwarmRequest:
    """The request of a command line; its addresses are checked. Raises UserError."""
    run = load_run(run_file)
    _check_listeners("--host-maddrs", host)
    _check_listeners("--announce-maddrs", announce)
    joined = addresses(tuple(seeds), "--initial-peers", "")
    return SwarmRequest(run, key, local, tuple(host), tuple(announce), joined, token, email)


def _check_listeners(option: str, given: Sequence[str]) -> None:
    for listener in given:
        if not is_address(listener, _LISTENER):
            raise UserError(f"{option}: {listener!r} is no address to listen at; write /ip4/HOST/tcp/PORT")


def enrol(
    request: SwarmRequest,
    role: str,
    base: Path,
    say: Callable[[str], None],
) -> SwarmMember:
    """Start this peer and join the run's DHT; ``member.enter(trainer, …)`` comes next.

    ``base`` is the folder of the base. Raises UserError for a wrong key, list or
    address, FinetuneError where the swarm cannot be reached in time."""
    place = request.place()
    try:
        quiet_hivemind()
        import hivemind  # noqa: F401
    except ImportError:
        raise UserError("a swarm needs hivemind: install gastown-finetune[swarm]") from None
    from .records import adapters_prefix, make_validators

    run, settings = request.run, request.run.swarm
    identity = load_identity(request.identity)
    allowed = allow_list(settings.allowed_peers, str(run.path))
    stage, authorizer = run.local_stage or role, None
    if run.asks(request.local):
        from .auth import ask_for_place

        stage, authorizer = ask_for_place(
            run.auth_server, identity, request.token, request.email, role, place
        )
    validators = make_validators(run.run_config, identity.peer_id, stage, identity, allowed)
    peers = join(place, identity, validators, settings.join_timeout, say, authorizer)
    key = f"{adapters_prefix(run.run_config, stage)}_adapters"
    try:
        for address in peers.addresses:
            say(f"this peer: {address}")
        return SwarmMember(peers, key, role, base_hash(base), settings, say, allowed=allowed)
    except BaseException:
        peers.close()
        raise


def base_hash(folder: Path) -> str:
    """A short hash of a base's weights and configuration: peers on different bases cannot average."""
    told = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        told.update(path.name.encode())
        with path.open("rb") as handle:
            told.update(hashlib.file_digest(handle, "sha256").digest())
    return told.hexdigest()[:16]
