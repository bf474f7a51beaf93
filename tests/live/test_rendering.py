"""A training example and the live request of the same moment have the same ids, with the real client."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.rendering.conversation import from_session, prime_of
from gt_plugins.rendering.render import TINY, Renderer
from gt_plugins.roles.profile import load_profile
from gt_plugins.serving.app import make_app
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import ScriptResponder, role_conversation
from gt_plugins.training.base import base_path
from gt_plugins.transcripts.claude import read

pytestmark = pytest.mark.live
TOKEN = "a-token-of-sixteen"
COMMANDS = ("echo 'one report'", "printf 'idle: 12m\\nhook: empty\\n'", "false")
PRIME = '<gt-prime role="deacon">\n[GAS TOWN] role:deacon session:x\n- One report, one decision.\n</gt-prime>'


def test_examples_are_rendered_as_live_requests_are(client: str, tmp_path: Path) -> None:
    home, profile = tmp_path / "home", load_profile("deacon")
    (home / "work").mkdir(parents=True)
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    state = {"hasCompletedOnboarding": True, "bypassPermissionsModeAccepted": True}
    (home / ".claude.json").write_text(json.dumps({**state, "projects": {str(home / "work"): trusted}}))
    (home / "token").write_text(TOKEN)
    (home / "prime.txt").write_text(PRIME)
    bodies: list[Any] = []

    def script(body: Any) -> list[dict[str, Any]]:
        if not body.get("tools"):
            return [{"type": "text", "text": json.dumps({"title": "Patrol"})}]
        bodies.append(body)
        taken = sum(m["role"] == "assistant" for m in body["messages"])
        if taken >= len(COMMANDS):
            return [{"type": "text", "text": "Patrol done."}]
        call = {"type": "tool_use", "name": "Bash", "input": {"command": COMMANDS[taken]}}
        return [{"type": "text", "text": f'{{"reason": "step {taken}", "action": "no-op"}}'}, call]

    with served_locally(make_app(ScriptResponder("script", script), TOKEN, ["gt-ft-deacon"])) as url:
        hook = {"type": "command", "command": f"cat {home / 'prime.txt'}"}
        settings = {
            "apiKeyHelper": f"cat {home / 'token'}",
            "env": {"ANTHROPIC_BASE_URL": url},
            "hooks": {"SessionStart": [{"hooks": [hook]}]},
        }
        (home / "settings.json").write_text(json.dumps(settings))
        options = ["--model", "gt-ft-deacon", "--settings", str(home / "settings.json")]
        options += ["--setting-sources", "user", "--tools", "Bash", "--strict-mcp-config"]
        options += ["--disable-slash-commands", "--dangerously-skip-permissions"]
        done = subprocess.run(
            [client, *options, "--system-prompt", profile.system, "-p", "Begin the patrol."],
            cwd=home / "work",
            env={
                "HOME": str(home),
                "PATH": os.environ["PATH"],
                "IS_SANDBOX": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout[-800:] + done.stderr[-800:]
    (path,) = (home / ".claude/projects").glob("*/*.jsonl")
    session = read(path)
    prime = prime_of(session.turns).partition(">\n")[2].removesuffix("\n</gt-prime>")
    learnt = from_session(session, profile, prime)
    renderer = Renderer.from_folder(base_path("tiny"))
    replies = [i for i, m in enumerate(learnt.messages) if m.role == "assistant"]
    assert len(bodies) == len(replies) == len(COMMANDS) + 1
    (row,) = renderer.rows(learnt, TINY)
    for body, index, (start, _) in zip(bodies, replies, row.spans, strict=True):
        live = renderer.request(role_conversation(body, profile), TINY)
        assert renderer.request(learnt.upto(index), TINY).ids == live.ids
        assert row.ids[:start] == live.ids
    assert "One report, one decision." in renderer.tokenizer.decode(list(row.ids))
