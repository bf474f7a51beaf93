"""The engine: properties over any mix of texts, JSON shape, sessions, plugins, lists, errors."""

from __future__ import annotations

import base64
import json
import random
import re
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scrub_helpers import KEY, scrubber
from scrub_plants import CONTEXTS, HARD_NEGATIVES, TOKENS, Plant, personal, secret_of, structured

from gt_plugins.corpus.scrub.engine import POLICY_VERSION, Scrubber, scrubber_for
from gt_plugins.corpus.scrub.layers import SEPARATOR, Exact, Hit, Layer, ScrubError
from gt_plugins.corpus.scrub.policy import build_policy
from gt_plugins.corpus.scrub.surrogates import BLANK_MEDIA
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session, Turn

GLUE = (
    "",
    " ",
    "\n",
    '"',
    "'",
    "=",
    ":",
    "@",
    "/",
    "\\",
    "\\n",
    "-",
    "_",
    ".",
    ",",
    "%20",
    "%3D",
    "&",
    "?",
    "://",
)
GLUE += (
    "token=",
    "password: ",
    '{"a": "',
    '"}',
    "\u00e9",
    "\x1b[1m",
    "\x00",
    SEPARATOR,
    "Bearer ",
    "Basic ",
    "--token ",
)
RELAXED = settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHARED = scrubber(deny=["Project Falcon"])


@st.composite
def plants(draw: st.DrawFn) -> Plant:
    rng = random.Random(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(TOKENS)))
        token = TOKENS[kind](rng)
        return Plant(kind, token, token)
    return draw(st.sampled_from(structured(rng) + personal(rng)))


@st.composite
def mixtures(draw: st.DrawFn) -> str:
    """Plants, harmless lines and any text, glued by what stands between things in transcripts."""
    piece = st.one_of(
        plants().map(lambda p: p.text),
        plants().map(secret_of),
        st.sampled_from(HARD_NEGATIVES),
        st.text(max_size=30),
    )
    parts = draw(st.lists(st.tuples(piece, st.sampled_from(GLUE)), min_size=1, max_size=5))
    text = "".join(a + b for a, b in parts)
    return draw(st.sampled_from([text, json.dumps(text), json.dumps({"x": json.dumps(text)})]))


def json_values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves = st.one_of(texts, st.none(), st.booleans(), st.integers(-999, 999), st.floats(allow_nan=False))
    keys = st.sampled_from(["a", "id", "text", "command", "password_hash", "content", "tool_use_id"])
    return st.recursive(
        leaves,
        lambda x: st.one_of(st.lists(x, max_size=4), st.dictionaries(keys, x, max_size=4)),
        max_leaves=12,
    )


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value]
    return type(value).__name__ if isinstance(value, str) else value


@given(mixtures())
@RELAXED
def test_scrubbing_scrubbed_text_changes_nothing(text: str) -> None:
    once, _ = SHARED.text(text)
    assert SHARED.text(once) == (once, {})
    assert scrubber(deny=["Project Falcon"]).text(once) == (once, {}), "another process differs"


@given(mixtures())
@RELAXED
def test_what_was_json_stays_json_of_the_same_shape(text: str) -> None:
    document = json.dumps({"out": text, "n": [1, {"inner": text}]})
    fresh = json.loads(SHARED.text(document)[0])
    assert shape(fresh) == shape(json.loads(document))


@given(json_values(mixtures()))
@RELAXED
def test_values_keep_their_shape(value: Any) -> None:
    fresh, counts = SHARED.value(value)
    assert shape(fresh) == shape(value)
    assert (fresh == value) == (not counts)
    assert SHARED.value(fresh) == (fresh, {})


@given(plants(), st.sampled_from(sorted(CONTEXTS)), st.text(alphabet=" \n.,;()[]abc", max_size=20))
@RELAXED
def test_a_planted_secret_never_stays(plant: Plant, context: str, around: str) -> None:
    text = f"{around}\n{CONTEXTS[context](plant.text)}\n{around}"
    for out in (
        SHARED.text(text)[0],
        json.dumps(SHARED.value({"content": [{"text": text}]})[0], ensure_ascii=False),
    ):
        assert secret_of(plant) not in out


@given(plants())
@RELAXED
def test_the_same_secret_is_the_same_surrogate_everywhere(plant: Plant) -> None:
    alone = SHARED.text(plant.text)[0]
    assert SHARED.text(f"first\n{plant.text}\nlast")[0] == f"first\n{alone}\nlast"
    assert scrubber(deny=["Project Falcon"]).text(plant.text)[0] == alone
    assert scrubber(key=b"x" * 32).text(plant.text)[0] != alone


