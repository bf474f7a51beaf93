"""Layer 1: secrets and keys, by their format, by the structure around them, or by the key they are under."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache

from . import assignments, blocks, columns
from .formats import FORMATS
from .judge import is_placeholder, key_strength
from .layers import Hit
from .rules import Rule
from .scan import Haystack, Mark, Marks, haystack, starts_word, word

Finder = Callable[[str, int, int, list[Hit]], int]
"""(text, start and end of the keyword, hits to add to) → before which position it need not be asked again."""
GENERIC = frozenset(
    {"password", "api_key", "token", "secret", "cookie", "bearer_token", "signature", "base64", "hex"}
)
"""Kinds told by the context alone: a rule that knows the format goes before them."""
_SURE = frozenset(
    "github_token gitlab_token anthropic_key slack_token stripe_key aws_access_key google_api_key pypi_token "
    "huggingface_token".split()
)
"""Kinds whose prefix is like nothing else, so that a name may stand before it: ``backup_ghp_…``."""


def _by_rule(rule: Rule) -> Finder:
    sure = rule.kind in _SURE

    def begins(text: str, at: int) -> bool:
        return starts_word(text, at) or not text[at].isalnum() or (sure and text[at - 1] == "_")

    def find(text: str, start: int, end: int, out: list[Hit]) -> int:
        match = None
        for back in rule.back:
            at = start - back
            match = rule.pattern.match(text, at) if at >= 0 else None
            if match is not None and begins(text, at):
                break
            match = None
        if match is None:
            return 0
        found = [i for i in range(1, rule.pattern.groups + 1) if match[i]]
        if rule.check("".join(match[i] for i in found)):
            out.extend(Hit(match.start(i), match.end(i), rule.kind) for i in found)
        return match.end()

    return find


class _Machine:
    """The automaton over every keyword and what to do at each."""

    def __init__(self) -> None:
        table: dict[Mark, list[int]] = {}
        self.finders: list[Finder] = []
        sources: list[tuple[Iterable[str | Mark], Finder]] = [(r.marks(), _by_rule(r)) for r in FORMATS]
        sources += list(blocks.FINDERS)
        sources += [
            ((*assignments.KEYWORDS, assignments.PASS), assignments.find_assignment),
            (assignments.VENDORS, assignments.find_vendor),
            (("variable",), assignments.find_declared),
            (columns.KEYWORDS, columns.find_column),
            (assignments.MNEMONICS, assignments.find_mnemonic),
            (("sig=", "signature="), assignments.find_signature),
            (("?key=", "&key=", "?code=", "&code=", "\\u0026key="), assignments.find_query),
        ]
        for number, (keywords, finder) in enumerate(sources):
            self.finders.append(finder)
            for keyword in keywords:
                mark = keyword if isinstance(keyword, Mark) else word(keyword)
                table.setdefault(mark, []).append(number)
        self.marks = Marks(table)
        self.actions = [tuple(numbers) for numbers in table.values()]

    def find(self, stack: Haystack) -> list[Hit]:
        text = stack.text
        out: list[Hit] = []
        resume = [0] * len(self.finders)
        for keyword, start, end in self.marks.hits(stack.latin):
            for number in self.actions[keyword]:
                if start >= resume[number]:
                    resume[number] = self.finders[number](text, start, end, out)
        return _prefer_formats(out) if len(out) > 1 else out


@lru_cache(maxsize=1)
def _machine() -> _Machine:
    return _Machine()


def find(text: str) -> list[Hit]:
    """Every secret in ``text``."""
    found = _machine().find(haystack(text))
    return found if text.isascii() else [*found, *assignments.find_foreign(text)]


def find_keyed(key: str, value: str) -> list[Hit]:
    """The value of a map's key, where nothing in the value itself tells more than the key does."""
    if not key_strength(key) or len(value) < 4 or is_placeholder(value):
        return []
    return _prefer_formats([*find(value), *assignments.find_keyed(key, value)])


def _prefer_formats(hits: list[Hit]) -> list[Hit]:
    """Leave out what the context alone tells where a format is known for most of it."""
    exact = sorted((h for h in hits if h.kind not in GENERIC), key=lambda h: h.start)
    if not exact or len(exact) == len(hits):
        return hits
    starts = [h.start for h in exact]
    kept = list(exact)
    for hit in hits:
        if hit.kind in GENERIC:
            within = exact[bisect_left(starts, hit.start) : bisect_left(starts, hit.end)]
            inside = sum(h.end - h.start for h in within if h.end <= hit.end)
            if inside * 5 < (hit.end - hit.start) * 3:
                kept.append(hit)
    return kept
