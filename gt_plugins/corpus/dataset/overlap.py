"""Words that an example shares with a suite: what a version is measured by must not be what it learnt.

OVERLAP_WORDS words in a row are too many (Brown et al. 2020, appendix C); of a case that is shorter than
that, but not so short that anything could say it, all of its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

OVERLAP_WORDS = 13
LEAST_WORDS = 8


@dataclass
class Overlap:
    """The forbidden stretches of words of every suite, by suite."""

    suites: Mapping[str, Iterable[str]] = field(default_factory=dict)
    _forbidden: dict[int, str] = field(default_factory=dict)
    _sizes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name, cases in self.suites.items():
            for case in cases:
                size = min(len(words_of(case)), OVERLAP_WORDS)
                if size >= LEAST_WORDS:
                    self._sizes.add(size)
                    self._forbidden.update(dict.fromkeys(shingles(case, size), name))

    def find(self, text: str) -> str:
        """The suite that ``text`` shares words with, empty where there is none."""
        for size in self._sizes:
            for stretch in shingles(text, size):
                if stretch in self._forbidden:
                    return self._forbidden[stretch]
        return ""


def words_of(text: str) -> list[str]:
    """Words and numbers, case and punctuation aside."""
    return re.findall(r"[^\W_]+", text.lower())


def shingles(text: str, size: int = OVERLAP_WORDS) -> Iterator[int]:
    """Hashes of every stretch of ``size`` words; good within one process."""
    words = words_of(text)
    for start in range(len(words) - size + 1):
        yield hash(tuple(words[start : start + size]))
