"""Formulas: the files of town and rigs, and what else bd knows (``bd formula list``, ``show``)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import FinetuneError
from ..town.bd import Bd
from ..town.roles import role_of
from ..town.root import Town
from .sources import Document, Trouble
from .townfiles import document

SUFFIXES = (".formula.toml", ".formula.json")


def formulas(town: Town) -> Iterator[Document | Trouble]:
    """Every formula that the town's agents can be given. One that lies outside the town is counted."""
    seen: set[str] = set()
    for folder in (town.formulas_dir, *(rig / ".beads/formulas" for rig in town.rigs().values())):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            name = next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), "")
            if name:
                yield from document(town, path, "formulas", "formula", seen, role_of(name))
    yield from _known_to_bd(town, seen)


def _known_to_bd(town: Town, seen: set[str]) -> Iterator[Document | Trouble]:
    """Formulas that bd has from somewhere else than those files: built into it, as it shows them."""
    from .operations.databases import is_database

    bd = Bd(town.root)
    if not (bd.available() and is_database(town.root / ".beads")):
        return
    try:
        listed = bd.formulas()
    except FinetuneError as error:
        yield Trouble(f"bd formula list ({error})", "bd_failed")
        return
    for name, source in sorted((str(f.get("name", "")), str(f.get("source", ""))) for f in listed):
        real = os.path.realpath(source) if os.path.isabs(source) else ""
        if real in seen:
            continue
        key = f"bd:{name}"
        if real and not Path(real).is_relative_to(os.path.realpath(town.root)):
            yield Trouble(key, "outside")
            continue
        try:
            shown = bd.formula(name)
        except FinetuneError as error:
            yield Trouble(f"{key} ({error})", "bd_failed")
            continue
        shown.pop("source", None)
        content = json.dumps(shown, indent=1, ensure_ascii=False) + "\n"
        role = role_of(name)
        yield Document("formulas", key, "formula", content, role="all" if role == "*" else role)