@given(st.text(max_size=300) | st.text(alphabet='\\"u0nrt{}[]:,@=/', max_size=300))
@RELAXED
def test_any_text_at_all(text: str) -> None:
    SHARED.text(text)
    SHARED.value({text: text, "password": text})


@given(st.lists(mixtures().map(lambda text: text.replace("\x00", " ")), min_size=2, max_size=6))
@RELAXED
def test_a_text_becomes_the_same_alone_and_among_others(texts: list[str]) -> None:
    together = scrubber()._many(dict.fromkeys(texts))
    for text in texts:
        alone = scrubber()._many([text])
        assert together.get(text, (text,))[0] == alone.get(text, (text,))[0]


@pytest.mark.parametrize(
    "text",
    [
        "const refreshToken = 'FDHNaMtOExmmFKH3WBtNjhgH0TXBoQ_O\\ncyGjAdF",
        'REFRESH_TOKEN="ta7Xqm2Pz8DpbuQUdGuYkTgRG8kQkndsNW6hIRwpQcs6',
        "\x1b[32mann.petrov@corp-mail.org wrote",
    ],
)
def test_what_a_text_is_cut_off_in_or_begins_with_hides_nothing(text: str) -> None:
    (first, second), counts = scrubber().value([text, "the next one: \"quoted\" and 'quoted'"])
    assert first != text and second.startswith("the next") and sum(counts.values()) == 1


def test_lone_surrogates_and_nul_are_fine() -> None:
    text = "\ud800 token=Ab12Cd34Ef56Gh78 \udfff \x00 password: hunter2! \x00"
    out, counts = SHARED.text(text)
    assert "Ab12" not in out and "hunter2" not in out and sum(counts.values()) == 2
    assert out.startswith("\ud800 token=") and out.endswith("\x00")


# --- values


def test_ids_pairing_and_plain_keys_stay() -> None:
    value = {
        "uuid": "3d58e141-03cf-41f5-97a4-0bcb1b9d2f78",
        "message": {
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
            "content": [
                {
                    "type": "tool_use",
                    "id": "toolu_01A09q90qw90lq917835lq9",
                    "name": "Bash",
                    "input": {"command": "ls"},
                },
                {"type": "tool_result", "tool_use_id": "toolu_01A09q90qw90lq917835lq9", "content": "ok"},
            ],
        },
    }
    assert SHARED.value(value) == (value, {})
    assert SHARED.value(value)[0] is value


def test_an_id_field_is_no_hiding_place() -> None:
    token = TOKENS["github_pat"](random.Random(1))
    assert token not in json.dumps(SHARED.value({"id": token, "tool_use_id": f"x {token}"})[0])


def test_secrets_in_keys_numbers_and_tuples() -> None:
    token = TOKENS["npm"](random.Random(1))
    fresh, counts = SHARED.value({token: 1, "password": 12345678, "pair": (token, 2), "max_tokens": 32000})
    assert token not in json.dumps(fresh)
    assert (
        next(iter(fresh.values())) == 1
        and isinstance(fresh["password"], int)
        and fresh["password"] != 12345678
    )
    assert isinstance(fresh["pair"], tuple) and fresh["max_tokens"] == 32000
    assert counts == {"npm_token": 2, "password": 1}
    assert SHARED.value(fresh) == (fresh, {})


@pytest.mark.parametrize(
    ("key", "number"),
    [("phone", 4915112345678), ("password", 123456), ("pin", -90210), ("ssn", 856456789), ("password", 1e24)],
)
def test_numbers_are_told_by_their_key(key: str, number: float) -> None:
    """A number beyond 64 bits comes as a float from the reader."""
    value = {"deep": [{key: number, "limit": 4915112345678, "ratio": 4915.5, "timeout": 600000}]}
    fresh, counts = SHARED.value(value)
    made = fresh["deep"][0].pop(key)
    assert type(made) is int and made != number and (made < 0) == (number < 0)
    assert fresh["deep"][0] == {"limit": 4915112345678, "ratio": 4915.5, "timeout": 600000}
    assert sum(counts.values()) == 1
    assert SHARED.value({key: made}) == ({key: made}, {}), "a surrogate stays"
    assert SHARED.value({key: number})[0] == {key: made}, "and is the same again"


def test_json_in_a_string_keeps_its_numbers() -> None:
    text = json.dumps({"password": 12345678, "phone": 4155550132, "ok": True}, indent=1)
    fresh = json.loads(SHARED.text(text)[0])
    assert isinstance(fresh["password"], int) and fresh["password"] != 12345678
    assert isinstance(fresh["phone"], int) and fresh["phone"] != 4155550132


