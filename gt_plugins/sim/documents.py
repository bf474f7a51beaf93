"""Text to pre-train the tiny base on: reading reports, invented roles' decisions and patrols, plain prose.

Nothing here knows a rule of a role that can be tuned: decisions come from :mod:`gt_plugins.sim.invented`
alone. Reports use every phrase pool but ``unseen``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from ..rendering.conversation import Conversation, Message, Tool
from .invented import InventedRole, balanced_facts, invented_role
from .reports import mixed_report, report
from .situations import Situation, bead_id, random_facts, stream, target_for
from .suite_text import decision_question
from .teacher import DONE, LIST, report_name

INVENTED_ROLES = 600
_KINDS = ("session", "idle", "task", "git", "nudges", "error", "mail")
_BASH = (Tool("Bash", ("command",)),)
_POOLS = ("common", "wide", "prose", "prose", "talk", "talk", "talk")
_MIXED = 0.35
"""The share of reports whose facts are worded from several pools."""

_RULE_LINES = (
    "- One report, one decision, one command.",
    "- In doubt escalate.",
    "- In doubt ask the warden of the place.",
    "- Never close what you did not open.",
    "- Never end a session yourself.",
    "- Work that is not pushed is never lost.",
    "- Leave those alone who are at work.",
    "- Note what you did before you go on.",
    "- Do not wait for an answer.",
)
_PRIME_LINES = (
    "role:{role} session:{hex}",
    "# {Role} Context",
    "## Hooked work: {bead}",
    "Hook: empty. Check `{place} inbox`.",
    "Patrol: {bead} (step {n} of 9)",
    "Commands: `{place} status`, `{place} list`, `gt hook`, `gt mail inbox`, `bd show {bead}`.",
    "`{place} list --all` shows every agent; `{place} status {n}` one.",
    "Mail: {n} unread.",
    "Next: read the reports in `reports/`, one by one.",
    "The {place} runs on work that is picked up at once. You are the one who picks it up.",
    "Working folder: /town/{place}/{role}. Run commands from there.",
    "Database port {port}. Never start it yourself.",
    "When you are done say so and stop; the next patrol begins by itself.",
    "- NEVER push to main. NEVER edit another agent's files.",
    "- Use `gt handoff` when your context is full.",
    "[GAS TOWN] role:{role} pid:{port} session:{hex}",
    "`gt status`, `gt hook`, `gt mail send`, `gt prime`, `bd list --status open`, `bd ready`",
    "**Your patrol**: check the hook (`gt hook`), then EXECUTE. No confirmation, no waiting.",
    "Gas Town runs on agents that pick up the work on their hook. DO NOT wait for orders.",
)


def prime_text(role: InventedRole, rng: random.Random) -> str:
    """A prime for an invented role: from nothing to about 250 tokens of lines in any order."""
    lines = list(_PRIME_LINES + _RULE_LINES)
    rng.shuffle(lines)
    lines = lines[: rng.choice((0, 2, 4, 8, 12, 20))]
    slots = {
        "role": role.policy.role,
        "Role": role.policy.role.capitalize(),
        "place": role.place,
        "hex": f"{rng.getrandbits(48):012x}",
        "bead": bead_id(rng),
        "n": rng.randrange(1, 9),
        "port": rng.randrange(3000, 9999),
    }
    return "\n".join(line.format_map(slots) for line in lines)


def system_text(role: InventedRole) -> str:
    """The system prompt of an invented role."""
    return (
        f"You are the {role.policy.role} of a {role.place}. Read each report, state its facts, decide, act."
    )


def _user(text: str) -> Message:
    return Message("user", ({"type": "text", "text": text},))


def _result(text: str) -> Message:
    return Message("user", ({"type": "tool_result", "content": text, "is_error": False},))


def _reply(text: str, command: str = "") -> Message:
    blocks: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
    if command:
        blocks.append({"type": "tool_use", "name": "Bash", "input": {"command": command}})
    return Message("assistant", tuple(blocks))


def _any_report(situation: Situation, kinds: Sequence[str], rng: random.Random) -> str:
    if rng.random() < _MIXED:
        return mixed_report(situation, kinds, _POOLS, rng)
    return report(situation, kinds, rng.choice(_POOLS), rng)


def reading(rng: random.Random) -> Conversation:
    """Reports, each with a question for some of its facts; answered in the canonical wording."""
    messages = []
    for _ in range(rng.choice((1, 2, 3, 4))):
        kinds = list(_KINDS)
        rng.shuffle(kinds)
        told = kinds[: rng.choice((3, 5, 6, 7))]
        asked = told[: rng.randrange(1, len(told) + 1)]
        situation = Situation(target_for("witness", rng), random_facts(rng), "")
        text = _any_report(situation, told, rng)
        target = situation.target
        ask = rng.random()
        if ask < 0.2:
            messages += [_user(f"{text}\nWho is it?"), _reply(f"{target.rsplit('/', 1)[-1]} at {target}")]
        else:
            messages += [_user(f"{text}\nState: {', '.join(asked)}"), _reply(situation.facts.note(asked))]
    system = rng.choice(("Read the report and state what is asked.", "You read reports.", ""))
    return Conversation(system, (), "", tuple(messages))


def _decision(role: InventedRole, rng: random.Random) -> tuple[str, str, str]:
    """Report, decision JSON, command."""
    facts, action = balanced_facts(role.policy, rng)
    situation = Situation(target_for("witness", rng), facts, action)
    text = _any_report(situation, role.policy.kinds, rng)
    answer = json.dumps({"reason": facts.note(role.policy.kinds), "action": action})
    return text, answer, role.command(action, situation.target, facts)


def decision(rng: random.Random) -> Conversation:
    """One question for a decision, as the suites put it."""
    role = invented_role(rng.randrange(INVENTED_ROLES))
    text, answer, _ = _decision(role, rng)
    allowed = list(role.policy.actions)
    question = _user(decision_question(text, allowed))
    prime = prime_text(role, rng)
    return Conversation(system_text(role), (), prime, (question, _reply(answer)))


_PROMPTS = (
    "[TOWN] {role} <- watch • patrol\n\nRun `gt hook`, then go through the reports.",
    "I am the {role}. Begin the patrol.",
    "Start of shift. Run `town prime` and begin.",
)
_HOOKS = (
    "Nothing on hook - no work slung",
    "Hook: {bead} (patrol)",
    "Role: {role}\n\nNothing on hook\n\nNext: check the inbox",
)
_AFTER = (
    "ok",
    "done: {bead}",
    "",
    "noted",
    "sent to {target}",
    "created {bead}",
    "Error: {target} not found",
)


def patrol(rng: random.Random, reports: int | None = None) -> Conversation:
    """A patrol of an invented role over some reports, as a client's session."""
    role = invented_role(rng.randrange(INVENTED_ROLES))
    count = reports or rng.randrange(1, 7)
    slots = {"role": role.policy.role, "bead": bead_id(rng)}
    messages = [_user(rng.choice(_PROMPTS).format_map(slots))]
    if rng.random() < 0.3:
        first = f"{role.place} start"
        messages += [_reply("", first), _result(rng.choice(("ok", "shift started", "")))]
    messages += [_reply("", "gt hook"), _result(rng.choice(_HOOKS).format_map(slots))]
    messages += [_reply("", LIST), _result("\n".join(report_name(i) for i in range(count)))]
    for index in range(count):
        text, answer, command = _decision(role, rng)
        after = rng.choice(_AFTER).format_map({"bead": bead_id(rng), "target": target_for("witness", rng)})
        messages += [_reply("", f"cat reports/{report_name(index)}"), _result(text)]
        messages += [_reply(answer, command), _result(after)]
    return Conversation(system_text(role), _BASH, prime_text(role, rng), (*messages, _reply(DONE)))


