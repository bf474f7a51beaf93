"""Labels for everything in the corpus, from the town's records as they are now.

A label that was found stays where the records no longer tell: gt prunes its events after some days. Only
another finding replaces it. One that is not found again while its window is still open is taken back: nothing
that young is pruned, so a clock that was ahead had given it. Labels by people win: those of ``gt corpus
label`` over those of ``bd audit label`` over what is found here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ...roles.profile import Profile, load_profile
from ...settings import outcome_windows
from ...town.roles import address
from ...town.root import Town
from ...town.times import epoch
from ...transcripts.model import Session
from ..operations.databases import parsed
from ..store import Store
from . import rows
from .deeds import PATROL_ROLES, Deed, deeds
from .judge import DecisionOutcome, Windows, judge
from .records import BeadFate, TownRecords, read_records
from .rows import Judged, SessionFacts
from .work import WorkOutcome, beads_of, work_outcome

READING = "1"
"""Goes up when sessions are to be read again for their deeds."""
LABELS = ("good", "bad", "merged", "closed", "reopened", "rejected", "abandoned")
"""What a label of ``bd audit label`` may say of a bead; any other is not ours."""
CHUNK = 30.0
"""Replies of one session within so many seconds count as one sign of life."""


class ScrubsText(Protocol):
    """What is needed of a scrubber: an agent's name as it is in the corpus."""

    def text(self, text: str) -> tuple[str, Counter[str]]: ...


@dataclass(frozen=True)
class Computed:
    """What a run did: sessions read, labels and outcomes that changed, and both by kind; ``ahead`` counts the
    town's records that are dated after now and were passed over."""

    read: int = 0
    relabelled: int = 0
    changed: int = 0
    ahead: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compute(town: Town, store: Store, scrubber: ScrubsText | None = None) -> Computed:
    """Label all decisions and sessions of the corpus, and store the labels that changed."""
    profiles = {role: load_profile(role) for role in PATROL_ROLES}
    read = _look_at_new(store, profiles)
    records, facts = town_records(town, store, scrubber)
    windows = Windows(*outcome_windows(town))
    with store.transaction():
        labels = _judge_decisions(store, records, windows)
        relabelled = rows.save_labels(store, labels)
        outcomes = _session_outcomes(facts, labels, records)
        changed = sum(rows.save_outcome(store, id, o.label, o.reason) for id, o in outcomes.items())
    return Computed(
        read,
        relabelled,
        changed,
        records.ahead,
        dict(sorted(Counter(one.outcome.label for one in labels).items())),
        dict(sorted(Counter(one.label for one in outcomes.values()).items())),
    )


def town_records(
    town: Town, store: Store, scrubber: ScrubsText | None = None
) -> tuple[TownRecords, list[SessionFacts]]:
    """The town's records with the agents' names as in the corpus, and the sessions that were looked at."""
    facts = rows.session_facts(store)
    named = {deed.deed.target for deed in rows.judged(store)} | {f.agent for f in facts}
    records = read_records(
        town,
        stirred=[*((f.agent, f.stirred) for f in facts), *bead_activity(store).items()],
        beads=bead_fates(store),
        rename=_renamer(town, named, scrubber),
        now=time.time(),
    )
    return records, facts


def _renamer(town: Town, named: set[str], scrubber: ScrubsText | None) -> Callable[[str], str]:
    """Agent's name in the records → in the corpus. The scrubber, slow to import, is made when needed."""
    made: list[ScrubsText] = [scrubber] if scrubber is not None else []

    def rename(name: str) -> str:
        if not named or name in named:
            return name
        if not made:
            from ..scrub.engine import scrubber_for

            made.append(scrubber_for(town))
        return made[0].text(name)[0]

    return rename


def _look_at_new(store: Store, profiles: Mapping[str, Profile]) -> int:
    """Read what sessions tell that are new or changed; one transaction for each."""
    changed = rows.to_look_at(store, _version(profiles))
    for id, stamp in changed:
        stored = store.session(id)
        if stored is None:
            continue
        session = stored.session
        profile = profiles.get(session.role)
        found: Sequence[Deed] = tuple(deeds(session, profile)) if profile and not session.parent else ()
        with store.transaction():
            rows.save_deeds(store, id, found)
            rows.save_looked_at(store, id, stamp, session.beads, _stirred(session))
    return len(changed)


def _version(profiles: Mapping[str, Profile]) -> str:
    """Changes when another reading of the same session could find other deeds."""
    actions = {role: [(a.name, a.commands) for a in p.actions] for role, p in sorted(profiles.items())}
    return READING + hashlib.sha256(json.dumps(actions).encode()).hexdigest()[:12]


