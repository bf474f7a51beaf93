"""Layer 3: exact values (people, users, hosts, environment secrets, the operator's list) and home paths.

Names are told by a list, never guessed from prose. Home folders give their user away wherever they stand,
so ``/home/NAME``, ``/Users/NAME``, ``C:\\Users\\NAME`` and the client's folder slugs ``-home-NAME-`` are
found by form as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .layers import Exact, Hit, Policy
from .patterns import regex
from .scan import Automaton, ends_word, haystack, starts_word

GENERIC_USERS = frozenset(
    "root user users username name you your yourname me home ubuntu debian centos fedora ec2-user "
    "admin administrator runner node vscode codespace vagrant app git jenkins docker linuxbrew builder "
    "build ci test tester public default shared guest all appuser www-data nobody postgres mysql redis "
    "nginx daemon bin sys somebody someone foo bar example dev developer work workspace main demo "
    "mayor deacon boot witness refinery polecat crew dog overseer".split()
)
"""Accounts that name no person: kept in paths and never made an exact value."""
_HOMES = (
    "/home/",
    "/users/",
    "\\users\\",
    "-home-",
    "-users-",
    "%2fhome%2f",
    "%2fusers%2f",
    "\\/home\\/",
    "\\/users\\/",
    "~",
)
_USER = regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}(?<![.-])")
_TILDE = regex(r"([a-z][a-z0-9_.-]{2,31}(?<![.-]))/")
_SPACES = ("", " ", "\n", "\t", '"', "'", ":", "=")
_SLUG_USER = regex(r"[A-Za-z_][A-Za-z0-9_.]{0,31}(?=-)")
_INTERNAL = regex(
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,5}(?:internal|corp|lan|intranet|local|localdomain|home)(?=[:/\s\"'`)\\,;]|$)",
    re.IGNORECASE,
)
_EC2 = regex(r"ip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?:\.[a-z0-9-]+){0,3}", re.IGNORECASE)
_KEPT_HOSTS = frozenset(
    "metadata.google.internal host.docker.internal gateway.docker.internal kubernetes.docker.internal".split()
)


_GLUE = ("-", "_", ".", "", "%20", "+", "\n", "\\n", "\t", "  ", "\n  ", "\n    ", "\u00a0")
"""What may stand for the space in a name: in a file's or an account's name, an address, a wrapped text."""

_DIGRAPHS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_LETTERS = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae", "å": "a", "đ": "d"}
)
_SURNAME = 5
"""Letters from which on a last name is known behind an initial."""
_LONG = 6
"""Letters from which on a name is told also where an underscore joins it to something: ``jgarcia_backup``."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    value: str
    kind: str
    fold: bool
    word: bool


def make_find(policy: Policy) -> Callable[[str], list[Hit]]:
    """The ``find`` of this layer for one policy."""
    wanted = [_Wanted(e.value, e.kind, e.fold, e.word) for e in policy.exact if len(e.value) >= 3]
    wanted += [_Wanted(d, "denied", True, len(d) < 5) for d in policy.deny if d.strip()]
    table: dict[str, list[_Wanted]] = {}
    for want in wanted:
        for form in _forms(want):
            table.setdefault(form.encode("latin-1", "replace").lower().decode("latin-1"), []).append(
                _Wanted(form, want.kind, want.fold, want.word)
            )
    automaton = Automaton([*table, *_HOMES, "://", "@", "ip-"])
    known = [tuple(table[k]) for k in table]

    values, homes = len(known), len(known) + len(_HOMES)

    def find(text: str) -> list[Hit]:
        out: list[Hit] = []
        for number, start, end in automaton.hits(haystack(text).folded):
            if number < values:
                _check_exact(text, start, end, known[number], out)
            elif number < homes:
                _home(text, start, end, out)
            else:
                _host(text, start, end, out)
        return out

    return find


def _forms(want: _Wanted) -> set[str]:
    """The value and how it looks with other joints, escaped in JSON, percent-encoded and in base64."""
    value = want.value
    forms = {value}
    if want.kind in ("person", "denied") and " " in value:
        forms |= {value.replace(" ", glue) for glue in _GLUE}
    if want.kind == "person" and value.count(" ") == 1:
        first, last = value.split(" ")
        forms |= {f"{last}{glue}{first}" for glue in (", ", ".", "_", "-", " ", "")}
    if want.kind == "person" and " " in value:
        forms |= set(_account_names(value))
    if want.kind == "secret":
        forms |= _encodings(value)
    elif not value.isascii():
        forms = {spelled for form in forms for spelled in _spellings(form)}
    return {f for f in forms if len(f) >= 3}


def _account_names(name: str) -> Iterator[str]:
    """What an account of a person is called: an initial and the last name, whole or its last word."""
    first, *rest = name.split(" ")
    for last in {"".join(rest), rest[-1]}:
        if len(last) >= _SURNAME and last.lower() not in COMMON_NAMES:
            for glue in ("", ".", "_", "-"):
                yield from (f"{first}{glue}{last}", f"{first[0]}{glue}{last}", f"{last}{glue}{first[0]}")


