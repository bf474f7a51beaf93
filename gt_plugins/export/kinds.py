"""A registered version in any of the forms: peft's adapter, merged safetensors, GGUF."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import private_dir, staged_dir
from ..errors import NonRetriableError, UserError, in_file
from .checked import check_kinds, export_checked
from .gguf import KINDS
from .merged import write_merged

if TYPE_CHECKING:
    from ..registry.versions import Version

ADAPTER, MERGED = "adapter", "merged"


def export_version(version: Version, out: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """Write the kinds below ``out``: {version, files: kind → path, parity: kind → counts}.

    Raises UserError for a kind or target that is wrong, NonRetriableError for weights that cannot be."""
    from ..registry.versions import base_folder

    known = (ADAPTER, MERGED, *KINDS)
    wrong = [k for k in kinds if k not in known]
    if wrong or not kinds:
        raise UserError(f"no kind {wrong[0] if wrong else ''!r}; there are {', '.join(known)}")
    gguf = [k for k in kinds if k in KINDS]
    check_kinds(gguf)
    base, adapter = base_folder(version), version.path / "adapter"
    if not adapter.is_dir():
        raise NonRetriableError(in_file(adapter, "", "this version has no adapter to export", ""))
    files: dict[str, str] = {}
    parity: dict[str, Any] = {}
    private_dir(out)
    if ADAPTER in kinds:
        files[ADAPTER] = str(_copied(adapter, out / ADAPTER))
    if MERGED in kinds:
        files[MERGED] = str(write_merged(base, adapter, out / MERGED))
    if gguf:
        made = export_checked(base, adapter, out, gguf)
        files |= {kind: str(path) for kind, path in made.files.items()}
        parity = {kind: asdict(found) for kind, found in made.parity.items()}
    return {"version": version.ref, "files": files, "parity": parity}


def _copied(adapter: Path, target: Path) -> Path:
    try:
        with staged_dir(target) as stage:
            for path in adapter.iterdir():
                shutil.copyfile(path, stage / path.name)
    except FileExistsError:
        raise UserError(in_file(target, "", "is there already", "choose a new folder")) from None
    return target
