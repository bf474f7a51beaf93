"""Layers 2 and 3: personal data by form, people and hosts by list, homes by path."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from scrub_helpers import scrubber
from scrub_plants import CONTEXTS, personal, secret_of

from gt_plugins.corpus.scrub.exact import exact_person
from gt_plugins.corpus.scrub.layers import Exact


@pytest.mark.parametrize("index", range(len(personal(random.Random(0)))))
def test_personal_data_in_every_context(index: int) -> None:
    scrub = scrubber()
    for seed in range(3):
        plant = personal(random.Random(seed))[index]
        secret = secret_of(plant)
        for name, wrap in CONTEXTS.items():
            out, _ = scrub.text(wrap(plant.text))
            assert secret not in out and json.dumps(secret)[1:-1] not in out, (
                f"{plant.kind} in context {name}"
            )


@pytest.mark.parametrize(
    "text",
    [
        "Co-Authored-By: Claude <noreply@anthropic.com>",
        "clone git@github.com:acme/widgets.git",
        "systemd: user@1000.service, getty@tty1.service",
        "lodash@4.17.21 and logo@2x.png",
        "at 2026-11-23 08:06:14 +0100, epoch 1795421172, 1795421172498366509 ns",
        "4111 1111 1111 1112 fails its check digit",
        "IBAN GB82 WEST 1234 5698 7654 33 fails its check",
        "ports 127.0.0.1:3307 and 0.0.0.0:80, mask 255.255.255.0, net 10.0.0.0/8",
        "version 10.2.3.4, v1.2.3.4, foo-1.2.3.4",
        "/root/.ssh /home/ubuntu /home/runner/work",
        "uid=0(root) gid=0(root)",
        "1 Way to do it, 2 Main points",
    ],
)
def test_what_only_looks_personal(text: str) -> None:
    assert scrubber().text(text) == (text, {})


def test_names_of_the_list_wherever_they_occur() -> None:
    scrub = scrubber()
    for text in (
        "Renske Waldau",
        "renske waldau",
        "RENSKE WALDAU",
        "Waldau, Renske",
        "renske-waldau/feature",
        "cc Waldau",
    ):
        assert "waldau" not in scrub.text(f"by {text}.")[0].lower()
    assert scrub.text("renskewaldaux renske") == ("renskewaldaux renske", {}), "part of a longer word"


def test_common_words_are_no_names() -> None:
    assert [e.value for e in exact_person("Will Page")] == ["Will Page"]
    assert [e.value for e in exact_person("Mark Obiora")] == ["Mark Obiora", "Obiora"]
    assert exact_person("Al") == []


def test_a_commit_author_loses_name_and_address() -> None:
    out, counts = scrubber().text("Author: Zora Quist <zora@quist.dev>")
    assert "Zora" not in out and "Quist" not in out and "quist" not in out
    assert out.startswith("Author: ") and out.endswith("@example.com>")
    assert counts == {"person": 1, "email": 1}


def test_homes_in_all_spellings() -> None:
    scrub = scrubber()
    out, _ = scrub.text(
        "/home/quist/a /Users/quist/b C:\\Users\\quist\\c C:\\\\Users\\\\quist\\\\d "
        "~/.claude/projects/-home-quist-town/x %2Fhome%2Fquist%2Fe"
    )
    assert "quist" not in out
    assert len({w.replace("\\", "/").split("/")[2] for w in out.split()[:2]}) == 1, "one user, one surrogate"


def test_exact_values_in_their_encodings() -> None:
    secret = 'S3cr3t"/+ &pass'
    scrub = scrubber([Exact(secret, "secret", word=False)])
    import base64
    import urllib.parse

    for form in (
        secret,
        json.dumps(secret)[1:-1],
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        base64.b64encode(secret.encode()).decode(),
    ):
        assert form not in scrub.text(f"got <{form}> back")[0]


def test_scrubadub_is_imported_for_doubtful_candidates_only() -> None:
    code = (
        "import sys\n"
        "from scrub_helpers import scrubber\n"
        "s = scrubber()\n"
        "s.text('gt deacon heartbeat, 2026-11-23T08:06:14.785Z, 127.0.0.1:3307, token=Ab12Cd34Ef56')\n"
        "assert 'scrubadub' not in sys.modules\n"
        "s.text('write to zora@quist.dev, or call (415) 867-5309')\n"
        "assert 'scrubadub' not in sys.modules\n"
        "s.text('write to zora.@quist.dev')\n"
        "assert 'scrubadub' in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
