"""Where somebody lives: streets as several countries write them, and coordinates."""

from __future__ import annotations

import re

from .layers import Hit
from .patterns import regex
from .scan import ends_word

_NAME = r"[A-ZÄÖÜÉÅØ][\w'’äöüßéèàåøñ-]{1,24}"
_STREET = regex(
    r"(?<![\w.:#-])(\d{1,5}[A-Za-z]?,? (?:(?:North|South|East|West|N|S|E|W)\.? )?"
    r"(?:[A-Z][a-z'’]{1,20} |\d{1,3}(?:st|nd|rd|th) ){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Terrace|Square|Place|Pl|Way|Close|Crescent|Highway|Hwy|Parkway|Pkwy)\b\.?)"
    r"((?:,? (?:Apt|Suite|Unit|Ste|Flat|#)\.? ?\w{1,6})?"
    r"(?:,\s?[A-Z][A-Za-z. ]{2,24})?(?:,? [A-Z]{2} \d{5}(?:-\d{4})?)?)"
)
_PLAIN_SUFFIX = regex(r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Terrace|Crescent)\.?$")
_LIVES = regex(
    r"(?i)(?:address|ships? (?:it )?to|shipped to|deliver\w* to|lives? (?:at|in|on)|"
    r"resid\w+ at|located at|sent? to|mail\w* to|home is)"
    r"[\s\"'\\:=]{0,8}$"
)
_BEFORE_NAME = regex(
    r"(?<![\w.])(?:\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|place|chemin|impasse|allée|quai) "
    rf"(?:de la |de l'|des |du |de |d')?{_NAME}(?: {_NAME}){{0,2}}|"
    r"(?:Calle|C/|Avenida|Avda\.?|Plaza|Paseo|Rua|Via|Viale|Piazza|Corso|Largo) "
    r"(?:de (?:la |los )?|del |da |do |dei )?"
    rf"{_NAME}(?: {_NAME}){{0,2}},? (?:n[º°.] ?)?\d{{1,4}}(?:/\d{{1,3}})?[A-Za-z]?)"
    r"(?:,? (?:[A-Z]{1,2}-)?\d{4,6}(?: [A-Z]{2})? [A-ZÄÖÜÉ][\w'’éèàüöä-]{2,24})?(?!\w)"
)
_COMPOUND = regex(
    r"(?<![\w.])(?:[A-ZÄÖÜ][a-zäöüß]{2,24}(?:-[A-ZÄÖÜ][a-zäöüß]{2,24}){0,2}[ -]?"
    r"(?:[Ss]traße|[Ss]trasse|[Ss]tr\.|[Pp]latz|[Aa]llee|[Gg]asse)|"
    r"[A-Z][a-z]{2,24}(?:straat|laan|plein|gracht|kade|gatan|vägen|vej|gade)) \d{1,4} ?[a-z]?"
    r"(?:,? (?:[A-Z]{1,2}-)?\d{4,5}(?: [A-Z]{2})? [A-ZÄÖÜ][\w'’äöüß-]{2,24})?(?![\w.]\d)"
)
_BOX = regex(r"ox \d{1,6}(?!\w)")
_BOX_NUMBER = regex(r"\d{2,6}(?: \d{2,6})?(?!\w)")
ENGLISH: tuple[str, ...] = tuple(
    f" {word}"
    for word in (
        "street st avenue ave road rd boulevard blvd lane ln drive dr court ct terrace square place pl way "
        "close crescent highway hwy parkway pkwy"
    ).split()
)
BEFORE: tuple[str, ...] = tuple(
    (
        " rue | avenue | boulevard | place | chemin | impasse | quai |calle |c/ |avenida |avda|plaza |paseo |"
        "rua |via |viale |piazza |corso |largo "
    ).split("|")
)
COMPOUND: tuple[str, ...] = tuple(
    "straße |strasse |str. |platz |allee |gasse |straat |laan |plein |gracht |kade |gatan |vej |gade ".split(
        "|"
    )
)
BOX: tuple[str, ...] = ("p.o. b", "po b", "postfach ")


