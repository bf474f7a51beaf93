"""From a captured session to its examples: the whole of it as a chat, and its decisions one by one.

    session ──► conversation (the role's system prompt, tools and slim prime in place of the stock ones)
            ├─► a chat example: loss on the assistant's turns that may be taught
            └─► its decisions: the tool results since the decision before ──► reason and action

A turn may be taught when the role's fence allows what it calls, when every id in it stands before it, and,
in a patrol whose decisions have labels, when the decision that it leads to went well.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...rendering.conversation import Conversation, Message, from_session
from ...roles.profile import Profile
from ...sim.suite_text import decision_question
from ...town.times import utc
from ..store import StoredSession
from .example import CHAT, DECISION, Example, Origin
from .ids import Ids
from .outcomes import Outcomes

REASON_CHARS = 160


@dataclass(frozen=True)
class Decision:
    """What a role decided, why (in its own words), on what evidence, and by which call."""

    action: str
    reason: str
    evidence: str
    command: str
    call: str = ""


def examples_of(
    stored: StoredSession,
    profile: Profile,
    prime: str,
    drops: Counter[str],
    outcomes: Outcomes | None = None,
    ids: Ids | None = None,
) -> Iterator[Example]:
    """The chat and the decisions of one session. ``prime`` is the slim one, without its tags.

    Turns that are shown and not taught are counted in ``drops``; an example with none left is no example."""
    session = stored.session
    outcomes, ids = outcomes or Outcomes(), ids or Ids()
    labels = outcomes.labels(session.id)
    conversation = from_session(session, profile, prime)
    if not any(m.role == "assistant" for m in conversation.messages):
        drops["session: no reply in it"] += 1
        return
    whole = Example(
        id=f"{session.id}/chat",
        kind=CHAT,
        role=profile.role,
        session=session.id,
        beads=session.beads,
        outcome=outcomes.of_chat(stored.outcome, labels),
        tuned=stored.tuned,
        models=session.models,
        conversation=conversation,
        origin=_origin(stored),
    )
    silent = _outside(conversation, profile, drops)
    silent |= _gone_badly(conversation, profile, labels, outcomes, drops)
    silent |= ids.unfounded(whole, silent, drops)
    taught = [i for i, _ in whole.taught() if i not in silent]
    if taught:
        end = taught[-1] + 1  # what comes after it teaches nothing
        shown = tuple(i for i in sorted(silent) if i < end)
        yield replace(whole, conversation=conversation.upto(end), silent=shown)
    else:
        drops["chat: nothing in it that may be taught"] += 1
    for index, taken in enumerate(decisions(conversation, profile)):
        example = _asked(whole, profile, index, taken, labels.get(taken.call, stored.outcome))
        if not taken.evidence.strip():
            drops["decision: no evidence before it"] += 1
        elif ids.unfounded(example, set(), Counter()):
            drops["decision: an id that is not in its evidence"] += 1
        else:
            yield example


def _origin(stored: StoredSession) -> Origin:
    session = stored.session
    return Origin(
        started=utc(session.started),
        parent=session.parent,
        rig=session.rig,
        reader=session.source,
        client=session.client_version,
        policy=stored.policy,
        consent=stored.consent,
    )


def _asked(whole: Example, profile: Profile, index: int, taken: Decision, outcome: str) -> Example:
    """A decision as a suite would ask for it, with its answer."""
    answer = json.dumps({"reason": taken.reason, "action": taken.action}, ensure_ascii=False)
    question = decision_question(taken.evidence, profile.action_names)
    messages = (
        Message("user", ({"type": "text", "text": question},)),
        Message("assistant", ({"type": "text", "text": answer},)),
    )
    return replace(
        whole,
        id=f"{whole.session}/{index}",
        kind=DECISION,
        outcome=outcome,
        conversation=Conversation(profile.system, (), whole.conversation.prime, messages),
        actions=(taken.action,),
    )


# -- what of a chat may be taught --------------------------------------------------------------------


def _outside(conversation: Conversation, profile: Profile, drops: Counter[str]) -> set[int]:
    """Assistant messages that call what the fence forbids: they are seen, never taught."""
    silent = set()
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and not all(_may(b, profile) for b in message.blocks):
            drops["turn: outside the fence"] += 1
            silent.add(index)
    return silent


def _may(block: Mapping[str, object], profile: Profile) -> bool:
    if block.get("type") != "tool_use":
        return True
    if block["name"] not in profile.tools:
        return False
    given = block["input"]
    command = given.get("command") if isinstance(given, dict) else None
    return block["name"] != "Bash" or (isinstance(command, str) and profile.allows(command))


def _gone_badly(
    conversation: Conversation,
    profile: Profile,
    labels: Mapping[str, str],
    outcomes: Outcomes,
    drops: Counter[str],
) -> set[int]:
    """Assistant messages of a patrol that decide something which did not go well, or lead up to it."""
    silent: set[int] = set()
    if not labels:
        return silent
    leading: list[int] = []
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        leading.append(index)
        calls = [b for b in message.blocks if b.get("type") == "tool_use"]
        found = [labels.get(str(b.get("id", "")), "unknown") for b in calls if _action(b, profile)]
        if not found:
            continue
        wrong = next((label for label in found if not outcomes.wants(label)), None)
        if wrong is not None:
            drops[f"turn: outcome {wrong}"] += 1
            silent.update(leading)
        leading = []
    return silent


def _action(block: Mapping[str, object], profile: Profile) -> str | None:
    """The decision that a call carries out, None where it only looks."""
    given = block.get("input")
    command = given.get("command") if isinstance(given, dict) else None
    return profile.action_of(command) if isinstance(command, str) else None


# -- decisions ---------------------------------------------------------------------------------------


def decisions(conversation: Conversation, profile: Profile) -> Iterator[Decision]:
    """The decisions of a conversation. Evidence is what came back from looking since the decision before;
    the answer to that decision's own command is its consequence and no evidence."""
    evidence: list[str] = []
    own_calls: set[str] = set()
    for message in conversation.messages:
        if message.role == "user":
            evidence += [
                str(b["content"])
                for b in message.blocks
                if b.get("type") == "tool_result" and b.get("tool_use_id") not in own_calls
            ]
            continue
        said = " ".join(str(b["text"]) for b in message.blocks if b.get("type") == "text")
        for block in message.blocks:
            action = _action(block, profile) if block.get("type") == "tool_use" else None
            if action is None:
                continue
            call = str(block.get("id", ""))
            command = str(block["input"]["command"])
            yield Decision(action, stated_reason(said), "\n\n".join(evidence), command, call)
            own_calls.add(call)
            evidence = []


def stated_reason(said: str) -> str:
    """The reason in an assistant's words: the JSON's own where it wrote one, else its first sentence."""
    try:
        value = json.loads(said)
    except ValueError:
        value = None  # prose
    if isinstance(value, dict) and isinstance(value.get("reason"), str):
        return value["reason"][:REASON_CHARS]
    first = re.split(r"(?<=[.!?])\s", said.strip(), maxsplit=1)[0]
    return " ".join(first.split())[:REASON_CHARS]
