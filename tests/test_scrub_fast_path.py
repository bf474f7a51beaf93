"""The fast path changes nothing: not what is looked at behind a keyword, no batch and no cache.

The slow path searches every keyword alone, whatever follows it, one string after the other, and remembers
nothing between two of them.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scrub_helpers import scrubber
from scrub_plants import CONTEXTS, HARD_NEGATIVES, forms, personal, structured

from gt_plugins.corpus.scrub import assignments, decoding, encoded, rules, scan, secrets
from gt_plugins.corpus.scrub import personal as personal_layer
from gt_plugins.corpus.scrub.engine import Scrubber
from gt_plugins.transcripts.model import Session, Turn

WORDS = "the pass token was set testing a single street passed sk_ re_build st.it 0.5 auth: none".split()
PIECES = (*WORDS, "=", ": ", '"', "\\n", "\n", "Xk3", "9f8a7d6c5b4a", "hunter2x")
KEYS = ("command", "content", "password", "token", "phone", "file_path", "value", "name", "old_string")


def literal_only(text: str, after: str = "", more: int = 0, exact: bool = False) -> scan.Mark:
    return scan.word(text)


@pytest.fixture(scope="module")
def slow_layers() -> Iterator[dict[str, Any]]:
    """The machines of both layers without a look behind a keyword."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (rules, secrets, personal_layer):
            patch.setattr(module, "word", literal_only)
        patch.setattr(assignments, "PASS", literal_only("pass"))
        made = {"secrets": secrets._Machine(), "personal": personal_layer._Machine()}
    marks = [mark for machine in made.values() for mark in machine.marks.marks]
    assert all(mark.more == 0 for mark in marks)
    yield made


def slow(texts: list[str], layers: dict[str, Any]) -> list[str]:
    """Each text by a scrubber of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_machine", lambda: layers["secrets"])
        patch.setattr(personal_layer, "_machine", lambda: layers["personal"])
        return [scrubber().text(text)[0] for text in texts]


def texts_of(rng: random.Random) -> list[str]:
    """Prose and logs with plants among them, as they are, escaped, percent-encoded and in base64."""
    plants = [p.text for p in (*structured(rng), *forms(rng), *personal(rng))] + list(HARD_NEGATIVES)
    encoders = [*CONTEXTS.values(), quote, partial(json.dumps), str]
    texts = []
    for _ in range(12):
        parts = [" ".join(rng.choices(WORDS, k=6)) for _ in range(4)]
        parts.insert(rng.randrange(4), rng.choice(encoders)(rng.choice(plants)))
        texts.append("\n".join(parts))
    return texts + texts[:2]


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=12, deadline=None)
def test_texts_come_out_the_same(seed: int, slow_layers: dict[str, Any]) -> None:
    texts = texts_of(random.Random(seed))
    fast = scrubber()
    assert fast.value(texts)[0] == slow(texts, slow_layers), "in one batch"
    assert [fast.text(text)[0] for text in texts] == slow(texts, slow_layers), "remembered"


@given(text=st.lists(st.sampled_from(PIECES)))
@settings(max_examples=60, deadline=None)
def test_hits_are_the_same(text: list[str], slow_layers: dict[str, Any]) -> None:
    """Keywords in any company, also glued to one another: what each layer finds."""
    for glue in (" ", ""):
        whole = glue.join(text)
        fast = [sorted(set(map(str, layer.find(whole)))) for layer in scrubber().layers[:2]]
        stack = scan.Haystack(whole)
        assert fast[0] == sorted(set(map(str, slow_layers["secrets"].find(stack))))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(personal_layer, "_machine", lambda: slow_layers["personal"])
            assert fast[1] == sorted(set(map(str, personal_layer.find(whole))))


BEHIND = (
    " " * 12,
    " " * 6,
    '\\"',
    ": str | None",
    "**",
    ": str, ",
    ": ",
    " = ",
    "=",
    " ",
    ")",
    ".",
    "None\n",
    "Xk3",
    "9f8a7d6c5b4a!",
    "\n",
    '"',
    "int\n",
    "x" * 30,
)


@given(key=st.sampled_from(("token", "api_key", "password", "creds", "max_tokens")), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_glance_behind_a_key_hides_nothing(key: str, data: st.DataObject) -> None:
    text = key + "".join(data.draw(st.lists(st.sampled_from(BEHIND), max_size=6)))
    found = secrets.find(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignments, "_holds_nothing", lambda key, behind: not assignments._strength(key))
        assert found == secrets.find(str(text))


def test_a_type_far_behind_a_key_is_no_value() -> None:
    text = '**auth_token**            : str | None      = "x9Kd83hfLq02mZpT7w"'
    assert "x9Kd83hfLq02mZpT7w" not in scrubber().text(text)[0]


def session(rng: random.Random) -> Session:
    """A session whose blocks hold texts under many keys, nested, and numbers and pictures beside them."""
    turns = []
    for number, text in enumerate(texts_of(rng)):
        key = rng.choice(KEYS)
        inner: Any = {key: text, "n": number * 1000, "list": ["--token", text.split()[0], {"deep": text}]}
        blocks: list[Any] = [
            {"type": "tool_use", "id": f"toolu_{number:08d}", "name": "Bash", "input": inner}
        ]
        if number % 4 == 0:
            picture = {"type": "base64", "media_type": "image/png", "data": "QUJD" * 40}
            blocks.append({"type": "image", "source": picture})
        if number % 5 == 0:
            blocks = [{"type": "text", "text": "nothing here"}, {"password": 123456 + number}]
        turns.append(Turn(f"t{number}", "assistant", tuple(blocks)))
    return Session("s", "claude", tuple(turns), cwd="/town")


def whole(scrub: Scrubber, value: Any) -> Any:
    """The slow way to a session's blocks: one value, all of it built anew."""
    return scrub.value(value)[0]


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=8, deadline=None)
def test_a_session_is_scrubbed_as_each_of_its_turns_alone(seed: int) -> None:
    given_session = session(random.Random(seed))
    scrubbed, counts = scrubber().session(given_session)
    alone = [whole(scrubber(), list(turn.blocks)) for turn in given_session.turns]
    assert [list(turn.blocks) for turn in scrubbed.turns] == alone
    assert sum(counts.values()) == sum(
        sum(scrubber().value(list(turn.blocks))[1].values()) for turn in given_session.turns
    )


