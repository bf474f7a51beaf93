"""Surrogates: valid for their type, stable under a key, distinct, and known as what they are."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import string
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.corpus.scrub.rules import crc32_base62
from gt_plugins.corpus.scrub.scan import luhn
from gt_plugins.corpus.scrub.seal import is_sealed
from gt_plugins.corpus.scrub.surrogates import Surrogates, iban_check, is_surrogate

KEY = b"k" * 32
ORIGINALS = {
    "github_token": "16C7e42F292c6912E7710c838347Ae178B4a",
    "slack_token": "123456789012",
    "password": "hunter2!",
    "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJlc2lnbmF0dXJl",
    "basic_auth": base64.b64encode(b"alice:hunter2").decode(),
    "email": "alice.jones@acme.io",
    "user": "ajones",
    "person": "Alice Jones",
    "host": "git.acme.corp",
    "ipv4": "203.0.113.9",
    "ipv6": "2a02:8109::7",
    "mac": "3c:22:fb:9a:10:7e",
    "phone": "+1 (415) 555-0132",
    "credit_card": "4111 1111 1111 1111",
    "ssn": "536-22-1234",
    "iban": "GB82 WEST 1234 5698 7654 32",
    "birth_date": "1985-03-12",
    "address": "742 Evergreen Terrace, Springfield, IL 62704",
    "coordinate": "-122.419416",
    "id_number": "X1234567",
    "private_key": "MIIEowIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVW4FQnRnLmTLXz8kq7eL",
    "number": "83745612",
    "seed_phrase": "legal winner thank year wave sausage worth useful legal winner thank yellow",
    "denied": "Project Falcon",
    "somebody_elses_kind": "AB-12345678-XY",
}


def maker(key: bytes = KEY) -> Surrogates:
    return Surrogates(key, lambda text: text)


@pytest.mark.parametrize("kind", ORIGINALS)
def test_a_surrogate_is_stable_keyed_and_left_alone(kind: str) -> None:
    original = ORIGINALS[kind]
    fresh = maker().make(kind, original)
    assert fresh != original
    assert maker().make(kind, original) == fresh, "another process makes another one"
    assert maker(b"other key" * 4).make(kind, original) != fresh
    assert not maker().is_own(kind, original)
    assert maker().is_own(kind, fresh)
    assert maker(b"other key" * 4).make(kind, fresh) == fresh, "a surrogate of another key was replaced"
    assert json.loads(f'"{fresh}"') == fresh, "breaks JSON"
    assert not re.search(r"[\n$`;|&<>*?]", fresh), "breaks a command"


def test_tokens_keep_length_alphabet_and_punctuation() -> None:
    make = maker().make
    assert re.fullmatch(r"[A-Za-z0-9]{36}", make("github_token", ORIGINALS["github_token"]))
    assert re.fullmatch(r"[0-9a-f]{64}", make("x", "0f" * 32))
    assert re.fullmatch(r"[A-Z2-7]{16}", make("aws_access_key", "IOSFODNN7EXAMPLQ"))
    assert re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", make("x", "3d58e141-03cf-41f5-97a4-0bcb1b9d2f78")
    )
    assert re.fullmatch(r"\w{22}\.\w{43}", make("sendgrid_key", "a1" * 11 + "." + "b2" * 21 + "c"))


def test_a_password_tells_neither_its_length_nor_its_alphabet() -> None:
    assert len(maker().make("password", "1234")) == len(maker().make("password", "x" * 40)) == 16


def test_people_and_places_stay_what_they_were() -> None:
    make = maker().make
    assert re.fullmatch(r"user-[a-z0-9]{12}@example\.com", make("email", ORIGINALS["email"]))
    assert re.fullmatch(r"user-[a-z0-9]{12}%40example\.com", make("email", "a%40b.io"))
    assert ipaddress.ip_address(make("ipv4", "8.7.6.5")).is_reserved
    assert ipaddress.ip_address(make("ipv6", "2a02::7")) in ipaddress.ip_network("2001:db8::/32")
    assert int(make("mac", ORIGINALS["mac"])[:2], 16) & 2, "not locally administered"
    card = make("credit_card", ORIGINALS["credit_card"])
    assert re.fullmatch(r"4\d{3}( \d{4}){3}", card)
    assert luhn(card.replace(" ", ""))
    iban = make("iban", ORIGINALS["iban"]).replace(" ", "")
    assert iban[:2] == "GB" and len(iban) == 22 and iban[2:4] == iban_check("GB", iban[4:])
    assert re.fullmatch(r"\+1 \(\d9\d\) \d{3}-\d{4}", make("phone", ORIGINALS["phone"]))
    assert (
        re.fullmatch(r"\+99 \d{2} \d{4} \d{4}".replace("99 ", "99 9"), make("phone", "+44 20 7946 0958"))
        is None
    )
    assert make("phone", "+44 20 7946 0958").startswith("+99 9")
    assert re.fullmatch(r"9\d\d-\d\d-\d{4}", make("ssn", ORIGINALS["ssn"]))
    assert re.fullmatch(r"1[78]\d\d-\d\d-\d\d", make("birth_date", "1985-03-12"))
    assert re.fullmatch(r"[A-Z][a-z]{2,8} \d{1,2}, 1[78]\d\d", make("birth_date", "March 4, 1971"))
    assert make("number", "83745612").isdecimal() and make("number", "1234")[0] != "0"


def test_names_keep_words_and_case() -> None:
    make = maker().make
    assert make("person", "ALICE JONES") == make("person", "Alice Jones").upper()
    assert make("person", "alice jones") == make("person", "Alice Jones").lower()
    assert make("person", "Alice Jones").istitle()
    assert len(make("person", "Anna Maria Jones").split()) == 3


def test_wrapping_kinds_stay_decodable() -> None:
    user, _, password = (
        base64.b64decode(maker().make("basic_auth", ORIGINALS["basic_auth"])).decode().partition(":")
    )
    assert user == "alice" and password != "hunter2"
    head, body, _ = maker().make("jwt", ORIGINALS["jwt"]).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["typ"] == "JWT"
    assert set(json.loads(base64.urlsafe_b64decode(body + "=="))) == {"sub"}


def test_a_github_surrogate_fails_githubs_own_checksum() -> None:
    real = "a" * 29 + "7"
    token = real + crc32_base62(real)
    fresh = maker().make("github_token", token)
    assert crc32_base62(fresh[:-6]) != fresh[-6:]


@given(st.text(alphabet="abcdefABCDEF0123456789xyzXYZ-_.", min_size=1, max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_token_gets_one_sealed_surrogate(original: str) -> None:
    fresh = maker().make("token", original)
    assert maker().make("token", fresh) == fresh
    assert is_surrogate(fresh)


@pytest.mark.parametrize("kind", ["token", "password", "email", "person", "base64", "seed_phrase"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_percent_encoded_original_has_the_same_surrogate(kind: str, data: st.DataObject) -> None:
    made = {"email": st.just("ann+x@acme.io"), "seed_phrase": st.just("legal winner thank year wave")}
    original = data.draw(made.get(kind, st.text("abcXYZ019+/=:._ !$üß", min_size=4, max_size=40)))
    told = urllib.parse.quote(original, safe=data.draw(st.sampled_from(["", "/", "+=", "@"])))
    fresh = maker().make(kind, told)
    assert urllib.parse.unquote(fresh) == maker().make(kind, original)
    assert maker().make(kind, fresh) == fresh
    if "%" in told:
        plainly = set(told) | set(string.ascii_letters + string.digits + "-._~%")
        assert set(fresh) <= plainly, "has what would end a word of an address"


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=30, unique=True))
@settings(max_examples=100, deadline=None)
def test_different_originals_differ(originals: list[str]) -> None:
    made = [maker().make("password", o) for o in originals]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("email", "user{}@acme.io"),
        ("ipv4", "10.1.{}.7"),
        ("host", "build{}.acme.corp"),
        ("user", "worker{}"),
        ("person", "Ann Number{}"),
        ("phone", "(415) 555-{:04d}"),
        ("credit_card", "4111 1111 1111 {:04d}"),
        ("token", "key{:09d}abcdef"),
    ],
)
def test_hundreds_of_originals_stay_apart(kind: str, form: str) -> None:
    made = {maker().make(kind, form.format(i)) for i in range(250)}
    assert len(made) == 250


@given(
    st.text(
        alphabet="0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=16, max_size=64
    )
)
@settings(max_examples=500, deadline=None)
def test_no_foreign_string_passes_for_a_surrogate(text: str) -> None:
    assert not is_sealed(text)


@given(st.one_of(st.text(max_size=40), st.text("0123456789.-: /@ABCdef", max_size=24)))
@settings(max_examples=500, deadline=None)
def test_whatever_a_text_is_it_is_a_surrogate_or_none(text: str) -> None:
    assert is_surrogate(text) in (True, False)
