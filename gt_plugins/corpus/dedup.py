"""Exact and near duplicates among texts, by MinHash and locality-sensitive hashing.

Two texts are near when they share that part of all their stretches of SHINGLE words (the Jaccard index,
estimated from PERMUTATIONS hashes: Broder 1997). Texts are met in order; each is compared with those kept so
far, so a cluster is a kept text and all that are near to it, and nothing is dropped for being near to
something that was dropped itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SHINGLE = 3
PERMUTATIONS = 256
NEAR = 0.9
"""The Jaccard index from which on two texts are near duplicates."""
_SEED = 20_260_301
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Match:
    """The text that another one repeats."""

    key: str
    exact: bool
    similarity: float


@dataclass
class Duplicates:
    """Finds, for each text in turn, what it repeats; ``threshold`` 1.0 finds exact repetitions only.

    Texts of different groups are never duplicates of each other."""

    threshold: float = NEAR
    clusters: dict[str, list[Match]] = field(default_factory=dict)
    """Key of a kept text → what repeats it; ``Match.key`` is the dropped one's."""
    _exact: dict[bytes, str] = field(default_factory=dict)
    _groups: dict[str, _Group] = field(default_factory=dict)

    def repeats(self, key: str, text: str, group: str = "") -> Match | None:
        """What ``text`` repeats; None where it is new, and kept under ``key`` from now on."""
        digest = hashlib.sha256(f"{group}\0{text}".encode("utf-8", "surrogatepass")).digest()
        if digest in self._exact:
            return self._note(key, Match(self._exact[digest], True, 1.0))
        if self.threshold < 1.0:
            found = self._groups.setdefault(group, _Group(self.threshold)).match(key, text)
            if found is not None:
                return self._note(key, found)
        self._exact[digest] = key
        return None

    def _note(self, key: str, match: Match) -> Match:
        self.clusters.setdefault(match.key, []).append(Match(key, match.exact, match.similarity))
        return match

    def report(self, largest: int = 10) -> dict[str, Any]:
        """Counts for a card, and the largest clusters by the ids in them."""
        dropped = Counter("exact" if m.exact else "near" for found in self.clusters.values() for m in found)
        order = sorted(self.clusters.items(), key=lambda item: (-len(item[1]), item[0]))
        return {
            "threshold": self.threshold,
            "clusters": len(self.clusters),
            "exact": dropped["exact"],
            "near": dropped["near"],
            "largest": [
                {
                    "kept": kept,
                    "dropped": [m.key for m in found],
                    "least_similarity": round(min(m.similarity for m in found), 3),
                }
                for kept, found in order[:largest]
            ],
        }


class _Group:
    """The kept texts of one group, as signatures."""

    def __init__(self, threshold: float) -> None:
        from rensa import RMinHashLSH

        self.threshold = threshold
        self.keys: list[str] = []
        self.signatures: list[Any] = []
        self.buckets = RMinHashLSH(threshold, PERMUTATIONS, PERMUTATIONS // _rows(threshold))

    def match(self, key: str, text: str) -> Match | None:
        """The most similar kept text, if it is near; else ``text`` is kept."""
        signature = _signature(text)
        candidates = [(signature.jaccard(self.signatures[i]), -i) for i in self.buckets.query(signature)]
        similarity, index = max(candidates, default=(0.0, 0))
        if similarity >= self.threshold:
            return Match(self.keys[-index], False, similarity)
        self.buckets.insert(len(self.keys), signature)
        self.keys.append(key)
        self.signatures.append(signature)
        return None


def _rows(threshold: float) -> int:
    """Hashes in a band: as many as still bring 99.9 % of the texts at the threshold together."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS / rows) >= 0.999:
            return rows
    return 1


def _signature(text: str) -> Any:
    from rensa import RMinHash

    signature = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
    signature.update(list(shingles(text)))
    return signature


def shingles(text: str) -> Iterator[str]:
    """Every stretch of SHINGLE words and marks, case aside; a shorter text is one stretch."""
    words = _WORD.findall(text.lower())
    for start in range(max(1, len(words) - SHINGLE + 1)):
        yield " ".join(words[start : start + SHINGLE])
