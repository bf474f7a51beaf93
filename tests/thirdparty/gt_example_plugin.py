"""A third party's plugin: scrubs badge numbers, requires a suite of its own, adds a section to primes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gt_plugins import hookimpl
from gt_plugins.corpus.dataset import Example, Verdict
from gt_plugins.corpus.scrub.layers import Hit, Layer, Policy
from gt_plugins.evaluation.suites import Case, Suite
from gt_plugins.prime.sections import PrimeContext, Section

BADGE = re.compile(r"BADGE-\d{4}")


def badges(text: str) -> list[Hit]:
    return [Hit(m.start(), m.end(), "badge") for m in BADGE.finditer(text)]


@hookimpl
def gt_scrub_layers(policy: Policy) -> Sequence[Layer]:
    return [Layer("example-badges", 25, badges, version="1")]


def cases() -> Sequence[Case]:
    return [Case("fire-1", "", "The kiln of nux is on fire.", ("no-op", "nudge"), ("nudge",))]


@hookimpl
def gt_eval_suites() -> Sequence[Suite]:
    return [Suite("example-fires", ("deacon",), True, cases, "what to do about fires")]


@hookimpl
def gt_prime_sections(ctx: PrimeContext) -> Sequence[Section]:
    return [Section("example", f"The {ctx.role} keeps its badge.", must_keep=True, title="Badges:")]


@hookimpl
def gt_dataset_filters(example: Example) -> Verdict | None:
    return Verdict(False, "about fires") if "kiln" in example.text() else None
