"""Typed surrogates: what stands in the place of a secret or of a person's data.

A surrogate is valid for its type (a token keeps its length and alphabet, an address stays an address, a
PEM block stays one), is written as the original was (:mod:`.spelling`), contains nothing that breaks JSON, a
shell word or a URL, is the same for the same original wherever and whenever it is met, and is known as a
surrogate when it is met again.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from datetime import date, timedelta
from itertools import zip_longest

from .decoding import decode_base64, hex_text, is_utf16, lenient_text
from .memory import Memory
from .patterns import regex
from .scan import luhn, luhn_digit
from .seal import (
    ALPHABETS,
    BASE62,
    LEAST,
    LOWER36,
    Stream,
    are_sealed_syllables,
    check_numbers,
    covering,
    is_sealed,
    sealed_body,
    sealed_syllables,
)
from .spelling import plain, respelled

_ALNUM = regex(r"[A-Za-z0-9]+")
_SHAPE = regex(r"[A-Za-z0-9._:/+=~-]+")
_EMAIL = regex(r"user-([a-z0-9]{12})@example\.com", re.IGNORECASE)
_HOST = regex(r"(?:host-([a-z]{12})|([a-z]{12})\.example\.net)", re.IGNORECASE)
_ADDRESS = regex(r"\d{1,4} ([A-Z][a-z]{13}) Street")
_YEAR = regex(r"(?<!\d)(?:1[789]|20)\d\d(?!\d)")
_MONTHS: tuple[str, ...] = ("january", "february", "march", "april", "may", "june")
_MONTHS += ("july", "august", "september", "october", "november", "december")
_CARD_TEST = {"4": "400000", "5": "555555", "2": "555555", "3": "378282", "6": "601111"}
_JWT_HEAD = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
_DIGITS = ALPHABETS[0]
BLANK_MEDIA = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
"""A PNG of one transparent pixel: stands for every picture and document."""


def _like(original: str, word: str) -> str:
    """``word`` in the case of ``original``."""
    if original.isupper() and len(original) > 1:
        return word.upper()
    return word.capitalize() if original[:1].isupper() else word


def _refill(original: str, fresh: str) -> str:
    """``original`` with its ASCII letters and digits replaced by those of ``fresh`` in turn."""
    parts: list[str] = []
    at = 0
    for gap, run in zip_longest(_ALNUM.split(original), _ALNUM.findall(original), fillvalue=""):
        parts += (gap, fresh[at : at + len(run)])
        at += len(run)
    return "".join(parts)


def _alnum(text: str) -> str:
    return "".join(_ALNUM.findall(text))


def _digits(text: str) -> str:
    return "".join(c for c in text if c in _DIGITS)


class Surrogates:
    """Makes and recognises surrogates under one key.

    ``rescrub`` scrubs a text by the whole policy; it serves kinds that wrap other text (base64).
    """

    def __init__(self, key: bytes, rescrub: Callable[[str], str]) -> None:
        self._key = key
        self._rescrub = rescrub
        self._made: Memory[tuple[str, str], str] = Memory()
        self._own: Memory[tuple[str, str], bool] = Memory()

    def make(self, kind: str, original: str) -> str:
        """The surrogate of ``original``; the original itself where it is a surrogate already."""
        known = self._made.get((kind, original))
        if known is None:
            known = original if self.is_own(kind, original) else self._fresh(kind, original)
            self._made.keep((kind, original), known, len(original) + len(known))
        return known

    def is_own(self, kind: str, text: str) -> bool:
        """Whether ``text`` is a surrogate that :meth:`make` gives for ``kind``."""
        own = self._own.get((kind, text))
        if own is None:
            own = _OWN.get(kind, _own_shape)(self, plain(text))
            self._own.keep((kind, text), own, len(text))
        return own

    def _fresh(self, kind: str, original: str) -> str:
        read = plain(original)
        fresh = _MAKERS.get(kind, _shape)(self, read)
        return fresh if read == original else respelled(fresh, original)

    def stream(self, label: str, original: str) -> Stream:
        return Stream(self._key, label, original)

    def permuted(self, label: str, number: int, size: int) -> int:
        """``number`` (below ``size``) moved to a place of its own: a keyed permutation, by a Feistel walk."""
        half = 1
        while half * half < size:
            half += 1
        while True:
            left, right = divmod(number, half)
            for turn in range(4):
                mixed = self.stream(f"{label} {turn}", str(right)).numbers(1)[0]
                left, right = right, (left + mixed) % half
            number = left * half + right
            if number < size:
                return number

    def rescrub(self, text: str) -> str:
        return self._rescrub(text)


Maker = Callable[[Surrogates, str], str]
Own = Callable[[Surrogates, str], bool]


def is_surrogate(text: str) -> bool:
    """Whether ``text`` as a whole is a surrogate of some kind, by its seal or its set-aside range; for
    audits, needs no key."""
    anyone, text = Surrogates(b"", lambda t: t), plain(text)
    return any(own(anyone, text) for own in _SEALED) or any(
        form.fullmatch(text) is not None and own(anyone, text) for form, own in _BY_RANGE
    )


# --- tokens, passwords and other strings without a structure of their own


def _shape(s: Surrogates, original: str) -> str:
    """Same length, alphabet and punctuation; 16 letters and digits where the original is short or odd."""
    body = _alnum(original)
    if len(body) < LEAST or not _SHAPE.fullmatch(original):
        return _word(s, original)
    return _refill(original, sealed_body(s.stream("shape", original), len(body), covering(body)))


def _own_shape(_: Surrogates, text: str) -> bool:
    body = _alnum(text)
    return _SHAPE.fullmatch(text) is not None and is_sealed(body)


def _word(s: Surrogates, original: str) -> str:
    """Tells neither length nor alphabet of the original."""
    return sealed_body(s.stream("word", original), 16, BASE62)


def _classed(s: Surrogates, original: str) -> str:
    """Letters stay letters and digits digits, for numbers of documents."""
    body = _alnum(original)
    if len(body) < 6:
        return _word(s, original)
    check = 3 if len(body) < 9 else 4
    drawn = s.stream("document", original).numbers(len(body) - check)
    fresh = "".join(
        _same_class(c, n, i == 0) for i, (c, n) in enumerate(zip(body[:-check], drawn, strict=True))
    )
    tail = zip(body[-check:], check_numbers(fresh, check), strict=True)
    return _refill(original, fresh + "".join(_same_class(c, n) for c, n in tail))


def _own_classed(s: Surrogates, text: str) -> bool:
    body = _alnum(text)
    if len(body) < 6:
        return False
    check = 3 if len(body) < 9 else 4
    tail = zip(body[-check:], check_numbers(body[:-check], check), strict=True)
    return all(c == _same_class(c, n) for c, n in tail) or _own_shape(s, text)


def _number(s: Surrogates, original: str) -> str:
    return sealed_body(s.stream("number", original), max(9, len(original)), _DIGITS)


def _seed_phrase(s: Surrogates, original: str) -> str:
    """As many words of two syllables, at least three letters as wallets' words have."""
    count = len(re.findall("[a-z]+", original))
    syllables = sealed_syllables(s.stream("seed phrase", original), 2 * count - 2)
    return " ".join(a + b for a, b in zip(syllables[::2], syllables[1::2], strict=True))


