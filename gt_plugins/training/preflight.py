"""What is looked at before the first step, so that a run of hours does not end in its first minute.

    base (tokenizer_check) ─► rows (supervised, ending as a reply ends, short enough) ─► products ─► disk
    ─► memory

Each refusal is one line that says what is wrong and how to mend it. What is merely left out is counted and
said.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..corpus.dataset import Example
from ..durable import nearest_existing
from ..errors import NonRetriableError, UserError, in_file
from ..rendering.render import Budget, Renderer, Row
from .engine import eight
from .estimate import GIB, Estimate, Network, by_engine
from .recipe import Recipe

SURE = 0.8
"""Share of the estimated activations without which a run is refused: the estimate is no measurement."""


def rows_of(
    examples: Sequence[Example],
    renderer: Renderer,
    budget: Budget,
    say: Callable[[str], None],
    max_length: int = 0,
) -> list[Row]:
    """Token rows of examples; what cannot be learned from is left out, and said.

    Raises UserError where nothing is left: no example, none with a supervised token, none short enough."""
    if not examples:
        raise UserError("the dataset has no example to train on; collect more sessions first")
    by_example = [renderer.rows(e.conversation, budget, e.silent) for e in examples]
    masked = sum(not rows for rows in by_example)
    made = [row for rows in by_example for row in rows]
    if not made:
        raise UserError(
            f"none of the {len(examples)} examples has a supervised token (every reply is silent); collect "
            "more sessions first"
        )
    if masked:
        say(f"{masked} of {len(examples)} examples were left out: no reply in them to learn from")
    most = min(renderer.context, max_length or renderer.context)
    rows = [row for row in made if len(row.ids) <= most]
    if not rows:
        shortest = min(len(row.ids) for row in made)
        raise UserError(
            f"every row is longer than {most} tokens (the shortest has {shortest}); raise max_length or use "
            "a base that reads more"
        )
    if len(rows) < len(made):
        left = len(made) - len(rows)
        say(f"{left} of {len(made)} rows were left out: longer than the {most} tokens that the base reads")
    check_rows(rows, renderer)
    return rows


def heldout_rows(
    examples: Sequence[Example], renderer: Renderer, budget: Budget, max_length: int = 0
) -> list[Row]:
    """Rows of the held-out examples, as many as the base can read; none is no reason to stop."""
    most = min(renderer.context, max_length or renderer.context)
    made = [row for e in examples for row in renderer.rows(e.conversation, budget, e.silent)]
    return [row for row in made if len(row.ids) <= most]


def check_rows(rows: Sequence[Row], renderer: Renderer) -> None:
    """Each row has a supervised token, none outside the vocabulary, and each reply teaches its end.

    Raises NonRetriableError naming the first row that has not."""
    size = renderer.tokenizer.get_vocab_size(with_added_tokens=True)
    highest = max(renderer.tokenizer.get_vocab(with_added_tokens=True).values(), default=size - 1)
    for number, row in enumerate(rows):
        if not any(end > start for start, end in row.spans):
            raise NonRetriableError(f"row {number}: no supervised token in it; build the dataset again")
        if max(row.ids) > highest:
            raise NonRetriableError(f"row {number}: token {max(row.ids)} is not in the tokenizer")
        for start, end in row.spans:
            if not 0 <= start < end <= len(row.ids) or row.ids[end - 1] not in renderer.end_ids:
                problem = f"row {number}: the reply at {start} does not end with an end token"
                raise NonRetriableError(f"{problem}; the model would not learn to stop: use another base")


def check_products(net: Network, recipe: Recipe, device: str = "") -> None:
    """Raises UserError where a recipe wants products in 8 bits and they cannot be had on a device, this
    machine's own where none is named."""
    if recipe.products != "fp8":
        return
    from .adapter import pick_device

    device = device or pick_device()
    reason = eight.why_not(device)
    if not reason and not by_engine(net, recipe, device):
        reason = "with this base and recipe the model's own forward is used, which knows none"
    odd = sorted({n for pair in net.shapes.values() for n in pair if n % eight.MULTIPLE})
    if not reason and odd:
        reason = f"the base has layers of {odd[0]} numbers, which is no multiple of {eight.MULTIPLE}"
    if reason:
        raise UserError(f"products = 'fp8': {reason}; leave it at bf16")


def check_disk(folder: Path, gib: float) -> None:
    """Raises UserError where a job's checkpoints and version would not fit below ``folder``."""
    free = shutil.disk_usage(nearest_existing(folder)).free / GIB
    if free < gib:
        raise UserError(
            in_file(
                folder,
                "",
                f"{_amount(gib)} are needed for checkpoints and the adapter, {_amount(free)} are free",
                "free some, lower keep or rank, or name another folder",
            )
        )


def _amount(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.1f} MiB"


def check_memory(found: Estimate, say: Callable[[str], None]) -> None:
    """Raises UserError where the memory that is free is surely not enough; says so where it may not be."""
    if found.free is None or found.fits:
        return
    moving = found.parts["activations"] + found.parts["logits"]
    least = found.memory - (1 - SURE) * moving
    words = (
        f"about {found.memory:.1f} GiB of memory are needed on {found.device}, {found.free:.1f} GiB are free"
    )
    mend = "raise accumulation, set grad_checkpointing or quantize = 'nf4', or lower batch_tokens"
    if least > found.free:
        raise UserError(f"{words}; {mend}")
    say(f"{words}: it may not fit ({mend})")
