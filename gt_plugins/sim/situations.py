"""Situations: the facts about one agent, and what each role ought to do about them.

The rules are the example town's policy, not Gas Town's: small enough to be learned from some hundred
sessions, and with thresholds that have to be read off the facts. Seeds are named, so that the situations
of training and of the held-out suites never come from the same stream.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SESSION = ("alive", "dead")
TASK = ("none", "open", "done")
GIT = ("clean", "dirty", "unpushed")
ERROR = ("none", "auth", "disk", "limit", "crash")


@dataclass(frozen=True)
class Facts:
    """What a report says about an agent. ``idle`` is in minutes."""

    session: str = "alive"
    idle: int = 0
    task: str = "none"
    git: str = "clean"
    nudges: int = 0
    error: str = "none"
    mail: int = 0

    def note(self, kinds: Sequence[str]) -> str:
        """The facts in their canonical wording, which is the reason that a decision states."""
        return ", ".join(f"{k} {self.idle}m" if k == "idle" else f"{k} {getattr(self, k)}" for k in kinds)


FactKind = str
Decide = Callable[[Facts], str]


@dataclass(frozen=True)
class RolePolicy:
    """Which facts a role weighs, what it may do, and its rule."""

    role: str
    kinds: tuple[FactKind, ...]
    actions: tuple[str, ...]
    decide: Decide


@dataclass(frozen=True)
class Situation:
    """One agent (``target``, a mail address such as ``demo/polecats/nux``) and the facts about it."""

    target: str
    facts: Facts
    action: str


def _deacon(f: Facts) -> str:
    if f.error in ("auth", "disk"):
        return "escalate-to-mayor"
    if f.session == "dead":
        if f.git != "clean":
            return "create-cleanup-wisp"
        return "file-warrant" if f.task == "open" else "no-op"
    if f.task == "open" and f.idle >= 45:
        return "file-warrant" if f.nudges >= 2 else "nudge"
    if f.error == "limit" or (f.task == "open" and f.idle >= 20):
        return "log-and-watch"
    return "no-op"


def _witness(f: Facts) -> str:
    if f.error in ("auth", "crash"):
        return "escalate"
    if f.session == "dead":
        if f.git != "clean":
            return "create-cleanup-wisp"
        return "mark-zombie" if f.task == "open" else "nuke"
    if f.task == "done":
        return "nuke" if f.git == "clean" else "nudge"
    if f.task == "open" and f.idle >= 30:
        return "escalate" if f.nudges >= 3 else "nudge"
    return "no-op"


def _boot(f: Facts) -> str:
    if f.session == "dead":
        return "start"
    if f.error == "auth":
        return "escalate"
    if f.error in ("crash", "limit"):
        return "interrupt"
    if f.idle < 10 or (f.mail == 0 and f.idle < 40):
        return "nothing"
    if f.nudges >= 3:
        return "escalate"
    return "wake" if f.idle >= 60 else "nudge"


_ALL = ("session", "idle", "task", "git", "nudges", "error")
POLICIES: Mapping[str, RolePolicy] = {
    "deacon": RolePolicy(
        "deacon",
        _ALL,
        ("no-op", "nudge", "log-and-watch", "file-warrant", "create-cleanup-wisp", "escalate-to-mayor"),
        _deacon,
    ),
    "witness": RolePolicy(
        "witness",
        _ALL,
        ("no-op", "nudge", "escalate", "nuke", "mark-zombie", "create-cleanup-wisp"),
        _witness,
    ),
    "boot": RolePolicy(
        "boot",
        ("session", "idle", "mail", "nudges", "error"),
        ("nothing", "nudge", "wake", "start", "interrupt", "escalate"),
        _boot,
    ),
}

_FIRST = (
    "toast nux slit dementus capable furiosa dag keeper valkyrie morsov ace rictus cheedo max angharad "
    "corpus organic rosko glory hope crow pinto mari sable wren linden cedar maple hazel rowan "
    "birch alder rook finch heron lark moss fern thorn ash reed flint slate onyx opal topaz jasper beryl"
).split()
_RIGS = "demo alpha harbor citadel bullet gastown quarry depot foundry orchard".split()


def stream(*names: object) -> random.Random:
    """A random stream of its own for every name: ``stream("deacon", "held-out", 7)``."""
    digest = hashlib.sha256("/".join(str(n) for n in names).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def agent_name(rng: random.Random) -> str:
    """A polecat's name; most carry a number, so that names are read and not known by heart."""
    name = rng.choice(_FIRST)
    return name if rng.random() < 0.3 else f"{name}{rng.randrange(2, 99)}"


def target_for(role: str, rng: random.Random) -> str:
    """The address of an agent that ``role`` looks after."""
    if role == "boot":
        return "deacon"
    rig = rng.choice(_RIGS)
    if role == "deacon" and rng.random() < 0.2:
        return f"{rig}/{rng.choice(('witness', 'refinery'))}"
    return f"{rig}/polecats/{agent_name(rng)}"


def bead_id(rng: random.Random) -> str:
    """A bead's id such as ``dm-4kx1``."""
    tail = "".join(rng.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(rng.choice((3, 4, 5))))
    return f"{rng.choice(('dm', 'gt', 'hq', 'ab', 'cx'))}-{tail}"


def random_facts(rng: random.Random) -> Facts:
    """Facts at large: each value drawn by itself, idle times spread over the range that matters."""
    return Facts(
        session=rng.choices(SESSION, (3, 1))[0],
        idle=rng.choice((rng.randrange(0, 20), rng.randrange(5, 65), rng.randrange(20, 180))),
        task=rng.choices(TASK, (2, 4, 2))[0],
        git=rng.choices(GIT, (3, 1, 1))[0],
        nudges=rng.choices((0, 1, 2, 3, 4), (4, 2, 2, 2, 1))[0],
        error=rng.choices(ERROR, (6, 1, 1, 1, 1))[0],
        mail=rng.choices(range(10), (4, *([1] * 9)))[0],
    )


def facts_for(policy: RolePolicy, action: str, rng: random.Random) -> Facts:
    """Facts for which the policy takes ``action``; what it does not weigh stays at its default."""
    blank = Facts()
    while True:
        drawn = random_facts(rng)
        facts = Facts(**{k: getattr(drawn if k in policy.kinds else blank, k) for k in vars(blank)})
        if policy.decide(facts) == action:
            return facts


def situations(role: str, count: int, rng: random.Random, *, target: str = "") -> list[Situation]:
    """``count`` situations, every action about equally often, in mixed order."""
    policy = POLICIES[role]
    actions = [policy.actions[i % len(policy.actions)] for i in range(count)]
    rng.shuffle(actions)
    return [
        Situation(target or target_for(role, rng), facts_for(policy, action, rng), action)
        for action in actions
    ]


def facts_from(value: Mapping[str, Any]) -> Facts:
    """The inverse of ``vars(facts)``."""
    return Facts(**{k: value[k] for k in vars(Facts())})
