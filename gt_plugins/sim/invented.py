"""Invented roles, for pre-training only: none of them exists in a town, none can be tuned.

Each has a name, the facts that it weighs in its own order, actions with invented names and commands, and
a rule over the facts that is drawn once from its seed. A base that has seen many of them knows how a
decision goes: read the facts, state them, follow the role's own rule; but no rule of a real role.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .situations import ERROR, Facts, RolePolicy, random_facts, stream

_TRADES = (
    "harbourmaster lamplighter ferryman gardener librarian stationmaster beekeeper miller carter glazier "
    "tinker cooper weaver dyer potter baker brewer falconer warden cartographer clockmaker chandler mason "
    "thatcher saddler fuller tanner joiner smith piper drover reeve bailiff almoner verger sexton"
).split()
_PLACES = "port mill yard inn abbey fair ford keep lodge wharf market bridge".split()
_VERBS = (
    "ring send hold call light douse haul stack weigh mend tally fetch bar open paint chart pluck sweep "
    "store water trim feed shear spin knock"
).split()
_THINGS = (
    "bell tug gate lamp crate rope net cart ledger anchor kiln hive wheel barrel sluice beam sail torch "
    "oven loom bucket ladder"
).split()
_KINDS = ("session", "idle", "task", "git", "nudges", "error", "mail")


@dataclass(frozen=True)
class InventedRole:
    """A policy with a place and the verb of its commands."""

    policy: RolePolicy
    place: str

    def command(self, action: str, target: str, facts: Facts) -> str:
        """The command of a decision: the place, the action, the target and a note."""
        name = target.rsplit("/", 1)[-1]
        form = stream(self.policy.role, action).randrange(6)
        return (
            f"{self.place} {action} {target} '{name} idle {facts.idle}m'",
            f"{self.place} {action} --for {target} --note 'idle {facts.idle}m'",
            f"{self.place} log {action} '{name}'",
            f"{self.place} {action} {name}",
            f"{self.place} {action} --reason 'error {facts.error}' {target}",
            f"{self.place} {action} '{name}' -s high",
        )[form]


@dataclass(frozen=True)
class _Test:
    """One question of a rule: is this fact of this kind so?"""

    kind: str
    value: str | int

    def holds(self, facts: Facts) -> bool:
        actual = getattr(facts, self.kind)
        return actual >= self.value if isinstance(self.value, int) else actual == self.value


def _draw_test(kinds: Sequence[str], rng: random.Random) -> _Test:
    kind = rng.choice(kinds)
    match kind:
        case "idle":
            return _Test(kind, rng.choice((10, 15, 20, 25, 30, 40, 45, 50, 60, 75, 90)))
        case "nudges":
            return _Test(kind, rng.choice((1, 2, 3)))
        case "mail":
            return _Test(kind, rng.choice((1, 3, 5)))
        case "session":
            return _Test(kind, "dead")
        case "task":
            return _Test(kind, rng.choice(("none", "open", "done")))
        case "git":
            return _Test(kind, rng.choice(("clean", "dirty", "unpushed")))
    return _Test(kind, rng.choice(ERROR[1:]))


class _Rule:
    """A decision list: the first line whose tests all hold gives the action, else the last."""

    def __init__(self, lines: Sequence[tuple[tuple[_Test, ...], str]], otherwise: str) -> None:
        self.lines, self.otherwise = lines, otherwise

    def __call__(self, facts: Facts) -> str:
        for tests, action in self.lines:
            if all(t.holds(facts) for t in tests):
                return action
        return self.otherwise


def invented_role(index: int) -> InventedRole:
    """The invented role of this number; always the same one."""
    rng = stream("invented", index)
    kinds = list(_KINDS)
    rng.shuffle(kinds)
    kinds = kinds[: rng.choice((4, 5, 6, 6))]
    actions: list[str] = []
    while len(actions) < rng.choice((3, 4, 5, 6)):
        action = f"{rng.choice(_VERBS)}-{rng.choice(_THINGS)}"
        if action not in actions:
            actions.append(action)
    lines = []
    for _ in range(rng.choice((4, 5, 6, 7))):
        tests = tuple(_draw_test(kinds, rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        lines.append((tests, rng.choice(actions)))
    role = f"{_TRADES[index % len(_TRADES)]}{'' if index < len(_TRADES) else index // len(_TRADES)}"
    rule = _Rule(lines, rng.choice(actions))
    return InventedRole(RolePolicy(role, tuple(kinds), tuple(actions), rule), rng.choice(_PLACES))


def balanced_facts(policy: RolePolicy, rng: random.Random) -> tuple[Facts, str]:
    """Facts and their action, drawn so that seldom actions come up too."""
    wanted = rng.choice(policy.actions)
    facts = random_facts(rng)
    for _ in range(12):
        if policy.decide(facts) == wanted:
            break
        facts = random_facts(rng)
    return facts, policy.decide(facts)
