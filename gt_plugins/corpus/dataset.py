"""A role's training set from the corpus: whole sessions as chats, and their decisions one by one.

    session ──► conversation (the role's system prompt, tools and slim prime in place of the stock ones)
            ├─► a chat example: loss on the assistant's turns that the role's fence allows
            └─► its decisions: the tool results since the decision before ──► reason and action

Each decision is judged by itself (filters, overlap, sameness); those of a session that are kept are then
asked one after another in one example, so that its prime is read once and not once for each.

A folder holds ``train.jsonl``, ``heldout.jsonl`` (split by bead, by session where there is none),
``prime.txt`` (a slim prime of these sessions, which the gate uses) and ``card.json``: counts, every drop
with its reason, sources, and the hash that names the dataset. Rows hold conversations, not token ids: the
base's own renderer makes those, the same that renders live requests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..durable import private_dir, write_json, write_jsonl, write_text
from ..errors import NonRetriableError, UserError, in_file
from ..rendering.conversation import Conversation, Message, Tool, from_session, prime_of
from ..roles.profile import Profile
from ..sim.suite_text import decision_question
from .store import StoredSession

OVERLAP_WORDS = 13
"""Words in a row that a training example may not share with a suite (Brown et al. 2020, appendix C)."""
FILES = ("train.jsonl", "heldout.jsonl", "prime.txt", "card.json")
HELD_OUT_SHARE = 10
REASON_CHARS = 160


@dataclass(frozen=True)
class Verdict:
    """A filter's word on an example."""

    keep: bool
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """One training example; ``silent`` are indices of assistant messages without loss."""

    id: str
    kind: str
    """``chat`` or ``decision``."""
    role: str
    session: str
    beads: tuple[str, ...]
    outcome: str
    tuned: bool
    models: tuple[str, ...]
    conversation: Conversation
    silent: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()
    """The decisions asked for, one for each answer; empty for a chat."""

    @property
    def units(self) -> tuple[str, ...]:
        """What a split may not cut through: the beads that were worked on, else the session."""
        return self.beads or (self.session,)

    def text(self) -> str:
        """All that is said in it, for comparing and hashing."""
        c = self.conversation
        parts = [c.system, c.prime]
        for message in c.messages:
            for block in message.blocks:
                parts.append(str(block.get("text") or block.get("content") or block.get("input") or ""))
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        c = self.conversation
        return {
            "id": self.id,
            "kind": self.kind,
            "role": self.role,
            "session": self.session,
            "beads": list(self.beads),
            "outcome": self.outcome,
            "models": list(self.models),
            "actions": list(self.actions),
            "system": c.system,
            "prime": c.prime,
            "tools": [{"name": t.name, "required": list(t.required)} for t in c.tools],
            "messages": [{"role": m.role, "content": [dict(b) for b in m.blocks]} for m in c.messages],
            "silent": list(self.silent),
        }


@dataclass(frozen=True)
class Dataset:
    """A dataset folder as it was built or read."""

    folder: Path
    role: str
    hash: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    prime: str
    card: Mapping[str, Any] = field(default_factory=dict)


def build(
    sessions: Iterable[StoredSession],
    profile: Profile,
    slim: Callable[[str], str],
    suite_texts: Iterable[str],
    filters: Callable[[Example], Verdict | None],
) -> tuple[list[Example], Counter[str], str]:
    """Examples, drops by reason, and the newest slim prime. ``slim`` makes a stock prime small."""
    drops: Counter[str] = Counter()
    forbidden = set().union(*(shingles(t) for t in suite_texts), set())
    kept: list[Example] = []
    seen: set[str] = set()
    newest, prime = "", ""
    for stored in sessions:
        own: list[Example] = []
        stock = prime_of(stored.session.turns)
        text = slim(stock) if stock else ""
        if text and stored.session.started >= newest:
            newest, prime = stored.session.started, text
        for example in examples_of(stored, profile, text, drops):
            reason = _why_not(example, filters, forbidden, seen)
            if reason:
                drops[f"{example.kind}: {reason}"] += 1
            else:
                own.append(example)
        kept += joined(own)
    return kept, drops, prime


