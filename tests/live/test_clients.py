"""The real codex and the real opencode run in a town's folder, and the sweep finds what they did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from scripted_openai import COMMAND, LAST_WORD, scripted

from gt_plugins.corpus import consent
from gt_plugins.corpus.store import Store, StoredSession
from gt_plugins.corpus.sweep import sweep
from gt_plugins.town.root import Town
from gt_plugins.transcripts.shell import command_of

pytestmark = pytest.mark.live

CODEX_CONFIG = """
model = "stub"
model_provider = "local"
[model_providers.local]
name = "local"
base_url = "{url}"
wire_api = "responses"
"""


def binary(name: str) -> str:
    """A client from PATH; without it its test does not run, in CI too (neither client is Gas Town's own)."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"LIVE TESTS NOT RUN: {name} not on PATH")
    return found


def run(*words: str, cwd: Path, home: Path) -> None:
    known = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    quiet = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    done = subprocess.run(
        words,
        cwd=cwd,
        env=known | quiet,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0 and LAST_WORD in done.stdout, done.stdout + done.stderr


def only(town: Town) -> StoredSession:
    consent.grant(town, "Ann")
    report = sweep(town)
    assert (report.captured, report.problems) == (1, ())
    assert sweep(town).unchanged == 1
    with Store(town) as store:
        (found,) = store.sessions()
    return found


def check(found: StoredSession, source: str, role: str, model: str) -> None:
    session = found.session
    assert (session.source, session.role, session.models) == (source, role, (model,))
    assert session.client_version and session.usage["output_tokens"] == 40
    blocks = [(turn, block) for turn in session.turns for block in turn.blocks]
    calls = [b for _, b in blocks if b["type"] == "tool_use"]
    results = [b for _, b in blocks if b["type"] == "tool_result"]
    assert [command_of(call) for call in calls] == [COMMAND]
    assert [b["tool_use_id"] for b in results] == [call["id"] for call in calls]
    assert "hello-from-tool" in json.dumps(results)
    said = [b["text"] for turn, b in blocks if turn.role == "assistant" and b["type"] == "text"]
    asked = [b["text"] for turn, b in blocks if turn.role == "user" and not turn.meta and b["type"] == "text"]
    assert said[-1] == LAST_WORD and any("look around" in text for text in asked)
    odd = [k for k in session.counts if not k.startswith(("line:", "event:"))]
    assert odd == [], session.counts


def test_codex(town: Town, isolated: Path) -> None:
    client = binary("codex")
    (isolated / ".codex").mkdir()
    options = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    with scripted() as url:
        (isolated / ".codex/config.toml").write_text(CODEX_CONFIG.format(url=url))
        run(client, "exec", *options, "look around", cwd=town.root / "deacon", home=isolated)
    check(only(town), "codex", "deacon", "stub")


def test_opencode(town: Town, isolated: Path) -> None:
    client = binary("opencode")
    model = {"name": "stub", "tool_call": True, "limit": {"context": 100_000, "output": 4_000}}
    with scripted() as url:
        options = {"baseURL": url, "apiKey": "none"}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "local", "options": options}
        config = {
            "model": "local/stub",
            "small_model": "local/stub",
            "share": "disabled",
            "permission": {"bash": "allow"},
            "provider": {"local": {**provider, "models": {"stub": model}}},
        }
        place = isolated / ".config/opencode"
        place.mkdir(parents=True)
        (place / "opencode.json").write_text(json.dumps(config))
        run(client, "run", "look around", cwd=town.root / "demo/witness", home=isolated)
    check(only(town), "opencode", "witness", "stub")
