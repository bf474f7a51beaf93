"""Layer 2: personal data by form. scrubadub decides on addresses and numbers, behind a prefilter of ours.

scrubadub takes seconds to import and microseconds per character to run, so it only ever sees the few dozen
characters around a place that has the shape of what it looks for. What has a check digit (cards, IBANs) or
needs its context (birth dates, document numbers) is decided here.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

from . import addresses, documents
from .judge import is_placeholder
from .layers import Hit
from .patterns import regex
from .scan import Mark, Marks, haystack, luhn, starts_word, word, word_left

_TLDS = frozenset(
    "com org net edu gov mil int info biz name pro dev app xyz tech online site store cloud blog page "
    "email live life world today news agency studio design digital network systems solutions services "
    "company team group global software technology engineering consulting capital finance bank money "
    "health care legal law media social photo photos video games chat wiki link click top club shop "
    "art space website host press email academy school university foundation ngo ventures partners "
    "holdings enterprises industries international zone works tools africa asia berlin london paris "
    "tokyo nyc amsterdam wien google amazon apple microsoft local internal corp lan home intranet "
    "localdomain test example invalid".split()
)
_EMAIL = regex(
    r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}(?:@|%40|\\+u0040)"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9-]|\.[A-Za-z0-9])"
)
_EMAIL_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+'-"
_AT = regex(r"@|%40|\\+u0040")
_LONGEST = 64
_BREAK = regex(r"%(?:25)?(?!2[5BDEbde7]|5[Ff])[0-9A-Fa-f]{2}")
"""An escape that is no part of a name."""
_NOBODY = frozenset(
    "git noreply no-reply donotreply do-not-reply notifications actions root postmaster mailer-daemon "
    "hello info support you your user username me name email someone somebody nobody your.name "
    "your-name your_name your.email yourname youremail example first.last firstname.lastname npm "
    "org-mode".split()
)
"""Local parts that name no person; those of the second half only at a placeholder domain."""
_NOBODY_ANYWHERE = frozenset(
    "git noreply no-reply donotreply do-not-reply notifications postmaster mailer-daemon".split()
)
_PLACE_DOMAINS = frozenset(
    "example.com example.org example.net domain.com company.com email.com yourdomain.com".split()
)
_AUTHOR = regex(
    r"(?:^|(?<=[\n:>\"])|(?<=\\n)|(?<=[ \t]))"
    r"((?!(?:Author|Commit|Committer|From|To|Cc|Date|By|Merge|Fix|Add)\b)"
    r"[A-Z][\w'’.-]{1,20}(?: [A-Z][\w'’.-]{0,20}){1,3}) ?<$"
)
_NOT_PEOPLE = regex(
    r"(?i)claude|\[bot\]|bot\b|github|copilot|codex|gemini|gpt|gas town|dependabot|renovate|actions|\btown\b|"
    r"daemon|\bsync\b|system|service|\bteam\b"
)
_IN_ADDRESS = regex(r"://[^\s\x1b/]*$")
_PHONE = regex(
    r"(?<![\w.:/=#-])(?:\(?\+\(?\d{1,3}\)?[ .-]?(?:\(?\d{1,4}\)?[ .-]?){1,5}\d{2,4}|"
    r"(?:(?:001|1)[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}|"
    r"\(?0\d{2,4}\)?[ -]\d{3,4}[ -]?\d{3,4})(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w:/-]|\.\d)"
)
_CLEARLY_PHONE = regex(
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d-)[2-9]\d\d-\d{4}|"
    r"\+[1-9]\d{0,2}(?:[ -]\(?\d{1,5}\)?){2,5}(?!\d)"
)
"""Punctuated as nothing else is: taken also where the number was never given out (555 and the like)."""
_NUMBER_NEAR = regex(r"[\w\s\"'():#=\\*|-]{0,24}?(?<![\w.+])(\+?\(?\d(?:[\d ().-]{5,16})\d)(?![\w:/-]|\.\d)")
_CARD = regex(r"(?<![\w.-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3\d{3}([ -]?)\d{6}\2\d{4,5})(?![\w-]|\.\d)")
_BRANDS = regex(
    r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|35\d{14}|3[0689]\d{12}|62\d{14}|"
    r"6(?:011\d{12}|[45]\d{14})"
)
_SSN = regex(r"(?<![\w.-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|\.\d)")
_NINO = regex(r"(?<![\w-])(?:QQ|[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]) ?\d{2} ?\d{2} ?\d{2} ?[A-D](?![\w-])")
_IBAN = regex(r"(?<![\w-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![\w-])")
_IBAN_SIZES = {
    country: int(part[:2])
    for part in (
        "15NO 16BE 18DKFIFOGLNL 19MKSI 20ATBAEEKZLTLUXK 21CHHRLILV 22BGBHCRDEGBGEIERSME 23AEGIIL "
        "24ADCZESMDPKROSASESKTNVG 25PTST 26ISTR 27FRGRITMCMRSM 28ALAZBYCYDOGTHULBPLSV 29BRPSQAUA "
        "30JOKWMU 31MTSC 33LC"
    ).split()
    for country in re.findall("[A-Z]{2}", part)
}
_IPV4 = regex(r"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d|/\d\.)")
_IPV6 = regex(r"(?<![\w:.])[23][0-9a-f]{3}:[0-9a-f:]{2,36}(?![\w.:])", re.IGNORECASE)
_MAC = regex(r"(?<![\w:-])[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}(?![\w:-])", re.IGNORECASE)
_VERSIONISH = regex(r"(?:[vV]|[vV]8 (?:to )?|[Vv]ersion_{0,2}[\"':= ]{0,6}|[=<>~^]=? ?|[A-Za-z]/|@|-)$")
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{4}|"
    r"(?:\d{1,2} )?[A-Z][a-z]{2,8}\.? (?:\d{1,2},? )?\d{4})"
)
_BIRTH = regex(rf"(?!time)[^\d\n]{{0,24}}?(?<!\d)({_DATE})(?!\d)")
_DOCUMENT = regex(
    r"[\w\s]{0,16}?(?:(?:\\{0,8}[\"'])?\s{0,3}(?:[:=#|]|\bis\b|no\.?|number)\s{0,3}(?:\\{0,8}[\"'])?){1,2}"
    r"(?<![\w-])((?=[A-Z0-9 -]{0,12}\d)[A-Z0-9](?:[A-Z0-9]|[ -](?=[A-Z0-9])){4,20}[A-Z0-9])(?![\w-])"
)
_COORDINATE = regex(r"\w{0,6}(?:\\{0,8}[\"'])?\s{0,2}[:=]\s{0,2}(?:\\{0,8}[\"'])?(-?\d{1,3}\.\d{4,15})(?!\d)")
_UID = regex(r"\d{1,7}\(([a-z_][\w.-]{1,31})\)")
_SYSTEM_USERS = frozenset(
    "root daemon bin sys adm nobody www-data systemd-network systemd-resolve messagebus syslog "
    "postgres mysql redis nginx docker sudo wheel staff users admin operator ubuntu debian ec2-user "
    "centos fedora vagrant node runner vscode codespace app user git jenkins".split()
)
_OCTETS = tuple("." + "0" * a + "." + "0" * b + "." for a in (1, 2, 3) for b in (1, 2, 3))
_SHAPES: tuple[tuple[str, str], ...] = (
    *(("ipv4", o) for o in _OCTETS),
    *(
        ("phone", p)
        for p in ("000-000-0000", "000.000.0000", "000 000 0000", ") 000-0000", ")000-0000", ") 000 0000")
    ),
    *(
        ("phone", p)
        for p in (
            "+0",
            "+(0",
            "00000 000000",
            "0000 000 0000",
            "000 0000 0000",
            "0000-000-0000",
            "00-0000-0000",
        )
    ),
    *(
        ("card", p)
        for p in (
            "0000 0000 0000 0000",
            "0000-0000-0000-0000",
            "00000000000000",
            "0000 000000 0000",
            "0000-000000-0000",
        )
    ),
    *(("ssn", p) for p in ("000-00-0000", "000 00 0000")),
    *(("lone pair", p) for p in addresses.LONE_SHAPES),
    *documents.SHAPES,
    *(("nino", p) for p in ("aa000000a", "aa 00 00 00 a")),
    *(
        ("iban", p)
        for p in (
            "aa00 0000 0000",
            "aa00 aaaa 0000",
            "aa00aaaa0000",
            "aa000000000000",
            "aa00a000000",
            "aa00 a000 ",
        )
    ),
)
_HEX_SHAPES = (
    "hhhh:hhhh:",
    "hhhh:hhh:",
    "hhhh:hh:",
    "hhhh:h:",
    "hhhh::",
    "hh:hh:hh:hh:hh:hh",
    "hh-hh-hh-hh-hh-hh",
)
_WORDS: tuple[tuple[str, str], ...] = (
    *(
        ("near", w)
        for w in (
            "phone",
            "mobile",
            "tel:",
            "tel.",
            "telephone",
            "cellphone",
            "cell",
            "fax",
            "whatsapp",
            "call me",
        )
    ),
    *(("birth", w) for w in ("birth", "dob", "born")),
    *(
        ("document", w)
        for w in ("passport", "driver", "licence", "license no", "license num", "ssn", "social security")
    ),
    *(
        ("document", w)
        for w in ("national insurance", "tax id", "taxpayer", "itin", "tin:", "account number", "account no")
    ),
    *(
        ("document", w)
        for w in ("account_number", "accountnumber", "routing", "sort code", "medical record", "mrn", "nhs")
    ),
    *(
        ("document", w)
        for w in ("iban", "national id", "id card", "id number", "bank account", "license plate", "vat id")
    ),
    *(
        ("coordinate", w)
        for w in (
            "latitude",
            "longitude",
            'lat"',
            'lng"',
            'lon"',
            "lat:",
            "lng:",
            "lon:",
            "lat=",
            "lon=",
            "lng=",
        )
    ),
    *(("street", w) for w in addresses.ENGLISH),
    *(("before", w) for w in addresses.BEFORE),
    *(("compound", w) for w in addresses.COMPOUND),
    *(("box", w) for w in addresses.BOX),
    *(("pair", w) for w in addresses.GEO),
    ("degrees", "°"),
    *documents.WORDS,
    *(("uid", w) for w in ("uid=", "gid=")),
    ("email", "@"),
    ("email %", "%40"),
    ("email \\", "\\u0040"),
)


def _email(text: str, at: int, end: int, out: list[Hit]) -> int:
    left = word_left(text, at, _EMAIL_CHARS, _LONGEST)
    if 0 < left == at - _LONGEST and text[left - 1] in _EMAIL_CHARS:
        return 0
    if "%" in text[left:at] and _BREAK.search(text, left, at) is not None:
        return 0  # found where the escapes are undone
    while left < at and not text[left].isalnum():
        left += 1
    match = _EMAIL.match(text, left) if left < at else None
    if match is None:
        return 0
    local, domain = _AT.split(match[0], maxsplit=1)
    if not _is_email(text, match, local.lower(), domain.lower()):
        return match.end()
    out.append(Hit(match.start(), match.end(), "email"))
    begin = match.start()
    name = _AUTHOR.search(text, max(0, begin - 80), begin) if "<" in text[max(0, begin - 2) : begin] else None
    if name is not None and not _NOT_PEOPLE.search(name[1]):
        out.append(Hit(name.start(1), name.end(1), "person"))
    return match.end()


def _is_email(text: str, match: re.Match[str], local: str, domain: str) -> bool:
    tld = domain.rpartition(".")[2]
    if len(tld) > 2 and tld not in _TLDS:
        return False
    if local in _NOBODY_ANYWHERE or (local in _NOBODY and domain in _PLACE_DOMAINS):
        return False
    before = text[max(0, match.start() - 100) : match.start()]
    if "://" in before and _IN_ADDRESS.match(before, before.rfind("://")):
        return False
    if text[match.end() : match.end() + 1] == ":" and text[match.end() + 1 : match.end() + 2] not in " \n\t":
        return local not in ("git", "hg", "svn")
    if local[-1].isalnum():
        return True  # scrubadub's pattern takes every such address, and importing it takes a while
    return _scrubadub("email", match[0].replace("%40", "@").replace("\\u0040", "@"))


def _phones(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _covering(_PHONE, text, start, end, 22)
    if match is None or not 8 <= sum(c.isdecimal() for c in match[0]) <= 21:
        return 0
    if _CLEARLY_PHONE.match(match[0]) or _scrubadub("phone", match[0]):
        out.append(Hit(match.start(), match.end(), "phone"))
    return match.end()


def _near(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A bare number after a word such as ``phone``."""
    match = _NUMBER_NEAR.match(text, end)
    if match is None or not 7 <= sum(c.isdecimal() for c in match[1]) <= 15:
        return 0
    out.append(Hit(match.start(1), match.end(1), "phone"))
    return match.end()