def joined(own: Sequence[Example]) -> list[Example]:
    """The examples of one session, its decisions as one conversation of questions and answers."""
    asked = [e for e in own if e.kind == "decision"]
    rest = [e for e in own if e.kind != "decision"]
    if not asked:
        return rest
    first = asked[0]
    messages = tuple(m for e in asked for m in e.conversation.messages)
    whole = replace(
        first,
        id=f"{first.session}/decisions",
        conversation=replace(first.conversation, messages=messages),
        actions=tuple(a for e in asked for a in e.actions),
    )
    return [*rest, whole]


def _why_not(
    example: Example,
    filters: Callable[[Example], Verdict | None],
    forbidden: set[int],
    seen: set[str],
) -> str:
    verdict = filters(example)
    if verdict is not None and not verdict.keep:
        return verdict.reason or "a filter"
    if len({held_out(unit) for unit in example.units}) > 1:
        return "its beads are on both sides of the split"
    digest = _evidence_hash(example)
    if digest in seen:
        return "same as another"
    if forbidden and not forbidden.isdisjoint(shingles(example.text())):
        return f"shares {OVERLAP_WORDS} words with a suite"
    seen.add(digest)
    return ""


def _evidence_hash(example: Example) -> str:
    said = [b for m in example.conversation.messages for b in m.blocks]
    parts = [str(b.get("text") or b.get("content") or b.get("input") or "") for b in said]
    return hashlib.sha256("\x00".join([example.kind, *parts]).encode()).hexdigest()


