"""``run.json``: the run that a peer joins, as node0 knows it, and how its swarm averages.

run_config        name of the run; a recipe ``<run_config>.toml`` beside the file is its recipe
auth_server       where to ask for a place in the run; empty: nowhere
seeds             peers to join by: /ip4/…/tcp/…/p2p/…
bypass_auth       true: ask nobody, whatever auth_server says
local_seed_peers  the seeds of --local-mode (peers on this machine)
local_stage       the stage that the auth server would assign: peers of one stage average with each other;
                  empty: the role
swarm             the keys of ``SwarmSettings``
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...durable import parse_json
from ...errors import UserError, in_file

COMPRESSIONS = ("none", "float16")
"""hivemind's own; its kinds with 8 bits and with scaled 16 cannot be read back with numpy 2."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]{40,64}")


@dataclass(frozen=True)
class SwarmSettings:
    """How peers of a run work together. Times in seconds."""

    sync_steps: int = 20
    """Local steps between two averagings."""
    compression: str = "float16"
    averaging_timeout: float = 60.0
    """The longest that a peer waits for the others at an averaging."""
    join_timeout: float = 30.0
    """The longest that a peer tries to reach a seed."""
    lifetime: float = 30.0
    """A peer that is silent for so long is lost."""
    min_peers: int = 1
    """Peers (this one included) that must be there before the first step."""
    norm_factor: float = 5.0
    """An adapter, or its change since the last averaging, this many times larger
    than the median is dropped."""
    allowed_peers: tuple[str, ...] = ()
    """Peer ids or public keys that may take part; empty: everybody who finds the swarm."""


@dataclass(frozen=True)
class RunFile:
    """A checked ``run.json``."""

    path: Path
    run_config: str
    auth_server: str = ""
    seeds: tuple[str, ...] = ()
    bypass_auth: bool = False
    local_seed_peers: tuple[str, ...] = ()
    local_stage: str = ""
    swarm: SwarmSettings = SwarmSettings()

    @property
    def recipe(self) -> Path | None:
        """The recipe beside the file, if there is one."""
        path = self.path.parent / f"{self.run_config}.toml"
        return path if path.is_file() else None

    def asks(self, local: bool) -> bool:
        """Whether a place in the run must be asked for at the auth server."""
        return bool(self.auth_server) and not self.bypass_auth and not local

    def peers_to_ask(self, local: bool) -> tuple[str, ...]:
        """The seeds that count: those of this machine in local mode, else the run's."""
        return self.local_seed_peers if local else self.seeds


def load_run(path: Path) -> RunFile:
    """Read and check a run file. Raises UserError naming file and key."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(in_file(path, "", "not there", "pass a run file, see docs/swarm.md")) from None
    except OSError as error:
        raise UserError(in_file(path, "", error.strerror or str(error), "pass a run file")) from None
    except ValueError as error:
        raise UserError(in_file(path, "", f"not JSON ({error})", "mend it")) from None
    if not isinstance(value, dict):
        raise UserError(in_file(path, "", "not an object", "write {…}"))
    given = dict(value)
    swarm = given.pop("swarm", {})
    if not isinstance(swarm, dict):
        raise UserError(in_file(path, "swarm", "not an object", "write {…}"))
    _known(path, "", given, [f.name for f in fields(RunFile) if f.name != "path"])
    if isinstance(given.get("local_stage"), int):
        given["local_stage"] = str(given["local_stage"])
    run = RunFile(
        path.absolute(),
        _name(path, "run_config", given.get("run_config")),
        _text(path, "auth_server", given.get("auth_server", "")),
        addresses(given.get("seeds", []), path, "seeds"),
        _flag(path, "bypass_auth", given.get("bypass_auth", False)),
        addresses(given.get("local_seed_peers", []), path, "local_seed_peers"),
        _name(path, "local_stage", given["local_stage"]) if given.get("local_stage") else "",
        settings_with(SwarmSettings(), swarm, f"{path}: swarm"),
    )
    if run.auth_server and not re.match(r"https?://\S+$", run.auth_server):
        raise UserError(in_file(path, "auth_server", "not an http(s) address", 'or "" for none'))
    return run


def settings_with(settings: SwarmSettings, values: Mapping[str, Any], where: str) -> SwarmSettings:
    """The settings with some keys replaced. Raises UserError naming the key that is unknown or wrong."""
    _known(where, "", values, [f.name for f in fields(SwarmSettings)])
    clean: dict[str, Any] = {}
    for key, value in values.items():
        default = getattr(settings, key)
        if isinstance(default, tuple):
            clean[key] = _strings(where, key, value)
        elif isinstance(default, str):
            clean[key] = _text(where, key, value)
        elif isinstance(value, bool) or not isinstance(
            value, int if isinstance(default, int) else int | float
        ):
            raise UserError(in_file(where, key, f"must be {type(default).__name__}", ""))
        elif not 0 < value < 1e6:
            raise UserError(in_file(where, key, f"{value} is out of range", "more than zero"))
        else:
            clean[key] = type(default)(value)
    made = replace(settings, **clean)
    if made.compression not in COMPRESSIONS:
        raise UserError(
            in_file(where, "compression", f"{made.compression!r}", f"one of {', '.join(COMPRESSIONS)}")
        )
    if made.norm_factor <= 1:
        raise UserError(in_file(where, "norm_factor", f"{made.norm_factor} is not above 1", ""))
    return made


def addresses(value: Any, where: Path | str, key: str) -> tuple[str, ...]:
    """Addresses of peers, each checked. Raises UserError naming the first that is none."""
    found = _strings(where, key, value)
    for address in found:
        if not is_address(address, _ADDRESS):
            mend = "write /ip4/HOST/tcp/PORT/p2p/PEER, as the seed prints it"
            raise UserError(in_file(where, key, f"{address!r} is not a peer's address", mend))
    return found


def is_address(text: str, form: re.Pattern[str]) -> bool:
    """Whether a text has the form of an address, ``/…/tcp/PORT…``, with a port that there is."""
    return bool(form.fullmatch(text)) and int(text.split("/tcp/")[1].partition("/")[0]) <= 65535


def _known(where: Path | str, key: str, value: Mapping[str, Any], names: list[str]) -> None:
    for name in value:
        if name not in names:
            raise UserError(in_file(where, name, "not a key of a run", f"known: {', '.join(names)}"))


def _strings(where: Path | str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise UserError(in_file(where, key, "not a list of strings", 'write ["a", "b"]'))
    return tuple(value)


def _text(where: Path | str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(in_file(where, key, "not a string", 'write "…"'))
    return value


def _flag(where: Path | str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(in_file(where, key, "not true or false", ""))
    return value


def _name(where: Path | str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(in_file(where, key, f"{value!r} is no name", "letters, digits, '.', '_' and '-'"))
    return value
