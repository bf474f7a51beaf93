"""Whether a convention goes back on itself: a new version of a CLAUDE.md is an old one, whole or in part.

Two texts are the same version when they are equal once spaces at line ends, runs of empty lines and forms of
Unicode are set aside. A version that equals an earlier one than the last is a whole reversion. One that
deletes lines which the last change added, or puts back lines which it took away, undoes that change in part.
Lines that were changed once more, and are not what they were, are no reversion.

Pure functions over versions in their order; where they come from and what is done with a finding is in
:mod:`.reversions`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

MESSAGE = (
    "CLAUDE.md reversion detected: current hash matches version from {days} days ago. "
    "Please confirm intentional reversion and add explicit corpus entry if so."
)
IN_PART = " In part: it takes back some of the last change, to what that version had."
TELLING = 12
"""Characters from which on a line tells where it comes from."""
DIFF_LINES, DIFF_WIDTH = 12, 100
"""What a diff for review shows at most."""


@dataclass(frozen=True)
class Version:
    """One version of a convention: hash of its normalized text, when it was written (RFC 3339, UTC), the
    text (scrubbed)."""

    hash: str
    at: str
    text: str = ""


@dataclass(frozen=True)
class Finding:
    """The newest version goes back to ``to``; ``undone`` is the version before it, which it goes back on."""

    kind: Literal["whole", "part"]
    to: Version
    undone: Version


def normalized(text: str) -> str:
    """``text`` without what does not make it another version."""
    lines = unicodedata.normalize("NFC", text.lstrip("\ufeff")).splitlines()
    joined = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", joined).strip("\n") + "\n"


def version_hash(text: str) -> str:
    """The hash by which versions are told apart."""
    return hashlib.sha256(normalized(text).encode("utf-8", "replace")).hexdigest()


def find(before: Sequence[Version], new: Version) -> Finding | None:
    """What ``new`` goes back on. ``before`` are the versions until then, oldest first, no two neighbours
    equal; the last is the one that ``new`` replaces."""
    if len(before) < 2 or before[-1].hash == new.hash:
        return None
    for old in reversed(before[:-1]):
        if old.hash == new.hash:
            return Finding("whole", old, before[-1])
    last = before[-1]
    if undoes(before[-2].text, last.text, new.text):
        return Finding("part", before[-2], last)
    return None


def undoes(before: str, last: str, new: str) -> bool:
    """Whether going from ``last`` to ``new`` takes back some of what went from ``before`` to ``last``."""
    added: set[str] = set()
    removed: set[str] = set()
    for old_lines, new_lines in _changes(before, last):
        added |= set(new_lines) - set(old_lines)
        removed |= set(old_lines) - set(new_lines)
    for old_lines, new_lines in _changes(last, new):
        if removed & set(new_lines) - set(old_lines):
            return True
        if not new_lines and added & set(old_lines):
            return True
    return False


def _changes(before: str, after: str) -> Iterator[tuple[list[str], list[str]]]:
    """(lines taken away, lines put in their place) for each place where two texts differ."""
    a, b = _lines(before), _lines(after)
    for what, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what != "equal":
            yield a[i1:i2], b[j1:j2]


def _lines(text: str) -> list[str]:
    """The lines that say something, without the spaces around them."""
    return [line.strip() for line in normalized(text).split("\n") if re.search(r"\w", line)]


def telling_lines(text: str, other: str) -> list[str]:
    """Lines of ``text`` that ``other`` has not, long enough to be known again elsewhere."""
    others = set(_lines(other))
    return [line for line in dict.fromkeys(_lines(text)) if line not in others and len(line) >= TELLING]


def line_hash(line: str) -> str:
    """A line as it may be kept for comparing."""
    return hashlib.sha256(line.strip().encode("utf-8", "replace")).hexdigest()[:24]


def short_diff(before: str, after: str, most: int = DIFF_LINES) -> list[str]:
    """What changed between two texts: lines taken away (``-``) and put in (``+``), in their order, each cut
    to DIFF_WIDTH; of more than ``most`` the last says how many."""
    a, b = normalized(before).splitlines(), normalized(after).splitlines()
    changed = []
    for what, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what != "equal":
            changed += [f"- {line}" for line in a[i1:i2]] + [f"+ {line}" for line in b[j1:j2]]
    shown = [line if len(line) <= DIFF_WIDTH else f"{line[: DIFF_WIDTH - 1]}…" for line in changed[:most]]
    left = len(changed) - most
    return [*shown, f"… {left} more line{'s' if left > 1 else ''}"] if left > 0 else shown


def days_between(earlier: str, later: str) -> int:
    """Whole days from one time to another (RFC 3339); 0 where either is no time or the clock jumped."""
    try:
        passed = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (ValueError, TypeError):
        return 0
    return max(0, passed.days)
