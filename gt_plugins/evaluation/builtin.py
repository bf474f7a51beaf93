"""The built-in suites: held-out situations of the example town, for each role that has a policy there.

320 cases a role, in three groups (see ``sim/phrases.py``): ``common`` in the words of the training
sessions, ``wide`` in words that only the base has read, ``unseen`` in templates that nobody has.
Their seeds are their own, so no situation of theirs is one of training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from .. import hookimpl
from .suites import Case, Suite

GROUPS = (("common", 130), ("wide", 110), ("unseen", 80))


@lru_cache(maxsize=8)
def held_out_cases(role: str) -> tuple[Case, ...]:
    """All held-out cases of a role, always the same."""
    from ..sim.reports import role_report
    from ..sim.situations import POLICIES, situations, stream

    cases = []
    for group, count in GROUPS:
        rng = stream(role, "held-out", group)
        for index, situation in enumerate(situations(role, count, rng)):
            evidence = role_report(role, situation, group, rng)
            cases.append(
                Case(
                    f"{role}-{group}-{index:03}",
                    group,
                    evidence,
                    POLICIES[role].actions,
                    (situation.action,),
                )
            )
    return tuple(cases)


@hookimpl
def gt_eval_suites() -> Sequence[Suite]:
    """One required suite for each role of the example town."""
    return [
        Suite(
            f"{role}-decisions",
            (role,),
            True,
            partial(held_out_cases, role),
            f"held-out situations of the example town for the {role}",
        )
        for role in ("deacon", "boot", "witness")
    ]
