"""Where a town is and where our files stand in it.

The rule is gt's own (``workspace.Find``): the outermost folder with ``mayor/town.json`` wins.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..durable import private_dir, write_text
from ..errors import UserError, in_file


@dataclass(frozen=True)
class Town:
    """A Gas Town by its root folder; every path of ours and gt's that others need."""

    root: Path

    @property
    def corpus_dir(self) -> Path:
        return self.root / ".corpus"

    @property
    def corpus_db(self) -> Path:
        return self.corpus_dir / "corpus.db"

    @property
    def spool_dir(self) -> Path:
        return self.corpus_dir / "spool"

    @property
    def checkpoints_dir(self) -> Path:
        return self.root / ".checkpoints"

    @property
    def finetune_dir(self) -> Path:
        """Deployed roles: ``.finetune/<role>/``."""
        return self.root / ".finetune"

    @property
    def settings_file(self) -> Path:
        """Ours: ``settings/finetune.toml``."""
        return self.root / "settings" / "finetune.toml"

    @property
    def gt_settings_file(self) -> Path:
        """gt's own: ``settings/config.json``."""
        return self.root / "settings" / "config.json"

    @property
    def events_file(self) -> Path:
        return self.root / ".events.jsonl"

    @property
    def formulas_dir(self) -> Path:
        return self.root / ".beads" / "formulas"

    @property
    def accounts_file(self) -> Path:
        return self.root / "mayor" / "accounts.json"

    def rigs(self) -> dict[str, Path]:
        """Rig name → folder, from ``mayor/rigs.json``; empty where that file is not there.

        Raises UserError where the file is not JSON, or holds no rigs by name."""
        path = self.root / "mayor" / "rigs.json"
        if not path.exists():
            return {}
        names = read_json(path).get("rigs")
        if names is None:
            return {}
        if not isinstance(names, dict):
            raise UserError(in_file(path, "rigs", "not a JSON object", "gt writes a rig's name to each rig"))
        for name in names:
            if not _is_folder_name(name):
                problem = "no name of a folder in the town"
                raise UserError(in_file(path, f"rigs.{name}", problem, "gt rig list shows what there is"))
        return {name: self.root / name for name in sorted(names)}

    def own_dir(self, path: Path) -> Path:
        """Make one of our folders: private, and ignored by git whatever the town's own ignore file says."""
        private_dir(path)
        top = self.root / path.relative_to(self.root).parts[0]
        ignore = top / ".gitignore"
        if not ignore.exists():
            write_text(ignore, "*\n")
        return path


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and "/" not in name


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError naming file and line where it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            in_file(path, f"line {error.lineno}", f"not JSON ({error.msg})", "mend or remove it")
        ) from None
    except UnicodeDecodeError:
        raise UserError(in_file(path, "", "not UTF-8 text", "mend or remove it")) from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets without end
        raise UserError(in_file(path, "", f"not JSON ({error})", "mend or remove it")) from None
    if not isinstance(value, dict):
        raise UserError(in_file(path, "", "not a JSON object", "mend or remove it"))
    return value


def find_town(explicit: Path | str | None = None, cwd: Path | None = None) -> Town:
    """The town meant: ``explicit``, else GT_TOWN_ROOT, else the outermost parent with ``mayor/town.json``.

    Raises UserError where there is none.
    """
    if explicit is not None:
        return _checked(Path(explicit), "--town")
    if os.environ.get("GT_TOWN_ROOT"):
        return _checked(Path(os.environ["GT_TOWN_ROOT"]), "GT_TOWN_ROOT")
    start = cwd or Path.cwd()
    found = [p for p in [start, *start.parents] if (p / "mayor" / "town.json").is_file()]
    if not found:
        raise UserError(f"{start}: not inside a Gas Town; pass --town PATH or set GT_TOWN_ROOT")
    return Town(found[-1])


def _checked(root: Path, where: str) -> Town:
    root = root.expanduser().absolute()
    if not (root / "mayor" / "town.json").is_file():
        raise UserError(f"{root}: no Gas Town ({where}): mayor/town.json is not there")
    return Town(root)
