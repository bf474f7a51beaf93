"""The client's configuration folders: ``~/.claude`` and those that ``mayor/accounts.json`` names.

gt starts an agent of an account with CLAUDE_CONFIG_DIR set to the account's ``config_dir``; an operator may
have that variable set for every session. Each such folder has a ``settings.json`` and a ``projects`` folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError, in_file
from .root import Town, read_json


def config_dirs(town: Town) -> list[Path]:
    """Every configuration folder that a session of this town can run with, ``~/.claude`` first, each once.

    A folder need not be there yet. Raises UserError where accounts.json is broken, naming line or key.
    """
    folders = [Path.home() / ".claude"]
    if os.environ.get("CLAUDE_CONFIG_DIR"):
        folders.append(Path(os.environ["CLAUDE_CONFIG_DIR"]))
    folders += _accounts(town.accounts_file)
    absolute = [Path(os.path.normpath(f.expanduser().absolute())) for f in folders]
    return list(dict.fromkeys(absolute))


def _accounts(path: Path) -> list[Path]:
    if not path.exists():
        return []
    accounts = read_json(path).get("accounts", {})
    if not isinstance(accounts, dict):
        raise UserError(in_file(path, "accounts", "not a JSON object", "mend or remove it"))
    folders = []
    for handle, account in sorted(accounts.items()):
        folder = account.get("config_dir") if isinstance(account, dict) else None
        if folder is not None and not isinstance(folder, str):
            raise UserError(in_file(path, f"accounts.{handle}.config_dir", "not a string", "write a path"))
        if folder:
            folders.append(Path(folder))
    return folders
