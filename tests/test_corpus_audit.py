"""The audit: what it suspects, what it lets pass, what it keeps."""

from __future__ import annotations

import json
import random
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from claude_lines import Transcript
from corpus_helpers import SOURCES, capture, consented
from scrub_helpers import scrubber
from scrub_plants import TOKENS, personal

from gt_plugins.corpus.audit.independent import harmless, suspects
from gt_plugins.corpus.audit.report import rate, series, series_path
from gt_plugins.corpus.audit.run import audit, parse_since
from gt_plugins.corpus.sources import Document
from gt_plugins.corpus.store import Store, now
from gt_plugins.errors import UserError
from gt_plugins.town.root import Town

KNOWN = ("aws_access_key", "github_pat", "slack_bot", "stripe_live", "openai_legacy", "sendgrid")


@pytest.fixture
def projects(isolated: Path) -> Path:
    folder = isolated / ".claude" / "projects"
    folder.mkdir(parents=True)
    return folder


def put(town: Town, key: str, content: str, policy: str = "old") -> None:
    document = Document("test", key, "convention_doc", content, at=now())
    with Store(town) as store:
        store.add_document(document, policy=policy, consent="Ann", source_hash=key)


def test_a_secret_that_was_stored_is_suspected_by_both_and_named_by_row(town: Town) -> None:
    rng = random.Random(1)
    put(town, "CLAUDE.md", f"deploy with {TOKENS['github_pat'](rng)} as the key")
    put(town, "AGENTS.md", "nothing in here but 3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a")
    report = audit(town, scrubber=scrubber())
    assert report.sampled == report.rows == 2 and report.outdated == 2
    assert report.missed_by_rules["github_token"].count == 1
    assert report.missed_by_independent["github token"].count == 1
    assert report.any_miss.count == 1 and report.any_miss.of == 2
    assert 0 < report.any_miss.low < 0.5 < report.any_miss.high < 1
    assert {(p.row, p.by) for p in report.places} == {("doc-1", "rules"), ("doc-1", "independent")}


@pytest.mark.parametrize("kind", KNOWN)
def test_other_detectors_see_the_original_and_not_its_surrogate(kind: str) -> None:
    for seed in range(6):
        token = TOKENS[kind](random.Random(seed))
        text = f'the client sent "{token}" and went on'
        assert list(suspects(text)), "a detector that sees nothing proves nothing"
        assert not list(suspects(scrubber().text(text)[0]))


def test_scrubbed_people_are_not_suspected_again() -> None:
    for seed in range(6):
        texts = [
            p.text for p in personal(random.Random(seed)) if p.kind.startswith(("phone", "ipv4", "email"))
        ]
        clean = scrubber().text("\n".join(texts))[0]
        assert [s for s in suspects(clean) if s[0] != "secret keyword"] == []
    assert "phone" in dict(suspects("call +44 20 7946 0018 now"))


def test_what_was_replaced_is_judged_from_the_session_file(town: Town, projects: Path) -> None:
    consented(town)
    lines = Transcript(town.root / "deacon")
    lines.prompt("read the config")
    lines.say("api_token: 0a1b2c3d4e5f60718293a4b5c6d7e8f901234567 from 10.20.30.40")
    lines.write(projects / "p")
    scrub = scrubber()
    assert capture(town, projects, scrubber=scrub).captured == 1
    report = audit(town, scrubber=scrub, sources=[])
    assert report.judged == 0 and report.over_redaction.of == 0, "the file was not to be found"
    report = audit(town, scrubber=scrub, sources=SOURCES)
    assert report.judged == 1
    assert report.over_redacted["token"].count == 1, "a digest under a key that says token"
    assert report.over_redacted["ipv4"].count == 1, "an address of a private network"
    assert "0a1b2c3d" not in series_path(town).read_text()


def test_the_series_is_private_grows_and_quotes_nothing(town: Town) -> None:
    token = TOKENS["npm"](random.Random(2))
    put(town, "CLAUDE.md", f"npm {token}")
    first = audit(town, scrubber=scrubber())
    audit(town, scrubber=scrubber(), rng=random.Random(1))
    assert stat.S_IMODE(series_path(town).stat().st_mode) == 0o600
    entries = list(series(town))
    assert len(entries) == 2 and entries[0]["sampled"] == 1 and entries[0]["policy"] == first.policy
    assert token not in series_path(town).read_text() and token not in json.dumps(first.to_json())


def test_the_sample_is_bounded_and_the_window_holds(town: Town) -> None:
    for number in range(6):
        put(town, f"{number}.md", f"page {number}")
    assert audit(town, sample=4, scrubber=scrubber()).sampled == 4
    later = audit(town, since="2999-01-01T00:00:00Z", scrubber=scrubber())
    assert later.rows == later.sampled == 0
    assert later.any_miss.high == 1.0, "nothing looked at says nothing"


def test_a_town_without_a_corpus_says_so(town: Town) -> None:
    with pytest.raises(UserError, match="nothing is stored"):
        audit(town, scrubber=scrubber())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7d", "2026-03-01T12:00:00Z"),
        ("36h", "2026-03-07T00:00:00Z"),
        ("1w", "2026-03-01T12:00:00Z"),
        ("2026-03-05", "2026-03-05T00:00:00Z"),
        ("2026-03-05T01:00:00+02:00", "2026-03-04T23:00:00Z"),
        ("", ""),
    ],
)
def test_since(text: str, wanted: str) -> None:
    assert parse_since(text, datetime(2026, 3, 8, 12, tzinfo=UTC)) == wanted


@pytest.mark.parametrize("text", ["7", "d7", "soon", "7 days"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--since"):
        parse_since(text)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("token", "3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a", True),
        ("token", "3d58e141-03cf-41f5-97a4-0bcb1b9d2f78", True),
        ("password", "changeme", True),
        ("password", "kR7#pq2Lw9xT", False),
        ("ipv4", "192.168.1.7", True),
        ("ipv4", "91.198.174.192", False),
        ("email", "jo@example.com", True),
        ("email", "jo@quist.dev", False),
        ("person", "Renske Waldau", False),
    ],
)
def test_what_is_harmless(kind: str, value: str, wanted: bool) -> None:
    assert harmless(kind, value) is wanted


def test_a_rate_has_the_interval_of_wilson() -> None:
    found = rate(2, 50)
    assert found.rate == 0.04 and round(found.low, 3) == 0.011 and round(found.high, 3) == 0.135


@pytest.mark.parametrize("text", ["dns 8.8.4.4 ok", "ask 1.0.0.1", "secret: 'no-op'"])
def test_a_short_value_is_a_suspicion_and_no_more(text: str) -> None:
    assert len(list(suspects(text))) <= 1
