"""What ``gt model list`` prints. No typer here: with a thousand versions it must come up at once.

:func:`quick` reads the plain forms of the command line itself; whatever it does not know goes to typer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..registry.journal import State
    from ..registry.versions import Version


def quick(words: Sequence[str]) -> Callable[[], None] | None:
    """The call that ``list WORDS`` means, None where typer has to look at it (help, a mistake)."""
    options = {"--role": "", "--models": ""}
    as_json, plain, rest = False, [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--json":
            as_json = True
        elif name in options and (equals or rest):
            options[name] = value if equals else rest.pop(0)
        elif word.startswith("-"):
            return None
        else:
            plain.append(word)
    if len(plain) > 1:
        return None
    models, role = options["--models"], options["--role"]
    return lambda: list_versions(_home(models), plain[0] if plain else "", role, as_json)


def _home(models: str) -> Path:
    from ..settings import models_home

    return models_home(models or None)


def list_versions(home: Path, model: str, role: str, as_json: bool) -> None:
    """Print the versions of one model or of all. Raises UserError for a model that is not there."""
    from ..registry.journal import fold
    from ..registry.versions import all_versions, resolve
    from ..town.roles import check_role

    if role:
        check_role(role)
    state = fold(home)
    if model:
        resolve(home, model, state=state)
    chosen = [v for v in all_versions(home, state) if model in ("", v.model) and role in ("", v.role)]
    if as_json:
        from .exits import print_json

        print_json([entry(v, state) for v in chosen])
        return
    print_versions(home, chosen, state)


def print_versions(home: Path, chosen: list[Version], state: State) -> None:
    from .tables import print_table

    names = standing(state)
    rows = []
    for version in chosen:
        score = worst_score(state, version)
        rows.append(
            [
                version.ref,
                version.role,
                "-" if score is None else two(score),
                " ".join(names.get((version.model, version.version), [])) or "-",
                version.created[:16].replace("T", " "),
                version.base,
            ]
        )
    if rows:
        print_table(["VERSION", "ROLE", "SCORE", "STANDS AS", "CREATED", "BASE"], rows)
    else:
        print(f"no versions in {home}")
    if state.problems:
        print(f"{len(state.problems)} journal lines could not be used: gt model verify", file=sys.stderr)


def two(score: float) -> str:
    """A score with two decimals, rounded down: 0.899 is not 0.90."""
    from ..evaluation.gate_text import floor2

    return floor2(score)


def worst_score(state: State, version: Version) -> float | None:
    """The worst of the version's newest results per suite, as journaled; None where there is none.

    Results that came through the endpoint go first: the others are shown only where there is no such one.
    """
    entries = state.evaluated.get((version.model, version.version), [])
    served = [e for e in entries if e.served] or entries
    newest = {entry.suite: entry.score for entry in served}
    scores = [-math.inf if math.isnan(s) else s for s in newest.values()]
    worst = min(scores, default=None)
    return math.nan if worst == -math.inf else worst


def standing(state: State) -> dict[tuple[str, str], list[str]]:
    """(model, version) → ``live:deacon``, ``previous:deacon``, ``@alias``."""
    from os.path import basename

    towns = {town for town, _ in state.stacks}
    found: dict[tuple[str, str], list[str]] = {}
    for word, table in (("live", state.live), ("previous", state.previous)):
        for (town, role), entry in table.items():
            where = f"@{basename(town)}" if len(towns) > 1 else ""
            found.setdefault((entry.model, entry.version), []).append(f"{word}:{role}{where}")
    for (model, name), version in state.aliases.items():
        found.setdefault((model, version), []).append(f"@{name}")
    return found


def entry(version: Version, state: State) -> dict[str, Any]:
    """A version as one JSON object, from the journal alone."""
    key = (version.model, version.version)

    def where(table: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
        return [
            {"town": town, "role": role, "rigs": list(d.rigs), "at": d.at, "by": d.by, "forced": d.forced}
            for (town, role), d in table.items()
            if (d.model, d.version) == key
        ]

    score = worst_score(state, version)
    return {
        "model": version.model,
        "version": version.version,
        "role": version.role,
        "base": version.base,
        "created": version.created,
        "path": str(version.path),
        "bytes": version.bytes,
        "score": None if score is None or math.isnan(score) else score,
        "suites": {e.suite: e.score for e in state.evaluated.get(key, []) if not math.isnan(e.score)},
        "aliases": [name for (model, name), v in state.aliases.items() if (model, v) == key],
        "live": where(state.live),
        "previous": where(state.previous),
    }
