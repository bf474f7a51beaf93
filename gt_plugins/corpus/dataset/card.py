"""The data card, as JSON for programs and as Markdown for people: what is in a dataset, and from where."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .build import Built
from .example import DECISION, Example

TERMS = (
    "The assistant turns were written by the models named above. Whether you may train on what a provider's "
    "model wrote is between you and the provider: read your contract. The text of a rig's files and issues "
    "is under that rig's own licence. Everything was captured with the consent named above, and scrubbed "
    "before it was stored; scrubbing is not perfect, so do not publish this."
)

EXAMPLES_BY_OUTCOME = "examples_by_outcome"


@dataclass(frozen=True)
class Facts:
    """What the examples do not say of themselves."""

    budget: str = "tiny"
    base: str = ""
    built_at: str = ""
    made_with: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)
    """Rig → the first line of its licence, empty where it has none."""


def card_of(role: str, built: Built, digest: str, facts: Facts) -> dict[str, Any]:
    """The card as one JSON object."""
    both = (*built.train, *built.heldout)
    return {
        "role": role,
        "hash": digest,
        "budget": facts.budget,
        "base": facts.base,
        "built_at": facts.built_at,
        "made_with": facts.made_with,
        "examples": {"train": _kinds(built.train), "heldout": _kinds(built.heldout)},
        "decisions": {"train": _decisions(built.train), "heldout": _decisions(built.heldout)},
        "actions": dict(Counter(a for e in built.train for a in e.actions)),
        "drops": dict(sorted(built.drops.items())),
        "split": {
            "by": built.split.by,
            "cutoff": built.split.cutoff,
            "train": _span(built.train),
            "heldout": _span(built.heldout),
        },
        "sessions": sorted({e.session for e in both}),
        "models": sorted({m for e in both for m in e.models}),
        "sources": {
            "clients": _per_session(both, lambda e: f"{e.origin.reader} {e.origin.client}".strip()),
            "rigs": _per_session(both, lambda e: e.origin.rig),
            EXAMPLES_BY_OUTCOME: dict(Counter(e.outcome for e in both)),
            "sessions_by_model": _per_session(both, lambda e: ", ".join(e.models)),
            "scrub_policies": _per_session(both, lambda e: e.origin.policy),
            "consent": _per_session(both, lambda e: e.origin.consent),
        },
        **built.facts,
        "licences": dict(facts.licences),
        "terms": TERMS,
    }


def _kinds(examples: Iterable[Example]) -> dict[str, int]:
    return dict(Counter(e.kind for e in examples))


def _decisions(examples: Iterable[Example]) -> int:
    return sum(len(e.actions) for e in examples if e.kind == DECISION)


def _span(examples: Iterable[Example]) -> dict[str, str]:
    """When the sessions of one side began, first and last."""
    times = sorted(e.origin.started for e in examples if e.origin.started)
    return {"first": times[0], "last": times[-1]} if times else {}


def _per_session(examples: Iterable[Example], name_of: Any) -> dict[str, int]:
    """Sessions by a property of theirs, most first."""
    found = {e.session: name_of(e) or "unknown" for e in examples}
    return dict(Counter(found.values()).most_common())


# -- for people --------------------------------------------------------------------------------------


def markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown; its head tells ``datasets`` which file is which side."""
    split = card["split"]
    rule = (
        f"Held out is what began at {split['cutoff']} or later; no task is on both sides."
        if split["cutoff"]
        else "One task in ten is held out, by a hash of its name; no task is on both sides."
    )
    sections = [
        _head([part for part, counts in card["examples"].items() if counts]),
        f"# Training set for the {card['role']} of a Gas Town",
        f"Dataset `{card['hash'][:12]}`, built {card['built_at'] or 'at a time not noted'} by "
        f"{card['made_with'] or 'gastown-finetune'} for the budget `{card['budget']}`.",
        "## Contents",
        _table(("part", "kind", "examples"), _contents(card)),
        f"{card['decisions']['train']} decisions to learn, {card['decisions']['heldout']} held out. {rule}",
        _counts("action", "decisions to learn", card["actions"]),
        "## Sources",
        *(_counts(name.replace("_", " "), _counted(name), card["sources"][name]) for name in card["sources"]),
        "## Left out",
        _counts("reason", "count", card["drops"]) or "Nothing.",
        "## Checks",
        _checks(card),
        "## Licences and terms",
        _table(("rig", "licence"), [(rig, text or "none found") for rig, text in card["licences"].items()]),
        card["terms"],
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _head(parts: Sequence[str]) -> str:
    """Which file is which side; a side without examples is none that ``datasets`` could read."""
    files = [{"split": part, "path": f"{part}.jsonl"} for part in parts]
    configs = [{"config_name": "default", "data_files": files}]
    return f"---\nlicense: other\nconfigs: {json.dumps(configs)}\n---"


def _contents(card: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (part, kind, str(number))
        for part, counts in card["examples"].items()
        for kind, number in sorted(counts.items())
    ]


def _checks(card: Mapping[str, Any]) -> str:
    twice, words = card.get("duplicates", {}), card.get("overlap", {})
    lengths, drawn = card.get("lengths", {}), card.get("surrogates", {})
    lines = [
        f"- Repetitions: {twice.get('exact', 0)} exact and {twice.get('near', 0)} near ones (similarity "
        f"{twice.get('threshold', 1.0)} or more) in {twice.get('clusters', 0)} clusters; each keeps one.",
        f"- {words.get('words', 0)} words in a row were looked for in the suites "
        f"{', '.join(words.get('suites', ())) or '(none)'}; {sum(words.get('found', {}).values())} examples "
        "had some and were dropped.",
        f"- Surrogates: {drawn.get('surrogates', 0)} were drawn anew in {drawn.get('examples', 0)} examples.",
    ]
    if "longest" in lengths:
        lines.append(
            f"- Length: median {lengths['median']} tokens, longest {lengths['longest']}; {lengths['over']} "
            f"are over {lengths['limit']} (policy `{lengths['policy']}`)."
        )
    return "\n".join(lines)


def _counted(source: str) -> str:
    """What a table of the sources counts: an example has its own outcome, as a patrol's decision has."""
    return "examples" if source == EXAMPLES_BY_OUTCOME else "sessions"


def _counts(what: str, number: str, counts: Mapping[str, int]) -> str:
    return _table((what, number), [(name, str(count)) for name, count in counts.items()]) if counts else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
