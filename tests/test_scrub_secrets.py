"""Layer 1 on planted secrets: recall per type in every context, and what must stay."""

from __future__ import annotations

import base64
import json
import random
import time
import urllib.parse

import pytest
from scrub_helpers import scrubber
from scrub_plants import (
    CONTEXTS,
    HARD_NEGATIVES,
    TOKENS,
    Plant,
    draw,
    secret_of,
    structured,
    transcript,
)

from gt_plugins.corpus.scrub import secrets
from gt_plugins.corpus.scrub.formats import FORMATS
from gt_plugins.corpus.scrub.judge import PASSWORD, TOKEN, key_strength
from gt_plugins.corpus.scrub.rules import crc32_base62, github

SEEDS = range(3)


def gone(plant: Plant, text: str) -> bool:
    secret = secret_of(plant)
    return secret not in text and json.dumps(secret)[1:-1] not in text


@pytest.mark.parametrize("kind", TOKENS)
def test_keys_in_every_context(kind: str) -> None:
    scrub = scrubber()
    for seed in SEEDS:
        token = TOKENS[kind](random.Random(f"{kind} {seed}"))
        for name, wrap in CONTEXTS.items():
            out, counts = scrub.text(wrap(token))
            assert gone(Plant(kind, token, token), out), f"{kind} is left in context {name}"
            assert counts


@pytest.mark.parametrize("index", range(len(structured(random.Random(0)))))
def test_secrets_by_structure_in_every_context(index: int) -> None:
    scrub = scrubber()
    for seed in SEEDS:
        plant = structured(random.Random(seed))[index]
        for name, wrap in CONTEXTS.items():
            assert gone(plant, scrub.text(wrap(plant.text))[0]), f"{plant.kind} is left in context {name}"


@pytest.mark.parametrize(
    "kind", ["github_pat", "anthropic", "aws_access_key", "jwt", "stripe_live", "gitlab_pat"]
)
def test_base64_and_percent_encoding(kind: str) -> None:
    scrub = scrubber()
    token = TOKENS[kind](random.Random(kind))
    blob = base64.b64encode(f"export THE_TOKEN={token}\n".encode()).decode()
    out = scrub.text(f"data: {blob}")[0].split()[1]
    assert out != blob
    assert token.encode() not in base64.b64decode(out)
    assert base64.b64decode(out).startswith(b"export THE_TOKEN=")
    quoted = urllib.parse.quote(f"token={token}&x=1", safe="")
    fresh = urllib.parse.unquote(scrub.text(f"next={quoted}")[0])
    assert token not in fresh
    assert fresh.endswith("&x=1")


def test_a_whole_planted_transcript() -> None:
    rng = random.Random(11)
    plants = [Plant(k, m(rng), "") for k, m in TOKENS.items()]
    plants = [Plant(p.kind, p.text, p.text) for p in plants] + structured(rng)
    wraps = list(CONTEXTS.values())
    lines = transcript([rng.choice(wraps)(p.text) for p in plants], rng).splitlines()
    scrub = scrubber()
    out = []
    for line in lines:
        old = json.loads(line)
        new, _ = scrub.value(old)
        assert (new["uuid"], new["sessionId"], new["timestamp"]) == (
            old["uuid"],
            old["sessionId"],
            old["timestamp"],
        )
        for before, after in zip(old["message"]["content"], new["message"]["content"], strict=True):
            assert {k: v for k, v in before.items() if "id" in k} == {
                k: v for k, v in after.items() if "id" in k
            }
        out.append(json.dumps(new))
    text = "\n".join(out)
    assert [p.kind for p in plants if not gone(p, text)] == []


def test_the_prefix_and_length_of_a_key_stay() -> None:
    scrub = scrubber()
    for kind in ("github_pat", "npm", "google_api", "digitalocean", "huggingface", "slack_bot"):
        token = TOKENS[kind](random.Random(kind))
        out, counts = scrub.text(token)
        assert out[:3] == token[:3] and len(out) == len(token)
        assert secrets.find(out), f"the surrogate of {kind} is no {kind} any more"
        assert all("key" in k or "token" in k for k in counts)


def test_a_pem_block_stays_one() -> None:
    rng = random.Random(3)
    block = next(p for p in structured(rng) if p.kind == "pem").text
    out = scrubber().text(block)[0].split("\n")
    old = block.split("\n")
    assert (out[0], out[-1], len(out)) == (old[0], old[-1], len(old))
    assert all(len(a) == len(b) for a, b in zip(out, old, strict=True))
    assert not set(out[1:-1]) & set(old[1:-1])


