"""From a stock prime to sections: live facts first, then rules, prohibitions, steps, commands, the rest.

Everything of the stock prime that is not carried over whole is listed with its size: ``doctrine`` (prose that
explains and urges, which is left out) or ``condensed`` (its prohibitions and commands stand, the rest of its
text competes for what room is left).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .live import Work, live_sections, read_work
from .parse import BEADS, TEMPLATE, Part, parts_of
from .prose import CODE, TABLE, WEAK, Command, commands_in, merge_commands, sentences, unique
from .section import Piece, Section

STOCK_ZONES = (TEMPLATE, "formula", "patrol", "step", "attached", "autonomous", "startup", "continue", BEADS)
"""Zones whose words are gt's own: only these are corrected."""

DECIDING = ("step 2: decide", "step 3: act")
"""Boot's table of what to do when: the role's work itself, so it stands before the commands."""

_PORT = re.compile(r"\bport 3307\b")
_ONLY_PLACEHOLDER = re.compile(r"\s*\{\{ *\w+ *\}\}(\s*#.*)?\s*")
_FORBIDDING_TITLE = re.compile(r"\b(NEVER|DO NOT|MUST NOT|Off-Limits|NO \w+ AUTHORITY)\b")
_LEADING_MARKS = re.compile(r"^[^\w`]+")
_STEP = re.compile(r"\s+(\d+)\. \*\*(.+?)\*\* — (.+)")
_PLACEHOLDER = re.compile(r"\{\{ *(\w+) *\}\}")


@dataclass(frozen=True)
class Stock:
    """The sections of a stock prime, and what of it they leave out."""

    sections: tuple[Section, ...]
    left_out: tuple[Piece, ...]


def stock_sections(prime: str, role: str, rules: str = "") -> Stock:
    """Sections of a stock prime for ``role``; ``rules`` is the role profile's rules.md."""
    parts = parts_of(prime)
    work = read_work(parts)
    parts = [_put_right(part, work.values()) for part in parts]
    work = read_work(parts)
    made = live_sections(parts, work, role)
    made.append(Section("rules", rules.strip(), 100, True, "Rules:", 0.5))
    made.extend(_prohibitions(parts))
    own = tuple(z for z in STOCK_ZONES if z != BEADS)
    made.append(Section("steps", "", 300, False, "Steps:", 0.35, work.steps))
    made.append(Section("commands", "", 400, False, "Commands:", 0.35, _commands(parts, work, *own)))
    made.append(Section("hints", "", 690, False, "About the steps:", 0.2, _hints(parts)))
    made.extend(_rest(parts))
    made.append(Section("bd commands", "", 900, False, "bd:", 0.1, _commands(parts, work, BEADS)))
    return Stock(tuple(s for s in made if s.units), tuple(_left_out(parts)))


def _put_right(part: Part, values: Mapping[str, str]) -> Part:
    """A part of gt's own words with what it gets wrong corrected; a live fact is never touched.

    The Dolt port is the town's, not 3307; ``{{issue}}`` and other inputs of a formula are filled in where
    the prime gives them, and a line that is nothing but an input without value goes."""
    if part.zone not in STOCK_ZONES:
        return part
    if not any("{{" in line or "3307" in line for line in part.lines):
        return part
    lines = []
    for line in part.lines:
        filled = _PLACEHOLDER.sub(lambda m: values.get(m.group(1), m.group(0)), line)
        if filled == line and _ONLY_PLACEHOLDER.fullmatch(line):
            continue
        lines.append(_PORT.sub("port $GT_DOLT_PORT", _PLACEHOLDER.sub(r"<\1>", filled)))
    return Part(part.zone, part.title, tuple(lines))


