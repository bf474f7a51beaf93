"""The slim prime: as much of the stock prime as a small model's budget holds, the live facts first.

:func:`slim` is a pure function of its arguments, so that the prime of a captured session (training) and that
of a live one (serving) are made alike. It reads no file, no clock and no environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .section import CHARS_PER_TOKEN, Piece, Section

MAX_CHARS = 10_000
"""What the agent client takes from a hook; one more and the model sees a preview of 2,000."""

SHORT = 600
"""A prime of so many characters has nothing to lose."""
_NOTE_ROOM = 70
_TAGS = re.compile(r"<(/?(?:gt-prime|system-reminder))", re.IGNORECASE)
Counter = Callable[[str], int]


@dataclass(frozen=True)
class SlimPrime:
    """A slim prime with its wrapper, its size in tokens, and what was kept and dropped, with sizes.

    ``dropped`` lists units that did not fit (reason ``budget``) and parts of the stock prime that are
    left out by kind (``doctrine``) or stand only as prohibitions, commands and excerpts (``condensed``)."""

    text: str
    kept: tuple[Piece, ...]
    dropped: tuple[Piece, ...]
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def explain(self) -> str:
        """A table for people: what was kept, what was dropped and why, in characters."""
        rows = [f"slim prime: {len(self.text)} characters, {self.tokens} tokens"]
        rows += [f"  kept     {p.chars:6}  {p.name} ({p.units})" for p in self.kept]
        rows += [f"  dropped  {p.chars:6}  {p.name} ({p.units}): {p.reason}" for p in self.dropped]
        return "\n".join(rows)


def estimate_tokens(text: str) -> int:
    """Tokens of a text where no tokenizer is at hand: a token for every 3.5 characters, rounded up."""
    return int(-(-len(text) // CHARS_PER_TOKEN))


def slim(
    prime_text: str,
    role: str,
    *,
    tokens: int,
    chars: int = MAX_CHARS,
    count: Counter | None = None,
    rules: str = "",
    extra: Iterable[Section] = (),
) -> SlimPrime:
    """The slim prime of a stock one, of at most ``tokens`` (by ``count``, else estimated) and ``chars``.

    ``rules`` is the role profile's rules.md; ``extra`` are sections of third parties. A text that is short
    already, such as gt's after a compaction, stays as it is. A budget too small for the wrapper gives the
    wrapper alone."""
    if len(prime_text) <= SHORT:
        whole = Section("whole", prime_text, 10, True, share=1.0)
        own = Section("rules", rules, 100, True, "Rules:", 1.0)
        return assemble([whole, own, *extra], role, tokens=tokens, chars=chars, count=count)
    from .stock import stock_sections

    stock = stock_sections(prime_text, role, rules)
    return assemble(
        [*stock.sections, *extra], role, tokens=tokens, chars=chars, count=count, left_out=stock.left_out
    )


def assemble(
    sections: Sequence[Section],
    role: str,
    *,
    tokens: int,
    chars: int = MAX_CHARS,
    count: Counter | None = None,
    left_out: Sequence[Piece] = (),
) -> SlimPrime:
    """Sections fitted into the budget and wrapped in ``<gt-prime role="…">``."""
    size = count or estimate_tokens
    head = f'<gt-prime role="{re.sub(r"[^A-Za-z0-9_-]", "", role)}">\n'
    tail = "\n</gt-prime>"
    ordered = sorted(sections, key=lambda s: s.priority)
    chars = min(chars, MAX_CHARS)
    fit = _Fit(ordered, chars - len(head + tail), tokens - size(head + tail), count)
    fit.fill()
    text = head + fit.text() + tail
    while (size(text) > tokens or len(text) > chars) and fit.drop_last():
        text = head + fit.text() + tail
    if size(text) > tokens or len(text) > chars:
        text = head.rstrip("\n") + tail
    return SlimPrime(text, *fit.account(left_out), size(text))


def escape(text: str) -> str:
    """Text that can stand inside the wrapper: it opens and closes neither that nor a reminder."""
    return _TAGS.sub(r"&lt;\1", text)


class _Fit:
    """Which units of which sections are taken: must-keep first, and of each lot what its shares held back."""

    def __init__(self, sections: Sequence[Section], chars: int, tokens: int, count: Counter | None) -> None:
        self.sections = sections
        self.units = [[escape(u) for u in s.units] for s in sections]
        self.titles = [escape(s.title) for s in sections]
        self.count = count
        self.tokens, self.chars = tokens, chars if count else min(chars, int(tokens * CHARS_PER_TOKEN))
        self.taken: list[set[int]] = [set() for _ in sections]
        self.log: list[tuple[int, int]] = []
        self.room_chars, self.room_tokens = self.chars, float(self.tokens)
        self.spent = [0.0] * len(sections)

    def fill(self) -> None:
        must = [i for i, s in enumerate(self.sections) if s.must_keep]
        others = [i for i, s in enumerate(self.sections) if not s.must_keep]
        reserve = 0 if self._holds(must) else _NOTE_ROOM
        self.room_chars -= reserve
        self.room_tokens -= self._tokens("x" * reserve)
        for index in must:
            self._take(index, self.sections[index].share)
        for index in must:
            self._take(index, 1.0)
        for index in others:
            self._take(index, self.sections[index].share)
        for index in others:
            self._take(index, 1.0)

    def _holds(self, indices: Iterable[int]) -> bool:
        lines = [x for i in indices for x in (self.titles[i], *self.units[i]) if x]
        whole = sum(len(x) + 1 for x in lines)
        return whole <= self.room_chars and sum(self._tokens(f"{x}\n") for x in lines) <= self.room_tokens

    def _tokens(self, text: str) -> float:
        return self.count(text) if self.count else len(text) / CHARS_PER_TOKEN

    def _take(self, index: int, share: float) -> None:
        for number, unit in enumerate(self.units[index]):
            if number in self.taken[index]:
                continue
            title = self.titles[index] if self.titles[index] and not self.taken[index] else ""
            added = f"{title}\n{unit}\n" if title else f"{unit}\n"
            cost = self._tokens(added)
            if len(added) > self.room_chars or cost > self.room_tokens:
                continue
            if share < 1.0 and self.spent[index] + cost > share * max(self.tokens, 1):
                return
            self.taken[index].add(number)
            self.log.append((index, number))
            self.room_chars -= len(added)
            self.room_tokens -= cost
            self.spent[index] += cost

    def drop_last(self) -> bool:
        """Take the last unit back, for a tokenizer that counts a whole dearer than its lines."""
        if not self.log:
            return False
        index, number = self.log.pop()
        self.taken[index].discard(number)
        return True

    def text(self) -> str:
        lines = []
        for index, taken in enumerate(self.taken):
            if taken and self.titles[index]:
                lines.append(self.titles[index])
            lines.extend(self.units[index][n] for n in sorted(taken))
        return "\n".join([*lines, *self._note()])

    def _note(self) -> list[str]:
        """One line that says which must-keep lines were left out, never longer than the room kept for it."""
        must = [(i, s) for i, s in enumerate(self.sections) if s.must_keep]
        lost = [(s.name, n) for i, s in must if (n := len(self.units[i]) - len(self.taken[i]))]
        if not lost:
            return []
        total = sum(n for _, n in lost)
        note = f"(left out: {', '.join(f'{n} {name}' for name, n in lost)})"
        short = f"(left out: {total} must-keep lines)"
        return [escape(note if len(note) < _NOTE_ROOM else short)]

    def account(self, left_out: Sequence[Piece]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        kept, dropped = [], []
        for index, section in enumerate(self.sections):
            inside = [u for n, u in enumerate(self.units[index]) if n in self.taken[index]]
            outside = [u for n, u in enumerate(self.units[index]) if n not in self.taken[index]]
            if inside:
                kept.append(Piece(section.name, sum(len(u) + 1 for u in inside), len(inside)))
            if outside:
                dropped.append(Piece(section.name, sum(len(u) + 1 for u in outside), len(outside), "budget"))
        return tuple(kept), tuple(dropped) + tuple(left_out)
