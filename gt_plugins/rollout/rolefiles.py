"""Writing and removing ``<town>/.finetune/<role>/``, and putting the old files back when a deploy fails."""

from __future__ import annotations

import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..durable import private_dir, write_bytes, write_text
from ..errors import FinetuneError, RetriableError
from ..registry.versions import ROLE_FILES, Version
from ..roles.profile import load_profile
from ..town.root import Town
from . import wrapper
from .client_settings import rigs_of
from .deployed import (
    CHANGING,
    TOKEN,
    WRAPPER,
    Deployment,
    deployed_roles,
    read_token,
    role_dir,
    write_deployment,
)
from .refresh import refresh

FIRST_PORT, PORTS = 18800, 1000
LOCK_SECONDS = 120.0
_RUNTIME = ("serve.json", "serve.log", "starts.log")


def write_role(town: Town, version: Version, deployment: Deployment) -> None:
    """Write all files of a deployed role; while they change, the wrapper starts the stock agent."""
    folder = town.own_dir(role_dir(town, deployment.role))
    write_text(folder / CHANGING, "a deploy is at work\n")
    for name in ROLE_FILES:
        write_bytes(folder / name, (version.role_dir / name).read_bytes())
    if not read_token(town, deployment.role):
        write_text(folder / TOKEN, secrets.token_hex(32) + "\n")
    write_deployment(town, deployment)
    for rig in rigs_of(town, deployment.role):
        refresh(town, deployment, rig)
    if not (folder / "starts.log").exists():
        write_text(folder / "starts.log", "")
    tools = load_profile(deployment.role, folder).tools
    write_bytes(folder / WRAPPER, wrapper.script(town, deployment, tools).encode(), mode=0o700)


def finished(town: Town, role: str) -> None:
    """From now on the wrapper may start the tuned agent."""
    (role_dir(town, role) / CHANGING).unlink(missing_ok=True)


def clear_role(town: Town, role: str) -> None:
    """Leave of a role only its wrapper: gt may still start a pane anew with the command of before."""
    folder = role_dir(town, role)
    if not folder.is_dir():
        return
    (folder / "role.json").unlink(missing_ok=True)  # first: the wrapper then starts the stock agent
    for path in folder.iterdir():
        if path.name not in (WRAPPER, "starts.log"):
            path.unlink() if not path.is_dir() else shutil.rmtree(path)


@contextmanager
def kept(town: Town, role: str) -> Iterator[None]:
    """Put a role's files back as they were if the block raises."""
    folder, copy = role_dir(town, role), town.finetune_dir / f".before-{role}"
    shutil.rmtree(copy, ignore_errors=True)
    there = folder.is_dir()
    if there:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*_RUNTIME))
        private_dir(copy)
    try:
        yield
    except BaseException:
        if there:
            for path in copy.iterdir():
                write_bytes(folder / path.name, path.read_bytes(), path.stat().st_mode & 0o777)
            new = {p.name for p in folder.iterdir()} - {p.name for p in copy.iterdir()} - set(_RUNTIME)
            for name in new:
                (folder / name).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def town_lock(town: Town, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """One deploy or rollback at a time in a town. Raises RetriableError when another one keeps it."""
    from filelock import FileLock, Timeout

    town.own_dir(town.finetune_dir)
    lock = FileLock(town.finetune_dir / ".lock", mode=0o600, is_singleton=True)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise RetriableError(f"{town.finetune_dir}: another deploy is at work; try again") from None
    try:
        yield
    finally:
        lock.release()


def choose_port(town: Town, role: str) -> int:
    """A free port, the same one for the same town and role where it can be. Raises FinetuneError."""
    taken = {d.port for d in deployed_roles(town) if d.role != role}
    start = zlib.crc32(f"{town.root}:{role}".encode())
    for step in range(PORTS):
        port = FIRST_PORT + (start + step) % PORTS
        if port not in taken and _free(port):
            return port
    raise FinetuneError(f"no free port between {FIRST_PORT} and {FIRST_PORT + PORTS - 1} on 127.0.0.1")


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def remove_all(town: Town) -> None:
    """Delete every role's folder and our records in ``.finetune`` (an uninstall)."""
    for path in list(town.finetune_dir.iterdir()) if town.finetune_dir.is_dir() else []:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name in (".lock", "pointers.json"):
            path.unlink()


def existing_folders(town: Town) -> list[Path]:
    """The role folders that are there, deployed or cleared."""
    if not town.finetune_dir.is_dir():
        return []
    return sorted(p for p in town.finetune_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
