"""A role's training set from its sessions, step by step; every drop is counted under its reason.

    sessions ─► chats and decisions (extract) ─► wanted outcomes, filters ─► no words of a suite (overlap)
      ─► apart by time and task (split) ─► no repetitions (dedup) ─► a session's decisions in one example
      ─► not too long (lengths) ─► surrogates of their own (redraw)

Decisions are judged one by one; those of a session that are kept are then asked one after another in one
example, so that its prime is read once and not once for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...rendering.conversation import prime_of
from ...roles.profile import Profile
from ..dedup import NEAR, Duplicates
from ..store import StoredSession
from .example import CHAT, DECISION, FORMATS, Example, Verdict
from .extract import examples_of
from .ids import Ids
from .lengths import Length, fitted, summary
from .outcomes import Outcomes
from .overlap import OVERLAP_WORDS, Overlap
from .redraw import Redraw
from .split import HELD_OUT, LEAKS, TRAIN, Split, split

Filter = Callable[[Example], Verdict | None]


@dataclass(frozen=True)
class Options:
    """What is wanted of a dataset, and what it takes to judge and change examples."""

    formats: Sequence[str] = FORMATS
    outcomes: Outcomes = field(default_factory=Outcomes)
    tuned: bool = False
    """Take sessions of our own tuned models too."""
    near: float = NEAR
    """The similarity from which on examples repeat each other; 1.0: only exact repetitions."""
    ids: Ids = field(default_factory=Ids)
    overlap: Overlap = field(default_factory=Overlap)
    filters: Filter = lambda _example: None
    length: Length = field(default_factory=Length)
    redraw: Redraw | None = None
    """None: examples keep the corpus' own surrogates."""


@dataclass(frozen=True)
class Built:
    """The two sides, what was dropped and why, and what else a card tells."""

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    prime: str
    """The newest slim prime."""
    drops: Counter[str]
    split: Split
    facts: dict[str, Any]


def build(
    sessions: Iterable[StoredSession],
    profile: Profile,
    slim: Callable[[str], str],
    options: Options | None = None,
) -> Built:
    """The dataset of ``sessions``, which come oldest first. ``slim`` makes a stock prime small."""
    options = options or Options()
    drops: Counter[str] = Counter()
    suites: Counter[str] = Counter()
    kept: list[Example] = []
    newest, prime = "", ""
    for stored in sessions:
        stock = prime_of(stored.session.turns)
        text = slim(stock) if stock else ""
        if text and stored.session.started >= newest:
            newest, prime = stored.session.started, text
        for example in examples_of(stored, profile, text, drops, options.outcomes, options.ids):
            reason = _unwanted(example, options) or _overlaps(example, options.overlap, suites)
            if reason:
                drops[f"{example.kind}: {reason}"] += 1
            else:
                kept.append(example)
    sides = split(kept)
    duplicates = Duplicates(options.near)
    kept = list(_placed(kept, sides, duplicates, drops))
    parts = {side: [e for e in kept if sides.sides[e.session] == side] for side in (TRAIN, HELD_OUT)}
    made = {side: tuple(_finished(found, options, drops)) for side, found in parts.items()}
    both = (*made[TRAIN], *made[HELD_OUT])
    facts = {
        "duplicates": duplicates.report(),
        "overlap": {"words": OVERLAP_WORDS, "suites": sorted(options.overlap.suites), "found": dict(suites)},
        "lengths": summary(both, options.length),
        "surrogates": dict(options.redraw.counts) if options.redraw else {},
        "outcomes_wanted": sorted(options.outcomes.wanted or ["all"]),
    }
    return Built(made[TRAIN], made[HELD_OUT], prime, drops, sides, facts)


def _unwanted(example: Example, options: Options) -> str:
    """Why an example is not even looked at, empty where it may be."""
    if example.kind not in options.formats:
        return "not a format asked for"
    if not options.outcomes.wants(example.outcome):
        return f"outcome {example.outcome}"
    if example.tuned and not options.tuned:
        return "session of a tuned model"
    verdict = options.filters(example)
    if verdict is not None and not verdict.keep:
        return verdict.reason or "a filter"
    return ""


def _overlaps(example: Example, overlap: Overlap, suites: Counter[str]) -> str:
    suite = overlap.find(example.text())
    suites.update([suite] if suite else [])
    return f"shares {OVERLAP_WORDS} words with a suite" if suite else ""


def _placed(
    examples: Iterable[Example], sides: Split, duplicates: Duplicates, drops: Counter[str]
) -> Iterator[Example]:
    """Examples that have a side and repeat none before them, on whichever side that is."""
    for example in examples:
        if sides.sides[example.session] == LEAKS:
            drops[f"{example.kind}: its task is on both sides of the split"] += 1
            continue
        group = " ".join([example.kind, *example.actions])
        match = duplicates.repeats(example.id, example.said(), group)
        if match is None:
            yield example
        else:
            drops[f"{example.kind}: {'same as' if match.exact else 'nearly the same as'} another"] += 1


def _finished(examples: Sequence[Example], options: Options, drops: Counter[str]) -> Iterator[Example]:
    """Examples as they are written: a session's decisions together, not too long, surrogates of their own."""
    sessions: dict[str, list[Example]] = {}
    for example in examples:
        sessions.setdefault(example.session, []).append(example)
    whole = (e for own in sessions.values() for e in joined(own))
    for example in fitted(whole, options.length, drops):
        yield options.redraw.example(example) if options.redraw is not None else example


def joined(own: Sequence[Example]) -> list[Example]:
    """The examples of one session, its decisions as one conversation of questions and answers."""
    rest = [e for e in own if e.kind == CHAT]
    asked = [e for e in own if e.kind == DECISION]
    if not asked:
        return rest
    first = asked[0]
    messages = tuple(m for e in asked for m in e.conversation.messages)
    whole = replace(
        first,
        id=f"{first.session}/decisions",
        conversation=replace(first.conversation, messages=messages),
        actions=tuple(a for e in asked for a in e.actions),
        outcome=" ".join(dict.fromkeys(e.outcome for e in asked)),
    )
    return [*rest, whole]
