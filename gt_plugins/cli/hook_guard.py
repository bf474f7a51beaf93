"""``gt-hook guard``: the client's PreToolUse hook of a tuned role. It alone of our hooks fails closed.

gt runs its agents with permissions skipped, so this is the fence in the client: every tool is refused but
Bash with a command that one rule of the role's ``fence.toml`` matches as a whole, and Read of a file inside
the town where the fence's ``tools`` list has it. The client takes exit code 2 for a refusal (stderr goes to
the model) and every other failure for a pass, so whatever is odd ends in 2: no JSON, a fence that cannot be
read, stdin that never ends, a pattern that runs away, an exception of our own. A Python that cannot even
start is covered by the ``|| exit 2`` of the command line in the settings (see ``town/client_settings.py``).

    gt-hook guard [--town DIR] [--role ROLE] [--fence FILE]
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

DENY = 2
READ_SECONDS = 2.0
ALL_SECONDS = 5.0
MOST_BYTES = 8_000_000
LONGEST_COMMAND = 10_000
BREAKING = frozenset(";|&$`<>\n\r\0")
"""Characters by which a shell takes one line for more than one command: refused whatever a rule says."""
BASH_KEYS = frozenset({"command", "description", "timeout"})
OWN_FOLDERS = (".finetune", ".corpus", ".checkpoints")


class Denied(Exception):
    """The tool call is refused; the message tells the model why."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Judge the call on stdin: exit 0 to allow it, 2 with one line on stderr to refuse it."""
    code = DENY
    try:
        _time_limit()
        options = _options(sys.argv[2:] if argv is None else argv)
        judge(read_payload(sys.stdin.fileno()), options)
        code = 0
    except Denied as reason:
        _say(str(reason))
    except BaseException as error:  # whatever it is, an unjudged call must not run
        _say(f"the guard failed ({type(error).__name__}: {error}), so nothing may run; escalate to a person")
    os._exit(code)


def judge(payload: dict[str, Any], options: dict[str, str]) -> None:
    """Return if the call may run. Raises Denied otherwise."""
    tool, arguments = payload.get("tool_name"), payload.get("tool_input")
    if not isinstance(tool, str) or not isinstance(arguments, dict):
        raise Denied("the payload names no tool and input")
    town, fence_file = _place(options, payload)
    fence = _fence(fence_file)
    if tool not in fence["tools"]:
        raise Denied(f"this role has no tool {tool[:40]!r}, only {', '.join(sorted(fence['tools']))}")
    if tool == "Bash":
        _check_command(arguments, fence["allow"])
    elif tool == "Read":
        _check_read(arguments, town)
    else:
        raise Denied(f"the tool {tool[:40]!r} is never allowed for a tuned role")


def read_payload(fd: int, seconds: float = READ_SECONDS) -> dict[str, Any]:
    """The JSON object on ``fd``, taken as soon as it is whole: the writer may never close its end.

    Raises Denied where there is none within ``seconds``, or something else, or too much.
    """
    deadline, data = time.monotonic() + seconds, b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise Denied("no whole payload came on stdin in time")
        chunk = os.read(fd, 1 << 16)
        data += chunk
        if len(data) > MOST_BYTES:
            raise Denied("the payload is too large to judge")
        if chunk and not chunk.rstrip().endswith(b"}"):
            continue
        try:
            value = json.loads(data, object_pairs_hook=_no_twins)
        except ValueError:
            if chunk:
                continue
            raise Denied("stdin held no JSON") from None
        if not isinstance(value, dict):
            raise Denied("the payload is no JSON object")
        return value


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that stands twice could mean one thing here and another to the client."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Denied("a key stands twice in the payload")
    return value


def _options(argv: list[str]) -> dict[str, str]:
    if len(argv) % 2 or any(name not in ("--town", "--role", "--fence") for name in argv[::2]):
        raise Denied("the guard was called with arguments that it does not know")
    return dict(zip([name[2:] for name in argv[::2]], argv[1::2], strict=True))


def _place(options: dict[str, str], payload: dict[str, Any]) -> tuple[Path, Path]:
    """The town and the fence: as the command line says, else as the session's environment does."""
    where = options.get("town") or os.environ.get("GT_TOWN_ROOT") or os.environ.get("GT_ROOT")
    if not where:
        cwd = Path(str(payload.get("cwd") or os.getcwd()))
        found = [p for p in (cwd, *cwd.parents) if (p / "mayor" / "town.json").is_file()]
        if not found:
            raise Denied("the guard cannot tell which town this is")
        where = str(found[-1])
    town = Path(where)
    if "fence" in options:
        return town, Path(options["fence"])
    role = options.get("role") or _role_of_session()
    if not re.fullmatch("[a-z]+", role):
        raise Denied("the guard cannot tell which role this is")
    return town, town / ".finetune" / role / "fence.toml"


def _role_of_session() -> str:
    from ..town.roles import parse_gt_role

    identity = parse_gt_role(os.environ.get("GT_ROLE", ""))
    return identity.role if identity else ""


def _fence(path: Path) -> dict[str, Any]:
    """``{"tools": set of names, "allow": [(name, compiled pattern)]}``. Raises Denied where it is not so."""
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        rules = [(str(rule["name"]), re.compile(rule["pattern"])) for rule in document["allow"]]
        tools = set(document.get("tools", ["Bash"]))
    except FileNotFoundError:
        raise Denied(f"the role has no fence: {path} is not there; deploy it again") from None
    except (OSError, ValueError, KeyError, TypeError, re.error) as error:
        raise Denied(f"the role's fence cannot be read ({path}: {type(error).__name__}: {error})") from None
    if not rules:
        raise Denied(f"the role's fence has no rule ({path})")
    return {"tools": tools, "allow": rules}


def _check_command(arguments: dict[str, Any], rules: list[tuple[str, re.Pattern[str]]]) -> None:
    command = arguments.get("command")
    names = ", ".join(name for name, _ in rules)
    if not isinstance(command, str) or not set(arguments) <= BASH_KEYS:
        raise Denied("a Bash call needs a command and may carry nothing but a description and a timeout")
    if len(command) > LONGEST_COMMAND or BREAKING & set(command):
        raise Denied(f"one plain command only, without {' '.join(';|&$`<>')} or line breaks; rules: {names}")
    if not any(pattern.fullmatch(command) for _, pattern in rules):
        raise Denied(
            f"no rule of this role allows that command; rules: {names}; or: gt escalate '…' -s medium"
        )


def _check_read(arguments: dict[str, Any], town: Path) -> None:
    """Only a file that, links followed, lies in the town and in none of our own folders."""
    name = arguments.get("file_path")
    if not isinstance(name, str) or not os.path.isabs(name):
        raise Denied("Read needs an absolute path")
    root, path = os.path.realpath(town), os.path.realpath(name)
    inside = os.path.relpath(path, root).split(os.sep)
    if os.path.commonpath([root, path]) != root or inside[0] in OWN_FOLDERS:
        raise Denied("Read is for files of the town only")


def _time_limit() -> None:
    """Refuse after ALL_SECONDS, whatever runs then: the client takes its own time-out for a pass."""

    def too_long(signum: int, frame: object) -> None:
        _say("the guard took too long, so nothing may run")
        os._exit(DENY)

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, ALL_SECONDS)


def _say(message: str) -> None:
    try:
        os.write(2, f"not allowed: {' '.join(message.split())[:600]}\n".encode("utf-8", "replace"))
    except OSError:
        return  # nobody listens; the exit code alone still refuses


if __name__ == "__main__":
    main(sys.argv[1:])