def _cards(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _covering(_CARD, text, start, end, 20)
    if match is None:
        return 0
    digits = re.sub(r"\D", "", match[0])
    known = _BRANDS.match(digits)
    if known is not None and known.end() == len(digits) and luhn(digits) and len(set(digits)) > 1:
        out.append(Hit(match.start(), match.end(), "credit_card"))
    return match.end()


def _by_pattern(
    pattern: re.Pattern[str], kind: str, judge: str = ""
) -> Callable[[str, int, int, list[Hit]], int]:
    def find(text: str, start: int, end: int, out: list[Hit]) -> int:
        match = _covering(pattern, text, start, end, 16)
        if match is None:
            return 0
        if not judge or match[0].startswith("QQ") or _scrubadub(judge, match[0]):
            out.append(Hit(match.start(), match.end(), kind))
        return match.end()

    return find


def _iban(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _covering(_IBAN, text, start, end, 4)
    if match is None:
        return 0
    found = match[0]
    size = _IBAN_SIZES.get(found[:2], 0)
    while size and len(re.sub(r"\W", "", found)) >= size:
        plain = found.replace(" ", "")
        if len(plain) == size and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1:
            out.append(Hit(match.start(), match.start() + len(found), "iban"))
            return match.start() + len(found)
        found = found[:-1].rstrip()
    return 0


def _ipv4(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _covering(_IPV4, text, start, end, 4)
    if match is None:
        return 0
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return match.end()
    before = _VERSIONISH.search(text, max(0, match.start() - 12), match.start())
    versionish = before is not None and (
        before[0][0] in "vV" or address.packed[0] < 100 > max(address.packed)
    )
    if _is_somebodys(address, match[0], text[match.end() : match.end() + 1]) and not versionish:
        out.append(Hit(match.start(), match.end(), "ipv4"))
    return match.end()


def _is_somebodys(address: ipaddress.IPv4Address, text: str, after: str) -> bool:
    """Loopback, wildcard, masks, link-local, networks in CIDR form and public resolvers tell nothing."""
    first, last = text.partition(".")[0], text.rpartition(".")[2]
    if address.is_loopback or address.is_link_local or address.is_multicast or first in ("0", "255"):
        return False
    if text.startswith(("1.3.6.1.", "1.3.101.", "2.5.4.", "2.5.29.")):
        return False  # object identifiers
    if all(int(octet) <= 30 for octet in text.split(".")) and not address.is_private:
        return False  # rather a version or a section
    if text in ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9") or first.startswith("0"):
        return False
    return not (last == "0" and (after == "/" or text.endswith(".0.0")))


def _ipv6(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _IPV6.match(text, start)
    if match is None:
        return 0
    try:
        ipaddress.IPv6Address(match[0])
    except ValueError:
        return match.end()
    out.append(Hit(match.start(), match.end(), "ipv6"))
    return match.end()


def _mac(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _MAC.match(text, start)
    if match is None:
        return 0
    if len(set(match[0].lower()) - {":", "-"}) > 2:
        out.append(Hit(match.start(), match.end(), "mac"))
    return match.end()


def _birth(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _BIRTH.match(text, end)
    if match is not None:
        out.append(Hit(match.start(1), match.end(1), "birth_date"))
        return match.end()
    return 0


def _document(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _DOCUMENT.match(text, end)
    if match is not None and len(re.sub(r"\W", "", match[1])) >= 6 and not is_placeholder(match[1]):
        out.append(Hit(match.start(1), match.end(1), "id_number"))
        return match.end()
    return 0


def _coordinate(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _COORDINATE.match(text, end - 1 if text[end - 1] in ':="' else end)
    if match is not None:
        out.append(Hit(match.start(1), match.end(1), "coordinate"))
        return match.end()
    return 0


def _uid(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _UID.match(text, end)
    if match is not None and match[1] not in _SYSTEM_USERS:
        out.append(Hit(match.start(1), match.end(1), "user"))
    return 0


def _covering(pattern: re.Pattern[str], text: str, start: int, end: int, back: int) -> re.Match[str] | None:
    """The first match that begins within ``back`` characters before ``start`` and reaches further."""
    at = max(0, start - back)
    while True:
        match = pattern.search(text, at, end + 96)
        if match is None or match.start() > start:
            return None
        if match.end() > start:
            return match
        at = match.end()


_FINDERS: dict[str, Callable[[str, int, int, list[Hit]], int]] = {
    "ipv4": _ipv4,
    "phone": _phones,
    "card": _cards,
    "ssn": _by_pattern(_SSN, "ssn", "ssn"),
    "nino": _by_pattern(_NINO, "id_number", "nino"),
    "iban": _iban,
    "near": _near,
    "birth": _birth,
    "document": _document,
    "coordinate": _coordinate,
    "street": addresses.find_english,
    "before": addresses.find_before,
    "compound": addresses.find_compound,
    "box": addresses.find_box,
    "pair": addresses.find_pair,
    "lone pair": addresses.find_lone_pair,
    "degrees": addresses.find_degrees,
    **documents.FINDERS,
    "uid": _uid,
    "email": _email,
    "email %": _email,
    "email \\": _email,
    "ipv6": _ipv6,
    "mac": _mac,
}


_CLASSES = {"0": "[0-9]", "a": "[A-Z]", "h": "[0-9A-Fa-f]"}
_AFTER = {"street": ("[^A-Za-z0-9_]", 1)}
_AFTER |= {name: (r"[^a-z0-9][^\n\x00]{3}", 4) for name, _ in documents.WORDS}
"""What must follow a word: its end for a street; for a document no more of it (``pan`` is no ``panel``) and
room for a number."""


def _shape(text: str, letters: str) -> Mark:
    return Mark("".join(_CLASSES[c] if c in letters else re.escape(c) for c in text), len(text))


class _Machine:
    """The automaton over every shape and word, and which finder is asked at each."""

    def __init__(self) -> None:
        found = [(_shape(shape, "0a"), kind, True) for kind, shape in _SHAPES]
        found += [(_shape(s, "h"), "mac" if s.count("h") == 12 else "ipv6", True) for s in _HEX_SHAPES]
        found += [(word(w, *_AFTER.get(kind, ())), kind, kind in _ANYWHERE) for kind, w in _WORDS]
        self.marks = Marks(mark for mark, _, _ in found)
        self.actions = [(kind, anywhere) for _, kind, anywhere in found]
        """(finder, whether it is asked also where no word begins)."""


@lru_cache(maxsize=1)
def _machine() -> _Machine:
    return _Machine()


_UNUSED: tuple[str, ...] = ("pandas", "sklearn", "sklearn.metrics", "nltk", "dateparser", "dateparser.search")
_UNUSED += ("textblob", "textblob.blob", "textblob.en", "textblob.en.taggers", "faker")


class _Absent(ModuleType):
    """Stands for a module whose classes are named, and used by nobody, while another is imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package with nothing in it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        members: dict[str, Any] = {"__init__": lambda self, *args, **options: None}
        return type(name, (), members)


@contextmanager
def _without_comparison() -> Iterator[None]:
    """Import scrubadub without what its other detectors and their comparison need: pandas, scikit-learn and
    models of language would cost every process seconds and a hundred megabytes."""
    names = [n for n in _UNUSED if n not in sys.modules]
    sys.modules.update({name: _Absent(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


@lru_cache(maxsize=1)
def _detectors() -> dict[str, tuple[Any, ...]]:
    """scrubadub's detectors of ours, by what we ask them; imported at the first candidate."""
    with _without_comparison():
        from scrubadub.detectors import EmailDetector, PhoneDetector
        from scrubadub.detectors.en_GB import NationalInsuranceNumberDetector
        from scrubadub.detectors.en_US import SocialSecurityNumberDetector

    return {
        "email": (EmailDetector(locale="en_US"),),
        "phone": tuple(PhoneDetector(locale=place) for place in ("en_US", "en_GB")),
        "ssn": (SocialSecurityNumberDetector(locale="en_US"),),
        "nino": (NationalInsuranceNumberDetector(locale="en_GB"),),
    }


@lru_cache(maxsize=16_384)
def _scrubadub(kind: str, candidate: str) -> bool:
    """Whether one of scrubadub's detectors of ``kind`` sees its filth in ``candidate``."""
    return any(next(iter(d.iter_filth(candidate)), None) is not None for d in _detectors()[kind])


def find(text: str) -> list[Hit]:
    """Personal data in ``text``."""
    stack, out = haystack(text), list[Hit]()
    machine = _machine()
    resume = dict.fromkeys(_FINDERS, 0)
    for number, start, end in machine.marks.hits(stack.latin):
        kind, anywhere = machine.actions[number]
        if end > resume[kind] and (anywhere or _starts(text, start)):
            resume[kind] = max(resume[kind], _FINDERS[kind](text, start, end, out))
    return out


_ANYWHERE = frozenset({"street", "before", "compound", "degrees", "email", "email %", "email \\"})
"""Kinds whose words stand inside others."""


def _starts(text: str, start: int) -> bool:
    """A word begins here, also within an identifier (``homePhone``, ``fax_number``) or after an escape."""
    if start == 0 or not text[start - 1].isalnum() or starts_word(text, start):
        return True
    return text[start].isupper() and text[start - 1].islower()


_HOUSE = regex(r"^(?=.*\d)[^@:/\\\\]*[A-Za-zÀ-ÿ]{3,}[^@:\\\\]* [^@:\\\\]*$")
_KEYED = (
    (
        regex(r"(?i)(?:^|[_-])(?:phone|mobile|fax|tel(?:ephone)?)(?:[_-]?(?:number|no))?$|phoneNumber$"),
        "phone",
    ),
    (regex(r"(?i)(?:date[_-]?of[_-]?birth|birth[_-]?(?:date|day)|dob)$"), "birth_date"),
    (documents.KEY, "id_number"),
    (regex(r"(?i)(?:street|home|postal|billing|shipping|mailing)[_-]?address$|^street$"), "address"),
    (regex(r"(?i)^(?:address|addr|address_?line_?\d)$"), "perhaps address"),
)


def find_keyed(key: str, value: str) -> list[Hit]:
    """The value of a map's key such as ``phone_number`` or ``dateOfBirth``."""
    kind = _kind_of_key(key)
    if not kind or not 4 <= len(value) <= 160 or not _fits(kind, value):
        return []
    return [Hit(0, len(value), "address" if "address" in kind else kind)]


def _fits(kind: str, value: str) -> bool:
    digits = sum(c.isdecimal() for c in value)
    match kind:
        case "phone":
            return 6 <= digits <= 20 and digits * 2 >= len(value) - 4
        case "birth_date":
            return re.fullmatch(_DATE, value) is not None or (6 <= digits <= 8 and digits >= len(value) - 4)
        case "id_number":
            return (
                digits >= 1
                and re.fullmatch(r"[A-Z0-9](?:[A-Z0-9]|[ ./-](?=[A-Z0-9])){3,30}", value) is not None
            )
        case "address":
            return digits >= 1 and not value.isdecimal()
    return _HOUSE.search(value) is not None and not is_placeholder(value)


@lru_cache(maxsize=8192)
def _kind_of_key(key: str) -> str:
    return next((kind for pattern, kind in _KEYED if pattern.search(key)), "")
