"""What install adds besides the shim: the client's SessionEnd entry, the formulas, the consent.

Each has a plan (nothing is written), and a way to take it out of a file that somebody changed since.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..settings import load_settings, read_toml, resource
from ..town import client_settings, edits, json_text
from ..town.accounts import config_dirs
from ..town.bd import clean_environment
from ..town.root import Town, read_json
from ..town.toml_text import remove_values, set_values
from .record import Placed, find, place

CLIENT, FORMULA, CONSENT = "client-settings", "formula", "consent"
SHIM, SHIM_STATE = "shim", "shim-state"
TIMER, PLUGIN = "timer", "plugin"
CONSENT_KEYS = ("granted", "by", "at")
COOK_SECONDS = 30.0


def client_pieces(town: Town, hook: Path, known: Iterable[Placed]) -> list[Placed]:
    """Our SessionEnd entry in the settings of each of the client's folders.

    Raises UserError naming file and line or key where one of them cannot be understood.
    """
    known, pieces = list(known), []
    entry = client_settings.session_end_entry(hook)
    for folder in config_dirs(town):
        path = folder / "settings.json"
        old = find(known, path)
        made = old.extra if old else _missing_keys(read_json(path) if path.exists() else {})
        piece = place(
            CLIENT,
            path,
            partial(client_settings.with_session_end, path, entry),
            known,
            partial(client_settings.without_session_end, made),
        )
        pieces.append(replace(piece, extra=made))
    return pieces


def _missing_keys(document: dict[str, Any]) -> tuple[str, ...]:
    """Those of the keys around our entry that the settings do not have yet."""
    keys = ("hooks", ".".join(client_settings.SESSION_END))
    return tuple(key for key in keys if json_text.get(document, key.split(".")) is None)


def shipped_formulas() -> dict[str, str]:
    """File name → text of every formula that we ship."""
    files = sorted(resource("formulas").glob("*.formula.toml"))
    return {f.name: f.read_text(encoding="utf-8") for f in files}


def formula_pieces(town: Town, known: Iterable[Placed]) -> tuple[list[Placed], list[str]]:
    """Our formulas in ``<town>/.beads/formulas``, and a line for each that was left as somebody changed it.

    Raises UserError where a formula of that name is there and was not put there by install.
    """
    known, pieces, notes = list(known), [], []
    for name, text in shipped_formulas().items():
        path = town.formulas_dir / name
        current, old = edits.read_text(path), find(known, path)
        if current is not None and current != text:
            if old is None or old.edit.existed:
                mend = "it is not ours; rename it or move it away"
                raise UserError(in_file(path, "", "a formula of that name is there", mend))
            if edits.original_text(old.edit, current) is None:
                notes.append(f"{path}: changed since the install; left as it is")
                pieces.append(old)
                continue
        pieces.append(place(FORMULA, path, partial(whole, text), known, nothing, mode=0o644))
    return pieces, notes


def whole(text: str, before: str | None) -> str:
    """A file that is ours alone, whatever stood there."""
    return text


def nothing(text: str) -> None:
    """What is left of such a file without us."""


def consent_piece(town: Town, by: str, at: str, known: Iterable[Placed]) -> Placed | None:
    """The consent in ``settings/finetune.toml``; None where it is granted already."""
    path = town.settings_file
    if load_settings(town).consent.granted:
        return find(known, path)
    values = {"granted": True, "by": by, "at": at}
    return place(CONSENT, path, lambda text: set_values(text or "", CONSENT, values), known, without_consent)


def without_consent(text: str) -> str:
    """A ``finetune.toml`` without the consent."""
    return remove_values(text, CONSENT, CONSENT_KEYS)


def clean_text(piece: Placed, text: str) -> str | None:
    """``text`` without what is ours, for a file that was changed since.

    None: the whole file is ours and goes. A formula that somebody changed is theirs now and stays.
    """
    if piece.kind == CLIENT:
        return client_settings.without_session_end(piece.extra, text)
    if piece.kind == CONSENT:
        return without_consent(text)
    if piece.kind in (SHIM, SHIM_STATE, TIMER):
        return None
    return text


def check_readable(pieces: Iterable[Placed]) -> None:
    """Raise UserError, naming file and line, where a file that must be edited is broken."""
    for piece in pieces:
        if piece.kind == CLIENT and piece.edit.path.exists():
            read_json(piece.edit.path)
        elif piece.kind == CONSENT:
            read_toml(piece.edit.path)


def take_back(piece: Placed) -> str:
    """Undo one piece: ``restored`` to the byte, what is ours ``removed``, or ``left``: it is theirs now."""
    if edits.undo(piece.edit):
        return "restored" if piece.edit.existed else "removed"
    path = piece.edit.path
    text = edits.read_text(path) or ""
    cleaned = clean_text(piece, text)
    if cleaned is None or (not piece.edit.existed and cleaned.strip() in ("", "{}")):
        path.unlink()
        edits.remove_dirs(piece.edit.made_dirs)
        return "removed"
    if cleaned == text:
        return "left"
    edits.write(edits.plan(path, [cleaned], text))
    return "removed"


def has_beads(town: Town) -> bool:
    """Whether bd can be asked about this town without making a database there."""
    return shutil.which("bd") is not None and (town.root / ".beads" / "metadata.json").is_file()


def cook(town: Town, formula: Path | str) -> str | None:
    """Let bd read a formula as it will when it is used: None if it does, else what bd said.

    Raises UserError where bd finds the formula itself wrong (the database answered).
    """
    command = ["bd", "cook", str(formula), "--json"]
    try:
        done = subprocess.run(
            command,
            cwd=town.root,
            env=clean_environment(town.root, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COOK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"bd gave no answer in {COOK_SECONDS:g} s"
    if done.returncode == 0:
        return None
    said = " ".join((done.stdout + done.stderr).split())
    try:
        said = str(json.loads(done.stdout or done.stderr)["error"])
    except (ValueError, KeyError, TypeError):
        said = said[-300:]
    if said.startswith(("parsing formula", "resolving formula", "parse ")):
        raise UserError(in_file(str(formula), "", f"bd cook: {' '.join(said.split())}", "mend the formula"))
    return said or f"bd cook ended with {done.returncode}"
