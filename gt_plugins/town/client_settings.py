"""Our entries in the agent client's settings, as text edits that keep everything else in the file.

An entry of ours is known by the comment at the end of its command; the client keeps commands as they are
when it rewrites its file. Commands name our executables absolutely and are quoted for ``sh``.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from . import json_text

MARK = "# gastown-finetune"
SESSION_END = ("hooks", "SessionEnd")
SESSION_END_SECONDS = 10
"""The client gives SessionEnd hooks 1.5 s unless the entry has a ``timeout``; ours needs under 50 ms."""


def hook_executable() -> Path:
    """``gt-hook`` next to the running Python. Raises UserError where the package is not installed there."""
    path = Path(sys.executable).parent / "gt-hook"
    if not path.is_file():
        raise UserError(f"{path}: not there; install gastown-finetune into this Python's environment")
    return path


def session_end_command(hook: Path) -> str:
    """Capture, and say nothing where our environment has been removed: a session must end all the same."""
    quoted = shlex.quote(str(hook))
    return f"[ ! -x {quoted} ] || exec {quoted} session-end {MARK}"


def guard_command(hook: Path, town: Path, role: str) -> str:
    """The PreToolUse guard of a tuned role. ``|| exit 2`` refuses where our Python cannot even start."""
    words = [str(hook), "guard", "--town", str(town), "--role", role]
    return f"{shlex.join(words)} || exit 2 {MARK}"


def session_end_entry(hook: Path) -> dict[str, Any]:
    """One item of ``hooks.SessionEnd``."""
    command = {"type": "command", "command": session_end_command(hook), "timeout": SESSION_END_SECONDS}
    return {"hooks": [command]}


def is_ours(entry: Any) -> bool:
    """Whether an item of a hook list is one of ours (all its commands carry our mark)."""
    hooks = entry.get("hooks") if isinstance(entry, dict) else None
    if not isinstance(hooks, list) or not hooks:
        return False
    return all(isinstance(h, dict) and str(h.get("command", "")).rstrip().endswith(MARK) for h in hooks)


def our_entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Our SessionEnd entries in a parsed settings file."""
    found = json_text.get(document, SESSION_END)
    return [e for e in found if is_ours(e)] if isinstance(found, list) else []


def with_session_end(path: Path, entry: dict[str, Any], text: str | None) -> str:
    """``text`` (None: no file) with ``entry`` as the only SessionEnd entry of ours.

    Raises UserError naming the key where the settings have another shape; the caller has checked the JSON.
    """
    try:
        cleaned = json_text.remove_items(text or "{}\n", SESSION_END, is_ours)
        return json_text.append_item(cleaned, SESSION_END, entry)
    except json_text.NoSuchPlace as error:
        key = str(error)
        kind = "list" if key == ".".join(SESSION_END) else "JSON object"
        raise UserError(in_file(path, key, f"not a {kind}", "mend or remove it")) from None


def without_session_end(made: tuple[str, ...], text: str) -> str:
    """``text`` without our entries; of the keys that install had to make (``made``) the empty ones go too."""
    import json

    cleaned = json_text.remove_items(text, SESSION_END, is_ours)
    for depth in (2, 1):
        key = SESSION_END[:depth]
        if ".".join(key) in made and not json_text.get(json.loads(cleaned), key):
            cleaned = json_text.remove_member(cleaned, key)
    return cleaned
