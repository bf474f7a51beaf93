"""The built-in plugin of slim primes; what a third party needs to offer sections is importable from here."""

from __future__ import annotations

from collections.abc import Sequence

from .. import hookimpl
from .section import CHARS_PER_TOKEN, THIRD_PARTY_PRIORITY, PrimeContext, Section

__all__ = ["CHARS_PER_TOKEN", "THIRD_PARTY_PRIORITY", "PrimeContext", "Section", "gt_prime_sections"]


@hookimpl
def gt_prime_sections(ctx: PrimeContext) -> Sequence[Section]:
    """The sections of the stock prime: live facts, rules, prohibitions, steps, commands, the rest."""
    from .stock import stock_sections

    return stock_sections(ctx.prime, ctx.role, ctx.rules).sections
