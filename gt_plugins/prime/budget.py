"""Whether a session's role is deployed, and how many tokens its prime may have.

``<town>/.finetune/<role>/role.json`` says that a role is deployed. Only the standard library and settings are
imported: this is on the way of every ``gt prime``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FinetuneError
from ..settings import DEFAULT_PRIME_TOKENS, Settings, load_settings, read_toml
from ..town.roles import Identity, identity_from_cwd, parse_gt_role
from ..town.root import Town

TINY_TOKENS = 240
"""By estimate; about 300 of the tiny base's own, shorter tokens, of the 1,500 that it reads in all."""
MAX_TOKENS = 3000
STOCK_ENV = "GT_FINETUNE_STOCK"
"""Set by whoever starts the stock client in place of a deployed one: that session wants the stock prime."""


@dataclass(frozen=True)
class Deployed:
    """A deployed role as its prime needs it."""

    role: str
    folder: Path
    tokens: int
    rules: str


def session_town(environ: Mapping[str, str], cwd: Path) -> Town | None:
    """The town of this session; None where there is none."""
    for start in (cwd, environ.get("GT_TOWN_ROOT"), environ.get("GT_ROOT")):
        if start:
            folder = Path(start)
            inside = [p for p in (folder, *folder.parents) if (p / "mayor" / "town.json").is_file()]
            if inside:
                return Town(inside[-1])
    return None


def session_identity(environ: Mapping[str, str], cwd: Path, town: Town) -> Identity | None:
    """Who this session is: GT_ROLE, which gt takes for authoritative, else the working folder."""
    return parse_gt_role(environ.get("GT_ROLE", "")) or identity_from_cwd(town, cwd)


def deployed_role(
    town: Town, identity: Identity, environ: Mapping[str, str] | None = None
) -> Deployed | None:
    """The deployment that holds for a session, None where it runs the stock agent.

    A role that is off, deployed as a shadow or in another rig only, is not deployed here. A broken
    settings file does not undeploy a role: its prime then has the default budget."""
    folder = town.finetune_dir / identity.role
    entry = _role_file(folder / "role.json")
    if entry is None or (os.environ if environ is None else environ).get(STOCK_ENV):
        return None
    settings = _settings(town)
    if identity.role in settings.roles_off or (folder / "off").exists() or entry.get("shadow"):
        return None
    rigs = entry.get("rigs") or ([entry["rig"]] if entry.get("rig") else [])
    if rigs and identity.rig not in rigs:
        return None
    return Deployed(identity.role, folder, prime_tokens(entry, settings), role_rules(folder, identity.role))


def would_be(town: Town, identity: Identity) -> Deployed:
    """What holds for a role as deployed, and what would hold where it is not."""
    folder = town.finetune_dir / identity.role
    entry = _role_file(folder / "role.json") or {}
    rules = role_rules(folder, identity.role)
    return Deployed(identity.role, folder, prime_tokens(entry, _settings(town)), rules)


def prime_tokens(entry: Mapping[str, Any], settings: Settings) -> int:
    """Tokens for a prime: the role file's own, else 350 on ``tiny``, else the town's; 3,000 at most."""
    own = entry.get("prime_tokens")
    if isinstance(own, int) and not isinstance(own, bool) and own > 0:
        return min(own, MAX_TOKENS)
    return TINY_TOKENS if _base(entry) == "tiny" else min(max(settings.prime_tokens, 1), MAX_TOKENS)


def _base(entry: Mapping[str, Any]) -> str:
    """The base model of what is deployed: as the role file has it, else from the version's manifest."""
    if entry.get("base"):
        return str(entry["base"])
    names = [entry.get(key) for key in ("models", "model", "version")]
    if not all(isinstance(name, str) and name for name in names):
        return ""
    try:
        return str(read_toml(Path(*map(str, names)) / "manifest.toml").get("base", ""))
    except (FinetuneError, OSError):
        return ""


def _role_file(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _settings(town: Town) -> Settings:
    try:
        return load_settings(town)
    except (FinetuneError, OSError):
        return Settings(path=town.settings_file, prime_tokens=DEFAULT_PRIME_TOKENS)


def role_rules(folder: Path | None, role: str) -> str:
    """The rules that were deployed with the version, else those shipped for the role."""
    shipped = Path(__file__).parent.parent / "roles" / role / "rules.md"
    for path in (folder / "rules.md", shipped) if folder else (shipped,):
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
    return ""
