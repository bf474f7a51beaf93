"""Hyperscan's databases, compiled once and kept in the user's cache folder.

Compiling takes a quarter of a second, loading a few milliseconds. A kept database is a file of its own,
0600, named by a hash of its expressions and of Hyperscan's version, and begins with a hash of what follows.
One that is not ours alone, is damaged, or was made for another processor is compiled anew. It holds rules
and nothing that was ever scanned.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hyperscan

from ...durable import private_dir, write_bytes

KEPT = 4
"""So many of the newest files stay when one is added."""
_SUFFIX = ".hsdb"


def database(expressions: Sequence[bytes], flags: Sequence[int]) -> hyperscan.Database:
    """A block-mode database of expressions, whose ids are their places."""
    label = repr((getattr(hyperscan, "__version__", ""), platform.machine(), list(expressions), list(flags)))
    path = cache_folder() / (hashlib.sha256(label.encode()).hexdigest()[:32] + _SUFFIX)
    return _load(path) or _keep(path, _compile(expressions, flags))


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/gastown-finetune``, else below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "gastown-finetune")


def _compile(expressions: Sequence[bytes], flags: Sequence[int]) -> hyperscan.Database:
    made = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    ids = list(range(len(expressions)))
    made.compile(expressions=list(expressions), ids=ids, elements=len(ids), flags=list(flags))
    return made


def _load(path: Path) -> hyperscan.Database | None:
    data = _read_own(path)
    size = hashlib.sha256().digest_size
    if data is None or hashlib.sha256(data[size:]).digest() != data[:size]:
        return None
    try:
        found = hyperscan.loadb(data[size:], hyperscan.HS_MODE_BLOCK)
        found.scratch = hyperscan.Scratch(found)
    except hyperscan.HyperscanError:
        return None
    return found


def _read_own(path: Path) -> bytes | None:
    """What is in a file that nobody but this user can have written; Hyperscan trusts what it loads."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as handle:
        status = os.fstat(fd)
        ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        return handle.read() if ours and stat.S_ISREG(status.st_mode) else None


def _keep(path: Path, made: hyperscan.Database) -> hyperscan.Database:
    """Write a database down where that is possible; those of earlier rules go."""
    data = hyperscan.dumpb(made)
    with suppress(OSError):
        private_dir(path.parent)
        write_bytes(path, hashlib.sha256(data).digest() + data)
        files = sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in files[KEPT:]:
            old.unlink(missing_ok=True)
    return made
