"""Changes to files that other programs own: small, all or nothing, and taken back to the byte.

What stood there before is remembered as splices (offset, text taken out, text put in) and two hashes, never
as a copy: such files may hold tokens, and we write no raw secret anywhere. Undoing checks the hash; a file
that somebody else changed in between is left to the caller, who then removes what is ours by content.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durable import write_bytes
from ..errors import UserError, in_file


@dataclass(frozen=True)
class Splice:
    """At character ``at``, ``removed`` became ``inserted``."""

    at: int
    removed: str
    inserted: str


@dataclass(frozen=True)
class FileEdit:
    """One planned or done change. ``existed`` False: the file (and ``made_dirs``, outermost first) is new."""

    path: Path
    existed: bool
    mode: int
    before: str
    after: str
    splices: tuple[Splice, ...]
    made_dirs: tuple[str, ...] = ()
    text: str | None = None

    @property
    def changes(self) -> bool:
        """False where the file already was as it shall be."""
        return not self.existed or self.before != self.after

    def record(self) -> dict[str, Any]:
        """This edit as JSON values, without the text of the file."""
        return {
            "path": str(self.path),
            "existed": self.existed,
            "mode": self.mode,
            "before": self.before,
            "after": self.after,
            "splices": [[s.at, s.removed, s.inserted] for s in self.splices],
            "made_dirs": list(self.made_dirs),
        }


def from_record(value: dict[str, Any]) -> FileEdit:
    """The edit that :meth:`FileEdit.record` wrote."""
    return FileEdit(
        path=Path(value["path"]),
        existed=bool(value["existed"]),
        mode=int(value["mode"]),
        before=str(value["before"]),
        after=str(value["after"]),
        splices=tuple(Splice(int(at), str(old), str(new)) for at, old, new in value["splices"]),
        made_dirs=tuple(str(d) for d in value.get("made_dirs", [])),
    )


def digest(data: bytes) -> str:
    """The sha256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def read_text(path: Path) -> str | None:
    """The UTF-8 text of a file, None where it is not there. Raises UserError where it is no such text."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise UserError(in_file(path, "", "is a folder", "move it away")) from None
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "mend or remove it")) from None


def plan(
    path: Path, steps: Iterable[str], before: str | None, mode: int = 0o600, *, keep_mode: bool = True
) -> FileEdit:
    """The edit that turns ``before`` into the last of ``steps`` (each one more small change); writes nothing.

    A link is followed, so that it stays a link. ``mode`` is for a file that is not there yet, and without
    ``keep_mode`` for any.
    """
    real = Path(os.path.realpath(path))
    text, splices = before or "", []
    for step in steps:
        if step != text:
            splices.append(_splice(text, step))
            text = step
    existed = before is not None
    missing = [str(p) for p in real.parents if not p.exists()]
    return FileEdit(
        path=real,
        existed=existed,
        mode=_mode(real) if keep_mode and real.exists() else mode,
        before=digest((before or "").encode()) if existed else "",
        after=digest(text.encode()),
        splices=tuple(splices),
        made_dirs=tuple(reversed(missing)),
        text=text,
    )


def write(edit: FileEdit) -> None:
    """Carry a planned edit out, atomically; nothing is written where the file is so already.

    Raises OSError with the old file untouched."""
    if edit.text is None or (read_text(edit.path) == edit.text and _mode(edit.path) == edit.mode):
        return
    for folder in edit.made_dirs:
        Path(folder).mkdir(mode=0o777 if edit.mode & 0o077 else 0o700, exist_ok=True)
    write_bytes(edit.path, edit.text.encode(), edit.mode)


def write_all(planned: Iterable[FileEdit]) -> None:
    """Carry out all edits, or none: where one fails, what was written is put back and the error goes on."""
    done: list[tuple[FileEdit, str | None, int]] = []
    try:
        for edit in planned:
            text = read_text(edit.path)
            done.append((edit, text, edit.mode if text is None else _mode(edit.path)))
            write(edit)
    except BaseException:
        for edit, text, mode in reversed(done):
            if text is None:
                edit.path.unlink(missing_ok=True)
                remove_dirs(edit.made_dirs)
            elif read_text(edit.path) != text:
                write_bytes(edit.path, text.encode(), mode)
        raise


def original_text(edit: FileEdit, text: str) -> str | None:
    """The text before ``edit``, from what stands there now; None where somebody changed it in between."""
    if digest(text.encode()) != edit.after:
        return None
    for splice in reversed(edit.splices):
        text = text[: splice.at] + splice.removed + text[splice.at + len(splice.inserted) :]
    return text if digest(text.encode()) == edit.before or not edit.existed else None


def undo(edit: FileEdit) -> bool:
    """Put back what stood there; False (and nothing done) where somebody changed the file in between.

    A file that has vanished counts as undone: there is nothing of ours left in it.
    """
    text = read_text(edit.path) if edit.changes else None
    if text is not None:
        original = original_text(edit, text)
        if original is None:
            return False
        if edit.existed:
            write_bytes(edit.path, original.encode(), edit.mode)
        else:
            edit.path.unlink()
    remove_dirs(edit.made_dirs)
    return True


def remove_dirs(folders: Iterable[str]) -> None:
    """Remove those folders (given outermost first) that are empty."""
    for folder in reversed(list(folders)):
        with suppress(OSError):
            os.rmdir(folder)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _splice(old: str, new: str) -> Splice:
    """The smallest single splice from ``old`` to ``new``."""
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    return Splice(head, old[head : len(old) - tail], new[head : len(new) - tail])


def _common(a: str, b: str) -> int:
    """How many characters two texts share from their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
