"""Ids in what is taught: each must stand in what comes before, or the model is taught to make ids up.

Ids are UUIDs, commit hashes, surrogates of tokens and people, and bead ids. A bead id looks like any word
with a hyphen, so it is one when a bead of the session is called so, or when it has a digit and begins with
the prefix of a bead known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .example import Example, said

_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_SHA = r"(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])(?:[0-9a-f]{40}|[0-9a-f]{7,12})"
_FIXED = re.compile(rf"(?<![\w-])(?:{_UUID}|{_SHA})(?![\w-])")
_KIND = re.compile(r"-(?:cv|mol|wisp)$")
"""What bd puts between the prefix and the rest of a convoy's, a molecule's and a wisp's id."""


@lru_cache(maxsize=64)
def _beads(prefixes: frozenset[str]) -> re.Pattern[str]:
    """Words that begin as bead ids do."""
    known = "|".join(map(re.escape, sorted(prefixes, key=lambda p: (-len(p), p))))
    return re.compile(rf"(?<![\w./-])(?:{known})-(?:cv-|mol-|wisp-)?([a-z0-9]{{1,8}})(?:\.\d+)*(?![\w-])")


def prefix_of(bead: str) -> str:
    """``my-rig-4kx1`` and ``my-rig-wisp-a1`` are of ``my-rig``."""
    return _KIND.sub("", bead.partition(".")[0].rpartition("-")[0])


@dataclass(frozen=True)
class Ids:
    """What ids look like here."""

    beads: Collection[str] = ()
    """Beads that are known; their prefixes are those of bead ids."""
    surrogates: Callable[[str], Iterable[str]] = lambda _text: ()
    """Finds the surrogates in a text."""

    @cached_property
    def _prefixes(self) -> frozenset[str]:
        return frozenset(map(prefix_of, self.beads)) - {""}

    def found(self, text: str, beads: Iterable[str] = ()) -> Iterator[str]:
        """Every id in a text but surrogates; ``beads`` are ids that are known for sure."""
        yield from (m[0] for m in _FIXED.finditer(text))
        known = set(beads)
        prefixes = self._prefixes | {prefix_of(b) for b in known} - {""}
        for match in _beads(prefixes).finditer(text) if prefixes else ():
            if match[0] in known or re.search(r"\d", match[1]):
                yield match[0]

    def unfounded(self, example: Example, silent: Collection[int], drops: Counter[str]) -> set[int]:
        """Replies with an id that nothing before them holds; those in ``silent`` are not looked at."""
        conversation = example.conversation
        missing: set[int] = set()
        before = [conversation.system, conversation.prime]
        seen: set[str] = set(self.found("\n".join(before), example.beads))
        for index, message in enumerate(conversation.messages):
            text = said(message)
            here = set(self.found(text, example.beads))
            if message.role == "assistant" and index not in silent:
                new = (here | set(self.surrogates(text))) - seen
                context = "\n".join(before) if new else ""
                if any(name not in context for name in new):
                    missing.add(index)
                    drops["turn: an id that is not in its context"] += 1
            seen |= here
            before.append(text)
        return missing
