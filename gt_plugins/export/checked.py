"""Exporting and checking in one: no file leaves here that llama.cpp would run differently.

base + adapter ──► files ──► the same token ids (200 chats, 200 odd strings) ──► the same next tokens
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import parity
from .gguf import KINDS, export
from .parity import Parity


@dataclass(frozen=True)
class Exported:
    """Files by kind, and how many best next tokens were the same for each."""

    files: dict[str, Path]
    parity: dict[str, Parity]

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {"file": path.name, "top1": asdict(self.parity[kind]), "token_ids": "same"}
            for kind, path in self.files.items()
        }


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UserError for a kind that is not there, and where nothing is here to check files with."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"no GGUF kind {kind!r}; there are {', '.join(KINDS)}")
    if kinds and not parity.available():
        raise UserError("files are checked by llama.cpp before they are kept; install the extra 'serve'")


def export_checked(base: Path, adapter: Path, out: Path, kinds: Sequence[str]) -> Exported:
    """Write the kinds into ``out`` and ask llama.cpp about each. Files that fail are taken away again.

    Raises UserError as ``check_kinds``, NonRetriableError naming what differs."""
    check_kinds(kinds)
    files = export(base, adapter, out, kinds)
    try:
        with tempfile.TemporaryDirectory(dir=out) as name:
            asked = dict(files)
            if "lora" in files:
                asked["base"] = export(base, None, Path(name), ("f16",))["f16"]
            return Exported(files, parity.verify(base, adapter, asked))
    except BaseException:
        for path in files.values():
            path.unlink(missing_ok=True)
        raise
