"""Scrubbing files, folders and streams, without a corpus: ``gt corpus scrub IN OUT``.

A line that is a JSON object or array is scrubbed as a value and stays one; other lines are scrubbed as text,
in blocks, so that a key over several lines is seen whole. Memory is bounded by the longest line. Output is
complete or not there; binary files are counted and not copied, since nobody has looked into them.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ...durable import PRIVATE_FILE, fsync_dir, private_dir, staged_dir
from ...errors import FinetuneError, UserError
from .engine import Scrubber
from .layers import ScrubError

_PEEK = 8192
_BLOCK = 1 << 20
_CARRY = 1 << 17
_CONTROL = bytes(c for c in range(32) if c not in (7, 8, 9, 10, 12, 13, 27))
_FIRST_KEY = re.compile(rb'[\s\[{]*"(?:[^"\\]|\\.)*+"\s*:( ?)')
Write = Callable[[bytes], object]


@dataclass
class FilesReport:
    """What was read, what was left out, and what was replaced."""

    policy: str = ""
    files: int = 0
    bytes: int = 0
    json_lines: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """``binary``, ``link``, ``special`` (devices, sockets), ``unreadable``."""
    replaced: dict[str, int] = field(default_factory=dict)
    layers: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1


class _Twice(ValueError):
    """An object with one key twice: as a value it would lose a part that nobody has scrubbed."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Twice
    return made


def scrub_path(scrubber: Scrubber, source: str, target: str) -> FilesReport:
    """Scrub ``source`` (a file, a folder or ``-``) into ``target`` (a path or ``-``).

    Raises UserError for arguments that make no sense, before anything is read; ScrubError or OSError with
    nothing left behind.
    """
    check_paths(source, target)
    report = FilesReport(policy=scrubber.policy.version)
    before = Counter(scrubber.totals)
    if source == "-":
        with _output(target) as write:
            if not _scrub_stream(scrubber, sys.stdin.buffer, write, report):
                raise FinetuneError("standard input is binary; nothing was written")
    elif Path(source).is_dir():
        _scrub_folder(scrubber, Path(source), Path(target), report)
    else:
        with open(source, "rb") as handle, _output(target) as write:
            if not _scrub_stream(scrubber, handle, write, report):
                raise FinetuneError(f"{source}: a binary file; nothing was written")
    for (layer, kind), number in sorted((scrubber.totals - before).items()):
        report.layers.setdefault(layer, {})[kind] = number
        report.replaced[kind] = report.replaced.get(kind, 0) + number
    return report


def check_paths(source: str, target: str) -> None:
    """Raises UserError where ``source`` cannot be scrubbed into ``target``."""
    folder = source != "-" and Path(source).is_dir()
    if source != "-" and not Path(source).exists():
        raise UserError(f"{source}: no such file or folder")
    if target == "-":
        if folder:
            raise UserError("a folder cannot be written to a stream; name a folder for the output")
        return
    out = Path(target)
    if source != "-":
        here, there = Path(source).resolve(), out.resolve()
        if here == there or (out.exists() and here.samefile(there)):
            raise UserError(f"{target}: the output is the input; name another")
        if folder and here in there.parents:
            raise UserError(f"{target}: the output lies inside the input; name a place outside")
    if out.is_dir() and not folder:
        raise UserError(f"{target}: a folder; name a file for the output")
    if folder and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder for the output")


@contextmanager
def _output(target: str) -> Iterator[Write]:
    """Where to write: standard output, or a file that appears, private, when the block ends well."""
    if target == "-":
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as handle:
            os.fchmod(handle.fileno(), PRIVATE_FILE)
            yield handle.write
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def _scrub_folder(scrubber: Scrubber, source: Path, target: Path, report: FilesReport) -> None:
    if target.is_dir():
        target.rmdir()
    taken: set[Path] = set()
    with staged_dir(target) as stage:
        for path in _walk(source, report):
            name = _free_name(scrubber, path.relative_to(source), taken)
            private_dir((stage / name).parent)
            try:
                with open(path, "rb") as handle, _plain_output(stage / name) as write:
                    text = _scrub_stream(scrubber, handle, write, report)
            except PermissionError:
                report.skip("unreadable")
                text = False
            except ScrubError as error:
                raise ScrubError(f"{path}: {error}") from None
            else:
                if not text:
                    report.skip("binary")
            if not text:
                (stage / name).unlink(missing_ok=True)


@contextmanager
def _plain_output(path: Path) -> Iterator[Write]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(fd, "wb") as handle:
        yield handle.write


def _walk(folder: Path, report: FilesReport) -> Iterator[Path]:
    """Regular files below ``folder`` in order; what is none is counted."""
    for base, folders, files in os.walk(folder, onerror=lambda _: report.skip("unreadable")):
        folders.sort()
        for name in sorted(files) + [f for f in folders if Path(base, f).is_symlink()]:
            path = Path(base, name)
            if path.is_symlink():
                report.skip("link")
            elif path.is_file():
                yield path
            else:
                report.skip("special")


