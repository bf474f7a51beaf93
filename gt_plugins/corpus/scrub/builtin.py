"""The built-in scrub layers, registered like anybody's: 10 secrets, 20 personal data, 30 exact values."""

from __future__ import annotations

from collections.abc import Sequence

from ... import hookimpl
from .layers import Layer, Policy


def layers(policy: Policy) -> list[Layer]:
    """The three built-in layers for ``policy``."""
    from . import exact, personal, secrets

    return [
        Layer("secrets", 10, secrets.find, secrets.find_keyed),
        Layer("personal", 20, personal.find, personal.find_keyed),
        Layer("exact", 30, exact.make_find(policy)),
    ]


@hookimpl
def gt_scrub_layers(policy: Policy) -> Sequence[Layer]:
    return layers(policy)
