"""The form of a phrase table: value (or ``n`` for a number) → templates."""

from collections.abc import Mapping, Sequence

Phrases = Mapping[str, Sequence[str]]
