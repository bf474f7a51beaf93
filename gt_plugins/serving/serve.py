"""What ``gt model serve`` does: decide what to serve where, then do it here or in the background.

Deploy uses ``plan`` and ``background`` as they are: it starts the version that it has just judged, waits
until it answers, and only then moves the pointer.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..durable import private_dir, write_text
from ..errors import UserError, in_file
from ..registry.versions import Version, resolve
from ..rollout.deployed import TOKEN, client_model, read_deployment, role_dir
from ..settings import models_home
from ..town.roles import check_role
from ..town.root import Town, find_town
from . import daemon

DEFAULT_PORT = 8808
LOOPBACK = "127.0.0.1"
_SHORTEST_TOKEN = 16
_MAX_WAITING_SHUTDOWN = 5


@dataclass(frozen=True)
class Plan:
    """One endpoint to be: which version, where, with which token; ``state`` is its state file."""

    version: Version
    host: str
    port: int
    token_file: Path
    state: Path
    engine: str | None = None

    @property
    def names(self) -> list[str]:
        """Model names that it answers to: as a deployed role's client asks, then as the registry names it."""
        names = [client_model(self.version.role), self.version.model, self.version.ref]
        return list(dict.fromkeys(names))

    @property
    def url(self) -> str:
        return address(self.host, self.port)


def address(host: str, port: int) -> str:
    """The URL of a host and port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def plan(
    model: str | None = None,
    *,
    role: str | None = None,
    town: Path | None = None,
    models: Path | None = None,
    host: str = "",
    port: int | None = None,
    engine: str | None = None,
    token_file: Path | None = None,
    allow_remote: bool = False,
) -> Plan:
    """What is meant by the command's arguments. A ``role`` fills in what its deployment says; a model given
    beside it is served in that role's place and with its token, which is how deploy tries one out.

    Raises UserError for contradictions, unknown names and an address that is not allowed."""
    if role is not None:
        check_role(role)
    place = _town_of(role, town)
    deployed = read_deployment(place, role) if place is not None and role is not None else None
    if model is None and deployed is None:
        raise UserError(
            f"nothing is deployed for role {role!r}; give a MODEL" if role else "give a MODEL, or --role ROLE"
        )
    home = models_home(models if models is not None or deployed is None else deployed.models)
    reference = model if model is not None else (deployed.ref if deployed else "")
    version = resolve(home, reference, place.root if place else None, role)
    if role is not None and version.role != role:
        raise UserError(f"{version.ref} was trained for role {version.role!r}, not {role!r}")
    listen = host or (urlsplit(deployed.url).hostname if deployed else None) or LOOPBACK
    _check_host(listen, allow_remote, token_file)
    at = port if port is not None else (deployed.port if deployed else DEFAULT_PORT)
    state = _role_state(place, role) if place and role else _version_state(version)
    token = (token_file or state.parent / TOKEN).expanduser().absolute()
    return Plan(version, listen, at, token, state, engine)


def state_file(
    model: str | None, *, role: str | None = None, town: Path | None = None, models: Path | None = None
) -> Path:
    """The state file of what would be served with these arguments; for a role nothing need be deployed any
    more. Raises UserError for unknown names."""
    place = _town_of(role, town)
    if place is not None and role is not None:
        return _role_state(place, role)
    if model is None:
        raise UserError("give a MODEL, or --role ROLE")
    return _version_state(resolve(models_home(models), model, place.root if place else None))


def _role_state(town: Town, role: str) -> Path:
    return role_dir(town, check_role(role)) / daemon.STATE


def _version_state(version: Version) -> Path:
    return version.home / ".serve" / f"{version.model}-{version.version}.json"


def _town_of(role: str | None, town: Path | None) -> Town | None:
    return find_town(town) if role is not None or town is not None else None


def _check_host(host: str, allow_remote: bool, token_file: Path | None) -> None:
    """Loopback, or asked for twice: a model's endpoint on the network is for nobody by accident."""
    if not _is_loopback(host) and (not allow_remote or token_file is None):
        raise UserError(f"--host {host}: not loopback; that needs --allow-remote and --token-file FILE")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path, *, make: bool) -> str:
    """The bearer token in a file; with ``make`` a fresh one is written where none is.

    Raises UserError where the file is missing, too short, or readable by others."""
    if not path.exists() and make:
        private_dir(path.parent)
        write_text(path, secrets.token_urlsafe(32) + "\n")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(in_file(path, "", "no token can be read from it", "write one, 0600")) from None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        problem = f"a token is one line of at least {_SHORTEST_TOKEN} plain characters"
        raise UserError(in_file(path, "", problem, "write a new one"))
    if path.stat().st_mode & 0o077:
        raise UserError(in_file(path, "", "others can read the token", f"chmod 600 {path}"))
    return token


def background(plan: Plan) -> daemon.Running:
    """Serve in the background, and return once it answers. The same version at the same address is left as
    it is; another one of the same state file is ended first."""
    found = daemon.running(plan.state)
    same = found is not None and found.ref == plan.version.ref
    if found is not None and same and plan.port in (0, urlsplit(found.url).port) and daemon.answers(found):
        return found
    daemon.stop(plan.state)
    read_token(plan.token_file, make=True)
    return daemon.start(plan.state, _arguments(plan))


def _arguments(plan: Plan) -> Sequence[str]:
    """The child's command line; nothing secret stands on it."""
    words = [plan.version.ref, "--models", str(plan.version.home), "--host", plan.host]
    words += ["--port", str(plan.port), "--token-file", str(plan.token_file)]
    words += [] if _is_loopback(plan.host) else ["--allow-remote"]
    return words + (["--engine", plan.engine] if plan.engine else [])


def foreground(plan: Plan, state: Path | None = None) -> None:
    """Serve until interrupted. ``state``: a file to write once we listen (the background's)."""
    import uvicorn

    from .app import make_app
    from .load import load_version

    _log_to_stderr()
    token = read_token(plan.token_file, make=True)
    bound = _bind(plan.host, plan.port)
    try:
        responder = load_version(plan.version, plan.engine)
        app = make_app(responder, token, plan.names)
        url = address(plan.host, bound.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_MAX_WAITING_SHUTDOWN,
        )
        bound.listen(128)  # from here on a client waits instead of being refused
        _announce(plan, url, responder.name, state)
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()
        if state is not None:
            _withdraw(state)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that owns the port before minutes are spent on loading. Raises UserError where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(f"{address(host, port)}: {error.strerror or error}; choose another --port") from None
    return bound


def _announce(plan: Plan, url: str, engine: str, state: Path | None) -> None:
    if state is not None:
        daemon.write_state(state, daemon.Running(os.getpid(), url, plan.version.ref, str(plan.token_file)))
    print(f"{plan.version.ref} is served at {url} by {engine}; token in {plan.token_file}", flush=True)


def _withdraw(state: Path) -> None:
    """Remove our state file, not a successor's."""
    found = daemon.read_state(state)
    if found is not None and found.pid == os.getpid():
        state.unlink(missing_ok=True)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx", "httpcore", "uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