def _media(_: Surrogates, original: str) -> str:
    return BLANK_MEDIA


def _jwt(s: Surrogates, original: str) -> str:
    stream = s.stream("jwt", original)
    subject = sealed_body(stream, 16, LOWER36)
    payload = base64.urlsafe_b64encode(f'{{"sub":"{subject}"}}'.encode()).decode().rstrip("=")
    return f"{_JWT_HEAD}.{payload}.{sealed_body(s.stream('jwt signature', original), 43, BASE62)}"


def _own_jwt(_: Surrogates, text: str) -> bool:
    return text.startswith(_JWT_HEAD) and is_sealed(text.rpartition(".")[2])


def _basic(s: Surrogates, original: str) -> str:
    """base64 of ``user:password``; the user keeps his name unless another layer knows it."""
    raw = decode_base64(original)
    if raw is None:
        return _word(s, original)
    user, _, password = raw.decode("utf-8", "replace").partition(":")
    fresh = f"{s.rescrub(user)}:{s.make('password', password)}".encode()
    return base64.b64encode(fresh).decode()


def _own_basic(s: Surrogates, text: str) -> bool:
    raw = decode_base64(text)
    if raw is None:
        return _own_shape(s, text)
    user, colon, password = raw.decode("utf-8", "replace").partition(":")
    return bool(colon) and s.is_own("password", password) and s.rescrub(user) == user


