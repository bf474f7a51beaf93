"""Built-in dataset filters: what an operator called bad, and what our own tuned models did, do not train."""

from __future__ import annotations

from .. import hookimpl
from .dataset import Example, Verdict

BAD = frozenset({"bad", "rejected", "reopened", "abandoned"})


@hookimpl
def gt_dataset_filters(example: Example) -> Verdict | None:
    """Drop by outcome and by the model that produced it."""
    if example.outcome in BAD:
        return Verdict(False, f"outcome {example.outcome}")
    if example.tuned:
        return Verdict(False, "session of a tuned model")
    return None
