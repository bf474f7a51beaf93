"""Reports: a situation in words. Each pool of phrases has layouts of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from .phrases import expand, fact_phrase
from .situations import POLICIES, Situation, bead_id
from .talk_layouts import DISTRACTORS as _TALK_DISTRACTORS
from .talk_layouts import LAYOUTS as _TALK_LAYOUTS

Layout = Callable[[str, list[str], random.Random], str]

_DISTRACTORS = {
    "common": ("uptime {a}h{b}m", "pane %{a}", "build {a}.{b} installed", "port {p} open", "load 0.{b}"),
    "wide": (
        "uptime={a}h",
        "pane_id: %{a}",
        '"build": "{a}.{b}"',
        "[client|agent] version {a}.{b}.1",
        "[window|pane] {a} of {b}",
        "memory {p} MB",
        "[listens on|port] {p}",
        "cycle {p}",
        "load 0.{b}",
    ),
    "prose": (
        "[running|works|still] on version {a}.{b}",
        "[the|its] [window|pane] [has|shows] {b} lines",
        "[takes|uses|holds] {p} MB [of memory|]",
        "[shift|round|turn] number {p}",
        "[seen by|noted by|looked at by] the [daemon|watch|night shift]",
        "[weather|day|night] [is|was] [fine|long|quiet enough]",
        "[otherwise|apart from that] [nothing to add|no remarks]",
        "[uptime|up since] {a}h",
    ),
    "talk": _TALK_DISTRACTORS,
    "unseen": ("it is on build {a}.{b}", "memory at {p} MB", "this is cycle {p}"),
}


def _lines(target: str, parts: list[str], rng: random.Random) -> str:
    return f"Report on {target}\n" + "\n".join(f"- {p}" for p in parts)


def _dashed(target: str, parts: list[str], rng: random.Random) -> str:
    return f"== {target} ==\n" + "\n".join(parts)


def _agent_block(target: str, parts: list[str], rng: random.Random) -> str:
    head = expand("[agent|subject|target|about|who]: {t}", rng).replace("{t}", target)
    bullet = rng.choice(("", "- ", "* ", "  ", "> "))
    return head + "\n" + "\n".join(bullet + p for p in parts)


def _prose(target: str, parts: list[str], rng: random.Random) -> str:
    joined = rng.choice((". ", "; ", ", ")).join(parts)
    opening = expand("[Agent|Checked|Looked at|Seen:|Patrol of|On] {t}[:|.| -]", rng).replace("{t}", target)
    return f"{opening} {joined}."


def _log(target: str, parts: list[str], rng: random.Random) -> str:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return "\n".join(f"{hour:02}:{(minute + i) % 60:02} {target} {p}" for i, p in enumerate(parts))


def _table(target: str, parts: list[str], rng: random.Random) -> str:
    return f"{target} | " + " | ".join(parts)


def _braces(target: str, parts: list[str], rng: random.Random) -> str:
    return f"{{{target}: " + ", ".join(parts) + "}"


def _watch_note(target: str, parts: list[str], rng: random.Random) -> str:
    return f"Notes of the watch about {target}. " + ". ".join(p[:1].upper() + p[1:] for p in parts) + "."


def _letter(target: str, parts: list[str], rng: random.Random) -> str:
    half = len(parts) // 2
    return f"To whom it concerns: {target}\n{', and '.join(parts[:half])}\n{', and '.join(parts[half:])}"


def _sentences(target: str, parts: list[str], rng: random.Random) -> str:
    opening = expand("[About|Concerning|Regarding|Subject|Re:|News of|Word on|For] {t}", rng).replace(
        "{t}", target
    )
    return (
        opening
        + rng.choice((". ", ":\n", ", ", "\n\n"))
        + " ".join(p[:1].upper() + p[1:] + "." for p in parts)
    )


def _joined(target: str, parts: list[str], rng: random.Random) -> str:
    glue = rng.choice(("; also ", ", then ", ", while ", "; ", ". And ", ", plus ", " / ", ", with "))
    words = (
        glue.join(parts)
        if rng.random() < 0.5
        else "".join(part + rng.choice((", ", "; ", ". ", ", also ", ", and yet ", "\n")) for part in parts)
    )
    return rng.choice((f"{target} - {words}", f"{words}\n({target})", f"Agent {target}\n{words}"))


def _numbered(target: str, parts: list[str], rng: random.Random) -> str:
    mark = rng.choice(("{}. ", "({}) ", "[{}] ", "{}: "))
    body = "\n".join(mark.format(chr(97 + i)) + p for i, p in enumerate(parts))
    return f"{body}\n-- {target}" if rng.random() < 0.4 else f"# {target}\n{body}"


LAYOUTS: dict[str, Sequence[Layout]] = {
    "common": (_lines, _dashed),
    "wide": (_agent_block, _prose, _log, _table, _braces),
    "prose": (_sentences, _joined, _numbered, _prose, _agent_block),
    "talk": (*_TALK_LAYOUTS, _sentences, _prose),
    "unseen": (_watch_note, _letter),
}


def report(situation: Situation, kinds: Sequence[str], pool: str, rng: random.Random) -> str:
    """The situation in the words of one pool, facts in any order, with up to two facts of no importance."""
    return _report(situation, kinds, lambda: pool, rng)


def mixed_report(situation: Situation, kinds: Sequence[str], pools: Sequence[str], rng: random.Random) -> str:
    """A report whose facts come each from a pool of its own, as styles mix in real ones."""
    return _report(situation, kinds, lambda: rng.choice(pools), rng)


def _report(situation: Situation, kinds: Sequence[str], pool: Callable[[], str], rng: random.Random) -> str:
    slots = {"bead": bead_id(rng), "pid": rng.randrange(1000, 99999), "k": rng.randrange(1, 12)}
    parts = [fact_phrase(k, getattr(situation.facts, k), pool(), rng, slots) for k in kinds]
    for _ in range(rng.choice((0, 1, 1, 2))):
        numbers = {"a": rng.randrange(1, 40), "b": rng.randrange(10, 60), "p": rng.randrange(1000, 9999)}
        text = expand(rng.choice(_DISTRACTORS[pool()]), rng)
        for key, value in numbers.items():
            text = text.replace("{" + key + "}", str(value))
        parts.append(text)
    rng.shuffle(parts)
    return rng.choice(LAYOUTS[pool()])(situation.target, parts, rng)


def role_report(role: str, situation: Situation, pool: str, rng: random.Random) -> str:
    """A report with the facts that ``role`` weighs."""
    return report(situation, POLICIES[role].kinds, pool, rng)
