"""A stock prime as parts: which lines belong together, and what they are about.

``gt prime`` prints, in this order: warnings, the metadata line, the role's template, the operator's
directives, CONTEXT.md, handoff, attached work, hooked work with its formula, the patrol, a checkpoint, the
output of ``bd prime``, memories, mail, escalations and a startup directive. Most begin with a heading of
their own; CONTEXT.md does not, so that what stands between the template's last known heading and the next
known one is taken for the operator's: a heading that we do not know is kept rather than lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from .prose import Scanned, scan

TEMPLATE, OPERATOR, BEADS = "template", "context", "beads"

_DECORATION = re.compile(r"^(critical: *|[^a-z]+)+")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
_FENCE = re.compile(r"\s*(```|~~~)")
METADATA = re.compile(r"\[?GAS TOWN\]? role:\S")

_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("identity", METADATA),
    ("mismatch", re.compile(r"(\*\*)?⚠️\s+ROLE/LOCATION MISMATCH")),
    ("collision", re.compile(r"(\*\*)?⚠️\s+IDENTITY COLLISION DETECTED")),
    ("database", re.compile(r"#* *⚠️\s+DATABASE ERROR")),
    ("directives", re.compile(r"## (Town & Rig|Town|Rig) Directives \(")),
    ("handoff", re.compile(r"## 🤝 Handoff from Previous Session")),
    ("handed-off", re.compile(r"\W*╔═{5,}")),
    ("attached", re.compile(r"## 🎯 ATTACHED WORK DETECTED")),
    ("autonomous", re.compile(r"## 🚨 AUTONOMOUS WORK MODE")),
    ("hooked", re.compile(r"## Hooked Work\s*$")),
    ("continue", re.compile(r"## ▶ CONTINUE HOOKED WORK")),
    ("formula", re.compile(r"## (🧬 ATTACHED FORMULA|RALPH LOOP MODE)")),
    ("step", re.compile(r"## 🎬 CURRENT STEP:")),
    ("patrol", re.compile(r"## \S+\s+\w+ Patrol Status|## 🔄 Patrol Status")),
    ("parked", re.compile(r"⏸️\s+Rig \S+ is ")),
    ("checkpoint", re.compile(r"## 📌 Previous Session Checkpoint")),
    ("paused", re.compile(r"## ⏸️\s+\w+ PAUSED")),
    (BEADS, re.compile(r"# (Beads Workflow Context|Gas Town Worker Context)\s*$")),
    ("memories", re.compile(r"## Persistent Memories \(|# Agent Memories\s*$")),
    ("escalations", re.compile(r"## 🚨 PENDING ESCALATIONS")),
    ("startup", re.compile(r"\*\*STARTUP PROTOCOL\*\*:")),
    ("recovery", re.compile(r"> \*\*Recovery\*\*: Context \S+ complete")),
)
"""The first line of what gt adds to the template. None can stand in the template itself."""

_STAYS = {"formula", "patrol", "step", "attached", "hooked", "autonomous", "memories", BEADS, "continue"}
"""Parts whose own sub-headings belong to them."""

DOCTRINE = (
    "theory of operation",
    "the capability ledger",
    "formula compliance is your cv",
    "hop context",
    "gas town: architectural",
    "gas town architecture",
    "architecture",
    "gas town is a village",
    "why wisps",
    "step banners",
    "your lifecycle",
    "you are always fresh",
    "the propulsion principle",
    "two-level beads architecture",
    "prefix-based routing",
    "session patterns",
    "desire paths",
    "formula & workflow reference",
    "tips",
    "crew vs polecats",
    "the solo artist trap",
    "planning new features",
    "fix-merging community prs",
    "handoff bead",
    "hookable mail",
    "memory: use",
    "where to file beads",
    "gotchas when filing beads",
    "beads: persistent by default",
)
"""Headings of prose that explains and urges; a tuned role has learnt what it says. Dropped first."""

OPERATIONAL = (
    "your role:",
    "triage steps",
    "step 1: observe",
    "step 2: decide",
    "step 3: act",
    "step 4: clean",
    "step 5: exit",
    "swim lane rule",
    "docked rigs",
    "responsibilities",
    "lifecycle request",
    "mail types",
    "completion protocol",
    "directory discipline",
    "important notes",
    "escalation",
    "if you're stuck",
    "context management",
    "context cycling",
    "state files",
    "work protocol",
    "persist findings",
    "before signaling done",
    "pre-submission",
    "the landing rule",
    "landing the plane",
    "git workflow",
    "no prs in maintainer",
    "pr workflow",
    "new workflow",
    "the approval fallacy",
    "how crew work",
    "slinging:",
    "hooking:",
    "work philosophy",
    "the decision tree",
    "fix directly",
    "directory guidelines",
    "rig wake/sleep",
    "session end checklist",
    "pull requests",
    "event-driven protocol",
    "zfc compliance",
    "patrol molecule",
    "patrol execution",
    "execute each step",
    "report and loop",
    "sequential rebase",
    "conflict handling",
    "following your patrol",
    "your patrol steps",
    "patrol formula discipline",
    "end of patrol cycle",
    "communication",
    "inbox hygiene",
    "timer callbacks",
    "multi-town",
    "handoff (wisp-based)",
    "gotchas",
    "degraded mode",
    "final reminder",
    "dolt connectivity",
    "nudge",
    "gt nudge",
    "cross-rig",
    "your workspace",
    "working directory",
    "tools overview",
    "polecat inspection",
    "polecat actions",
    "git verification",
    "git operations",
    "beads cli reference",
    "key commands",
    "commands",
    "command quick-reference",
    "startup protocol",
    "session & context",
    "your work",
    "working",
    "workflow",
    "work dispatch",
    "status & coordination",
    "finding work",
    "progress",
    "discovered work",
    "completion",
    "completing work",
    "beads",
    "patrol",
    "dog formula reference",
    "mol-dog-",
)
"""Headings of the templates' working parts, the most telling first; the order is that of the rest."""


