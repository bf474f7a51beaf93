"""The live facts of a stock prime as must-keep sections: who, where, what is hooked, what comes next.

Values stand as gt printed them. Where a stock prime misleads, the section says it right: a patrol wisp is a
bead of the town, so a rig's role cannot ``bd show`` it, and an attached formula pushes the task's own text
out of the prime, so the first step is to read the bead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .parse import OPERATOR, Part
from .prose import blocks_of, sentences, units_of
from .section import Section

_ID = r"(\S+)"
_LISTED_STEP = re.compile(r"\s+(\d+)\. \*\*(.+?)\*\* — ")
_TO_FILL_IN = re.compile(r'"(<[^"]*>|[A-Z][a-z]+ patrol)"')
_PLUMBING = re.compile(r"(attached|dispatched|formula|convoy|merge|no_merge|review|mode|ralph)[a-z_]*:(\s|$)")
_KEPT_FOOTER = re.compile(
    r"(Town root|Working directory|State directory|Your mail address|Mail identity|Your mailbox): (\S+)"
)
_MAIL_CHATTER = re.compile(r"</?system-reminder>|Continue your current task|before going idle|$")
_BEAD_CHATTER = re.compile(
    r"(Bead ID|Title|Description): ?|\*\*Bead details|\.\.\.$|\(Has attached|Hooked: |[◇○●◐] \S+ .*·|"
    r"(Owner|Assignee|Created|Updated): |[A-Z ]{4,20}$"
)
_DONE_BY_NOW = re.compile(r"Run `gt prime`|Announce:")
_PAST_STARTUP = re.compile(r"Check for attached (patrol|work)|If (no )?(mol|attach)")


@dataclass(frozen=True)
class Work:
    """What a prime says about hooked work; empty strings and tuples where it says nothing."""

    bead: str = ""
    title: str = ""
    formula: str = ""
    molecule: str = ""
    patrol: str = ""
    patrol_line: str = ""
    variables: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    step_id: str = ""
    step: str = ""
    steps: tuple[str, ...] = ()
    """Titles of the formula's or patrol's steps, numbered."""
    status: tuple[str, ...] = field(default=())

    @property
    def is_patrol(self) -> bool:
        own = not self.bead or self.bead == self.patrol
        return (bool(self.patrol) and own) or _patrol_name(self.title)

    def values(self) -> dict[str, str]:
        """What ``{{name}}`` in a formula stands for."""
        pairs = dict(v.split("=", 1) for v in self.variables if "=" in v)
        return {"issue": self.bead, **pairs} if self.bead else pairs


def _patrol_name(title: str) -> bool:
    return bool(re.fullmatch(r"mol-\w+-patrol", title))


def lines_in(parts: Sequence[Part], *zones: str) -> list[str]:
    return [line for part in parts if part.zone in zones for line in part.lines]


def _first(lines: Iterable[str], pattern: str) -> str:
    for line in lines:
        if match := re.match(pattern, line):
            return match.group(1).strip()
    return ""


def read_work(parts: Sequence[Part]) -> Work:
    """The hooked work of a prime."""
    hooked = lines_in(parts, "hooked", "continue", "attached")
    formula = lines_in(parts, "formula", "attached")
    patrol = lines_in(parts, "patrol")
    again = next((m for m in (re.match(r"\s*Hooked: (\S+) — (.*)", x) for x in hooked) if m), None)
    step = next((p for p in parts if p.zone == "step" and p.title), None)
    active = _first(patrol, r"Patrol: (\S.*)")
    created = _first(patrol, rf"✓ Created and hooked patrol wisp: {_ID}")
    name = _first(patrol, r"Status: \*\*No active patrol\*\* - creating (\S+?)\.{3}") or "patrol"
    current = _first(patrol, rf"Current patrol ID: {_ID}")
    return Work(
        bead=again.group(1) if again else _first(hooked, rf"\s*(?:Bead ID|Pinned bead): {_ID}"),
        title=again.group(2).strip() if again else _first(hooked, r"\s*Title: (.*)"),
        formula=_first(formula, r"(?:Formula|Attached formula): (.*)"),
        molecule=_first(formula, rf"(?:Molecule ID|Attached molecule): {_ID}"),
        patrol=current or created or (active.split()[0] if active else ""),
        patrol_line=active or (f"{created} {name} [created now]" if created else current),
        variables=tuple(x.strip()[6:] for x in formula if x.strip().startswith("--var ")),
        args=tuple(_after(formula, "ARGS (")),
        step_id=_first(lines_in(parts, "step"), rf"\*\*Step ID:\*\* {_ID}"),
        step=step.title.split("CURRENT STEP:", 1)[-1].strip() if step else "",
        steps=tuple(step_titles(parts)),
        status=tuple(_patrol_trouble(patrol)),
    )


def _after(lines: Sequence[str], mark: str) -> list[str]:
    """The lines under one that contains ``mark``, up to the next empty one."""
    for index, line in enumerate(lines):
        if mark in line:
            rest = lines[index + 1 :]
            end = next((i for i, x in enumerate(rest) if not x.strip()), len(rest))
            return [x.strip() for x in rest[:end]]
    return []


def _patrol_trouble(patrol: Sequence[str]) -> list[str]:
    found = []
    for line in patrol:
        if line.startswith(("Status: **Discovery failed", "⚠", "**Progress:**", "✓ MOLECULE COMPLETE")):
            found.append(line.replace("**", ""))
    return found


def step_titles(parts: Sequence[Part]) -> list[str]:
    """ "3. Title" of every step, from a checklist's headings or from a numbered short list."""
    found = []
    for part in parts:
        if part.zone not in ("formula", "patrol", "attached"):
            continue
        heading = re.match(r"Step (\d+): (.+)", part.title)
        if heading:
            found.append(f"{heading.group(1)}. {heading.group(2)}")
        for line in part.lines if not heading else ():
            if item := _LISTED_STEP.match(line):
                found.append(f"{item.group(1)}. {item.group(2)}")
    return found


