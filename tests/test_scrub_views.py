"""What hides behind an encoding is found where it stands; numbers of documents by check digit or by name."""

from __future__ import annotations

import html
import json
import re
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrub_helpers import KEY, scrubber

from gt_plugins.corpus.scrub.scan import Haystack
from gt_plugins.corpus.scrub.surrogates import Surrogates
from gt_plugins.corpus.scrub.views import views

SECRET = "kR7pq2Lw9xTz4vB8nM1c"
LINE = f'{{"api_key": "{SECRET}", "n": 1}}'
WAYS: dict[str, Callable[[str], str]] = {
    "percent": lambda s: urllib.parse.quote(s, safe=""),
    "percent twice": lambda s: urllib.parse.quote(urllib.parse.quote(s, safe=""), safe=""),
    "html": html.escape,
    "unicode": lambda s: s.replace('"', "\\u0022"),
    "hexadecimal": lambda s: s.replace('"', "\\x22"),
    "colours": lambda s: s.replace(":", "\x1b[0m:\x1b[32m"),
    "deep": lambda s: json.dumps(json.dumps(json.dumps(json.dumps(s)))),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_an_encoded_secret_goes_and_the_rest_stays(way: str) -> None:
    text = f"before {WAYS[way](LINE)} after"
    fresh, counts = scrubber().text(text)
    assert SECRET not in fresh and counts.total() == 1
    start = text.index(SECRET)
    assert fresh.startswith(text[:start]) and fresh.endswith(text[start + len(SECRET) :])
    assert scrubber().text(fresh)[0] == fresh


@given(st.text(alphabet=st.characters(codec="latin-1"), max_size=120), st.text(max_size=40))
def test_a_view_leads_back_to_where_it_came_from(plain: str, around: str) -> None:
    text = f"{around} x%3D{urllib.parse.quote(plain, safe='')}%22 {around}"
    for view in views(Haystack(text)):
        for at, char in enumerate(view.text):
            start, end = view.span(at, at + 1)
            assert view.start <= start < end <= view.end
            assert text[start:end] == char or end - start > 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("DNI 12345678Z", "12345678Z"),
        ("cpf: 529.982.247-25", "529.982.247-25"),
        ("529.982.247-25", "529.982.247-25"),
        ("NIR 1 85 05 78 006 084 91", "1 85 05 78 006 084 91"),
        ("IMEI 490154203237518", "490154203237518"),
        ('"vin": "1HGCM82633A004352"', "1HGCM82633A004352"),
        ("license plate AB12 CDE", "AB12 CDE"),
        ("RSSMRA85T10A562S", "RSSMRA85T10A562S"),
        ("lives at 12 rue de Rivoli", "12 rue de Rivoli"),
        ("Hauptstraße 5, 10115 Berlin", "Hauptstraße 5"),
        ("gps: 48.858370, 2.294481", "48.858370"),
    ],
)
def test_documents_and_places(text: str, value: str) -> None:
    assert value not in scrubber().text(f"note {text} end")[0]


@pytest.mark.parametrize(
    "text",
    [
        "DNI 12345678A",
        "control panel 4, niece 12345678",
        "boilerplate 12 AB",
        "sin(123456789)",
        "version 529.982.247-24",
        "losses (0.123456, 0.654321), (1.2345678, 2.3456789)",
        "the rue des tests",
        "via the gate 4",
    ],
)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert scrubber().text(text)[0] == text


def test_every_day_has_a_surrogate_of_its_own() -> None:
    make = Surrogates(KEY, lambda t: t).make
    days = [
        f"{year}-{month:02d}-{day:02d}"
        for year in (1961, 1987)
        for month in range(1, 13)
        for day in range(1, 29)
    ]
    fresh = {make("birth_date", day) for day in days}
    assert len(fresh) == len(days)
    assert all(re.fullmatch(r"1[78]\d\d-\d\d-\d\d", day) for day in fresh)
    assert make("birth_date", "March 4, 1971").split()[-1] == make("birth_date", "1971-03-04")[:4]
