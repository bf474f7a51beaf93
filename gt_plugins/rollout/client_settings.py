"""The settings file a tuned role's client is started with: gt's own hooks, our prime, guard and endpoint.

Everything gt wrote for the role stays, since a session without these hooks is a stranger to the town; only
``gt prime`` goes through our shim, so that it prints the slim text. Where gt has not written its file yet
(it does so when a session starts) the hooks of its templates are taken.

No environment variable carries the token: the client runs ``apiKeyHelper``. The provider variables that
would beat it are set empty here, for the client; the wrapper keeps their values for the agents that are
started from within the session.
"""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

from ..errors import UserError, in_file
from ..town.client_settings import guard_command, hook_executable
from ..town.roles import TOWN_LEVEL
from ..town.root import Town, read_json
from .deployed import TOKEN, role_dir

HELD = (
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
)
"""An operator's variables that would send a tuned session, or its token, elsewhere."""
HELD_PREFIX = "GT_FT_HELD_"
GUARD_SECONDS = 30
_NOT_OURS = ("apiKeyHelper", "model", "env", "awsAuthRefresh", "awsCredentialExport", "forceLoginMethod")
_TOWN_FOLDERS = {"mayor": "mayor", "deacon": "deacon", "boot": "deacon/dogs/boot", "dog": "deacon/dogs"}
_RIG_FOLDERS = {"witness": "witness", "refinery": "refinery", "polecat": "polecats", "crew": "crew"}
_AUTONOMOUS = ("polecat", "witness", "refinery", "deacon", "boot")
_PRIME = re.compile(r"""(?<![\w./'"-])(?:[^\s;&|'"()]*/)?gt(?=\s+prime(?:\s|$))""")


def gt_settings_path(town: Town, role: str, rig: str | None) -> Path:
    """Where gt keeps the role's client settings: with the session for the town's own roles, else per rig."""
    folder = _TOWN_FOLDERS.get(role) or f"{rig}/{_RIG_FOLDERS[role]}"
    return town.root / folder / ".claude" / "settings.json"


def settings_name(rig: str | None) -> str:
    """The file's name in the role's folder."""
    return f"settings-{rig}.json" if rig else "settings.json"


def rigs_of(town: Town, role: str) -> list[str | None]:
    """The rigs that need a settings file of their own, after None for the one of no rig."""
    return [None] if role in TOWN_LEVEL else [None, *town.rigs()]


def build(town: Town, role: str, rig: str | None, url: str, prime: str) -> dict[str, Any]:
    """The settings of a role (in ``rig``). ``prime`` is the command in place of ``gt`` before ``prime``.

    Raises UserError naming file and key where gt's own file is broken.
    """
    settings, source = gt_settings(town, role, rig)
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict):
        raise UserError(in_file(source, "hooks", "not a JSON object", "mend or remove it"))
    result = {key: value for key, value in settings.items() if key not in _NOT_OURS}
    result["hooks"] = {event: _entries(source, event, entries, prime) for event, entries in hooks.items()}
    guard = {"type": "command", "command": _guard(town, role), "timeout": GUARD_SECONDS}
    others = result["hooks"].get("PreToolUse", [])
    result["hooks"]["PreToolUse"] = [{"matcher": "*", "hooks": [guard]}, *others]
    token = role_dir(town, role) / TOKEN
    result["apiKeyHelper"] = f"cat {shlex.quote(str(token))}"
    kept = settings.get("env")
    result["env"] = {
        **(kept if isinstance(kept, dict) else {}),
        **dict.fromkeys(HELD, ""),
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    return result


def gt_settings(town: Town, role: str, rig: str | None) -> tuple[dict[str, Any], Path]:
    """gt's settings for the role and the file they stand in; its template's where that is not there yet."""
    known = role in TOWN_LEVEL or rig is not None
    path = gt_settings_path(town, role, rig) if known else Path("gt's template")
    if not known or not path.is_file():
        return template(role), path
    return read_json(path), path


def _guard(town: Town, role: str) -> str:
    return guard_command(hook_executable(), town.root, role)


def _entries(source: Path, event: str, entries: Any, prime: str) -> list[dict[str, Any]]:
    """One event's hooks with ``gt prime`` replaced."""
    if not isinstance(entries, list):
        raise UserError(in_file(source, f"hooks.{event}", "not a list", "mend or remove it"))
    result = copy.deepcopy(entries)
    for index, entry in enumerate(result):
        hooks = entry.get("hooks") if isinstance(entry, dict) else None
        if not isinstance(hooks, list):
            raise UserError(in_file(source, f"hooks.{event}[{index}]", "has no hooks", "mend or remove it"))
        for hook in hooks:
            if isinstance(hook, dict) and isinstance(hook.get("command"), str):
                hook["command"] = replace_prime(hook["command"], prime)
    return result


def replace_prime(command: str, prime: str) -> str:
    """``command`` with the ``gt`` of every ``gt prime`` replaced, wherever that gt stands."""
    return _PRIME.sub(lambda _: prime, command)


def template(role: str) -> dict[str, Any]:
    """What gt's own template for the role comes to, with ``gt`` from PATH."""
    guards = ("gh pr create*", "git checkout -b*", "git switch -c*")
    autonomous = role in _AUTONOMOUS
    start = "gt prime --hook && gt mail check --inject" if autonomous else "gt prime --hook"

    def one(command: str, matcher: str = "") -> dict[str, Any]:
        return {"matcher": matcher, "hooks": [{"type": "command", "command": command}]}

    return {
        "skipDangerousModePermissionPrompt": True,
        "editorMode": "normal",
        "enabledPlugins": {"beads@beads-marketplace": False},
        "hooks": {
            "PreToolUse": [one("gt tap guard pr-workflow", f"Bash({g})") for g in guards],
            "SessionStart": [one(start)],
            "PreCompact": [one("gt prime --hook")],
            "UserPromptSubmit": [one("gt mail check --inject")],
            "Stop": [one("gt costs record &")],
        },
    }