def test_pictures_are_replaced_since_nobody_can_look_into_them() -> None:
    data = base64.b64encode(bytes(range(256))).decode()
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    fresh, counts = SHARED.value([block])
    assert fresh[0]["source"]["data"] == BLANK_MEDIA and counts == {"media": 1}
    assert SHARED.value(fresh) == (fresh, {})


def test_counts_are_occurrences_and_totals_name_layers() -> None:
    scrub = scrubber()
    _, counts = scrub.value([{"a": "x@quist.dev"}, {"a": "x@quist.dev"}, {"b": "DB_PASSWORD=hunter22"}])
    assert counts == {"email": 2, "password": 1}
    assert scrub.totals == {("personal", "email"): 2, ("secrets", "password"): 1}


def test_nesting_too_deep_is_an_error_and_no_crash() -> None:
    value: Any = "password=hunter22"
    for _ in range(5000):
        value = [value]
    with pytest.raises(ScrubError) as error:
        SHARED.value(value)
    assert "hunter22" not in str(error.value)


# --- sessions


def session() -> Session:
    token = TOKENS["anthropic"](random.Random(1))
    turns = (
        Turn("u1", "user", ({"type": "text", "text": f"use {token}"},), at="2026-11-23T08:06:14Z"),
        Turn(
            "msg_01XFDUDYJgAACzvnptvVoYEL",
            "assistant",
            (
                {
                    "type": "tool_use",
                    "id": "toolu_01A09q90",
                    "name": "Bash",
                    "input": {"command": f"x --key {token}"},
                },
            ),
        ),
        Turn(
            "u2",
            "user",
            ({"type": "tool_result", "tool_use_id": "toolu_01A09q90", "content": "/home/quist/x"},),
        ),
    )
    return Session(
        "3d58e141-03cf-41f5-97a4-0bcb1b9d2f78", "claude", turns, cwd="/home/quist/town", beads=("hq-1",)
    )


def test_a_session_is_scrubbed_whole_and_stays_joined() -> None:
    old = session()
    fresh, counts = scrubber().session(old)
    text = json.dumps(fresh.to_json())
    assert "quist" not in text and "api03-" in text
    assert counts == {"anthropic_key": 2, "user": 2}
    assert (fresh.id, fresh.beads, [t.id for t in fresh.turns]) == (
        old.id,
        old.beads,
        [t.id for t in old.turns],
    )
    assert fresh.turns[1].blocks[0]["id"] == fresh.turns[2].blocks[0]["tool_use_id"] == "toolu_01A09q90"
    assert fresh.cwd.removeprefix("/home/").split("/")[0] in fresh.turns[2].blocks[0]["content"]
    assert scrubber().session(fresh) == (fresh, {})
    assert Session.from_json(json.loads(text)) == fresh


# --- lists


def test_deny_and_allow() -> None:
    scrub = scrubber(deny=["Project Falcon", "acme"], allow=["example.org", "ops@acme.dev"])
    out, counts = scrub.text(
        "PROJECT FALCON project-falcon acme AcmeTown a@example.org ops@acme.dev b@acme.dev"
    )
    assert "falcon" not in out.lower()
    assert "a@example.org" in out and "ops@acme.dev" in out and "b@acme.dev" not in out
    assert counts["denied"] == 3, "short values only as whole words"
    assert scrub.text(out) == (out, {})


def test_allow_wins_over_every_layer() -> None:
    token = TOKENS["github_pat"](random.Random(2))
    assert scrubber(allow=[token]).text(f"demo {token}") == (f"demo {token}", {})


def test_longest_hit_wins_then_the_earliest_layer() -> None:
    def layer(name: str, order: int, words: dict[str, str]) -> Layer:
        def find(text: str) -> list[Hit]:
            return [Hit(text.find(w), text.find(w) + len(w), k) for w, k in words.items() if w in text]

        return Layer(name, order, find)

    first = layer("first", 1, {"zebra": "short", "same words": "early"})
    second = layer("second", 2, {"a zebra runs": "long", "same words": "late"})
    scrub = Scrubber(build_policy(KEY, (), (), ()), [second, first])
    assert scrub.text("see a zebra runs")[1] == {"long": 1}
    assert scrub.text("the same words")[1] == {"early": 1}


# --- plugins and versions


