"""The commented ``settings/finetune.toml`` that ``gt-plugins init`` writes, or adds what is missing to."""

from __future__ import annotations

from ..durable import write_text
from ..settings import (
    DEFAULT_PRIME_TOKENS,
    DEFAULT_SETTLE_HOURS,
    DEFAULT_THRESHOLD,
    DEFAULT_WINDOW_MINUTES,
    load_settings,
    one_writer,
)
from ..town.root import Town

TEXT = f"""# gastown-finetune: settings of this town. A key that is commented out has the value shown.

# [consent] is written by `gt-plugins install` and `gt corpus consent`: who allowed capturing, and when.

[capture]
# Rigs whose sessions are never captured.
# exclude_rigs = []

[scrub]
# Words that never reach the corpus (code names, customers), and words that always may stay.
# deny = []
# allow = []
# Files of secrets (dotenv, JSON, netrc, one in a line), each of which goes wherever it occurs: "~/.netrc".
# keychains = []

[collect]
# Documents that `gt corpus collect` takes, as globs; a rig's own settings name those of its clone.
# specs = ["docs/**/*.md"]

[outcomes]
# Within so many minutes a decision must show what it did, and within so many hours work must be settled.
# window_minutes = {DEFAULT_WINDOW_MINUTES}
# settle_hours = {DEFAULT_SETTLE_HOURS}

[gate]
# The lowest score, as a fraction, at which a model may be deployed.
# threshold = {DEFAULT_THRESHOLD:.2f}

[prime]
# Most tokens of a deployed role's slim prime; 10,000 characters are the most in any case.
# tokens = {DEFAULT_PRIME_TOKENS}

[rollout]
# Roles that run as the stock agent although a model is deployed for them (`gt model off ROLE`).
# off = []
"""


def write_settings(town: Town) -> str:
    """Write the file, or add those tables that it has not; returns a line that says what was done.

    Raises UserError where something is wrong in the file that is there."""
    with one_writer(town):
        return _write(town)


def _write(town: Town) -> str:
    path = town.settings_file
    if not path.exists():
        write_text(path, TEXT)
        return f"{path}: written"
    there = load_settings(town).raw
    _, *tables = TEXT.split("\n[")
    missing = [table for table in tables if table.partition("]")[0] not in there]
    if not missing:
        return f"{path}: there already; not changed"
    text = path.read_text(encoding="utf-8").rstrip("\n")
    write_text(path, text + "".join(f"\n\n[{table.rstrip()}" for table in missing) + "\n")
    return f"{path}: added {', '.join('[' + table.partition(']')[0] + ']' for table in missing)}"
