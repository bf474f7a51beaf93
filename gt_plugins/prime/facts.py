"""What a slim prime must not lose: the table of live facts, and how much of them a text holds.

The table reads the stock prime by regular expressions of its own, not by :mod:`.parse`, so that it can judge
what the slim prime keeps. ``required`` names the roles whose stock prime always shows the fact: where it does
not, gt prints it in another way than we know, and :func:`unknown_form` says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .parse import clean
from .prose import commands, prohibitions

PATROLS = ("deacon", "witness", "refinery")
WORKERS = ("polecat",)
NAMED = ("mayor", "deacon", "boot", "witness", "refinery", "polecat", "crew")
IN_A_FOLDER = ("mayor", "deacon", "boot", "witness", "refinery", "polecat", "crew")
_LINE = r"(?m)^"


@dataclass(frozen=True)
class FactKind:
    """A live fact: its name, where it stands (group 1 is the value), the roles that always have it."""

    name: str
    pattern: str
    required: tuple[str, ...] = ()


FACTS: tuple[FactKind, ...] = (
    FactKind("actor", _LINE + r"\[?GAS TOWN\]? role:(\S+)", NAMED),
    FactKind("session", _LINE + r"\[?GAS TOWN\]? .*?session:([^\s\]]+)", NAMED),
    FactKind(
        "folder",
        r"(?m)(?:^(?:Working directory|Town root): |Always work from `)([^`\s]+)",
        IN_A_FOLDER,
    ),
    FactKind("address", _LINE + r"(?:Your mail address|Mail identity): (\S+)"),
    FactKind("bead", _LINE + r"\s*(?:Bead ID|Pinned bead): (\S+)", WORKERS),
    FactKind("bead", _LINE + r"\s*Hooked: (\S+) — "),
    FactKind("title", _LINE + r"  Title: (.+)", WORKERS),
    FactKind("formula", _LINE + r"(?:Formula|Attached formula): (\S+)"),
    FactKind("molecule", _LINE + r"(?:Molecule ID|Attached molecule): (\S+)"),
    FactKind("variable", _LINE + r"  --var (.+)"),
    FactKind("patrol", r"(?m)(?:^Current patrol ID:|^Patrol:|patrol wisp:) (\S+)", PATROLS),
    FactKind("step", _LINE + r"\*\*Step ID:\*\* (\S+)"),
    FactKind("predecessor", r"Your predecessor \((.+?)\) handed off"),
    FactKind("checkpoint", _LINE + r"  \*\*(?:Working on|Molecule|Step|Branch|Notes):\*\* (.+)"),
    FactKind("mail", _LINE + r"- (\S+ from \S+: .+)"),
    FactKind("escalation", _LINE + r"  • (\[\w+\] .+)"),
    FactKind("memory", _LINE + r"- \*\*[^*\n]+\*\*: (.+)$(?=[\s\S]*)"),
    FactKind("stop", r"(EMERGENCY STOP ACTIVE)"),
    FactKind("pause", _LINE + r"(?:## ⏸️ +\w+ PAUSED|⏸️ +)(.*)"),
    FactKind("database", r"(DATABASE ERROR — DO NOT RUN gt done)"),
)

_HANDOFF = re.compile(r"(?ms)^## 🤝 Handoff from Previous Session\n+(.*?)^\(Clear with")
_DIRECTIVES = re.compile(r"(?ms)^## (?:Town & Rig|Town|Rig) Directives [^\n]*\n+(.*?)(?=^#|^---|\Z)")
_MEMORIES = re.compile(r"(?ms)^# Agent Memories\n(.*?)(?=^---|^<system-reminder|^# |\Z)")


@dataclass(frozen=True)
class Recall:
    """How much of a stock prime a slim one holds; ``missing`` names live facts as (kind, value)."""

    facts: int
    kept: int
    missing: tuple[tuple[str, str], ...]
    prohibitions: int
    prohibitions_kept: int
    commands: int
    commands_kept: int

    @property
    def live(self) -> float:
        """The share of live facts kept; 1.0 where there are none."""
        return self.kept / self.facts if self.facts else 1.0


def live_facts(prime: str) -> list[tuple[str, str]]:
    """The live facts of a stock prime as (kind, value), each once."""
    text = clean(prime)
    found: list[tuple[str, str]] = []
    for kind in FACTS:
        source = "\n".join(_MEMORIES.findall(text)) if kind.name == "memory" else text
        found.extend((kind.name, m.strip()) for m in re.findall(kind.pattern, source) if m.strip())
    for name, pattern in (("handoff", _HANDOFF), ("directive", _DIRECTIVES)):
        for body in pattern.findall(text):
            found.extend((name, line.strip()) for line in body.split("\n") if line.strip())
    return list(dict.fromkeys(found))


def unknown_form(prime: str, role: str) -> list[str]:
    """Names of the facts that a stock prime of this role always shows and this one does not."""
    shown = {name for name, _ in live_facts(prime)}
    wanted = dict.fromkeys(kind.name for kind in FACTS if role in kind.required)
    return [name for name in wanted if name not in shown]


def recall(prime: str, slim: str) -> Recall:
    """What of a stock prime stands in a slim one. Space and bold marks make no difference."""
    held = _plain(slim)
    facts = live_facts(prime)
    missing = tuple((name, value) for name, value in facts if _plain(value) not in held)
    forbidden = [_plain(x) for x in prohibitions(clean(prime).split("\n"))]
    known = [_plain(c.text) for c in commands(clean(prime).split("\n"))]
    return Recall(
        len(facts),
        len(facts) - len(missing),
        missing,
        len(forbidden),
        _inside(forbidden, held),
        len(known),
        _inside(known, held),
    )


def _inside(values: Sequence[str], held: str) -> int:
    return sum(value.rstrip(".") in held for value in values)


def _plain(text: str) -> str:
    return " ".join(text.replace("**", "").replace("port 3307", "port $GT_DOLT_PORT").split())
