"""A scrubber with the built-in layers and the people of :mod:`scrub_plants`."""

from __future__ import annotations

from collections.abc import Iterable

from scrub_plants import PEOPLE, USERS

from gt_plugins.corpus.scrub.builtin import layers
from gt_plugins.corpus.scrub.engine import Scrubber
from gt_plugins.corpus.scrub.exact import exact_person, exact_user
from gt_plugins.corpus.scrub.layers import Exact, Layer, Policy
from gt_plugins.corpus.scrub.policy import build_policy

KEY = bytes(range(32))


def policy(
    exact: Iterable[Exact] = (), deny: Iterable[str] = (), allow: Iterable[str] = (), key: bytes = KEY
) -> Policy:
    known = [e for name in PEOPLE for e in exact_person(name)] + [e for u in USERS for e in exact_user(u)]
    return build_policy(key, [*known, *exact], deny, allow)


def scrubber(
    exact: Iterable[Exact] = (),
    deny: Iterable[str] = (),
    allow: Iterable[str] = (),
    key: bytes = KEY,
    more: Iterable[Layer] = (),
) -> Scrubber:
    rules = policy(exact, deny, allow, key)
    return Scrubber(rules, [*layers(rules), *more])
