"""Surrogates of an example's own: consistent in it, valid for their type, none of the corpus' left."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_helpers import answered, assistant, called, conversation, said, user
from test_scrub_surrogates import ORIGINALS

from gt_plugins.corpus.dataset import Example, Finder, Redraw, to_row
from gt_plugins.corpus.scrub.engine import Scrubber
from gt_plugins.corpus.scrub.layers import Policy
from gt_plugins.corpus.scrub.scan import luhn
from gt_plugins.corpus.scrub.surrogates import Surrogates

KEY = b"k" * 32
NUMBERS = {"phone", "birth_date", "coordinate", "id_number"}
SEALED = [k for k in ORIGINALS if k not in NUMBERS]
"""Types that are known by their form alone; the others need the layers, which see what stands around."""


def surrogate(kind: str, original: str) -> str:
    return Surrogates(KEY, lambda text: text).make(kind, original)


def example_of(*texts: str, name: str = "s1/chat") -> Example:
    messages = [user(said(texts[0])), assistant(said("I look."), called(f"cat {texts[-1]}"))]
    messages += [user(answered(text)) for text in texts] + [assistant(said(f"Seen: {' '.join(texts)}"))]
    return Example(name, "chat", "deacon", "s1", (), "good", False, (), conversation(messages))


def redraw() -> Redraw:
    return Redraw(b"r" * 32, Finder(Scrubber(Policy("p", KEY)).surrogates_in))


@pytest.mark.parametrize("kind", SEALED)
def test_a_sealed_surrogate_is_found_in_any_text(kind: str) -> None:
    made = surrogate(kind, ORIGINALS[kind])
    for around in (
        "{}",
        "key={} and more",
        '"{}"',
        "({}).",
        "see\\n{}\\n",
        "a {}, b",
        "https://x.io/?t={}&u=1",
    ):
        if kind == "seed_phrase" and "https" in around:
            continue
        drawn = redraw().example(example_of(around.format(made)))
        assert made not in json.dumps(to_row(drawn)), around


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("call me at {}", "phone"),
        ("date of birth: {}", "birth_date"),
        ("passport number: {}", "id_number"),
        ("Authorization: Basic {}", "basic_auth"),
        ("lat: {}", "coordinate"),
    ],
)
def test_the_layers_find_what_has_no_seal(text: str, kind: str) -> None:
    made = surrogate(kind, ORIGINALS[kind])
    drawn = redraw().example(example_of(text.format(made)))
    assert made not in json.dumps(to_row(drawn))


kinds = st.lists(st.sampled_from(SEALED), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(kinds, st.lists(st.text(st.characters(codec="ascii"), max_size=20), min_size=1, max_size=5))
def test_an_example_is_consistent_and_nothing_of_the_corpus_is_left(
    found: list[str], words: list[str]
) -> None:
    made = {kind: surrogate(kind, ORIGINALS[kind]) for kind in found}
    text = "\n".join(f"{word} {s} {word}" for word, s in zip(words * 5, made.values(), strict=False))
    before, after = example_of(text), redraw().example(example_of(text))
    assert after == redraw().example(before), "the same example is drawn twice"
    told = [json.dumps(to_row(e)["messages"], ensure_ascii=False) for e in (before, after)]
    for old in made.values():
        assert old not in told[1]
    results = [b["content"] for m in after.conversation.messages for b in m.blocks if "content" in b]
    said_last = after.conversation.messages[-1].blocks[0]["text"]
    assert said_last == f"Seen: {results[0]}", "one surrogate became two"
    other = redraw().example(example_of(text, name="s2/chat"))
    assert not set(fresh_of(before, after)) & set(fresh_of(before, other)), "two examples share one"


def fresh_of(before: Example, after: Example) -> list[str]:
    finder = Finder()
    known = set(finder.kinds(before.text()))
    return [s for s in finder.kinds(after.text()) if s not in known]


def drawn_for(kind: str) -> str:
    old = surrogate(kind, ORIGINALS[kind])
    fresh = Redraw(b"r" * 32, Finder(lambda text: [(0, len(text), kind)])).fresh("x", [old])
    assert fresh[old] != old
    return fresh[old]


VALID: dict[str, Any] = {
    "email": lambda s: re.fullmatch(r"user-[a-z0-9]{12}@example\.com", s),
    "ipv4": lambda s: ipaddress.ip_address(s).version == 4,
    "ipv6": lambda s: ipaddress.ip_address(s).version == 6,
    "credit_card": lambda s: luhn(s.replace(" ", "")) and len(s) == 19,
    "jwt": lambda s: json.loads(base64.urlsafe_b64decode(s.split(".")[1] + "==="))["sub"],
    "basic_auth": lambda s: base64.b64decode(s).startswith(b"alice:"),
    "mac": lambda s: re.fullmatch(r"06:47:54(:[0-9a-f]{2}){3}", s),
    "github_token": lambda s: re.fullmatch(r"[A-Za-z0-9]{36}", s),
    "person": lambda s: re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", s),
    "iban": lambda s: s.startswith("GB") and len(s) == len(ORIGINALS["iban"]),
    "ssn": lambda s: re.fullmatch(r"9\d\d-\d\d-\d{4}", s),
    "phone": lambda s: re.fullmatch(r"\+1 \(\d9\d\) \d{3}-\d{4}", s),
    "seed_phrase": lambda s: len(s.split()) == 12,
}


@pytest.mark.parametrize("kind", VALID)
def test_what_is_drawn_is_valid_for_its_type(kind: str) -> None:
    assert VALID[kind](drawn_for(kind))


@pytest.mark.parametrize("kind", ORIGINALS)
def test_what_is_drawn_is_a_surrogate_itself(kind: str) -> None:
    assert Surrogates(KEY, lambda text: text).is_own(kind, drawn_for(kind))


def test_plain_text_stays_as_it_is() -> None:
    text = (
        "Commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b of dm-4kx1 at 2026-03-01T08:00:00Z by 127.0.0.1;\n"
        "session 89be14c8-58c2-413d-8b4f-466d9ebe7126, 20260301 files, necessary-looking/paths/to/file.py,\n"
        "password_hash=${API_KEY} version 1.2.3-rc.4+build.567 https://github.com/example/repo/pull/1234"
    )
    assert redraw().example(example_of(text)) == example_of(text)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
        lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
        lambda text: text.encode().hex(),
    ],
    ids=["base64", "UTF-16", "twice", "hex"],
)
def test_what_stands_inside_an_encoding_is_redrawn_too(wrap: Callable[[str], str]) -> None:
    scrub = Scrubber(Policy("p", KEY))
    clean = scrub.text("token=ghp_1B4a9cD2eF6gH8iJ0kLmN3oPqR5sT7uV1w2X end")[0]
    stored = scrub.text(wrap(clean))[0]
    assert stored == wrap(clean), "a surrogate stays, wrapped or not"
    after = [redraw().example(example_of(stored, name=name)).text() for name in ("s1/chat", "s2/chat")]
    assert not any(stored in text for text in after) and after[0] != after[1]
    plain = redraw().fresh("s1/chat", [stored, clean])
    assert plain[stored] == wrap(clean.replace(*next(p for p in plain.items() if p[0] in clean)))
