"""The options of a swarm's peer, as node0 has them: ``--run``, ``--local-mode``, ``--initial-peers`` …"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..training.swarm.enrol import SwarmRequest

PANEL = "Swarm (docs/swarm.md)"


@dataclass(frozen=True)
class SwarmOptions:
    """What a command line says of a swarm; without ``run_file`` the training is alone."""

    run_file: Path | None
    local_mode: bool
    initial_peers: list[str]
    host_maddrs: list[str]
    announce_maddrs: list[str]
    identity_path: Path | None
    token: str = field(repr=False)
    email: str

    def request(self, keys: Callable[[], Path]) -> SwarmRequest | None:
        """The place in a swarm that is asked for, None for training alone; ``keys`` is the folder where a
        peer's key is kept that nobody named.

        Raises UserError for a wrong run file or address, and where a swarm is meant without a run file."""
        if self.run_file is None:
            if self.local_mode or self.initial_peers:
                raise UserError("a swarm needs its run file: pass --run run.json")
            return None
        from ..training.swarm.enrol import PRIVATE_KEY, request_for

        return request_for(
            self.run_file,
            self.identity_path or keys() / PRIVATE_KEY,
            self.local_mode,
            self.initial_peers,
            self.host_maddrs,
            self.announce_maddrs,
            self.token,
            self.email,
        )


def swarm_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options. It is called with one argument more, ``asked``; and the recipe beside the
    run file counts where ``--config`` names none. Raises UserError, when called, for a wrong run file."""

    @functools.wraps(command)
    def flagged(**given: Any) -> Any:
        asked = SwarmOptions(**{name: given.pop(name) for name in _OPTIONS})
        if asked.run_file is not None and given["config"] is None:
            from ..training.swarm.runfile import load_run

            given["config"] = load_run(asked.run_file).recipe
        return command(asked=asked, **given)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "asked"]
    made = [*own, *(_option(name, *spec) for name, spec in _OPTIONS.items())]
    flagged.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    flagged.__annotations__ = {p.name: p.annotation for p in made}
    return flagged


def _option(name: str, kind: Any, default: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _named(words: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=PANEL, **more)


def _many(name: str, words: str) -> Any:
    """An address that can be given more than once; node0's spelling is taken too."""
    return _named(f"{words} Can be given more than once.", f"--{name}", f"--{name.replace('-', '_')}")


_OPTIONS: dict[str, tuple[Any, Any, Any]] = {
    "run_file": (Path | None, None, _named("run.json: train in its swarm.", "--run")),
    "local_mode": (bool, False, _named("Peers of this machine alone.", "--local-mode")),
    "initial_peers": (list[str], [], _many("initial-peers", "Join by these, not by the file's seeds.")),
    "host_maddrs": (list[str], [], _many("host-maddrs", "Listen here (/ip4/0.0.0.0/tcp/49200).")),
    "announce_maddrs": (list[str], [], _many("announce-maddrs", "The address that others reach.")),
    "identity_path": (
        Path | None,
        None,
        _named("This peer's key (private.key with the checkpoints).", "--identity-path", "--identity_path"),
    ),
    "token": (str, "", _named("For the auth server.", "--token", envvar="NODE0_TOKEN")),
    "email": (str, "", _named("For the auth server.", "--email")),
}
"""Each with its type, its default and how it is spelled."""