def _base64(s: Surrogates, original: str) -> str:
    raw = decode_base64(original)
    if raw is None:
        return _word(s, original)
    plain = s.rescrub(lenient_text(raw))
    fresh = base64.b64encode(plain.encode("utf-16-le" if is_utf16(raw) else "utf-8", "replace")).decode()
    return fresh if "=" in original or not len(original) % 4 else fresh.rstrip("=")


def _own_base64(s: Surrogates, text: str) -> bool:
    raw = decode_base64(text)
    if raw is None:
        return _own_shape(s, text)
    plain = lenient_text(raw)
    return s.rescrub(plain) == plain


def _hex(s: Surrogates, original: str) -> str:
    """The hexadecimal digits of ASCII text, in their case."""
    fresh = s.rescrub(hex_text(original)).encode("ascii", "replace").hex()
    return fresh.upper() if original.upper() == original else fresh


def _own_hex(s: Surrogates, text: str) -> bool:
    plain = hex_text(text)
    return s.rescrub(plain) == plain


# --- people and places


def _email(s: Surrogates, original: str) -> str:
    return f"user-{sealed_body(s.stream('email', original), 12, LOWER36)}@example.com"


def _own_email(_: Surrogates, text: str) -> bool:
    match = _EMAIL.fullmatch(text)
    return match is not None and is_sealed(match[1].lower())


def _name(s: Surrogates, original: str) -> str:
    """Pronounceable words: as many as the original has, three at most, in its case."""
    original = unicodedata.normalize("NFC", original)
    words = [w for w in re.split(r"[^\w]+|_", original) if w][:3] or [original]
    glue = re.sub(r"\w", "", original.replace("_", "-"))[:1] or " "
    told = " ".join(words).casefold()  # the same person whatever joins the parts of the name
    syllables = sealed_syllables(s.stream("name", told), 4 if len(words) == 1 else 5)
    cuts = {1: [6], 2: [2, 7], 3: [2, 4, 7]}[len(words)]
    starts = [0, *cuts[:-1]]
    glue = "_" if "_" in original else glue if glue in " .-+" else " "
    parts = zip(words, starts, cuts, strict=True)
    return glue.join(_like(w, "".join(syllables[a:b])) for w, a, b in parts)


def _own_name(_: Surrogates, text: str) -> bool:
    return are_sealed_syllables(re.sub(r"[ ._+-]", "", text)) and 12 <= len(text) <= 16


def _host(s: Surrogates, original: str) -> str:
    name = "".join(sealed_syllables(s.stream("host", original.lower()), 4))
    return f"{name}.example.net" if "." in original else f"host-{name}"