@dataclass(frozen=True)
class Part:
    """A run of lines under one heading. ``zone`` says what it is, ``title`` is the heading as printed."""

    zone: str
    title: str
    lines: tuple[str, ...]

    @cached_property
    def scanned(self) -> list[Scanned]:
        """Its blocks with the prohibitions they state."""
        return scan(self.lines)

    @cached_property
    def key(self) -> str:
        """The heading in lower case without emoji or a warning in front."""
        return _DECORATION.sub("", self.title.lower())

    @property
    def chars(self) -> int:
        return sum(len(line) + 1 for line in self.lines) + (len(self.title) + 1 if self.title else 0)

    @cached_property
    def doctrine(self) -> bool:
        return self.key.startswith(DOCTRINE)

    @cached_property
    def rank(self) -> int:
        """How telling the part is: its place in OPERATIONAL, the last one where it is not named."""
        for place, prefix in enumerate(OPERATIONAL):
            if self.key.startswith(prefix):
                return place
        return len(OPERATIONAL)


def clean(text: str) -> str:
    """Without terminal colours, NULs and carriage returns; lines end with a line feed."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def parts_of(text: str) -> list[Part]:
    """The parts of a prime in their order; nothing is lost: every line is in one of them, or is its title."""
    found: list[Part] = []
    zone, title, lines, fenced = "head", "", list[str](), False
    for line in clean(text).split("\n"):
        mark = _mark(line)
        heading = None if fenced else _HEADING.match(line)
        if line.startswith("<system-reminder>"):
            mark = "mail"
        if mark or heading:
            _close(found, zone, title, lines)
            zone = mark or _zone_under(zone, heading)
            title = heading.group(2).strip() if heading else ""
            lines = [] if heading else [line]
            fenced = False
            continue
        lines.append(line)
        if _FENCE.match(line):
            fenced = not fenced
        if zone == "mail" and line.startswith("</system-reminder>"):
            _close(found, zone, title, lines)
            zone, title, lines = "after-mail", "", []
    _close(found, zone, title, lines)
    return _operator_text(found)


def _mark(line: str) -> str:
    if not line or line[0] in " \t-":
        return ""
    return next((zone for zone, pattern in _MARKS if pattern.match(line)), "")


def _zone_under(zone: str, heading: re.Match[str] | None) -> str:
    """The zone of a heading that opens nothing of its own."""
    if zone in _STAYS and not (heading and len(heading.group(1)) == 1 and zone != BEADS):
        return zone
    if zone in ("head", "identity", "recovery", "mismatch", "collision", "database", "handed-off", TEMPLATE):
        return TEMPLATE
    return zone if zone in ("directives", OPERATOR) else OPERATOR


def _close(found: list[Part], zone: str, title: str, lines: list[str]) -> None:
    if title or any(line.strip() for line in lines):
        found.append(Part(zone, title, tuple(lines)))


def _known(part: Part) -> bool:
    return part.doctrine or part.rank < len(OPERATIONAL) or part.key.endswith(" context")


def _operator_text(parts: list[Part]) -> list[Part]:
    """Template parts after the template's last known heading are the operator's CONTEXT.md; so is what
    follows the template's closing ``Key: value`` lines."""
    last = max((i for i, p in enumerate(parts) if p.zone == TEMPLATE and _known(p)), default=-1)
    done: list[Part] = []
    for index, part in enumerate(parts):
        if part.zone == TEMPLATE and index > last >= 0:
            done.append(Part(OPERATOR, part.title, part.lines))
        elif index == last:
            done.extend(_split_footer(part))
        else:
            done.append(part)
    return done


FOOTER = re.compile(
    r"(Town root|Rig|Working directory|Your mail address|Mail identity|State directory|Session|Polecat"
    r"|Crew member|Dog|Patrol molecule|Your mailbox): \S"
)


def _split_footer(part: Part) -> list[Part]:
    ends = [i for i, line in enumerate(part.lines) if FOOTER.match(line)]
    if not ends:
        return _split_tail(part)
    starts = ends[0]
    rest = part.lines[ends[-1] + 1 :]
    found = [Part(part.zone, part.title, part.lines[:starts])]
    found.append(Part("footer", "", part.lines[starts : ends[-1] + 1]))
    if any(line.strip() for line in rest):
        found.append(Part(OPERATOR, "", rest))
    return found


_LISTED = re.compile(r"\s*([-*|]|\d+\.|```|~~~)|\s{2,}\S")


def _split_tail(part: Part) -> list[Part]:
    """Where the template ends in a list and has no closing lines, prose after that list is the operator's."""
    listed = [i for i, line in enumerate(part.lines) if _LISTED.match(line)]
    cut = listed[-1] + 1 if listed else len(part.lines)
    if not any(line.strip() for line in part.lines[cut:]):
        return [part]
    return [Part(part.zone, part.title, part.lines[:cut]), Part(OPERATOR, "", part.lines[cut:])]
