"""Numbers that a state, a bank, a maker or a registry gave to one person or thing, and how each is written.

Most need the word that names them nearby; a few are punctuated as nothing else is and carry check digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .layers import Hit
from .patterns import regex
from .scan import luhn

Check = Callable[[str], bool]
_GAP = r"[^\d\n\x00]{0,28}?"


@dataclass(frozen=True)
class Document:
    """``pattern`` follows one of ``words``; ``check`` sees its letters and digits without punctuation."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Check


def _always(_: str) -> bool:
    return True


def dni(body: str) -> bool:
    """Spain: the letter is the number modulo 23."""
    number = int(body[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == body[-1]


def cpf(body: str) -> bool:
    """Brazil: two digits modulo 11."""
    nums = [int(c) for c in body]
    for size in (9, 10):
        total = sum(n * w for n, w in zip(nums[:size], range(size + 1, 1, -1), strict=True))
        if total * 10 % 11 % 10 != nums[size]:
            return False
    return len(set(body)) > 1


def insee(body: str) -> bool:
    """France: 97 minus the number modulo 97."""
    number = int(body[:13].replace("2A", "19").replace("2B", "18"))
    return 97 - number % 97 == int(body[13:])


def _mixed(body: str) -> bool:
    return any(c.isdigit() for c in body) and any(c.isalpha() for c in body)


def _document(words: str, pattern: str, check: Check = _always) -> Document:
    return Document(
        tuple(words.split("|")), regex(rf"{_GAP}(?<![\w.])({pattern})(?![\w-]|\.\d)", re.ASCII), check
    )


DOCUMENTS: tuple[Document, ...] = (
    _document("dni|nif|nie", r"[XYZ]?\d{7,8}[ -]?[A-Z]", dni),
    _document("cpf", r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}", cpf),
    _document("cnpj", r"\d{2}\.?\d{3}\.?\d{3}/?\d{4}-?\d{2}"),
    _document(
        "insee|nir|curité sociale|curite sociale|carte vitale",
        r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}",
        insee,
    ),
    _document("codice fiscale|codice_fiscale", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]"),
    _document("pesel|burgerservicenummer|bsn|personnummer|fødselsnummer", r"\d{6,9}[-+ ]?\d{2,5}"),
    _document(
        "steuer-id|steuerid|steuernummer|steueridentifikationsnummer",
        r"\d{2}[ /]?\d{3}[ /]?\d{3}[ /]?\d{3,5}",
    ),
    _document(
        "svnr|sozialversicherungsnummer|rentenversicherungsnummer", r"\d{2} ?\d{6} ?[A-Z] ?\d{3}|\d{4} ?\d{6}"
    ),
    _document("aadhaar|aadhar", r"\d{4}[ -]?\d{4}[ -]?\d{4}"),
    _document("pan", r"[A-Z]{5}\d{4}[A-Z]"),
    _document("sin|social insurance", r"\d{3}[ -]?\d{3}[ -]?\d{3}", lambda b: luhn(b)),
    _document("tfn|tax file number|abn", r"\d{2,3} ?\d{3} ?\d{3}(?: ?\d{2,3})?"),
    _document("medicare", r"\d{4} ?\d{5} ?\d|\d[A-Z][A-Z0-9]\d-?[A-Z][A-Z0-9]\d-?[A-Z]{2}\d{2}"),
    _document("nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}"),
    _document("curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d"),
    _document("rfc", r"[A-Z&]{3,4}\d{6}[A-Z0-9]{3}"),
    _document("nric|fin number", r"[STFGM]\d{7}[A-Z]"),
    _document("hkid", r"[A-Z]{1,2}\d{6}\(?[0-9A]\)?"),
    _document("rrn|resident registration|shenfenzheng", r"\d{6}-\d{7}|\d{17}[\dX]"),
    _document("cedula|cédula|dui|nit", r"\d{1,3}(?:[.-]?\d{3}){2,3}(?:-?\d{1,4})?"),
    _document("imei|meid", r"\d{2}[ -]?\d{6}[ -]?\d{6}[ -]?\d(?:\d)?"),
    _document("imsi|iccid", r"\d{15,20}"),
    _document("vin|chassis", r"(?=[A-Z0-9]*\d)[A-HJ-NPR-Z0-9]{17}"),
    _document(
        "license plate|licence plate|number plate|license_plate|licence_plate|licenseplate|numberplate|plate|"
        "registration plate|kennzeichen",
        r"[A-Z0-9]{1,4}(?:[ -]?[A-Z0-9]{1,4}){1,2}",
        lambda b: _mixed(b) and 4 <= len(b) <= 9,
    ),
    _document(
        "driver's license|drivers license|driver license|driver's licence|driving licence|driving license|"
        "drivers_license|driver_license|driverslicense|driverlicense|dl number|dl no",
        r"(?=[A-Z]*\d)[A-Z]{0,5}\d[A-Z0-9-]{4,15}",
    ),
    _document(
        "bank account|account number|account no|account_number|accountnumber|routing number|routing_number|"
        "kontonummer|acct no|acct number",
        r"\d(?:[ -]?\d){5,16}",
    ),
    _document("sort code|sort_code|sortcode|bsb", r"\d{2}[ -]?\d{2}[ -]?\d{2}|\d{3}-\d{3}"),
    _document(
        "swift code|swift/bic|bic",
        r"[A-Z]{4}(?:DE|GB|FR|US|CH|NL|ES|IT|AT|BE|SE|PL|DK|NO)[A-Z0-9]{2}(?:[A-Z0-9]{3})?",
    ),
    _document(
        "medical record|mrn|patient id|patient_id|patient number|health card",
        r"(?=[A-Z-]*\d)[A-Z]{0,4}-?\d{5,12}",
    ),
    _document(
        "postcode|post code|postal code|postal_code|zip code|zipcode|zip_code",
        r"\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}",
    ),
    _document(
        "social security|ssn|national insurance|ni number",
        r"\d{3}[- ]?\d{2}[- ]?\d{4}|[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]",
    ),
    _document("vat id|vat number|vat no|ust-idnr|ustid", r"[A-Z]{2}[A-Z0-9]{8,12}", _mixed),
)
WORDS: tuple[tuple[str, str], ...] = tuple(
    (f"document {number}", word) for number, doc in enumerate(DOCUMENTS) for word in doc.words
)
"""(name of the finder, word in lower case)."""
SHAPES: tuple[tuple[str, str], ...] = (
    ("cpf", "000.000.000-00"),
    ("cnpj", "00.000.000/0000-00"),
    ("ahv", "000.0000.0000.00"),
    ("codice fiscale", "aaaaaa00a00a000a"),
)
"""(name of the finder, digits as 0 and capitals as a): what needs no word beside it."""
_BARE: dict[str, tuple[re.Pattern[str], Check]] = {
    "cpf": (regex(r"(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d{2}(?![\w.])", re.ASCII), cpf),
    "cnpj": (regex(r"(?<![\w.])\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}(?!\w)", re.ASCII), _always),
    "ahv": (regex(r"(?<![\w.])756\.\d{4}\.\d{4}\.\d{2}(?![\w.])", re.ASCII), _always),
    "codice fiscale": (regex(r"(?<!\w)[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z](?!\w)"), _always),
}
Finder = Callable[[str, int, int, list[Hit]], int]


def _after_word(doc: Document) -> Finder:
    def find(text: str, start: int, end: int, out: list[Hit]) -> int:
        if end < len(text) and (text[end].islower() or text[end].isdigit()) and text[end - 1] != "_":
            return 0  # "panel", "niece", "planet"
        match = doc.pattern.match(text, end)
        if match is None or not _good(doc.check, match[1]):
            return 0
        out.append(Hit(match.start(1), match.end(1), "id_number"))
        return match.end()

    return find


def _good(check: Check, found: str) -> bool:
    try:
        return check(re.sub(r"[^A-Za-z0-9]", "", found))
    except (ValueError, IndexError):
        return False


def _by_shape(name: str) -> Finder:
    pattern, check = _BARE[name]

    def find(text: str, start: int, end: int, out: list[Hit]) -> int:
        match = pattern.match(text, start)
        if match is None or not _good(check, match[0]):
            return 0
        out.append(Hit(match.start(), match.end(), "id_number"))
        return match.end()

    return find


FINDERS: dict[str, Finder] = {
    **{f"document {number}": _after_word(doc) for number, doc in enumerate(DOCUMENTS)},
    **{name: _by_shape(name) for name in _BARE},
}
KEY = regex(
    r"(?i)(?:^|[_-])(?:dni|nif|nie|cpf|cnpj|insee|nir|pesel|bsn|aadhaar|pan|nric|curp|imei|imsi|vin|"
    r"(?:license|licence|number|registration)?[_-]?plate|mrn|nhs|tfn|hkid|steuer[_-]?id|sort[_-]?code|"
    r"(?:bank|routing)[_-]?(?:account|number)|drivers?[_-]?licen[cs]e|postcode|postal[_-]?code|zip(?:[_-]?code)?|"
    r"(?:passport|driver'?s?[_-]?licen[cs]e|tax[_-]?id|national[_-]?id|account|ni|vat|patient|document|id[_-]?card)"
    r"(?:[_-]?(?:number|no|id))?|ssn|social[_-]?security(?:[_-]?number)?)$"
)
"""Keys of JSON objects whose value is such a number."""