def _own_host(_: Surrogates, text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and are_sealed_syllables(match[1] or match[2])


def _ipv4(s: Surrogates, original: str) -> str:
    """In 240.0.0.0/4, which is no host's: the documentation ranges hold 762 addresses, too few to differ."""
    a, b, c, d = s.stream("ipv4", original).numbers(4)
    return f"{240 + a % 15}.{b % 256}.{c % 256}.{1 + d % 254}"


def _own_ipv4(_: Surrogates, text: str) -> bool:
    return int(text.partition(".")[0]) >= 240 if text.partition(".")[0].isdecimal() else False


def _ipv6(s: Surrogates, original: str) -> str:
    """In the documentation range 2001:db8::/32, sealed in the last two groups."""
    body = "2001:db8:" + ":".join(f"{n:x}" for n in s.stream("ipv6", original.lower()).numbers(4))
    return body + "".join(f":{n:x}" for n in check_numbers(body, 2))


def _own_ipv6(_: Surrogates, text: str) -> bool:
    groups = text.lower().split(":")
    body = ":".join(groups[:6])
    return len(groups) == 8 and groups[6:] == [f"{n:x}" for n in check_numbers(body, 2)]


def _mac(s: Surrogates, original: str) -> str:
    """Locally administered, with a prefix of ours."""
    glue = original[2]
    tail = [f"{n % 256:02x}" for n in s.stream("mac", original.lower()).numbers(3)]
    fresh = glue.join(["06", "47", "54", *tail])
    return fresh.upper() if original.upper() == original and original.lower() != original else fresh


def _own_mac(_: Surrogates, text: str) -> bool:
    return text[:8].replace("-", ":") == "06:47:54"


def _phone(s: Surrogates, original: str) -> str:
    """Same punctuation; an area code N9X or a country code 999, which no telephone has."""
    old = _digits(original)
    new = [str(n % 10) for n in s.stream("phone", original).numbers(len(old))]
    lead = _nanp_lead(original, old)
    if lead is not None:
        new[: lead + 3] = [*old[:lead], str(2 + int(new[lead]) % 8), "9", new[lead + 2]]
    elif original.lstrip("( ").startswith("+"):
        new[:3] = "999"
    else:
        new[:3] = "555" if len(old) == 7 else "099" if old[0] == "0" else "999"
    supply = iter(new)
    return re.sub(r"\d", lambda _: next(supply), original)


def _nanp_lead(text: str, digits: str) -> int | None:
    """How many digits stand before the area code of a North American number; None where it is none."""
    body = _digits(re.split(r"(?i)[a-z#]", text)[0])
    plus = text.lstrip("( ").startswith("+")
    for prefix in ("001", "1", ""):
        if len(body) == len(prefix) + 10 and body.startswith(prefix) and digits[len(prefix)] in "23456789":
            return len(prefix) if prefix or not plus else None
    return None


def _own_phone(_: Surrogates, text: str) -> bool:
    digits = _digits(text)
    lead = _nanp_lead(text, digits)
    if lead is not None:
        return digits[lead + 1] == "9"
    return digits.startswith("555" if len(digits) == 7 else ("999", "099"))


def _card(s: Surrogates, original: str) -> str:
    """A test number of the same brand and length that passes the Luhn check."""
    old = _digits(original)
    prefix = _CARD_TEST.get(old[:1], "400000")
    body = prefix + "".join(str(n % 10) for n in s.stream("card", old).numbers(len(old) - 10))
    body += "".join(str(n % 10) for n in check_numbers(body, 3))
    supply = iter(body + luhn_digit(body))
    return re.sub(r"\d", lambda _: next(supply), original)


def _own_card(_: Surrogates, text: str) -> bool:
    digits = _digits(text)
    check = "".join(str(n % 10) for n in check_numbers(digits[:-4], 3))
    return digits[:6] in _CARD_TEST.values() and digits[-4:-1] == check and luhn(digits)


def _ssn(s: Surrogates, original: str) -> str:
    """Area 9xx, which is never given out."""
    supply = iter("9" + "".join(str(n % 10) for n in s.stream("ssn", _digits(original)).numbers(8)))
    return re.sub(r"\d", lambda _: next(supply), original)


def _iban(s: Surrogates, original: str) -> str:
    """Same country and length, valid check digits, sealed in the last four characters."""
    old = _alnum(original).upper()
    drawn = s.stream("iban", old).numbers(len(old) - 8)
    body = "".join(_same_class(c, n) for c, n in zip(old[4:-4], drawn, strict=True))
    body += "".join(_same_class(c, n) for c, n in zip(old[-4:], check_numbers(body, 4), strict=True))
    return _refill(original, old[:2] + iban_check(old[:2], body) + body)


def _same_class(old: str, number: int, leads: bool = False) -> str:
    if old.isdecimal():
        return str(1 + number % 9) if leads else str(number % 10)
    return chr((65 if old.isupper() else 97) + number % 26)


def iban_check(country: str, body: str) -> str:
    """The two check digits of an IBAN (ISO 7064, mod 97-10)."""
    digits = "".join(str(int(c, 36)) for c in body + country + "00")
    return f"{98 - int(digits) % 97:02d}"


def _own_iban(_: Surrogates, text: str) -> bool:
    body = _alnum(text).upper()[4:]
    wanted = zip(body[-4:], check_numbers(body[:-4], 4), strict=False)
    return len(body) > 4 and all(c == _same_class(c, n) for c, n in wanted)


_EPOCH, _DAYS = date(1900, 1, 1), 73_049
"""Two centuries: a birthday moves into those before them, each day to a day of its own."""
_DATE_PART = regex(r"\d{4}|\d{1,2}|[A-Za-z]{3,9}")


def _date(s: Surrogates, original: str) -> str:
    """The same format between 1700 and 1899; different days stay different."""
    parts = [m[0] for m in _DATE_PART.finditer(original)]
    fields = _date_fields(parts)
    if fields is None:
        return _word(s, original)
    years, months, days = fields
    month = parts[months]
    number = int(month) if month.isdecimal() else 1 + _month_of(month)
    try:
        old = date(int(parts[years]), number, int(parts[days]) if days is not None else 1)
    except ValueError:
        old = _EPOCH + timedelta(s.stream("date", original).numbers(1)[0])
    fresh = date(1700, 1, 1) + timedelta(s.permuted("date", (old - _EPOCH).days % _DAYS, _DAYS))
    parts[years] = str(fresh.year)
    parts[months] = (
        str(fresh.month).zfill(len(month))
        if month.isdecimal()
        else _like(month, _MONTHS[fresh.month - 1][: 3 if len(month) == 3 else None])
    )
    if days is not None:
        parts[days] = str(fresh.day).zfill(len(parts[days]))
    supply = iter(parts)
    return _DATE_PART.sub(lambda _: next(supply), original)


def _month_of(word: str) -> int:
    return next((n for n, m in enumerate(_MONTHS) if m.startswith(word.lower()[:3])), 0)


def _date_fields(parts: list[str]) -> tuple[int, int, int | None] | None:
    """Places of year, month and day; a first number that is no month is the day, as in Europe."""
    years = next((i for i, p in enumerate(parts) if len(p) == 4 and p.isdecimal()), None)
    if years is None or not 2 <= len(parts) <= 3:
        return None
    rest = [i for i in range(len(parts)) if i != years]
    word = next((i for i in rest if not parts[i].isdecimal()), None)
    if word is not None:
        return years, word, next((i for i in rest if i != word), None)
    if len(rest) == 1:
        return years, rest[0], None
    first, second = rest
    european = int(parts[first]) > 12
    return (years, second, first) if european else (years, first, second)


def _own_date(_: Surrogates, text: str) -> bool:
    year = _YEAR.search(text)
    return year is not None and year[0][:2] in ("17", "18")


def _address(s: Surrogates, original: str) -> str:
    stream = s.stream("address", original)
    return f"{1 + stream.numbers(1)[0] % 998} {''.join(sealed_syllables(stream, 5)).capitalize()} Street"


def _own_address(_: Surrogates, text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and are_sealed_syllables(match[1])


def _geo(s: Surrogates, original: str) -> str:
    """A coordinate with as many decimals, within a tenth of a degree of zero."""
    decimals = max(8, len(original.partition(".")[2]))
    return "0.0" + "".join(str(n % 10) for n in s.stream("geo", original).numbers(decimals - 1))


def _own_geo(_: Surrogates, text: str) -> bool:
    return re.fullmatch(r"0\.0\d{3,}", text) is not None


def _denied(s: Surrogates, original: str) -> str:
    """The operator's own values, typed by their form."""
    return _MAKERS[_guess(original)](s, original)


def _own_denied(s: Surrogates, text: str) -> bool:
    return _OWN[_guess(text)](s, text)


def _guess(value: str) -> str:
    if re.fullmatch(r"[^@\s]+(?:@|%40)[^@\s]+\.[^@\s]+", value):
        return "email"
    address = _ip(value)
    if address is not None:
        return "ipv4" if address.version == 4 else "ipv6"
    if re.fullmatch(r"(?i)[a-z0-9-]+(?:\.[a-z0-9-]+)+", value):
        return "host"
    if re.fullmatch(r"[\w ._-]+", value) and not re.search(r"\d{3}", value):
        return "person"
    return "token"


def _ip(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


_MAKERS: dict[str, Maker] = {
    "password": _word,
    "number": _number,
    "id_number": _classed,
    "media": _media,
    "seed_phrase": _seed_phrase,
    "jwt": _jwt,
    "basic_auth": _basic,
    "base64": _base64,
    "hex": _hex,
    "email": _email,
    "user": _name,
    "person": _name,
    "host": _host,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "mac": _mac,
    "phone": _phone,
    "credit_card": _card,
    "ssn": _ssn,
    "iban": _iban,
    "birth_date": _date,
    "address": _address,
    "coordinate": _geo,
    "denied": _denied,
    "token": _shape,
}
_OWN: dict[str, Own] = {
    "number": _own_shape,
    "id_number": _own_classed,
    "media": lambda _, text: text == BLANK_MEDIA,
    "seed_phrase": lambda _, text: are_sealed_syllables(re.sub("[ ,]", "", text)),
    "jwt": _own_jwt,
    "basic_auth": _own_basic,
    "base64": _own_base64,
    "hex": _own_hex,
    "email": _own_email,
    "user": _own_name,
    "person": _own_name,
    "host": _own_host,
    "ipv4": _own_ipv4,
    "ipv6": _own_ipv6,
    "mac": _own_mac,
    "phone": _own_phone,
    "credit_card": _own_card,
    "ssn": lambda _, text: _digits(text)[:1] == "9",
    "iban": _own_iban,
    "birth_date": _own_date,
    "address": _own_address,
    "coordinate": _own_geo,
    "denied": _own_denied,
    "token": _own_shape,
}
_SEALED = (
    _own_shape,
    _own_jwt,
    _own_basic,
    _own_email,
    _own_name,
    _own_host,
    _own_ipv6,
    _own_card,
    _own_iban,
)
"""Those that no foreign value can pass for by its form alone."""
_BY_RANGE: tuple[tuple[re.Pattern[str], Own], ...] = (
    (regex(r"2[45]\d(?:\.\d{1,3}){3}"), _own_ipv4),
    (regex(r"[+(]?[\d(][\d ().-]{5,24}\d"), _own_phone),
    (regex(r"9\d\d[- ]\d\d[- ]\d{4}"), lambda _, __: True),
    (regex(r"06([:-])47\1[45]4(?:\1[0-9a-fA-F]{2}){3}"), _own_mac),
    (
        regex(r"(?:\d{1,2}[ ./-])?(?:\d{1,4}|[A-Z][a-z]{2,8})[ ,./-]{1,2}(?:\d{1,2}[ ,./-]{1,2})?\d{1,4}"),
        _own_date,
    ),
    (regex(r"\d{1,4} [A-Z][a-z]{13} Street"), _own_address),
    (regex(r"0\.0\d{3,15}"), _own_geo),
)
"""(form, test) of kinds that are told by a range which is nobody's."""