def live_sections(parts: Sequence[Part], work: Work, role: str) -> list[Section]:
    """Sections 10 to 130, all must_keep, empty ones left out."""
    made = (
        ("warnings", 10, "", 0.6, _warnings(parts)),
        ("identity", 20, "", 1.0, _identity(parts, role)),
        ("work", 30, "", 1.0, _work(work)),
        ("next", 40, "", 0.6, _next(parts, work, role)),
        ("task", 50, "Task:", 0.3, _task(parts, work)),
        ("handoff", 60, "Handoff:", 0.4, _handoff(parts)),
        ("checkpoint", 70, "Checkpoint:", 0.3, _plain(parts, "checkpoint")),
        ("mail", 80, "Mail:", 0.3, _mail(parts)),
        ("escalations", 90, "Escalations:", 0.3, _plain(parts, "escalations")),
        ("directives", 110, "Operator's policy:", 0.35, _prose(parts, "directives")),
        ("context", 120, _notes_title(parts), 0.2, _prose(parts, OPERATOR)),
        ("memories", 130, "Memories:", 0.2, _memories(parts)),
    )
    return [
        Section(name, "", priority, True, title, share, tuple(units))
        for name, priority, title, share, units in made
        if units
    ]


def _stopped(part: Part) -> bool:
    return part.zone == "mail" and any(line.startswith("EMERGENCY STOP") for line in part.lines)


def _warnings(parts: Sequence[Part]) -> list[str]:
    found = []
    for part in parts:
        if part.zone in ("mismatch", "collision", "database", "paused", "parked"):
            found.extend(([part.title] if part.title else []) + [x.strip() for x in part.lines if x.strip()])
        if _stopped(part):
            found.extend(x.strip() for x in part.lines if x.strip() and not _MAIL_CHATTER.match(x))
    return [x.replace("**", "") for x in found if x != "---"]