def _stirred(session: Session) -> list[float]:
    """Moments of a session's own replies, at least ``CHUNK`` seconds apart."""
    found: list[float] = []
    for turn in session.turns:
        at = epoch(turn.at) if turn.role == "assistant" and not turn.meta else 0.0
        if at and (not found or abs(at - found[-1]) >= CHUNK):
            found.append(round(at))
    return sorted(found)


def _judge_decisions(store: Store, records: TownRecords, windows: Windows) -> list[Judged]:
    before = rows.found_labels(store)
    labels = []
    for one in rows.judged(store):
        found = judge(one.deed, records, windows)
        known = before.get((one.deed.session, one.deed.call))
        if found.label == "unknown" and known is not None and known.label != "unknown":
            found = known if records.over(one.deed.at + windows.follow) else found
        labels.append(Judged(one.deed, found))
    return labels


def _session_outcomes(
    facts: Sequence[SessionFacts], labels: Sequence[Judged], records: TownRecords
) -> dict[str, WorkOutcome]:
    """Session id → outcome: a patrol's from its decisions, another's from its bead, a subagent's from its
    parent."""
    decided: dict[str, list[DecisionOutcome]] = defaultdict(list)
    for label in labels:
        decided[label.deed.session].append(label.outcome)
    found: dict[str, WorkOutcome] = {}
    for session in facts:
        if session.role in PATROL_ROLES:
            outcome = patrol_outcome(decided.get(session.id, ()))
        else:
            beads = beads_of(session, records.by_agent.get(session.agent, ()))
            outcome = work_outcome(session, beads, records)
            if outcome.label == "unknown" and session.outcome not in ("", "unknown"):
                outcome = WorkOutcome(session.outcome, "as it was found before")
        found[session.id] = outcome
    for session in facts:
        if session.parent in found:
            found[session.id] = found[session.parent]
    return found


def patrol_outcome(decisions: Sequence[DecisionOutcome]) -> WorkOutcome:
    """The outcome of a patrol: bad if one decision was, good if most were, else unknown."""
    counted = Counter(one.label for one in decisions)
    if counted["bad"]:
        return WorkOutcome("bad", f"{counted['bad']} of {len(decisions)} decisions were bad")
    if counted["good"] * 2 > len(decisions):
        return WorkOutcome("good", f"{counted['good']} of {len(decisions)} decisions were good, none bad")
    return WorkOutcome("unknown", f"of {len(decisions)} decisions {counted['good']} are known to be good")


def bead_fates(store: Store) -> dict[str, BeadFate]:
    """Bead id → what its record in the corpus says of its end (``gt corpus collect`` puts it there)."""
    merges: dict[str, str] = {}
    for _, one in store.documents("slings", current=True):
        if one.document.corpus_type == "merge_request":
            facts = parsed(one.document.content)
            bead = str(facts.get("source_issue", ""))
            end = str(facts.get("close_reason", "")).lower() if facts.get("status") == "closed" else ""
            merges[bead] = _merge_end(end, merges.get(bead, ""))
    fates = {bead: BeadFate("", merge=end) for bead, end in merges.items() if bead}
    for _, one in store.documents("beads", current=True):
        if one.document.corpus_type == "bead":
            content = parsed(one.document.content)
            fates[one.document.key] = _fate(content, merges.get(one.document.key, ""))
    return fates


def _merge_end(reason: str, before: str) -> str:
    """How a merge request ended; of several for one bead a merge counts before a refusal."""
    found = next((word for word in ("merged", "rejected", "conflict") if word in reason), "")
    return "merged" if "merged" in (found, before) else found or before


def _fate(content: Mapping[str, Any], merge: str) -> BeadFate:
    bead = content.get("bead") or {}
    status = str(bead.get("status", ""))
    changes = [t for t in content.get("transitions") or () if t.get("field") == "status"]
    reopened = [epoch(t["at"]) for t in changes if t.get("old") == "closed" and t.get("new") != "closed"]
    said = [one["label"] for one in content.get("labels") or () if one.get("label") in LABELS]
    return BeadFate(
        status,
        epoch(str(bead.get("closed_at") or "")) if status == "closed" else 0.0,
        str(bead.get("close_reason") or ""),
        tuple(sorted(moment for moment in reopened if moment)),
        merge,
        said[-1] if said else "",
        str(bead.get("title") or ""),
    )


def bead_activity(store: Store) -> dict[str, list[float]]:
    """Agent → moments at which it changed a bead, by the beads' records."""
    found: dict[str, list[float]] = defaultdict(list)
    for _, one in store.documents("beads", current=True):
        for change in parsed(one.document.content).get("transitions") or ():
            agent, at = address(str(change.get("by") or "")), epoch(str(change.get("at")))
            if agent and at:
                found[agent].append(at)
    return found