def test_a_third_party_layer(monkeypatch: pytest.MonkeyPatch, town: Town) -> None:
    import re

    from gt_plugins import hookimpl
    from gt_plugins.plugins import plugin_manager

    class Plugin:
        @hookimpl
        def gt_scrub_layers(self, policy: Any) -> list[Layer]:
            def find(text: str) -> list[Hit]:
                return [Hit(m.start(), m.end(), "ticket") for m in re.finditer(r"TICKET-\d{8}", text)]

            return [Layer("tickets", 15, find, version="2")]

    ours = scrubber_for(town)
    plugin = Plugin()
    plugin_manager().register(plugin, name="tickets")
    try:
        scrub = scrubber_for(town)
    finally:
        plugin_manager().unregister(plugin)
    assert [x.name for x in scrub.layers] == ["secrets", "tickets", "personal", "exact"]
    assert [x.order for x in ours.layers] == [10, 20, 30]
    out, counts = scrub.text("see TICKET-12345678 and token=Ab12Cd34Ef56Gh78")
    assert counts == {"ticket": 1, "token": 1} and "12345678" not in out
    assert scrub.text(out) == (out, {})
    assert ours.policy.version.startswith(POLICY_VERSION)
    assert scrub.policy.version == ours.policy.version + "+tickets=2"


def test_a_layer_with_keywords_sees_only_values_that_hold_one() -> None:
    asked: list[str] = []

    def find(text: str) -> list[Hit]:
        asked.append(text)
        return [Hit(m.start(), m.end(), "ticket") for m in re.finditer(r"ACME-\d+", text)]

    scrub = scrubber(more=[Layer("tickets", 40, find, keywords=("acme-", "größe"))])
    fresh, counts = scrub.value(
        ["plain " * 9, "see ACME-1234 and ACME-77", {"x": "nothing"}, "%41CME-5 ACME-6"]
    )
    assert counts["ticket"] >= 3 and "1234" not in str(fresh) and fresh[0] == "plain " * 9
    assert asked and all("ACME-" in text for text in asked)
    assert not any("plain" in text or "nothing" in text for text in asked)
    asked.clear()
    assert scrub.text("nothing here")[0] == "nothing here" and not asked


@pytest.mark.parametrize("keywords", ["acme", ("",)])
def test_keywords_that_are_none_are_refused(keywords: Any) -> None:
    with pytest.raises(ValueError, match="layer tickets: keywords"):
        Layer("tickets", 40, lambda text: [], keywords=keywords)


def test_what_is_remembered_is_bounded_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gt_plugins.corpus.scrub.memory.MOST", 20_000)
    scrub = scrubber()
    for number in range(300):
        scrub.text(f"password=Zq{number}xK9{'w8Tr' * 30}v!")
    remembered = sum(map(len, scrub._known)), sum(len(text) for _, text in scrub._surrogates._made)
    assert 0 < remembered[0] < 20_000 and 0 < remembered[1] < 20_000
    scrub.text("password=" + "aB3$xY9!" * 31 + " and base64 " + "Zm9v" * 20_000)
    assert sum(len(text) for _, text in scrub._surrogates._made) < 20_000


def test_the_policy_version_follows_the_lists() -> None:
    version: Callable[..., str] = lambda **lists: scrubber(**lists).policy.version  # noqa: E731
    assert version() == version()
    assert len({version(), version(deny=["a b"]), version(deny=["a c"]), version(allow=["a b"])}) == 4
    assert version(exact=[Exact("s3cr3t-value", "secret")]) == version(), "live secrets come and go"
    assert version(exact=[Exact("Zora Quist", "person")]) != version()
    assert "a b" not in version(deny=["a b"])


def test_hits_never_reach_from_one_value_into_the_next() -> None:
    value = [
        "export TOKEN=",
        "Ab12Cd34Ef56Gh78Ij90",
        "-----BEGIN RSA PRIVATE KEY-----",
        "MIIEowIBAAKCAQEAx4UbaDzY5xjW6",
    ]
    fresh, _ = SHARED.value(value)
    assert len(fresh) == 4 and fresh[0] == value[0] and fresh[2] == value[2]


def test_an_error_in_a_layer_quotes_nothing() -> None:
    def find(text: str) -> list[Hit]:
        raise ValueError(f"cannot look at {text!r}")

    scrub = scrubber(more=[Layer("broken", 5, find)])
    with pytest.raises(ScrubError) as error:
        scrub.value({"a": "-".join(["hunter22", "is", "the", "word"])})
    told = "".join(traceback.format_exception(error.value))
    assert "hunter22-is" not in told and "broken" in told and "ValueError" in told


def test_reprs_hide_what_a_policy_knows() -> None:
    shown = repr(scrubber([Exact("hunter22secret", "secret")], deny=["Falcon"]).policy)
    assert (
        "hunter22secret" not in shown
        and "Falcon" not in shown
        and KEY.hex() not in shown
        and repr(KEY) not in shown
    )