def shingles(text: str) -> set[int]:
    """Hashes of every stretch of ``OVERLAP_WORDS`` words, case and punctuation aside."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {hash(tuple(words[i : i + OVERLAP_WORDS])) for i in range(max(0, len(words) - OVERLAP_WORDS + 1))}


def examples_of(
    stored: StoredSession, profile: Profile, prime: str, drops: Counter[str]
) -> Iterator[Example]:
    """The chat and the decisions of one session."""
    session = stored.session
    conversation = from_session(session, profile, prime)
    if not any(m.role == "assistant" for m in conversation.messages):
        drops["session: no reply in it"] += 1
        return
    whole = Example(
        f"{session.id}/chat",
        "chat",
        profile.role,
        session.id,
        session.beads,
        stored.outcome,
        stored.tuned,
        session.models,
        conversation,
        _silent(conversation, profile, drops),
    )
    if len(whole.silent) < sum(m.role == "assistant" for m in conversation.messages):
        yield whole
    else:
        drops["chat: nothing in it that the role may do"] += 1
    for index, taken in enumerate(decisions(conversation, profile)):
        if not taken.evidence.strip():
            drops["decision: no evidence before it"] += 1
            continue
        answer = json.dumps({"reason": taken.reason, "action": taken.action}, ensure_ascii=False)
        question = decision_question(taken.evidence, profile.action_names)
        messages = (
            Message("user", ({"type": "text", "text": question},)),
            Message("assistant", ({"type": "text", "text": answer},)),
        )
        asked = Conversation(profile.system, (), prime, messages)
        yield replace(
            whole,
            id=f"{session.id}/{index}",
            kind="decision",
            conversation=asked,
            silent=(),
            actions=(taken.action,),
        )


def _silent(conversation: Conversation, profile: Profile, drops: Counter[str]) -> tuple[int, ...]:
    """Assistant messages that call what the fence forbids: they are seen, never taught."""
    silent = []
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        for block in message.blocks:
            if block.get("type") == "tool_use" and not _may(block, profile):
                drops["turn: outside the fence"] += 1
                silent.append(index)
                break
    return tuple(silent)


def _may(block: Mapping[str, Any], profile: Profile) -> bool:
    if block["name"] not in profile.tools:
        return False
    command = block["input"].get("command")
    return block["name"] != "Bash" or (isinstance(command, str) and profile.allows(command))


@dataclass(frozen=True)
class Decision:
    """What a role decided, why (in its own words), and on what evidence."""

    action: str
    reason: str
    evidence: str
    command: str


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
            command = block.get("input", {}).get("command") if block.get("type") == "tool_use" else None
            action = profile.action_of(command) if isinstance(command, str) else None
            if action is None or not isinstance(command, str):
                continue
            yield Decision(action, stated_reason(said), "\n\n".join(evidence), command)
            own_calls.add(str(block.get("id", "")))
            evidence = []


def stated_reason(said: str) -> str:
    """The reason in an assistant's words: the JSON's own where it wrote one, else its first sentence."""
    try:
        value = json.loads(said)
        if isinstance(value, dict) and isinstance(value.get("reason"), str):
            return value["reason"][:REASON_CHARS]
    except ValueError:
        pass
    first = re.split(r"(?<=[.!?])\s", said.strip(), maxsplit=1)[0]
    return " ".join(first.split())[:REASON_CHARS]


def held_out(unit: str) -> bool:
    """Whether a bead or session stays out of training: one in ten, by its hash, always the same."""
    return int(hashlib.sha256(unit.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def write(
    folder: Path, role: str, examples: Sequence[Example], drops: Mapping[str, int], prime: str, budget: str
) -> Dataset:
    """Write the dataset folder. Raises UserError where the folder holds something else; what a writing that
    was broken off has left is ours."""
    found = [p.name for p in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in found if name not in FILES and not name.endswith(".tmp")]
    if foreign and "card.json" not in found:
        raise UserError(in_file(folder, "", "is not empty and no dataset", "choose a new folder"))
    train = tuple(e for e in examples if not held_out(e.units[0]))
    rest = tuple(e for e in examples if held_out(e.units[0]))
    private_dir(folder)
    (folder / "card.json").unlink(missing_ok=True)
    write_jsonl(folder / "train.jsonl", (e.to_json() for e in train))
    write_jsonl(folder / "heldout.jsonl", (e.to_json() for e in rest))
    write_text(folder / "prime.txt", prime)
    digest = files_hash(folder)
    card: dict[str, Any] = {
        "role": role,
        "budget": budget,
        "hash": digest,
        "examples": {"train": _counts(train), "heldout": _counts(rest)},
        "drops": dict(sorted(drops.items())),
        "sessions": sorted({e.session for e in examples}),
        "models": sorted({m for e in examples for m in e.models}),
        "decisions": {
            "train": sum(len(e.actions) for e in train),
            "heldout": sum(len(e.actions) for e in rest),
        },
        "actions": dict(Counter(a for e in train for a in e.actions)),
    }
    write_json(folder / "card.json", card)
    return Dataset(folder, role, digest, train, rest, prime, card)


def _counts(examples: Sequence[Example]) -> dict[str, int]:
    return dict(Counter(e.kind for e in examples))


def files_hash(folder: Path) -> str:
    """The dataset's name: the hash of what trains and of what is held out."""
    digest = hashlib.sha256()
    for name in FILES[:-1]:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def read(folder: Path) -> Dataset:
    """A dataset folder. Raises UserError where it is none, NonRetriableError where it is not its card's."""
    path = folder / "card.json"
    if not path.is_file():
        raise UserError(
            in_file(path, "", "not there", "build it with `gt corpus dataset --role R --out DIR`")
        )
    try:
        card = dict(json.loads(path.read_text(encoding="utf-8")))
        found = files_hash(folder)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(in_file(folder, "", f"not a whole dataset ({error})", "build it again")) from None
    if card.get("hash") != found:
        raise NonRetriableError(
            in_file(folder, "hash", "the files are not those of the card", "build it again")
        )
    return Dataset(
        folder,
        str(card.get("role", "")),
        found,
        tuple(_examples(folder / "train.jsonl")),
        tuple(_examples(folder / "heldout.jsonl")),
        (folder / "prime.txt").read_text(encoding="utf-8"),
        card,
    )


def _examples(path: Path) -> Iterator[Example]:
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # text may hold U+2028
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            value = json.loads(line)
            yield example_from(value)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(in_file(path, f"line {number}", f"not an example ({error!r})", "")) from None


def example_from(value: Mapping[str, Any]) -> Example:
    """The inverse of ``Example.to_json``."""
    messages = tuple(Message(m["role"], tuple(m["content"])) for m in value["messages"])
    tools = tuple(Tool(t["name"], tuple(t["required"])) for t in value["tools"])
    return Example(
        value["id"],
        value["kind"],
        value["role"],
        value["session"],
        tuple(value["beads"]),
        value["outcome"],
        False,
        tuple(value["models"]),
        Conversation(value["system"], tools, value["prime"], messages),
        tuple(value["silent"]),
        tuple(value["actions"]),
    )


def card_summary(dataset: Dataset) -> dict[str, Any]:
    """The card with the folder, for printing."""
    return {"folder": str(dataset.folder), **dataset.card}