def _identity(parts: Sequence[Part], role: str) -> list[str]:
    metadata = [x for x in lines_in(parts, "identity") if "role:" in x][:1]
    found = [re.sub(r"\s*\bpid:\S+", "", x) for x in metadata] or [f"GAS TOWN role:{role}"]
    footer = [x for x in lines_in(parts, "footer") if _KEPT_FOOTER.match(x)]
    if not any(x.startswith(("Working directory", "Town root")) for x in footer):
        folder = _first(lines_in(parts, "template"), r".*\b[Aa]lways work from `([^`]+)`")
        same = [x for x in footer if folder and x.endswith(f" {folder}")]
        footer = [f"Working directory: {folder}", *(x for x in footer if x not in same)] if folder else footer
    actor = found[0].partition("role:")[2].split(" ")[0]
    footer = [x for x in footer if x.partition(": ")[2].strip("/") != actor]
    return found + footer + [x.replace("**", "")[2:] for x in lines_in(parts, "recovery") if "Recovery" in x]


def _work(work: Work) -> list[str]:
    found = []
    if work.bead and not work.is_patrol:
        found.append(f"Hooked: {work.bead}" + (f" — {work.title}" if work.title else ""))
    if work.formula or work.molecule:
        found.append(" ".join(f"Formula: {work.formula} (molecule {work.molecule})".split()))
    found.extend(f"--var {v}" for v in work.variables)
    found.extend(f"Args: {a}" for a in work.args)
    if work.patrol_line:
        found.append(f"Hooked patrol: {work.patrol_line}")
    elif work.is_patrol:
        found.append(f"Hooked patrol: {work.bead} {work.title}")
    return found + list(work.status)


def _next(parts: Sequence[Part], work: Work, role: str) -> list[str]:
    """What to do first, in one to five lines."""
    if any(p.zone in ("paused", "parked") or _stopped(p) for p in parts):
        return ["Next: wait until this is lifted."]
    if lines_in(parts, "recovery"):
        return ["Next: continue your current task.", *_done(parts, role)]
    if work.step:
        return [f"Next: step {work.step_id}: {work.step}", *_step_body(parts, work)]
    if work.is_patrol:
        count = f"the {len(work.steps)} patrol steps" if work.steps else "the patrol steps"
        return [f"Next: work through {count} in order.", *_loop(parts), *_startup(parts, work)]
    if work.bead and work.formula:
        count = f"the {len(work.steps)} steps" if work.steps else "the steps"
        first = f"Next: read the task with `bd show {work.bead}`, then work through {count} in order."
        return [first, *_done(parts, role)]
    if work.bead and lines_in(parts, "continue"):
        return [f"Next: go on with {work.bead}.", *_done(parts, role)]
    if work.bead:
        return [f"Next: read it with `bd show {work.bead}` and begin.", *_done(parts, role)]
    return _startup(parts, work)


def _step_body(parts: Sequence[Part], work: Work) -> list[str]:
    body = [x for p in parts if p.zone == "step" for x in units_of(p.lines)]
    body = [x for x in body if not x.startswith(("**Step ID:**", "**Status:**", "→", "When complete"))]
    close = f"When it is done: `bd close {work.step_id}`, then `bd mol current` for the next."
    return ([close] if work.step_id else []) + [x.replace("**", "") for x in body]


def _done(parts: Sequence[Part], role: str) -> list[str]:
    """A polecat is only finished with ``gt done``; the prime says so where it holds."""
    says = any("gt done" in x for x in lines_in(parts, "autonomous", "formula", "recovery", "identity"))
    return ["At the end, when all is committed: `gt done`."] if says and role == "polecat" else []


def _loop(parts: Sequence[Part]) -> list[str]:
    text = " ".join(lines_in(parts, "patrol"))
    report = re.search(r"`(gt patrol report [^`]+)`", text)
    handoff = re.search(r"`(gt handoff [^`]+)`", text)
    found = [f"End of the cycle: `{_short(report.group(1))}`"] if report else []
    return found + ([f"Context full: `{_short(handoff.group(1))}`"] if handoff else [])


