"""``settings/finetune.toml`` of a town and of a rig: consent, scrub lists, thresholds, budgets.

gt drops unknown keys in its own files, so ours is a file of its own. tomllib in, tomli-w out; keys we do
not know are kept as they are, but in tables that say what may be stored they are refused. Relevant
environment: GT_MODELS_HOME (models folder).

    [consent]   granted = true, by = "Ann", at = "2026-11-23T08:00:00Z"
    [capture]   exclude_rigs = ["private"]
    [collect]   specs = ["docs/**/*.md"]    of a rig too: what `gt corpus collect` takes from its clone
    [scrub]     deny = ["Project Falcon"], allow = ["example.org"]
    [gate]      threshold = 0.90
    [prime]     tokens = 3000
    [outcomes]  window_minutes = 15, settle_hours = 24
    [rollout]   off = ["deacon"]            roles switched to the stock agent by `gt model off`
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .durable import write_text
from .errors import UserError, in_file
from .town.root import Town

DEFAULT_THRESHOLD = 0.90
DEFAULT_PRIME_TOKENS = 3000
PRIVACY = {
    "consent": ("granted", "by", "at"),
    "capture": ("exclude_rigs",),
    "scrub": ("deny", "allow"),
}
"""Tables that say what may be stored, and all their keys: a slip of the pen there must not go unnoticed."""


@dataclass(frozen=True)
class Consent:
    """Whether, by whom and when (RFC 3339) capturing was allowed."""

    granted: bool = False
    by: str = ""
    at: str = ""


@dataclass(frozen=True)
class Settings:
    """A town's ``finetune.toml`` with defaults filled in; ``raw`` is the whole document for writing back."""

    path: Path
    consent: Consent = Consent()
    exclude_rigs: tuple[str, ...] = ()
    scrub_deny: tuple[str, ...] = ()
    scrub_allow: tuple[str, ...] = ()
    threshold: float = DEFAULT_THRESHOLD
    prime_tokens: int = DEFAULT_PRIME_TOKENS
    roles_off: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML document, ``{}`` where the file is not there. Raises UserError naming file and line."""
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(in_file(path, "", f"not TOML ({error})", "mend that line")) from None
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "save it as UTF-8")) from None


def write_toml(path: Path, value: dict[str, Any]) -> None:
    """Replace ``path`` by ``value`` atomically, 0600."""
    import tomli_w

    write_text(path, tomli_w.dumps(value))


def load_settings(town: Town) -> Settings:
    """The town's settings. Raises UserError naming the key whose value has the wrong type or range."""
    path = town.settings_file
    raw = read_toml(path)
    _no_slips(path, raw)
    threshold = _number(path, raw, "gate", "threshold", DEFAULT_THRESHOLD)
    if not 0.0 <= threshold <= 1.0:
        raise UserError(in_file(path, "gate.threshold", f"{threshold} is no fraction", "use 0.0 to 1.0"))
    consent = _table(path, raw, "consent")
    return Settings(
        path=path,
        consent=Consent(
            consent.get("granted") is True, str(consent.get("by", "")), str(consent.get("at", ""))
        ),
        exclude_rigs=_strings(path, raw, "capture", "exclude_rigs"),
        scrub_deny=_strings(path, raw, "scrub", "deny"),
        scrub_allow=_strings(path, raw, "scrub", "allow"),
        threshold=float(threshold),
        prime_tokens=int(_number(path, raw, "prime", "tokens", DEFAULT_PRIME_TOKENS)),
        roles_off=_strings(path, raw, "rollout", "off"),
        raw=raw,
    )


def _no_slips(path: Path, raw: dict[str, Any]) -> None:
    """Raises UserError for an unknown key in a table on privacy, and for a name that is nearly a table's."""
    import difflib

    for table in raw:
        near = difflib.get_close_matches(table, PRIVACY, 1, 0.8) if table not in PRIVACY else []
        if near:
            raise UserError(in_file(path, table, "no such table", f"do you mean [{near[0]}]?"))
    for table, known in PRIVACY.items():
        for key in _table(path, raw, table):
            if key not in known:
                mend = f"known: {', '.join(known)}"
                raise UserError(in_file(path, f"{table}.{key}", "not a key of this table", mend))


def outcome_windows(town: Town) -> tuple[float, float]:
    """Seconds within which a decision's effect must show, and within which work must be settled.

    Raises UserError naming the key whose value is no positive number."""
    path = town.settings_file
    raw = read_toml(path)
    found = []
    for key, default, seconds in (("window_minutes", 15, 60.0), ("settle_hours", 24, 3600.0)):
        value = _number(path, raw, "outcomes", key, default)
        if not 0 < value < 1e6:
            raise UserError(in_file(path, f"outcomes.{key}", f"{value} is no such time", f"try {default}"))
        found.append(value * seconds)
    return found[0], found[1]


def update_settings(town: Town, table: str, **values: Any) -> Settings:
    """Set keys of one table, keep everything else, comments too, and return the settings as they then are."""
    from .town.toml_text import set_values

    raw = read_toml(town.settings_file)
    _table(town.settings_file, raw, table)
    text = town.settings_file.read_text(encoding="utf-8") if town.settings_file.exists() else ""
    write_text(town.settings_file, set_values(text, table, values))
    return load_settings(town)


def models_home(explicit: Path | str | None = None) -> Path:
    """The models folder: ``--models``, else GT_MODELS_HOME, else ``~/.models``."""
    if explicit is not None:
        return Path(explicit).expanduser().absolute()
    if os.environ.get("GT_MODELS_HOME"):
        return Path(os.environ["GT_MODELS_HOME"]).expanduser().absolute()
    return Path.home() / ".models"


def resource(name: str) -> Path:
    """The folder ``hooks`` or ``formulas`` as shipped: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent / "_data" / name
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / name


def _table(path: Path, raw: dict[str, Any], table: str) -> dict[str, Any]:
    value = raw.get(table, {})
    if not isinstance(value, dict):
        raise UserError(in_file(path, table, "not a table", f"write it as [{table}]"))
    return value


def _strings(path: Path, raw: dict[str, Any], table: str, key: str) -> tuple[str, ...]:
    value = _table(path, raw, table).get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UserError(in_file(path, f"{table}.{key}", "not a list of strings", 'write ["a", "b"]'))
    return tuple(value)


def _number(path: Path, raw: dict[str, Any], table: str, key: str, default: float) -> float:
    value = _table(path, raw, table).get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(in_file(path, f"{table}.{key}", "not a number", "write a number"))
    return value
