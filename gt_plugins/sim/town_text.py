"""What the example town's own commands print: its prime, hook and the answers to decisions.

Written for the example town, in the layout of the real thing, for where no gt is installed. With a real
gt the teacher's sessions hold gt's own words instead.
"""

from __future__ import annotations

import json
import random
import shlex

from .situations import bead_id
from .teacher import LIST, report_name, report_of

_DUTIES = {
    "deacon": "You watch over every agent of the town: one report each, one decision each.",
    "boot": "You watch over the deacon alone: one look, one decision, then leave.",
    "witness": "You watch over the polecats of your rig: one report each, one decision each.",
}

_FAILS, _TERSE = 0.03, 0.6
"""How often a command fails, as some do in every town, and how often it says no more than its first line."""
_FAILURES = (
    "Error: session not found",
    "Error: connection refused",
    "Error: context deadline exceeded",
    "Error: no such agent",
)


def stock_prime(role: str, session_id: str, rng: random.Random) -> str:
    """A long prime such as the role's stock agent gets: live facts among much that is always the same."""
    patrol = bead_id(rng)
    return f"""[GAS TOWN] role:{role} pid:{rng.randrange(2000, 60000)} session:{session_id}
# {role.capitalize()} Context

> **Recovery**: Run `gt prime` after compaction, clear, or new session

## Theory of operation

A town is moved by those who take up what hangs on their hook. When there is work, it is begun at once;
nobody waits to be told. Every patrol that is skipped is seen by all who depend on it.

## Your role: {role.upper()}

{_DUTIES[role]}

## Rules

- NEVER end a session yourself; there is a command that asks for it.
- NEVER edit the files of another agent.
- DO NOT wait for an answer after a nudge.

## Commands

- `gt hook` - what hangs on your hook
- `gt mail inbox` - your mail
- `gt escalate '<what>' -s high` - hand it on

## Why it matters

Patrols are kept in the ledger. An honest report of what was seen is worth more than a quiet one, and a
town that can trust its watch needs no second one. Whoever comes after you reads what you leave.

## 🔄 Patrol Status

**Patrol wisp:** {patrol}

---

**STARTUP PROTOCOL**: read the reports in `reports/`, one by one, decide on each, then say that you are done.
"""


def command_output(command: str, reports: list[str], rng: random.Random) -> tuple[str, bool]:
    """What a step's command prints, and whether it is an error."""
    name = report_of(command)
    if name is not None:
        index = int(name) - 1
        if 0 <= index < len(reports):
            return reports[index], False
        return f"cat: reports/{name}.txt: No such file or directory", True
    if command == LIST:
        return "\n".join(report_name(i) for i in range(len(reports))), False
    if command == "gt hook":
        return f"Hook Status: {bead_id(rng)}\n\nNothing on hook - no work slung", False
    if rng.random() < _FAILS:
        return _failure(shlex.split(command), rng), True
    lines = _answer(shlex.split(command), rng)
    return "\n".join(lines[: 1 if rng.random() < _TERSE else len(lines)]), False


def _failure(words: list[str], rng: random.Random) -> str:
    """What the client shows of a command that failed; gt tells how it is used after what went wrong."""
    verb = " ".join(words[: 2 if words[1] in ("nudge", "escalate") else 3])
    flags = [
        f"      --{name} string   {name.capitalize()} of it" for name in ("mode", "reason", "message", "rig")
    ]
    rng.shuffle(flags)
    usage = ["Usage:", f"  {verb} [flags]", "", "Flags:", f"  -h, --help   help for {words[1]}", *flags]
    shown = usage[: rng.choice((0, 0, 2, len(usage)))]
    return "\n".join(["Exit code 1", rng.choice(_FAILURES), *shown])


def _answer(words: list[str], rng: random.Random) -> list[str]:
    """A decision's command, answered in the layout of gt v1.0 and bd v1.0; the first line says it all."""
    given = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("-")}
    match words:
        case ["gt", "deacon", "heartbeat", *said]:
            return [f"✓ Heartbeat updated: {' '.join(said)}"]
        case ["gt", "deacon", "start"]:
            return ["✓ Deacon session started. Attach with: gt deacon attach"]
        case ["gt", "deacon", "restart"]:
            return ["✓ Deacon restarted"]
        case ["gt", "activity", "emit", kind, *_]:
            payload = {k: given[f"--{k}"] for k in ("message", "target") if f"--{k}" in given}
            actor = f"  Actor:   {given.get('--actor', '')}"
            return [f"✓ Emitted {kind} event", actor, f"  Payload: {json.dumps(payload)}"]
        case ["gt", "nudge", target, *_]:
            return [f"✓ Nudged {target} ({given.get('--mode', 'wait-idle')})"]
        case ["gt", "escalate", *_]:
            return [
                f"Escalation created: {bead_id(rng)}",
                "  Severity: high",
                "  Routed to: bead, mail:mayor",
            ]
        case ["gt", "warrant", "file", target, *_]:
            id = f"  ID: warrant-{rng.randrange(10**12, 10**13)}"
            return [f"✓ Filed death warrant for {target}", f"  Reason: {given.get('--reason', '')}", id]
        case ["bd", "create", title, *_]:
            return [f"✓ Created issue: {bead_id(rng)} — {title}", "  Priority: P2", "  Status: open"]
        case ["gt", "polecat", "nuke", target, *_]:
            return [f"Nuking {target}...", "", "✓ Nuked 1 polecat(s)."]
    return ["ok"]


def start_prompt(role: str, at: str) -> str:
    """The prompt that starts a role's session."""
    return (
        f"[GAS TOWN] {role} <- daemon • {at[:16]} • patrol\n\n"
        f"I am {role}. Check the hook, then go through the reports."
    )