def _spellings(name: str) -> set[str]:
    """A name with letters beyond ASCII as keyboards, accounts and files have it."""
    import json

    apart = unicodedata.normalize("NFD", name)
    plain = "".join(c for c in apart if not unicodedata.combining(c)).translate(_LETTERS)
    whole = unicodedata.normalize("NFC", name)
    return {
        *(case for form in (whole, apart) for case in (form, form.upper(), form.lower())),
        plain,
        whole.translate(_DIGRAPHS).translate(_LETTERS),
        json.dumps(whole)[1:-1],
    }


def _encodings(value: str) -> set[str]:
    import base64
    import json
    from urllib.parse import quote, quote_plus

    raw = value.encode("utf-8", "surrogatepass")
    whole = base64.b64encode(raw).decode()
    return {
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        quote_plus(raw),
        whole,
        whole.rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
    }


def _check_exact(text: str, start: int, end: int, wanted: Iterable[_Wanted], out: list[Hit]) -> None:
    found = text[start:end]
    for want in wanted:
        if found != want.value and not (want.fold and found.casefold() == want.value.casefold()):
            continue
        if want.word and not _stands_alone(text, start, end, want):
            continue
        out.append(Hit(start, end, want.kind))
        return


def _stands_alone(text: str, start: int, end: int, want: _Wanted) -> bool:
    """Whether no letter or digit joins it, nor, where it is short, an underscore."""
    joint = "_" if len(want.value) >= _LONG else ""
    begins = starts_word(text, start) or text[start - 1] == joint
    return begins and (ends_word(text, end) or text[end] == joint)


def _home(text: str, start: int, end: int, out: list[Hit]) -> None:
    first = text[start]
    if first == "~":
        tilde = _TILDE.match(text, end)
        if tilde is not None and tilde[1].lower() not in GENERIC_USERS and text[start - 1 : start] in _SPACES:
            out.append(Hit(tilde.start(1), tilde.end(1), "user"))
        return
    if first != "\\" and "users" in text[start:end]:
        return  # macOS writes Users; users is any folder
    slug = first == "-"
    if slug and start > 0 and text[start - 1] not in "/\\\"'` \n":
        return
    at = end
    while text.startswith("\\", at) or (first == "\\" and text.startswith("/", at)):
        at += 1
    match = (_SLUG_USER if slug else _USER).match(text, at)
    if match is None:
        return
    name = match[0]
    if name.lower() in GENERIC_USERS or (name.isupper() and "NAME" in name):
        return
    if name[0] == "_" and text[at - 1] == "_":
        return
    out.append(Hit(at, match.end(), "user"))


def _host(text: str, start: int, end: int, out: list[Hit]) -> None:
    """A name of a private network where only a host can stand; the cloud's names that hold an address."""
    if text[start:end].lower() == "ip-":
        match = _EC2.match(text, start)
    else:
        match = _INTERNAL.match(text, end)
    if match is not None and match[0].lower() not in _KEPT_HOSTS and starts_word(text, match.start()):
        out.append(Hit(match.start(), match.end(), "host"))


def exact_person(name: str) -> list[Exact]:
    """A person's full name, and each longer part of it that is no common word."""
    name = " ".join(name.split())
    if not 3 <= len(name) <= 80:
        return []
    found = [Exact(name, "person", fold=True)] if " " in name else [Exact(name, "person")]
    parts = re.split(r"[\s.]+", name) if " " in name else []
    parts += [piece for part in parts if "-" in part for piece in part.split("-")]
    found += [
        Exact(p, "person")
        for p in parts
        if len(p) >= 4 and p[:1].isupper() and p.replace("-", "").isalpha() and p.lower() not in COMMON_NAMES
    ]
    return found


def exact_user(name: str) -> Iterator[Exact]:
    """A user name, unless it names no person or is so short that it is a word in any text."""
    if len(name) >= 4 and name.lower() not in GENERIC_USERS and not name.isdecimal():
        yield Exact(name, "user")


COMMON_NAMES = frozenset(
    "will mark grant page bill rich chase hunter brown green white black young king long little best "
    "cook baker wood woods stone field fields rose grace hope faith joy summer autumn april june "
    "august dawn ruby jade pearl amber iris violet daisy ivy jack frank art gene dale glen cliff "
    "forest lane drew miles chip pierce lance skip trip chance major price banks bush ford rice bean "
    "berry bell bird fish wolf fox swan hawk crane drake marsh brook lake rivers hill hall house "
    "church street park parks mill mills bridge castle knight bishop pope abbot prince duke noble "
    "marshal sheriff judge cash penny sterling power powers strong swift sharp wise savage moody early "
    "weeks day days winter snow frost storm rain cloud light bright case code java python ruby rust "
    "swift dart test root admin user guest agent claude town gas mayor deacon witness refinery polecat "
    "toast nux slit rictus".split()
)
"""Words that are also names: never matched alone."""
