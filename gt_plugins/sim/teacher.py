"""The scripted teacher: what each role says and runs, step by step, on a patrol over reports.

The same steps drive the real client (as a serving engine, through :class:`Teacher`) and write sessions
in the client's format where there is no client (``sim/sessions.py``).

A patrol: look at the hook, list ``reports/``, then for each report read it, state its facts and the
decision as one JSON object, and run the decision's command; at the end say that the patrol is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .situations import POLICIES, Situation

DONE = "Patrol done."
LIST = "ls reports"
_READ = re.compile(r"^cat reports/([a-z0-9-]+)\.txt$")


@dataclass(frozen=True)
class Step:
    """One assistant turn: what it says and the command it runs (none at the end)."""

    text: str
    command: str


def decision_text(role: str, situation: Situation) -> str:
    """The decision as the model is to write it: the facts as the reason, then the action."""
    reason = situation.facts.note(POLICIES[role].kinds)
    return json.dumps({"reason": reason, "action": situation.action})


def decision_command(role: str, situation: Situation) -> str:
    """The command that carries the decision out."""
    target, facts = situation.target, situation.facts
    why = f"idle {facts.idle}m"
    name = target.rsplit("/", 1)[-1]
    match role, situation.action:
        case "deacon", "no-op":
            return f"gt deacon heartbeat 'ok {name}'"
        case "deacon", "log-and-watch":
            return f"gt activity emit patrol_watch --actor deacon --target {target} --message '{why}'"
        case "witness", "no-op":
            return f"gt activity emit patrol_ok --actor witness --target {target} --message 'ok'"
        case "boot", "nothing":
            return "gt activity emit boot_ok --actor boot --message 'at work'"
        case "boot", "wake":
            return "gt nudge deacon --mode immediate 'wake up'"
        case "boot", "start":
            return "gt deacon start"
        case "boot", "interrupt":
            return "gt deacon restart"
        case _, "nudge":
            return f"gt nudge {target} '{why}, go on'"
        case _, "escalate" | "escalate-to-mayor":
            return f"gt escalate '{name} error {facts.error}' -s high"
        case _, "file-warrant" | "mark-zombie":
            return f"gt warrant file {target} --reason '{why}'"
        case _, "create-cleanup-wisp":
            return f"bd create 'save work of {name}' -t task -l gt:cleanup"
        case _, "nuke":
            return f"gt polecat nuke {target.replace('/polecats/', '/')}"
    raise ValueError(f"{role} has no command for {situation.action}")


def report_name(index: int) -> str:
    """File name (without folder) of the report at ``index``, counted from 0: ``01.txt``."""
    return f"{index + 1:02}.txt"


def patrol_steps(role: str, situations: Sequence[Situation]) -> list[Step]:
    """All steps of one patrol, in order."""
    steps = [Step("", "gt hook"), Step("", LIST)]
    for index, situation in enumerate(situations):
        steps.append(Step("", f"cat reports/{report_name(index)}"))
        steps.append(Step(decision_text(role, situation), decision_command(role, situation)))
    return [*steps, Step(DONE, "")]


class Teacher:
    """Plays one role over given situations for as many patrols as the client asks; knows where it is from
    the request alone: by how many assistant turns of the script are in it."""

    def __init__(self, role: str, situations: Sequence[Situation]) -> None:
        self.role = role
        self.steps = patrol_steps(role, situations)

    def next_step(self, body: Mapping[str, Any]) -> Step:
        """The step that follows what the request's messages show."""
        taken = sum(1 for m in body["messages"] if m["role"] == "assistant")
        return self.steps[min(taken, len(self.steps) - 1)]

    def blocks(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The reply's content blocks; a request without tools is the client's wish for a title."""
        if not body.get("tools"):
            return [{"type": "text", "text": json.dumps({"title": f"{self.role} patrol"})}]
        step = self.next_step(body)
        blocks: list[dict[str, Any]] = []
        if step.text:
            blocks.append({"type": "text", "text": step.text})
        if step.command:
            blocks.append({"type": "tool_use", "name": "Bash", "input": {"command": step.command}})
        return blocks


def report_of(command: str) -> str | None:
    """The report's name that a command reads, None for any other command."""
    match = _READ.match(command.strip())
    return match.group(1) if match else None
