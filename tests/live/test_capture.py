"""The real client ends a session, our hook notes it, and the corpus has it, scrubbed."""

from __future__ import annotations

import json
import os
import random
import string
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.corpus import consent
from gt_plugins.corpus.store import Store, StoredSession
from gt_plugins.corpus.sweep import sweep
from gt_plugins.serving.app import make_app
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import ScriptResponder
from gt_plugins.town.client_settings import hook_executable, session_end_entry
from gt_plugins.town.root import Town

pytestmark = pytest.mark.live
TOKEN = "a-token-of-the-stub"
SECONDS = 60.0


def script(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two calls in one reply, then a last word."""
    if any(m["role"] == "assistant" for m in body["messages"]):
        return [{"type": "text", "text": "All seen."}]
    commands = ("cat notes/first", "cat notes/second")
    return [{"type": "tool_use", "name": "Bash", "input": {"command": c}} for c in commands]


def talk(client: str, town: Town, home: Path) -> None:
    """One session of the real client in the deacon's folder, with our SessionEnd entry."""
    work = town.root / "deacon"
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    state = {"hasCompletedOnboarding": True, "bypassPermissionsModeAccepted": True}
    (home / ".claude.json").write_text(json.dumps({**state, "projects": {str(work): trusted}}))
    (home / ".claude").mkdir(exist_ok=True)
    with served_locally(make_app(ScriptResponder("stub", script), TOKEN, ["stub"])) as url:
        settings = {"apiKeyHelper": f"echo {TOKEN}", "env": {"ANTHROPIC_BASE_URL": url}}
        hooks = {"SessionEnd": [session_end_entry(hook_executable())]}
        (home / ".claude/settings.json").write_text(json.dumps({**settings, "hooks": hooks}))
        options = ["--model", "stub", "--tools", "Bash", "--dangerously-skip-permissions"]
        known = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "GT_ROLE": "deacon"}
        quiet = {
            "IS_SANDBOX": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        done = subprocess.run(
            [client, "-p", "look around", *options],
            cwd=work,
            env={**known, **quiet, "DISABLE_TELEMETRY": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0 and done.stdout.strip() == "All seen.", done.stdout + done.stderr


def stored(town: Town) -> list[StoredSession]:
    with Store(town) as store:
        return list(store.sessions())


def test_a_real_session_reaches_the_corpus_by_itself(client: str, town: Town, isolated: Path) -> None:
    key = "ghp_" + "".join(random.Random(3).choices(string.ascii_letters + string.digits, k=36))
    notes = town.root / "deacon/notes"
    notes.mkdir()
    (notes / "first").write_text(f"token: {key}\n")
    (notes / "second").write_text("the second note\n")
    consent.grant(town, "Ann")
    talk(client, town, isolated)
    log = town.corpus_dir / "log"
    deadline = time.monotonic() + SECONDS
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    (found,) = stored(town)
    blocks = [block for turn in found.session.turns for block in turn.blocks]
    calls = [b["id"] for b in blocks if b["type"] == "tool_use"]
    answers = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
    assert found.session.role == "deacon" and len(calls) == 2 and answers == calls
    said = json.dumps(found.session.to_json())
    assert "the second note" in said and "All seen." in said and key not in said
    assert not any(name.startswith("unpaired") for name in found.session.counts)
    assert sweep(town).unchanged == 1, "the sweep finds the same session and nothing else"
    assert key.encode() not in b"".join(p.read_bytes() for p in town.corpus_dir.rglob("*") if p.is_file())
