"""How reports of the pool ``talk`` look: letters, mails, cards, lists, quotes, columns, bulletins."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .phrases import expand

DISTRACTORS: Sequence[str] = (
    "the [moon|sun|wind] is [up|high|low] over the [yard|rig|town]",
    "[coffee|tea|soup] was [served|made] at the [gate|depot|office]",
    "[tmux|terminal] size [{a}x{b}|{b} columns|{b} rows]",
    "[its|the] shell is [bash|zsh|fish][|, version {a}.{b}]",
    "locale [en_US|C|en_GB|de_DE], time zone [UTC|CET|PST]",
    "the model it uses is [small|large|the usual one]",
    "[kernel|python|node|tmux|git] {a}.{b}[|.1]",
    "it was [created|hired|set up] on a [monday|tuesday|friday][|, {a} weeks back]",
    "convoy {p} [rolls|is on the road|passed by]",
    "the [theme|colour] of its window is [green|amber|blue]",
    "host [node{a}|rig-{b}|box{a}], rack {b}",
    "cpu {a}%[|, memory {b}%]",
    "[ticket|form|page] {p} [is attached|refers]",
    "[written|compiled|typed] by the [clerk|watch|porter]",
    "[more|the rest|details] [tomorrow|next week|in the appendix]",
    "[room|door|bay] {a} is [painted|swept|closed for the day]",
    "the agent's [badge|number plate|desk] bears the number {p}",
    "[budget|cost] so far: {a}.{b} dollars",
    "[tokens|characters] read [today|in this shift]: {p}",
    "[thanks|regards|cheers] to the [cook|night shift|porter]",
    "temperature in the machine room: {b} degrees",
    "[protocol|schema|format] version {a}",
)

_WHO = ("witness", "deacon", "daemon", "mayor", "night shift", "porter", "clerk")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _filled(template: str, target: str, rng: random.Random) -> str:
    return expand(template, rng).replace("{t}", target).replace("{who}", rng.choice(_WHO))


def _mail(target: str, parts: list[str], rng: random.Random) -> str:
    """A mail with a header, a greeting and a close."""
    head = _filled("From: {who}\n[Subject|Re|Topic]: [state of |how is |]{t}", target, rng)
    greeting = _filled("[Hello|Hi all|Dear {who}|Good morning|Team]", target, rng)
    close = _filled("[Regards|Yours|Cheers|That is all|Best], {who}", target, rng)
    body = rng.choice((" ", "\n")).join(_sentence(p) for p in parts)
    return f"{head}\n\n{greeting},\n{body}\n{close}"


def _talk(target: str, parts: list[str], rng: random.Random) -> str:
    """A paragraph that opens and closes, its sentences joined by small words."""
    links = ("", "Also, ", "Then: ", "Besides, ", "And ", "Further, ", "As well: ", "Moreover, ", "Note: ")
    body = " ".join(_sentence(p) if i == 0 else _sentence(rng.choice(links) + p) for i, p in enumerate(parts))
    opening = _filled(
        "[Here is the latest on|You asked for news of|This is the word on|Now to|Next,|And now] {t}[:|.]",
        target,
        rng,
    )
    return f"{opening} {body}{rng.choice(('', ' Over.', ' End.', ' No more for now.', ' So much for it.'))}"


def _card(target: str, parts: list[str], rng: random.Random) -> str:
    """A framed card."""
    line = rng.choice("-=*~#_") * rng.randrange(6, 24)
    edge = rng.choice(("", "| ", ": ", "# ", "* "))
    return "\n".join([line, edge + _filled("[|AGENT |CARD |agent: ]{t}", target, rng), line]) + "".join(
        f"\n{edge}{p}" for p in [*parts, line][: len(parts) + rng.randrange(2)]
    )


def _markdown(target: str, parts: list[str], rng: random.Random) -> str:
    """Headings with a list under each."""
    level = rng.choice(("#", "##", "###"))
    titles = rng.sample(("Findings", "State", "Details", "Other", "Checks", "More", "Notes"), 2)
    mark = rng.choice(("- ", "* ", "+ ", "- [x] ", "1. "))
    cut = rng.randrange(1, len(parts) + 1)
    groups = [(titles[0], parts[:cut]), (titles[1], parts[cut:])]
    text = f"{level} {target}\n"
    for title, group in groups:
        if group:
            text += f"{level}# {title}\n" + "".join(f"{mark}{p}\n" for p in group)
    return text.rstrip("\n")


def _quoted(target: str, parts: list[str], rng: random.Random) -> str:
    """What somebody said, each line a quote."""
    left, right = rng.choice((("> ", ""), ('"', '"'), ("'", "'"), (">> ", ""), ("<< ", " >>")))
    said = _filled("[{who} on {t}|{who}, asked about {t}|of {t} the {who} said|{t}, quoted]:", target, rng)
    return said + "".join(f"\n{left}{p}{right}" for p in parts)


def _columns(target: str, parts: list[str], rng: random.Random) -> str:
    """Two columns of text."""
    gap = rng.choice(("   ", " | ", "\t", "  ||  ", " :: "))
    rows = [gap.join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return "\n".join([f"{target}{gap}{rng.choice(('report', 'state', 'today', 'sheet'))}", *rows])


def _bulletin(target: str, parts: list[str], rng: random.Random) -> str:
    """A bulletin or telegram."""
    stop = rng.choice((" STOP ", " +++ ", " // ", " *** ", " = ", " <> "))
    head = _filled("[BULLETIN|TELEGRAM|FLASH|NEWS|WIRE] [{t}|on {t}|re {t}]", target, rng)
    return head + stop + stop.join(parts) + rng.choice((stop.rstrip(), "", f"{stop}END"))


def _ledger(target: str, parts: list[str], rng: random.Random) -> str:
    """Entries of a ledger, numbered from anywhere."""
    first, width = rng.randrange(1, 900), rng.choice((1, 3, 4))
    mark = rng.choice(("{}) ", "no. {} ", "{} | ", "#{} ", "{}; "))
    rows = (mark.format(str(first + i).zfill(width)) + p for i, p in enumerate(parts))
    head = _filled("[Ledger|Book|Journal|Register], [page|sheet] of {t}", target, rng)
    return "\n".join([head, *rows])


def _dialogue(target: str, parts: list[str], rng: random.Random) -> str:
    """Two people tell each other what they know."""
    first, second = rng.sample(_WHO, 2)
    spoken = (f"{(first, second)[i % 2]}: {p}" for i, p in enumerate(parts))
    return f"{second}: {_filled('[what about|any news of|tell me about|how is] {t}', target, rng)}?\n" + (
        "\n".join(spoken)
    )


def _signed(target: str, parts: list[str], rng: random.Random) -> str:
    """Facts first, and only at the end of whom they are."""
    body = rng.choice(("\n", " ", " - ", "; ")).join(map(_sentence, parts))
    return body + "\n" + _filled("[This is about|All this of|Agent concerned:|Subject:|^^] {t}", target, rng)


def _named(target: str, parts: list[str], rng: random.Random) -> str:
    """Every line begins with the agent's name."""
    name = target.rsplit("/", 1)[-1]
    colon = rng.choice((": ", " - ", ", ", " > ", " "))
    return f"[{target}]\n" + "\n".join(f"{name}{colon}{p}" for p in parts)


def _shouted(target: str, parts: list[str], rng: random.Random) -> str:
    """A page with a part of its lines in capitals (but for what holds an id)."""
    lines = [p.upper() if rng.random() < 0.5 and "-" not in p else p for p in parts]
    return f"!! {target} !!\n" + "\n".join(lines)


LAYOUTS = (
    _mail,
    _talk,
    _card,
    _markdown,
    _quoted,
    _columns,
    _bulletin,
    _ledger,
    _dialogue,
    _signed,
    _named,
    _shouted,
)
