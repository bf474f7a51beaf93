"""A deed judged by what followed: good, bad, or unknown, and why, in words that name nobody.

What was asked for must be seen in the town's records within a window; what undid or contradicted it within
the window counts against it. A decision to leave things alone is good when nothing contradicts it, once the
window is over. Where the records do not say, it is unknown: no label is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .deeds import Deed
from .records import Escalation, TownRecords

OWN = 60.0
"""Seconds after a decision in which its own traces appear: they contradict nothing."""
AT_WORK = 120.0
"""Seconds for which an agent that stirred counts as at work."""

_FALSE_ALARM = re.compile(
    r"(?i)\b(false alarm|not an? (issue|problem|error)|invalid|duplicate|no action|won'?t ?fix|noise)\b"
)
_LOST = re.compile(
    r"(?i)\b(lost|nothing to save|could not|cannot|failed|abandoned|cancel+ed|rejected|gone|wont ?fix)\b"
)


@dataclass(frozen=True)
class DecisionOutcome:
    """``label`` is good, bad or unknown."""

    label: str
    reason: str


@dataclass(frozen=True)
class Windows:
    """Seconds within which something must follow: at once, or once a person or a worker had time for it."""

    follow: float = 900.0
    settle: float = 86400.0


Rule = Callable[[Deed, TownRecords, Windows], DecisionOutcome]


def judge(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """The label of one deed."""
    rule = RULES.get(deed.kind)
    if rule is None:
        return unknown("there is no rule for it")
    if deed.failed:
        return unknown("its command failed")
    if not deed.at:
        return unknown("its time is not known")
    if not deed.target and deed.kind not in NEED_NO_TARGET:
        return unknown("it does not say about whom")
    return rule(deed, records, windows)


def good(reason: str) -> DecisionOutcome:
    return DecisionOutcome("good", reason)


def bad(reason: str) -> DecisionOutcome:
    return DecisionOutcome("bad", reason)


def unknown(reason: str) -> DecisionOutcome:
    return DecisionOutcome("unknown", reason)


def _nudge(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """A nudge is good when the nudged agent stirs."""
    agent, at, end = deed.target, deed.at, deed.at + windows.follow
    if records.dead(agent, at):
        return bad("its session was dead")
    stir, crash = records.next_life(agent, at), records.next_crash(agent, at)
    if stir and stir <= end and not (crash and crash < stir):
        return good(f"the agent stirred {_minutes(stir - at)} later")
    if crash and crash <= end:
        return bad(f"the agent died {_minutes(crash - at)} later")
    return _nothing(records, end)


def _leave(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """To do nothing, or to watch, is good when nothing contradicts it."""
    agent, start, end = deed.target, deed.at + OWN, deed.at + windows.follow
    crash = records.next_crash(agent, deed.at)
    if crash and crash <= end:
        return bad(f"the agent died {_minutes(crash - deed.at)} later")
    if records.warrant_near(agent, start, end):
        return bad("a warrant was filed on the agent")
    if records.escalated_about(agent, start, end):
        return bad("the agent was escalated")
    nudge = records.next_nudge(agent, start)
    if deed.kind == "no-op" and nudge and nudge <= end:
        return bad(f"the agent was nudged {_minutes(nudge - deed.at)} later")
    if not records.covers(deed.at):
        return unknown("the town's records do not reach back to it")
    if not records.over(end):
        return unknown("its window is not over")
    return good(f"nothing contradicted it in {_minutes(windows.follow)}")


def _warrant(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """A warrant is good on a session that was dead, by its end or because nothing could stir it."""
    agent, at = deed.target, deed.at
    warrant = records.warrant_near(agent, at - OWN, at + OWN)
    executed = warrant.executed if warrant else 0.0
    end = min(at + windows.follow, executed or at + windows.follow)
    begun, stir = records.next_begin(agent, at), records.next_stir(agent, at)
    if stir and stir <= end and not (begun and begun <= stir):
        return bad(f"the agent stirred {_minutes(stir - at)} later, in the session that was to be ended")
    if records.dead(agent, at):
        return good("its session was dead")
    nudges = records.nudges_since_life(agent, at)
    if executed and nudges >= 2:
        return good(f"the session had not answered {nudges} nudges, and was ended")
    if executed:
        return unknown("the session was ended; that it was dead is not recorded")
    return unknown("that the session was dead is not recorded")


def _escalate(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """An escalation is good when it is acknowledged."""
    found = escalation_of(deed, records)
    if found is None:
        return unknown("the records have no such escalation")
    return answer_to(found, deed.at, records, windows)


def escalation_of(deed: Deed, records: TownRecords) -> Escalation | None:
    """The escalation that a deed sent: by its id, else by whom it is about, else by who sent it."""
    found = records.escalations.get(deed.ref)
    if found is None and deed.target:
        found = records.escalated_about(deed.target, deed.at - OWN, deed.at + OWN)
    return found or records.escalated_by(deed.actor, deed.at - OWN, deed.at + OWN)


def answer_to(found: Escalation, at: float, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """What an escalation came to, for somebody who decided at ``at``."""
    end = at + windows.settle
    if found.closed and found.closed <= end and _FALSE_ALARM.search(found.reason):
        return bad("it was closed as a false alarm")
    answered = found.acked or found.closed
    if answered and answered <= end:
        said = "acknowledged" if found.acked else "dealt with"
        return good(f"it was {said} {_minutes(answered - at)} later")
    return _nothing(records, end)


def _cleanup(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """A cleanup is good when what it was to save was saved: its bead was done, and no work was lost."""
    end = deed.at + windows.settle
    fate = records.beads.get(deed.ref)
    if fate and fate.closed and _LOST.search(fate.reason):
        return bad("its bead was closed without the work being saved")
    saved = records.finished(deed.ref, end) if deed.ref else 0.0
    if saved and fate and any(r > saved for r in fate.reopened):
        return bad("its bead was reopened")
    if saved:
        return good(f"its bead was done {_minutes(saved - deed.at)} later")
    work = records.on_hook(deed.target, deed.at)
    finished = records.finished(work, end) if work else 0.0
    if finished > deed.at:
        return good(f"the agent's work was finished {_minutes(finished - deed.at)} later")
    return _nothing(records, end)


def _nuke(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """To remove an agent is good when no work was lost by it."""
    agent, at, end = deed.target, deed.at, deed.at + windows.settle
    bead = records.on_hook(agent, at)
    if not bead:
        soon = at + windows.follow
        if not records.covers(at):
            return unknown("the town's records do not reach back to it")
        if not records.over(soon):
            return unknown("its window is not over")
        return good("the agent had no work to lose")
    fate = records.beads.get(bead)
    if fate and any(at < moment <= end for moment in fate.reopened):
        return bad("its work was reopened")
    finished = records.finished(bead, at)
    again = records.given_again(bead, at, end)
    if again:
        return bad(
            "its work was given out again" if not finished else "its finished work was given out again"
        )
    if finished and records.over(at + windows.follow):
        return good("its work was done")
    return _nothing(records, end)


def _start(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """To start an agent is good when it was gone and then came up."""
    agent, at, end = deed.target, deed.at, deed.at + windows.follow
    if not records.dead(agent, at) and at - records.last_life(agent, at) <= AT_WORK:
        return bad("the agent was at work")
    return _came_up(records, agent, at, end)


def _restart(deed: Deed, records: TownRecords, windows: Windows) -> DecisionOutcome:
    """To restart an agent is good when it was not at work and then came up."""
    agent, at, end = deed.target, deed.at, deed.at + windows.follow
    if at - records.last_stir(agent, at) <= AT_WORK:
        return bad("the agent was at work")
    return _came_up(records, agent, at, end)


def _came_up(records: TownRecords, agent: str, at: float, end: float) -> DecisionOutcome:
    begun = records.next_begin(agent, at - 1)
    crash = records.next_crash(agent, begun) if begun else 0.0
    if begun and begun <= end and crash and crash <= end:
        return bad("it came up and died again")
    if begun and begun <= end:
        return (
            good(f"it came up {_minutes(begun - at)} later") if records.over(end) else _nothing(records, end)
        )
    return _nothing(records, end)


def _nothing(records: TownRecords, end: float) -> DecisionOutcome:
    return unknown("nothing followed" if records.over(end) else "its window is not over")


def _minutes(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} hours"
    whole = max(1, round(seconds / 60))
    return f"{whole} minute{'s' if whole > 1 else ''}"


RULES: Mapping[str, Rule] = {
    "nudge": _nudge,
    "no-op": _leave,
    "watch": _leave,
    "warrant": _warrant,
    "escalate": _escalate,
    "cleanup": _cleanup,
    "nuke": _nuke,
    "start": _start,
    "restart": _restart,
}
NEED_NO_TARGET = frozenset({"escalate", "cleanup"})
