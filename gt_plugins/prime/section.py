"""What a slim prime is made of: sections, and what a plugin is told that offers some.

A :class:`Section` is a list of units (lines, or a block that stays together); a slim prime is as many units
as the budget holds, sections in the order of their priority. A third party offers sections of its own
through ``gt_prime_sections``; they compete by the same rules.

Apart from :mod:`.sections`, which registers the built-in plugin and so imports pluggy: that is 20 ms on the
way of every ``gt prime``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

THIRD_PARTY_PRIORITY = 500
CHARS_PER_TOKEN = 3.5
"""What a token is taken for where no tokenizer is at hand; commands, paths and ids run shorter than prose."""


@dataclass(frozen=True)
class Section:
    """A part of a slim prime.

    ``priority``: smaller comes first, in the text and in the budget. The built-in ones: 10 warnings, 20 who
    and where, 30 hooked work, 40 next step, 50 task, 60 handoff, 70 checkpoint, 80 mail, 90 escalations,
    100 role rules, 110 directives, 120 context, 130 memories, 200 prohibitions, 300 steps, 400 commands,
    600 and up the rest.
    ``must_keep``: served before every section without it, and what does not fit is said in the text.
    ``share``: how much of the budget it may take before all others had their turn (0 to 1).
    ``title``: a line before the units; none where empty.
    """

    name: str
    text: str = ""
    priority: int = THIRD_PARTY_PRIORITY
    must_keep: bool = False
    title: str = ""
    share: float = 0.25
    blocks: tuple[str, ...] = ()
    """The units, where they are not simply the lines of ``text``."""

    @property
    def units(self) -> tuple[str, ...]:
        """What is kept or dropped as a whole."""
        return self.blocks or tuple(line.rstrip() for line in self.text.split("\n") if line.strip())

    @property
    def cost(self) -> int:
        """Tokens of the whole section, estimated."""
        chars = sum(len(unit) + 1 for unit in self.units) + (len(self.title) + 1 if self.title else 0)
        return int(-(-chars // CHARS_PER_TOKEN))


@dataclass(frozen=True)
class Piece:
    """A named amount of text: a section that was kept or dropped, and why."""

    name: str
    chars: int
    units: int = 1
    reason: str = ""


@dataclass(frozen=True)
class PrimeContext:
    """What a plugin is told: the role, its session's stock prime, its rules, the budget; ``town`` is None
    where a prime is made from a captured session."""

    role: str
    prime: str
    rules: str = ""
    tokens: int = 3000
    town: Path | None = None
    cwd: Path | None = None