_WORDS = (
    "step collect check gather report review merge branch session bead hook mail town rig patrol agent note "
    "file line test build push close open wait order list count first then after before until each every "
    "when if not only with from into over under between and or but so that this which what where who "
    "polecat witness deacon refinery mayor convoy wisp molecule handoff heartbeat hooked patrol status inbox "
    "worktree context command commands running agent agents daemon formula cycle gate plugin escalate work "
    "always never must without your you the is are be it will can has have was run use start stop show"
).split()


def formula(rng: random.Random) -> Conversation:
    """A made-up formula and a question for one of its steps: plain reading of longer text."""
    steps = []
    for number in range(1, rng.randrange(3, 9)):
        title = " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(2, 5)))
        body = " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(6, 30)))
        steps.append((number, title, body))
    text = "\n".join(f'[[steps]]\nid = "{n}"\ntitle = "{t}"\ndescription = "{b}"' for n, t, b in steps)
    number, title, _ = rng.choice(steps)
    if rng.random() < 0.3:
        messages = (_user(f"{text}\nTitle?"), _reply(json.dumps({"title": steps[0][1]})))
    else:
        messages = (_user(f"{text}\nWhat is step {number}?"), _reply(title))
    return Conversation("", (), "", messages)


Maker = Callable[[random.Random], Conversation]
MIX: Sequence[tuple[Maker, float]] = (
    (reading, 0.45),
    (decision, 0.37),
    (patrol, 0.12),
    (formula, 0.06),
)


def document(seed: int, index: int) -> Conversation:
    """The pre-training document of this number; always the same one."""
    rng = stream("document", seed, index)
    maker = rng.choices([m for m, _ in MIX], [w for _, w in MIX])[0]
    return maker(rng)