def _free_name(scrubber: Scrubber, name: Path, taken: set[Path]) -> Path:
    """The scrubbed relative name (names of folders tell users, too); numbered where it is taken."""
    clean = Path(*(scrubber.text(part)[0].replace("/", "_") for part in name.parts))
    fresh, number = clean, 1
    while fresh in taken:
        number += 1
        fresh = clean.with_name(f"{clean.stem}-{number}{clean.suffix}")
    taken.add(fresh)
    return fresh


def _scrub_stream(scrubber: Scrubber, source: BinaryIO, write: Write, report: FilesReport) -> bool:
    """Scrub one file or stream; False, with nothing written, where it is binary."""
    head = source.read(_PEEK)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head += source.read()
        text = _utf16(scrubber, head)
        if text is not None:
            _scrub_utf16(scrubber, head, text, write, report)
            return True
    if _is_binary(head):
        return False
    run = _Lines(scrubber, write, report)
    rest = head
    while True:
        cut = rest.rfind(b"\n") + 1
        for line in rest[:cut].splitlines(keepends=True) if cut else ():
            run.add(line)
        chunk = source.read(_BLOCK)
        rest = rest[cut:] + chunk
        if not chunk:
            break
    if rest:
        run.add(rest)
    run.flush()
    report.files += 1
    return True


def _is_binary(head: bytes) -> bool:
    if b"\0" in head:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return False
    except UnicodeDecodeError:
        return len(head) - len(head.translate(None, _CONTROL)) > len(head) // 50


def _utf16(scrubber: Scrubber, data: bytes) -> str | None:
    """``data`` with its mark as UTF-16; None for other bytes that begin like that.

    Any text has spaces or ends of lines, so there is a NUL; and where a byte is a character after all, what
    would be found then must not pass as letters of the East."""
    if b"\0" not in data or scrubber.findings(data.decode("latin-1")):
        return None
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError:
        return None


def _scrub_utf16(scrubber: Scrubber, data: bytes, text: str, write: Write, report: FilesReport) -> None:
    order = "utf-16-le" if data.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    clean, _ = scrubber.text(text)
    write(data[:2] + clean.encode(order, "surrogatepass"))
    report.files += 1
    report.bytes += len(data)


class _Lines:
    """Gathers lines into runs of JSON or of text, and scrubs each run at once."""

    def __init__(self, scrubber: Scrubber, write: Write, report: FilesReport) -> None:
        self._scrubber, self._write, self._report = scrubber, write, report
        self._values: list[Any] = []
        self._texts: list[bytes] = []
        self._raw: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> None:
        """A line with its end."""
        value = _parsed(line)
        if (value is None) != (not self._values) or self._size >= self._limit():
            self.flush()
        self._size += len(line)
        if value is None:
            self._texts.append(line)
        else:
            self._values.append(value)
            self._raw.append(line)

    def _limit(self) -> int:
        """A block of text ends anywhere but inside a key."""
        if self._size < _BLOCK or not self._texts:
            return _BLOCK
        tail = b"".join(self._texts)[-_CARRY:]
        return _BLOCK if tail.rfind(b"-----BEGIN") <= tail.rfind(b"-----END") else _BLOCK + _CARRY

    def flush(self) -> None:
        self._report.bytes += self._size
        if self._values:
            self._flush_json()
        elif self._texts:
            text = b"".join(self._texts).decode("utf-8", "surrogateescape")
            clean, _ = self._scrubber.text(text)
            self._write(clean.encode("utf-8", "surrogateescape"))
        self._values, self._texts, self._raw, self._size = [], [], [], 0

    def _flush_json(self) -> None:
        self._report.json_lines += len(self._values)
        fresh, counts = self._scrubber.value(self._values)
        if not counts:
            self._write(b"".join(self._raw))
            return
        for old, new, raw in zip(self._values, fresh, self._raw, strict=True):
            self._write(raw if old == new else _line(new, raw))


def _parsed(line: bytes) -> Any:
    """The object or array that ``line`` is, None where it is none or cannot be one without loss."""
    if line.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _line(value: Any, raw: bytes) -> bytes:
    """``value`` in the manner of the line it was read from: spacing, escapes and end."""
    first = _FIRST_KEY.match(raw)  # strings inside may hold JSON in another style
    spaced = first is not None and first[1] == b" "
    style: dict[str, Any] = {"separators": (", ", ": ") if spaced else (",", ":")}
    end = raw[len(raw.rstrip()) :]
    start = raw[: len(raw) - len(raw.lstrip())]
    if not raw.isascii():
        try:
            return start + json.dumps(value, ensure_ascii=False, **style).encode("utf-8") + end
        except UnicodeEncodeError:
            pass  # half of a UTF-16 pair: only an escape can say it
    return start + json.dumps(value, **style).encode("ascii") + end
