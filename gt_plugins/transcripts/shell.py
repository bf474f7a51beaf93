"""The shell command in a tool call, whichever client made it.

Clients call their shell by other names and pass the command in other forms; who looks for what an agent did
(``gt prime``, a nudge) asks here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

_TOOLS = frozenset(
    "Bash bash shell shell_command exec_command local_shell unified_exec container.exec".split()
)
_KEYS = ("command", "cmd")
_SHELLS = frozenset({"bash", "sh", "zsh", "dash"})


def command_of(block: Mapping[str, Any]) -> str:
    """The command line of a ``tool_use`` block; empty where it runs none.

    A list of words is joined as a shell would read it; ``["bash", "-lc", LINE]`` is LINE itself.
    """
    if block.get("type") != "tool_use" or block.get("name") not in _TOOLS:
        return ""
    given = block.get("input")
    value = next((given[k] for k in _KEYS if given.get(k)), "") if isinstance(given, dict) else ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return ""
    if len(value) == 3 and value[0].rpartition("/")[2] in _SHELLS and value[1] in ("-c", "-lc", "-l -c"):
        return str(value[2])
    return shlex.join(value)
