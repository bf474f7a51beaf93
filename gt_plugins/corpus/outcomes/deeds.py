"""A patrol's decisions as deeds: what was done, about whom, when, as far as the session itself tells.

A decision is a command that one action of the role's profile matches, as for the dataset. Its key is the id
of the ``tool_use`` block that ran it, which every other view of the session keeps.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...rendering.conversation import result_text
from ...roles.profile import Profile
from ...town.roles import Identity, address, address_of
from ...town.times import epoch
from ...transcripts.model import Session

PATROL_ROLES = ("deacon", "boot", "witness")
"""Roles that close no work of their own: their decisions are judged one by one."""

_ADDRESS = re.compile(
    r"(?<![\w./-])(?:[\w-]+/(?:polecats|crew)/[\w-]+|[\w-]+/(?:witness|refinery)|deacon/(?:dogs/)?[\w-]+)"
    r"(?![\w/-])"
)
_MADE = re.compile(r"""(?:created(?: issue)?:?\s+|"id":\s*"|\A)([a-z][\w]*(?:-[\w.]+)+)""", re.IGNORECASE)
_OPERATORS = {";", "&&", "||", "|", "&"}
_WITH_VALUE = {"--mode", "--message", "-m", "--priority", "--reason", "-r", "--agent", "--env", "--rig"}


@dataclass(frozen=True)
class Deed:
    """One decision. ``at`` is in seconds since 1970, 0 where unknown; names are scrubbed."""

    session: str
    call: str
    at: float
    role: str
    actor: str
    """The address of who decided."""
    action: str
    """As the role's profile calls it."""
    kind: str
    """nudge, warrant, escalate, cleanup, nuke, start, restart, watch or no-op; empty for anything else."""
    target: str
    """The address of the agent that it is about; empty where that is not told."""
    ref: str = ""
    """The bead or escalation that the command made, as it printed it."""
    failed: bool = False


def deeds(session: Session, profile: Profile) -> Iterator[Deed]:
    """The decisions of a session of ``profile``'s role, in order."""
    results = {b.get("tool_use_id"): b for t in session.turns for b in t.blocks if b["type"] == "tool_result"}
    actor = address_of(Identity(session.role, session.rig or None, session.name or None))
    evidence: list[str] = []
    for turn in session.turns:
        if turn.role != "assistant" or turn.meta:
            continue
        for block in turn.blocks:
            command = block.get("input", {}).get("command") if block.get("type") == "tool_use" else None
            if not isinstance(command, str):
                continue
            result = results.get(block.get("id"), {})
            text = result_text(result)
            action = profile.action_of(command)
            if action is None:
                evidence.append(text)
                continue
            kind, named = kind_of(command)
            yield Deed(
                session.id,
                str(block.get("id", "")),
                epoch(turn.at),
                session.role,
                actor,
                action,
                kind,
                _target(session.role, command, named, evidence),
                _made(kind, text),
                bool(result.get("is_error")),
            )
            evidence = []


def kind_of(command: str) -> tuple[str, str]:
    """What a command is to the town, and the agent that it names where a place for one is."""
    words = _words(command)
    plain = _positional(words)
    match plain:
        case ["gt", "nudge", target, *_]:
            return "nudge", target
        case ["gt", "warrant", "file", target, *_]:
            return "warrant", target
        case ["gt", "polecat", "nuke", target, *_]:
            return "nuke", target
        case ["gt", "escalate", ("ack" | "close" | "list" | "show" | "stale"), *_]:
            return "", ""
        case ["gt", "escalate", *_]:
            return "escalate", ""
        case ["bd", "create", *_] if any("gt:cleanup" in word for word in words):
            return "cleanup", ""
        case ["gt", ("deacon" | "witness" | "refinery") as role, ("start" | "restart") as deed, *rest]:
            return deed, role if role == "deacon" else f"{rest[0]}/{role}" if rest else ""
        case ["gt", "deacon", "heartbeat", *_]:
            return "no-op", ""
        case ["gt", "activity", "emit", name, *_]:
            return ("watch" if "watch" in name else "no-op"), _option(words, "--target")
    return "", ""


def _words(command: str) -> list[str]:
    """The words of the first command of a line; of one that no shell would take, those between spaces."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        words = command.split()
    stop = next((i for i, word in enumerate(words) if word in _OPERATORS), len(words))
    return words[:stop]


def _positional(words: Iterable[str]) -> list[str]:
    """The words without options and their values."""
    found: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith("-"):
            found.append(word)
        skip = not skip and word in _WITH_VALUE
    return found


def _option(words: list[str], name: str) -> str:
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _target(role: str, command: str, named: str, evidence: list[str]) -> str:
    """Whom a command is about: whom it names, else whom its evidence does if its words leave one alone."""
    if address(named):
        return address(named)
    if role == "boot":
        return "deacon"
    spelled = {address(found) for found in _ADDRESS.findall(command)}
    if len(spelled) == 1:
        return spelled.pop()
    said = set(re.findall(r"[\w-]+", command))
    seen = {address(found) for text in evidence for found in _ADDRESS.findall(text)}
    fitting = {agent for agent in seen if agent.rsplit("/", 1)[-1] in said}
    return fitting.pop() if len(fitting) == 1 else ""


def _made(kind: str, text: str) -> str:
    """The id that a command printed for what it made."""
    if kind not in ("escalate", "cleanup"):
        return ""
    found = _MADE.search(text.strip())
    return found.group(1).rstrip(".") if found else ""
