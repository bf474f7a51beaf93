"""Files of a town that agents work by: conventions, specs, settings, role files. And the built-in sources.

Of gt's settings only what is no secret is taken: accounts and the operator's identity are left
out, and so are the values of every ``env`` table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import hookimpl
from ..errors import UserError, in_file
from ..settings import read_toml
from ..town.roles import role_of
from ..town.root import Town
from .sources import CorpusSource, Document, Trouble
from .townfiles import document

CONVENTION_NAMES = ("CLAUDE.md", "AGENTS.md", "CLAUDE.local.md")
DEFAULT_SPECS = ("docs/**/*.md",)
"""What ``[collect] specs`` of a finetune.toml replaces: globs below the town or a rig's main clone."""
TOWN_SETTINGS = (
    "settings/config.json",
    "settings/agents.json",
    "settings/escalation.json",
    "mayor/town.json",
    "mayor/rigs.json",
    "mayor/config.json",
    "mayor/daemon.json",
)
RIG_SETTINGS = (
    "settings/config.json",
    "settings/agents.json",
    "config.json",
    "mayor/rig/.gastown/settings.json",
)
LEFT_OUT = "(left out)"


@hookimpl
def gt_corpus_sources(town: Town) -> Sequence[CorpusSource]:
    from .formulas import formulas
    from .primes import primes

    return [
        CorpusSource("conventions", conventions),
        CorpusSource("formulas", formulas),
        CorpusSource("specs", specs),
        CorpusSource("settings", settings),
        CorpusSource("roles", role_files),
        CorpusSource("primes", primes),
    ]


def conventions(town: Town) -> Iterator[Document | Trouble]:
    """CLAUDE.md and AGENTS.md of the town, its rigs and every working folder, also those deeper in a clone
    that git tracks; of equal links the first."""
    seen: set[str] = set()
    for folder in working_folders(town):
        for path in (*(folder / name for name in CONVENTION_NAMES), *_tracked(folder, CONVENTION_NAMES)):
            yield from document(town, path, "conventions", "convention_doc", seen)


def specs(town: Town) -> Iterator[Document | Trouble]:
    """Specs and plans: Markdown below ``docs/``, or what ``[collect] specs`` names, of town and rigs.

    Raises UserError for a setting that is no list of globs below the folder."""
    seen: set[str] = set()
    for clone, patterns in spec_globs(town).items():
        for pattern in patterns:
            for path in sorted(clone.glob(pattern)):
                if path.is_file() and not {".git", "node_modules"} & set(path.relative_to(clone).parts):
                    yield from document(town, path, "specs", "spec", seen)


def spec_globs(town: Town) -> dict[Path, Sequence[str]]:
    """Folder → globs of the specs in it, for town and rigs. Raises UserError naming file and key."""
    places = {town.root: town.root} | {_clone(rig): rig for rig in town.rigs().values()}
    return {clone: _globs(folder / "settings" / "finetune.toml") for clone, folder in places.items()}


def settings(town: Town) -> Iterator[Document | Trouble]:
    """gt's own settings of town and rigs, without the values of ``env`` tables."""
    paths = [town.root / name for name in TOWN_SETTINGS]
    paths += [rig / name for rig in town.rigs().values() for name in RIG_SETTINGS]
    seen: set[str] = set()
    for path in paths:
        for found in document(town, path, "settings", "settings", seen):
            yield found if isinstance(found, Trouble) else _without_env(found)


def role_files(town: Town) -> Iterator[Document | Trouble]:
    """Role definitions, directives, formula overlays, and the texts that gt adds to every prime."""
    seen: set[str] = set()
    kinds = (("roles", "*.toml", "role"), ("directives", "*.md", "directive"))
    for folder in (town.root, *town.rigs().values()):
        for place, pattern, kind in (*kinds, ("formula-overlays", "*.toml", "overlay")):
            for path in sorted((folder / place).glob(pattern)) if (folder / place).is_dir() else ():
                yield from document(town, path, "roles", kind, seen, role_of(path.stem))
        for name in ("CONTEXT.md", ".beads/PRIME.md"):
            yield from document(town, folder / name, "roles", "directive", seen)


def working_folders(town: Town) -> list[Path]:
    """Folders in which agents of this town work, the town's root first."""
    root = town.root
    folders = [root, root / "mayor", root / "deacon", *_inside(root / "deacon/dogs")]
    for rig in town.rigs().values():
        folders += [rig, rig / "mayor/rig", rig / "witness", rig / "refinery", rig / "refinery/rig"]
        folders += _inside(rig / "crew")
        for polecat in _inside(rig / "polecats"):
            folders += [polecat, polecat / rig.name]
    return folders


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _tracked(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of these names that git tracks below ``folder``; none where it is not the top of a clone."""
    if not (folder / ".git").exists():
        return []
    import git

    try:
        repo = git.Repo(folder)
        listed = repo.git.ls_files("-z", "--", *(f":(glob)**/{name}" for name in names))
    except (git.exc.GitError, OSError, ValueError):
        return []
    return [folder / name for name in sorted(listed.split("\0")) if name]


def _clone(rig: Path) -> Path:
    """Where a rig's project lies: the mayor's clone, else the rig's own folder."""
    return rig / "mayor/rig" if (rig / "mayor/rig").is_dir() else rig


def _globs(path: Path) -> Sequence[str]:
    table = read_toml(path).get("collect", {})
    found = table.get("specs", list(DEFAULT_SPECS)) if isinstance(table, dict) else None
    if not isinstance(found, list) or not all(isinstance(pattern, str) and pattern for pattern in found):
        raise UserError(in_file(path, "collect.specs", "not a list of globs", 'write ["docs/**/*.md"]'))
    for pattern in found:
        if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
            problem = f"{pattern!r} leads out of the folder"
            raise UserError(in_file(path, "collect.specs", problem, "name files below the rig's clone"))
        if any("**" in part and part != "**" for part in pattern.split("/")):
            problem = f"{pattern!r} is no glob: ** stands alone"
            raise UserError(in_file(path, "collect.specs", problem, 'write "docs/**/*.md"'))
    return found


def _without_env(found: Document) -> Document | Trouble:
    try:
        value = json.loads(found.content)
    except (ValueError, RecursionError):
        return Trouble(found.key, "broken")
    content = json.dumps(_masked(value), indent=2, ensure_ascii=False) + "\n"
    return Document(**{**vars(found), "content": content})


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: {k: LEFT_OUT for k in inner} if name == "env" and isinstance(inner, dict) else _masked(inner)
        for name, inner in value.items()
    }