@pytest.mark.parametrize("text", HARD_NEGATIVES)
def test_what_must_stay(text: str) -> None:
    scrub = scrubber()
    for name, wrap in CONTEXTS.items():
        assert scrub.text(wrap(text)) == (wrap(text), {}), f"changed in context {name}"


def test_every_rule_replaces_something_and_has_keywords_of_some_length() -> None:
    assert len(FORMATS) > 90
    for rule in FORMATS:
        assert rule.pattern.groups >= 1
        assert all(len(k) >= 2 for k in rule.keywords)


def test_github_checksum() -> None:
    assert crc32_base62("a" * 30) == crc32_base62("a" * 30) and len(crc32_base62("x" * 30)) == 6
    filler = "x" * 30
    assert not github(filler + "xxxxxx")
    assert github(filler + crc32_base62(filler)), "a real token with an unlikely body"


@pytest.mark.parametrize(
    ("key", "strength"),
    [
        ("password", PASSWORD),
        ("DB_PASSWORD", PASSWORD),
        ("dbPassword", PASSWORD),
        ("MYSQL_ROOT_PASSWORD_PROD", PASSWORD),
        ("api_key", TOKEN),
        ("apiKey", TOKEN),
        ("X-Api-Key", TOKEN),
        ("SECRET_KEY_BASE", TOKEN),
        ("authtoken", TOKEN),
        ("refreshToken", TOKEN),
        ("password_hash", 0),
        ("passwordHash", 0),
        ("token_count", 0),
        ("max_tokens", 0),
        ("input_tokens", 0),
        ("nextPageToken", 0),
        ("pad_token", 0),
        ("secretName", 0),
        ("token_type", 0),
        ("public_key", 0),
        ("primary_key", 0),
        ("cache_key", 0),
        ("keyboard", 0),
        ("author", 0),
        ("tool_use_id", 0),
        ("", 0),
    ],
)
def test_which_keys_hold_secrets(key: str, strength: int) -> None:
    assert key_strength(key) == strength


def test_map_keys_and_flags_tell_their_values() -> None:
    scrub = scrubber()
    word = draw(random.Random(1), "abcdefgh", 12)
    for value in (
        {"password": word},
        {"env": [{"name": "DB_PASSWORD", "value": word}]},
        {"args": ["login", "--password", word]},
        {"Env": [f"DB_PASSWORD={word}1"]},
    ):
        assert word not in json.dumps(scrub.value(value)[0]), value
    for value in (
        {"password_hash": "bcrypt"},
        {"max_tokens": 32000},
        {"password": "${PW}"},
        {"token": "hello"},
    ):
        assert scrub.value(value) == (value, {})


ADVERSARIAL = (
    "eyJ-",
    "eyJa.eyJb.",
    "token=",
    "?key=",
    "sig=",
    "password: ",
    'secret="',
    "://a:",
    "a@",
    "1.1.",
    "+1 ",
    "-----BEGIN RSA PRIVATE KEY-----\n",
    "-----END RSA PRIVATE KEY-----",
    "sk-ant-",
    "aB3",
    "aB3/",
    "Cookie: a=b; ",
    "\\",
    "dXNlcjpwYXNz",
    "1 Ab ",
    "aaaa:bbbb:",
    "a b c d <",
    "x" * 60 + "=",
    "token=" + "a" * 90 + "! ",
)


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_no_text_takes_more_than_linear_time(unit: str) -> None:
    """Process time for 250,000 characters; measured at 0.02 to 1.1 s, quadratic would be minutes."""
    scrub = scrubber()
    scrub.text("(415) 555-0132 a@b.io")  # imports scrubadub
    text = (unit * (250_000 // len(unit) + 1))[:250_000]
    start = time.process_time()
    scrub.text(text)
    assert time.process_time() - start < 6


@pytest.mark.slow
def test_five_megabytes_of_everything_awkward() -> None:
    scrub = scrubber()
    scrub.text("(415) 555-0132 a@b.io")
    share = 5_000_000 // len(ADVERSARIAL)
    text = "".join((unit * (share // len(unit) + 1))[:share] for unit in ADVERSARIAL)
    start = time.process_time()
    scrub.text(text)
    assert time.process_time() - start < 30
