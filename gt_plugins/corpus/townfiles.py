"""A file of the town as a document.

Files are read only where their real path lies in the town: a link into somebody's home is not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..town.roles import identity_from_cwd
from ..town.root import Town
from .sources import Document, Trouble

DOCUMENT_BYTES = 4 * 1024 * 1024


def document(
    town: Town, path: Path, source: str, corpus_type: str, seen: set[str], role: str = "*"
) -> Iterator[Document | Trouble]:
    """A file as a document, what keeps it from being one as trouble; nothing where there is no such file, or
    where ``seen`` has it. Role ``*`` is every role's."""
    real = os.path.realpath(path)
    if real in seen or not os.path.lexists(path):
        return
    seen.add(real)
    key = path.relative_to(town.root).as_posix()
    if not Path(real).is_relative_to(os.path.realpath(town.root)):
        yield Trouble(key, "outside")
        return
    try:
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):
            yield Trouble(key, "no_file")
            return
        if status.st_size > DOCUMENT_BYTES:
            yield Trouble(key, "huge")
            return
        content = Path(real).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        yield Trouble(key, "binary")
        return
    except OSError:
        yield Trouble(key, "unreadable")
        return
    at = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whose = "all" if role == "*" else role
    yield Document(source, key, corpus_type, content, role=whose, rig=_rig(town, path), at=at)


def _rig(town: Town, path: Path) -> str:
    """The rig that a file belongs to; empty for the town's own."""
    first = path.relative_to(town.root).parts[0]
    identity = identity_from_cwd(town, path)
    return first if first in town.rigs() else (identity.rig or "" if identity else "")
