"""``settings/finetune.toml`` of a town and of a rig: consent, scrub lists, thresholds, budgets.

gt drops unknown keys in its own files, so ours is a file of its own. tomllib in, tomli-w out; keys we do
not know are refused in tables of ours and kept as they are elsewhere (settings_keys.py has them all).
Relevant environment: GT_MODELS_HOME (models folder).

    [consent]   granted = true, by = "Ann", at = "2026-11-23T08:00:00Z"
    [capture]   exclude_rigs = ["private"]
    [collect]   specs = ["docs/**/*.md"]    of a rig too: what `gt corpus collect` takes from its clone
    [scrub]     deny = ["Project Falcon"], allow = ["example.org"], keychains = ["~/.netrc"]
    [gate]      threshold = 0.90
    [prime]     tokens = 3000
    [outcomes]  window_minutes = 15, settle_hours = 24
    [rollout]   off = ["deacon"]            roles switched to the stock agent by `gt model off`
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .durable import write_text
from .errors import UserError, in_file
from .settings_keys import slip
from .town.root import Town

DEFAULT_THRESHOLD = 0.90
DEFAULT_PRIME_TOKENS = 3000
DEFAULT_WINDOW_MINUTES = 15.0
DEFAULT_SETTLE_HOURS = 24.0


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
    scrub_keychains: tuple[str, ...] = ()
    threshold: float = DEFAULT_THRESHOLD
    prime_tokens: int = DEFAULT_PRIME_TOKENS
    window_minutes: float = DEFAULT_WINDOW_MINUTES
    settle_hours: float = DEFAULT_SETTLE_HOURS
    roles_off: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML document, ``{}`` where the file is not there. Raises UserError naming file and line."""
    if not path.exists():
        return {}
    import tomllib  # 9 ms that a listing of versions does without

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "save it as UTF-8")) from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits, brackets without end
        raise UserError(in_file(path, "", f"not TOML ({error})", "mend that line")) from None


def write_toml(path: Path, value: dict[str, Any]) -> None:
    """Replace ``path`` by ``value`` atomically, 0600."""
    import tomli_w

    write_text(path, tomli_w.dumps(value))


def load_settings(town: Town) -> Settings:
    """The town's settings. Raises UserError naming the line that is no TOML, or the key that is wrong."""
    path = town.settings_file
    raw = read_toml(path)
    found = slip(raw)
    if found is not None:
        raise UserError(in_file(path, *found))
    consent, scrub, outcomes = (raw.get(table, {}) for table in ("consent", "scrub", "outcomes"))
    return Settings(
        path=path,
        consent=Consent(
            consent.get("granted", False), str(consent.get("by", "")), str(consent.get("at", ""))
        ),
        exclude_rigs=tuple(raw.get("capture", {}).get("exclude_rigs", ())),
        scrub_deny=tuple(scrub.get("deny", ())),
        scrub_allow=tuple(scrub.get("allow", ())),
        scrub_keychains=tuple(scrub.get("keychains", ())),
        threshold=float(raw.get("gate", {}).get("threshold", DEFAULT_THRESHOLD)),
        prime_tokens=int(raw.get("prime", {}).get("tokens", DEFAULT_PRIME_TOKENS)),
        window_minutes=float(outcomes.get("window_minutes", DEFAULT_WINDOW_MINUTES)),
        settle_hours=float(outcomes.get("settle_hours", DEFAULT_SETTLE_HOURS)),
        roles_off=tuple(raw.get("rollout", {}).get("off", ())),
        raw=raw,
    )


def unknown_exclusions(town: Town) -> list[str]:
    """Names in ``capture.exclude_rigs`` of which the town has neither rig nor folder: a slip, or one to come.

    Raises UserError where the settings or the list of rigs are broken."""
    rigs = town.rigs()
    names = load_settings(town).exclude_rigs
    return [name for name in names if name not in rigs and not (town.root / name).is_dir()]


def outcome_windows(town: Town) -> tuple[float, float]:
    """Seconds within which a decision's effect must show, and within which work must be settled.

    Raises UserError where the settings are broken."""
    settings = load_settings(town)
    return settings.window_minutes * 60.0, settings.settle_hours * 3600.0


def update_settings(town: Town, table: str, **values: Any) -> Settings:
    """Set keys of one table, keep everything else, comments too, and return the settings as they then are."""
    from .town.toml_text import set_values

    with one_writer(town):
        load_settings(town)
        text = town.settings_file.read_text(encoding="utf-8") if town.settings_file.exists() else ""
        write_text(town.settings_file, set_values(text, table, values))
        return load_settings(town)


@contextmanager
def one_writer(town: Town) -> Iterator[None]:
    """Between reading and writing nobody else of us writes: a consent that was revoked must not come back."""
    import fcntl

    fd = os.open(town.root, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def models_home(explicit: Path | str | None = None) -> Path:
    """The models folder: ``--models``, else GT_MODELS_HOME, else ``~/.models``.

    Raises UserError where a file has that name."""
    if explicit is not None:
        return _folder(Path(explicit), "--models")
    if os.environ.get("GT_MODELS_HOME"):
        return _folder(Path(os.environ["GT_MODELS_HOME"]), "GT_MODELS_HOME")
    return _folder(Path.home() / ".models", "the models folder")


def _folder(path: Path, what: str) -> Path:
    """A folder that may not be there yet. Raises UserError where something else has its name."""
    path = path.expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: a file, not a folder ({what})")
    return path


def resource(name: str) -> Path:
    """The folder ``hooks`` or ``formulas`` as shipped: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent / "_data" / name
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / name
