"""A rig's own word on sharing: ``<rig>/settings/finetune.toml``.

[share]
opt_in = true
trust = ["Ben ed25519:kG1…"]      whose bundles may come in: a name, and the key that `share key` prints
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError, in_file
from ...settings import load_settings, read_toml
from ...town.root import Town
from .keys import is_public

FILE = Path("settings") / "finetune.toml"


@dataclass(frozen=True)
class Sharing:
    """What a rig allows."""

    rig: str
    path: Path
    opt_in: bool = False
    trust: dict[str, str] | None = None
    """Public key → the name of who holds it."""


def sharing(town: Town, rig: str) -> Sharing:
    """The rig's settings. Raises UserError for a rig that there is not, or naming the key that is wrong."""
    rigs = town.rigs()
    if rig not in rigs:
        known = ", ".join(rigs) or "none"
        raise UserError(f"{town.root}: no rig {rig!r}; there are: {known}")
    path = rigs[rig] / FILE
    table = read_toml(path).get("share", {})
    if not isinstance(table, dict):
        raise UserError(in_file(path, "share", "not a table", "write it as [share]"))
    opt_in = table.get("opt_in", False)
    if not isinstance(opt_in, bool):
        raise UserError(in_file(path, "share.opt_in", "neither true nor false", "write opt_in = true"))
    return Sharing(rig, path, opt_in, _trust(path, table.get("trust", [])))


def _trust(path: Path, value: object) -> dict[str, str]:
    mend = 'write trust = ["Ben ed25519:…"], with what `gt corpus share key` prints there'
    if not isinstance(value, list):
        raise UserError(in_file(path, "share.trust", "not a list of strings", mend))
    found = {}
    for number, line in enumerate(value):
        name, _, key = line.strip().rpartition(" ") if isinstance(line, str) else ("", "", "")
        if not name or not is_public(key):
            raise UserError(in_file(path, f"share.trust[{number}]", "no name with a public key", mend))
        found[key] = name.strip()
    return found


def opted_in(town: Town, rig: str) -> Sharing:
    """The rig's settings where it shares. Raises UserError saying how to opt in where it does not."""
    found = sharing(town, rig)
    if rig in load_settings(town).exclude_rigs:
        raise UserError(f"{town.settings_file}: capture.exclude_rigs has {rig!r}, so it shares nothing")
    if not found.opt_in:
        problem = "this rig does not share"
        raise UserError(in_file(found.path, "share.opt_in", problem, "write opt_in = true under [share]"))
    return found