def _short(command: str) -> str:
    """A command with what is to be filled in left open."""
    return _TO_FILL_IN.sub('"…"', command)


def _startup(parts: Sequence[Part], work: Work) -> list[str]:
    """The startup directive without what is done already: gt prime has run, and a known patrol is hooked."""
    found: list[str] = []
    for block in blocks_of(lines_in(parts, "startup")):
        text = block.text.replace("**", "")
        if text.startswith("STARTUP PROTOCOL:"):
            rest = sentences(text.split(":", 1)[1])
            found.extend(s for s in rest if not re.match(r"You are |Please:", s))
        elif _DONE_BY_NOW.match(text) or (work.patrol and _PAST_STARTUP.match(text)):
            continue
        elif text != "---":
            found.append(text)
    return [f"Next: {x}" if i == 0 and not work.patrol else x for i, x in enumerate(found)]


def _task(parts: Sequence[Part], work: Work) -> list[str]:
    if work.is_patrol:
        return []
    found = []
    for line in lines_in(parts, "hooked"):
        text = line.strip()
        if text and not _BEAD_CHATTER.match(text) and not _PLUMBING.match(text):
            found.append(text)
    return list(dict.fromkeys(found))


def _handoff(parts: Sequence[Part]) -> list[str]:
    found = [x.strip() for x in lines_in(parts, "handoff") if x.strip()]
    found = [x for x in found if not x.startswith("(Clear with") and x != "---"]
    for line in lines_in(parts, "handed-off"):
        if "handed off to you" in line or "DO NOT run" in line:
            found.append(line.replace("⚠️", "").strip(" *"))
    return found


def _plain(parts: Sequence[Part], zone: str) -> tuple[str, ...]:
    lines = (x.replace("**", "").strip() for x in lines_in(parts, zone))
    return tuple(x for x in lines if x and x != "---" and not x.startswith("Use this context to resume"))


def _notes_title(parts: Sequence[Part]) -> str:
    """A title for the operator's notes where they begin without one of their own."""
    first = next((p for p in parts if p.zone == OPERATOR), None)
    return "" if first is not None and first.title else "Operator's notes:"


def _prose(parts: Sequence[Part], zone: str) -> tuple[str, ...]:
    found: list[str] = []
    for part in parts:
        if part.zone == zone:
            units = units_of(part.lines)
            if part.title and "operator policy" not in part.title:
                units = [f"{part.title}:" + (f"\n{units[0]}" if units else ""), *units[1:]]
            found.extend(units)
    return tuple(found)


def _mail(parts: Sequence[Part]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if part.zone == "mail" and not _stopped(part):
            told = [x.strip() for x in part.lines if x.strip() and not _MAIL_CHATTER.match(x)]
            count = re.match(r"You have (\d+) unread", told[0]) if told else None
            listed = sum(x.startswith("- ") for x in told)
            found.extend(told[1:] if count and int(count.group(1)) == listed else told)
    found.extend(x.strip() for x in lines_in(parts, "after-mail") if x.strip(" -"))
    return found


def _memories(parts: Sequence[Part]) -> list[str]:
    """Memories are printed twice, by bd and by gt: gt's one line each, and of bd's what gt has not."""
    agent: list[str] = []
    persistent: list[tuple[str, str]] = []
    of_bd = False
    for part in parts:
        if part.zone != "memories":
            continue
        if part.title.startswith(("Agent Memories", "Persistent Memories")):
            of_bd = part.title.startswith("Persistent")
        elif not of_bd:
            agent.extend(x.replace("**", "").strip() for x in part.lines if x.strip(" -"))
        else:
            text = " ".join(x.strip() for x in part.lines if x.strip(" -"))
            persistent.append((text, f"- {part.title}: {text}"))
    told = "\n".join(agent)
    return agent + [line for text, line in persistent if text and text not in told]