def test_a_turn_that_shares_nothing_with_what_was_found_is_not_built_anew() -> None:
    quiet = Turn("quiet", "user", ({"type": "text", "text": "nothing to see"},))
    found = session(random.Random(0))
    scrubbed, counts = scrubber().session(Session("s", "claude", (quiet, *found.turns), cwd="/town"))
    assert counts and scrubbed.turns[0] is quiet


def text_bytes() -> st.SearchStrategy[bytes]:
    """Text as it is put in base64: UTF-8, and UTF-16 of ASCII."""
    words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co", "Zl", "Zp")), min_size=9)
    plain = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=9)
    return st.one_of(words.map(str.encode), plain.map(lambda t: t.encode("utf-16-le")))


@settings(max_examples=400, deadline=None)
@given(text_bytes())
def test_every_text_passes_the_look_at_the_head_of_its_base64(raw: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert decoding.TEXT_HEAD.match(encode(raw).decode())


@settings(max_examples=400, deadline=None)
@given(st.binary(min_size=9, max_size=60))
def test_what_fails_that_look_is_no_text(raw: bytes) -> None:
    if not decoding.TEXT_HEAD.match(base64.b64encode(raw).decode()):
        assert decoding.plain_text(raw) is None


_LOCAL = "[A-Za-z0-9][A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9]"


@settings(max_examples=200, deadline=None)
@given(st.from_regex(f"{_LOCAL}@[A-Za-z0-9]{{1,20}}[.](?:com|dev|org)", fullmatch=True))
def test_scrubadub_takes_every_address_it_is_not_asked_about(address: str) -> None:
    assert personal_layer._scrubadub("email", address)


class EveryTwelve:
    """Every twelve of every run of letters and digits, whatever is in it."""

    def hits(self, data: bytes) -> list[tuple[int, int, int]]:
        runs = re.finditer(rb"[A-Za-z0-9]{12,}", data)
        starts = (at for run in runs for at in range(run.start(), run.end() - 11, 12))
        return [(0, at, at + 12) for at in starts]


def encodings(plain: bytes) -> list[str]:
    digits = plain.hex()
    return [base64.b64encode(plain).decode(), digits, digits.upper(), digits.swapcase().title()]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_run_that_holds_something_is_passed_over(data: st.DataObject) -> None:
    plain = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=9, max_size=40)
    encoded_text = plain.map(str.encode).map(encodings).flatmap(st.sampled_from)
    runs = st.text("abcDEF019", min_size=1, max_size=30)
    heads = st.sampled_from(
        ("pat" + "Xy3" * 4 + "ab.", "MTIzNDU2Nzg5MDEyMzQ1Njc4.", "\\n", "%41", "é", ".", " ", "/", "_")
    )
    pieces = st.one_of(encoded_text, runs, heads, st.just("0123456789abcdef" * 4))
    text = "".join(data.draw(st.lists(pieces, max_size=8)))
    found = encoded.find(scan.Haystack(text), bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "_candidates", EveryTwelve)
        assert found == encoded.find(scan.Haystack(text), bool)
