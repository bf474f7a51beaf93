"""Writes that survive a crash: all of it or none of it, private whatever the umask.

The order is litestream's and SQLite's: write a sibling temporary file, fsync it, rename it over the
target, fsync the folder. Folders are 0700 and files 0600.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700


def parse_json(text: str | bytes) -> Any:
    """``json.loads`` that calls brackets without end what they are. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first of its parents that is there."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def private_dir(path: Path) -> Path:
    """Make ``path`` (and its missing parents) 0700 and return it; an existing folder is tightened."""
    _make_missing(path)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    os.chmod(path, PRIVATE_DIR)
    return path


def _make_missing(path: Path) -> None:
    """Make a folder and its missing parents 0700; those that exist stay as they are."""
    missing = [p for p in [path, *path.parents] if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        os.chmod(folder, PRIVATE_DIR)


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
    """Replace ``path`` by ``data`` atomically.

    Raises OSError (e.g. ENOSPC) that names ``path``, with the old file untouched."""
    import tempfile  # with shutil 7 ms, which a command that only reads does without

    _make_missing(path.parent)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    fsync_dir(path.parent)


def write_text(path: Path, text: str, mode: int = PRIVATE_FILE) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_json(path: Path, value: Any, mode: int = PRIVATE_FILE) -> None:
    """``write_text`` of indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode)


def append_line(path: Path, record: dict[str, Any], *, sync: bool = True) -> None:
    """Append one JSON line in a single ``write`` on O_APPEND, so that writers never interleave, and fsync it.

    ``sync=False`` leaves the fsync out, for records by the step: they outlive a kill -9, not a power cut.
    Raises OSError (e.g. ENOSPC); what was cut off then is passed over by ``read_lines``.
    """
    private_dir(path.parent)
    line = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")
    fresh = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
    try:
        if fresh:
            os.fchmod(fd, PRIVATE_FILE)
        elif _ends_torn(path):
            line = b"\n" + line
        _write_all(fd, line)
        if sync:
            os.fsync(fd)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(fd)
    if fresh and sync:
        fsync_dir(path.parent)


def _write_all(fd: int, data: bytes) -> None:
    """A full disk makes ``write`` return short before it raises: go on until all is written or it raises."""
    while data:
        data = data[os.write(fd, data) :]


def _ends_torn(path: Path) -> bool:
    """True where a crash left a last line without its newline: the next record must not join it.

    It can also be true while another process is writing; the blank line that comes of it is harmless."""
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
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


@contextmanager
def staged_dir(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``target`` in one rename when the block ends, or vanishes if it raises.

    Raises FileExistsError when ``target`` is already there: what is published is never changed.
    """
    import shutil
    import tempfile

    if target.exists():
        raise FileExistsError(target)
    private_dir(target.parent)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield stage
        fsync_tree(stage)
        _publish(stage, target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    fsync_dir(target.parent)


def _publish(stage: Path, target: Path) -> None:
    try:
        os.rename(stage, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from None
        raise


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