def find_english(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``742 Evergreen Terrace``; suffixes that are also words need a town after them, or a word before."""
    if not text[start + 1].isupper() or not ends_word(text, end):
        return 0
    match = _covering(_STREET, text, start, end, 70)
    if match is None:
        return 0
    before = text[max(0, match.start() - 40) : match.start()]
    if _PLAIN_SUFFIX.search(match[1]) or match[2] or _LIVES.search(before):
        out.append(Hit(match.start(), match.end(), "address"))
    return match.end()


def find_before(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``12 rue de Rivoli``, ``Calle Mayor 4``: the kind of street stands first."""
    match = _covering(_BEFORE_NAME, text, start, end, 12)
    if match is None:
        return 0
    out.append(Hit(match.start(), match.end(), "address"))
    return match.end()


def find_compound(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``Hauptstraße 5``, ``Keizersgracht 12``."""
    match = _covering(_COMPOUND, text, start, end, 60)
    if match is None:
        return 0
    out.append(Hit(match.start(), match.end(), "address"))
    return match.end()


def find_box(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _BOX.match(text, end) or _BOX_NUMBER.match(text, end)
    if match is None or not text[start].isupper():
        return 0
    out.append(Hit(start, match.end(), "address"))
    return match.end()


def _covering(pattern: re.Pattern[str], text: str, start: int, end: int, back: int) -> re.Match[str] | None:
    """The first match that begins within ``back`` characters before ``start`` and reaches further."""
    at = max(0, start - back)
    while True:
        match = pattern.search(text, at, end + 96)
        if match is None or match.start() > start + 1:
            return None
        if match.end() > start:
            return match
        at = match.end()


# --- coordinates

GEO: tuple[str, ...] = (
    "gps",
    "coordinate",
    "coords",
    "location",
    "latlng",
    "lat_lng",
    "latlon",
    "located at",
    "position",
    "geo:",
    "geopoint",
)
GEO_KEYS = frozenset("lat latitude lng lon long longitude geo_lat geo_lng geo_lon".split())
_PAIR = regex(
    r"[^\d\n\x00-]{0,24}?(-?\d{1,2}\.\d{3,15})\s?[,;/ ]\s?(-?1?\d{1,2}\.\d{3,15})(?![\d.]|\s?,\s?-?\d)"
)
_LONE_PAIR = regex(
    r"(?<![\d.,-])(?<!\d, )(?<!\[)(-?[1-8]\d\.\d{5,15}),\s?(-?1?\d{1,2}\.\d{5,15})(?![\d.]|\s?,\s?-?\d)"
)
_DEGREES = regex(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,10})?\s?°(?:\s?\d{1,2}(?:\.\d+)?\s?['’′])?(?:\s?\d{1,2}(?:\.\d+)?\s?[\"”″])?\s?[NSEWO](?!\w)"
)
LONE_SHAPES: tuple[str, ...] = ("00000, 0", "00000,0", "00000, -0", "00000,-0")


def find_pair(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``gps: 48.858370, 2.294481``."""
    match = _PAIR.match(text, end)
    if match is None or abs(float(match[1])) > 90 or abs(float(match[2])) > 180:
        return 0
    out.extend(Hit(match.start(i), match.end(i), "coordinate") for i in (1, 2))
    return match.end()


def find_lone_pair(text: str, start: int, end: int, out: list[Hit]) -> int:
    """Two numbers of five decimals and more, and no third: a place rather than a vector."""
    match = _covering(_LONE_PAIR, text, start, end, 20)
    if match is None or abs(float(match[2])) > 180 or abs(float(match[2])) < 2:
        return 0
    out.extend(Hit(match.start(i), match.end(i), "coordinate") for i in (1, 2))
    return match.end()


def find_degrees(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _covering(_DEGREES, text, start, end, 16)
    if match is None:
        return 0
    out.append(Hit(match.start(), match.end(), "coordinate"))
    return match.end()
