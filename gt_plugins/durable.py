"""Writes that survive a crash: all of it or none of it, private whatever the umask.

The order is litestream's and SQLite's: write a sibling temporary file, fsync it, rename it over the
target, fsync the folder. Folders are 0700 and files 0600.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700


def private_dir(path: Path) -> Path:
    """Make ``path`` (and its missing parents) with mode 0700 and return it; an existing folder is tightened."""
    missing = [p for p in [path, *path.parents] if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        os.chmod(folder, PRIVATE_DIR)
    os.chmod(path, PRIVATE_DIR)
    return path


def fsync_dir(path: Path) -> None:
    """Make a rename or a new name inside ``path`` durable; a no-op where folders cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace ``path`` by ``data`` atomically. Raises OSError (e.g. ENOSPC) with the old file untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_text(path: Path, text: str, mode: int = PRIVATE_FILE) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_json(path: Path, value: Any, mode: int = PRIVATE_FILE) -> None:
    """``write_text`` of indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line in a single ``write`` on O_APPEND and fsync it, so that writers never interleave."""
    private_dir(path.parent)
    line = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")
    fresh = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    try:
        if fresh:
            os.fchmod(fd, PRIVATE_FILE)
        elif _ends_torn(path):
            line = b"\n" + line
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)
    if fresh:
        fsync_dir(path.parent)


def _ends_torn(path: Path) -> bool:
    """True where a crash left a last line without its newline: the next record must not join it."""
    with path.open("rb") as handle:
        if handle.seek(0, os.SEEK_END) == 0:
            return False
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) != b"\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a journal; torn or foreign lines are passed over."""
    if not path.exists():
        return
    with path.open("rb") as handle:
        for raw in handle:
            try:
                value = json.loads(raw)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


@contextmanager
def staged_dir(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``target`` in one rename when the block ends, or vanishes if it raises.

    Raises FileExistsError when ``target`` is already there: what is published is never changed.
    """
    if target.exists():
        raise FileExistsError(target)
    private_dir(target.parent)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield stage
        fsync_tree(stage)
        os.rename(stage, target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    fsync_dir(target.parent)


def fsync_tree(folder: Path) -> None:
    """Make every file below ``folder`` private and durable."""
    for base, folders, files in os.walk(folder):
        for name in folders:
            os.chmod(Path(base, name), PRIVATE_DIR)
        for name in files:
            path = Path(base, name)
            os.chmod(path, PRIVATE_FILE)
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_dir(Path(base))


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Replace ``path`` by one JSON line per record, atomically; returns how many."""
    lines = [json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in records]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)