def _prohibitions(parts: Sequence[Part]) -> list[Section]:
    """Prohibitions of the role's own text, then those of bd; last what doctrine forbids, and cautions."""
    own = [p for p in parts if p.zone in STOCK_ZONES and not p.doctrine and p.zone != BEADS]
    beads = [p for p in parts if p.zone == BEADS and not p.doctrine]
    strong = unique(x for p in own for x in _stated(p))
    both = unique([*strong, *(x for p in beads for x in _stated(p))])
    weak = [x for p in parts if p.doctrine for x in _stated(p)]
    besides = [one.besides for p in [*own, *beads] for one in p.scanned]
    weak += [x for text in besides if WEAK.search(text) for x in sentences(text) if WEAK.search(x)]
    known = set(both)
    weak = [x for x in unique([*both, *weak]) if x not in known]
    of_bd = _items(both[len(strong) :])
    return [
        Section("prohibitions", "", 200, True, "Never:", 0.45, _items(strong)),
        Section("bd prohibitions", "", 640, False, "Never, of bd:", 0.2, of_bd),
        Section("cautions", "", 650, False, "Mind:", 0.1, _items(weak)),
    ]


def _stated(part: Part) -> list[str]:
    """A part's prohibitions; its heading is one where it names what is off limits."""
    title = [f"{_LEADING_MARKS.sub('', part.title)}."] if _FORBIDDING_TITLE.search(part.title) else []
    return [*title, *(x for one in part.scanned for x in one.stated)]


def _items(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"- {x}" for x in texts)


def _commands(parts: Sequence[Part], work: Work, *zones: str) -> tuple[str, ...]:
    """The commands of these zones: those of live work first, then those named most."""
    found: list[tuple[int, Command]] = []
    for part in parts:
        if part.zone in zones and not part.doctrine:
            rank = 1 if part.zone == TEMPLATE else 0
            found.extend((rank, c) for c in commands_in(part.scanned))
    ranks: dict[str, int] = {}
    for rank, command in found:
        ranks[command.key] = min(rank, ranks.get(command.key, rank))
    done = {"gt prime", "bd prime", *([f"bd show {work.bead}"] if work.is_patrol else [])}
    merged = [c for c in merge_commands(c for _, c in found) if c.text not in done]
    merged.sort(key=lambda c: (ranks.get(c.key, 1), -c.named))
    return tuple(f"- {c.text}" + (f"  # {c.note}" if c.note else "") for c in merged)


def _hints(parts: Sequence[Part]) -> tuple[str, ...]:
    """What a short list of steps says about each, where it says more than the title."""
    found = []
    for part in parts:
        for line in part.lines if part.zone in ("patrol", "formula", "attached") else ():
            if item := _STEP.match(line):
                hint = item.group(3).replace("**", "")
                if not hint.rstrip(".").lower().startswith(item.group(2).lower()):
                    found.append(f"{item.group(1)}. {hint}")
    return tuple(found)


def _rest(parts: Sequence[Part]) -> list[Section]:
    """The prose of the working parts by how telling they are; code and prohibitions stand elsewhere."""
    chosen = [p for p in parts if p.zone in (TEMPLATE, "formula") and not p.doctrine]
    chosen.sort(key=lambda p: (p.zone != "formula", p.rank))
    made = []
    for place, part in enumerate(chosen):
        units = _excerpt(part)
        if units and not part.title.endswith(" Context"):
            title = _LEADING_MARKS.sub("", part.title)
            priority = 310 if part.key.startswith(DECIDING) else 700 + place
            share = 0.4 if part.key.startswith(DECIDING) else 0.12
            made.append(Section(f"rest: {title}", "", priority, False, f"## {title}", share, units))
    return made


def _excerpt(part: Part) -> tuple[str, ...]:
    """What a part says besides its prohibitions and code; what only announces code goes with it."""
    found = part.scanned
    units = []
    for place, one in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        told = sentences(one.besides) if one.block.kind != TABLE else [one.besides]
        if (
            told
            and told[-1].endswith(":")
            and (after is None or after.block.kind == CODE or not after.besides)
        ):
            told.pop()
        mistakes = one.block.kind == TABLE and ("~~" in one.besides or "Common mistake" in one.besides)
        if told and one.block.kind != CODE and not mistakes and not told[0].startswith("Recovery"):
            units.append(f"{one.block.marker} {' '.join(told)}".strip())
    return tuple(units)


def _left_out(parts: Sequence[Part]) -> list[Piece]:
    found = []
    for part in parts:
        if part.zone in (TEMPLATE, "formula", BEADS, "autonomous", "patrol", "startup"):
            name = _LEADING_MARKS.sub("", part.title) or part.zone
            found.append(Piece(name, part.chars, 1, "doctrine" if part.doctrine else "condensed"))
    return found
