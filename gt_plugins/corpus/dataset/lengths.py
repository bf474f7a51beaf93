"""Examples that are longer than asked for: kept whole, dropped, cut after a reply, or an error.

Training needs none of it: the renderer shows a long conversation in windows, each reply once. It is for other
trainers, which cut a row wherever their limit is. Lengths are in tokens of the base, with tool results as
short as training makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import FinetuneError
from ...rendering.conversation import Conversation
from .example import DECISION, Example

POLICIES = ("window", "drop", "trim", "error")


@dataclass(frozen=True)
class Length:
    """At most ``tokens`` by ``count``, and what becomes of an example that is longer."""

    policy: str = "window"
    tokens: int = 0
    count: Callable[[Conversation], int] | None = None


def fitted(examples: Iterable[Example], length: Length, drops: Counter[str]) -> Iterator[Example]:
    """Examples of at most that length. Raises FinetuneError naming the first one that is longer, under the
    policy ``error``."""
    for example in examples:
        tokens = _excess(example, length)
        if not tokens or length.policy == "window":
            yield example
        elif length.policy == "error":
            raise FinetuneError(
                f"{example.id}: {tokens} tokens, more than {length.tokens}; "
                "raise --max-tokens, or choose --length drop or trim"
            )
        elif length.policy == "trim" and (short := _trimmed(example, length)) is not None:
            drops[f"{example.kind}: trimmed to {length.tokens} tokens"] += 1
            yield short
        else:
            drops[f"{example.kind}: longer than {length.tokens} tokens"] += 1


def _excess(example: Example, length: Length) -> int:
    """Its tokens where they are too many, else 0."""
    tokens = length.count(example.conversation) if length.count is not None and length.tokens else 0
    return tokens if tokens > length.tokens else 0


def _trimmed(example: Example, length: Length) -> Example | None:
    """The longest beginning that fits and ends with a reply that is taught; None where there is none."""
    ends = [index + 1 for index, _ in example.taught()]
    low, high = 0, len(ends)
    while low < high:  # the more of a conversation, the longer: look for the last end that fits
        middle = (low + high + 1) // 2
        if _excess(_upto(example, ends[middle - 1]), length):
            high = middle - 1
        else:
            low = middle
    return _upto(example, ends[low - 1]) if low else None


def _upto(example: Example, end: int) -> Example:
    conversation = example.conversation.upto(end)
    replies = sum(m.role == "assistant" for m in conversation.messages)
    return replace(
        example,
        conversation=conversation,
        silent=tuple(i for i in example.silent if i < end),
        actions=example.actions[:replies] if example.kind == DECISION else (),
    )


def summary(examples: Iterable[Example], length: Length) -> dict[str, Any]:
    """Median and longest in tokens, and how many are longer than one window; empty without a tokenizer."""
    if length.count is None:
        return {}
    found = sorted(length.count(e.conversation) for e in examples)
    if not found:
        return {"limit": length.tokens, "policy": length.policy}
    return {
        "limit": length.tokens,
        "policy": length.policy,
        "median": found[len(found) // 2],
        "longest": found[-1],
        "over": sum(n > length.tokens for n in found),
    }
