"""The real client with our guard: a refused call is told to the model, and the session goes on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.serving.app import make_app
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import ScriptResponder
from gt_plugins.town.client_settings import guard_command, hook_executable
from gt_plugins.town.root import Town

pytestmark = pytest.mark.live
TOKEN = "a-token-of-the-stub"


def call(tool: str, **arguments: str) -> list[dict[str, Any]]:
    return [{"type": "tool_use", "name": tool, "input": arguments}]


def results(body: Mapping[str, Any]) -> list[str]:
    """What the client told the model of each tool call, in order."""
    blocks = [b for m in body["messages"] if isinstance(m["content"], list) for b in m["content"]]
    return [json.dumps(b["content"]) for b in blocks if b.get("type") == "tool_result"]


def test_the_client_runs_what_the_fence_allows_and_nothing_else(client: str, town: Town, isolated: Path):
    folder = town.own_dir(town.finetune_dir / "deacon")
    (folder / "fence.toml").write_text(
        '[[allow]]\nname = "look"\npattern = "ls reports|cat reports/[a-z]+"\n'
    )
    work = town.root / "deacon"
    (work / "reports").mkdir()
    (work / "reports" / "a").write_text("all is well in the reports")
    calls = [
        call("Bash", command="ls reports; touch escaped"),
        call("Bash", command="touch escaped"),
        call("Write", file_path=str(work / "escaped"), content="x"),
        call("Bash", command="cat reports/a"),
    ]
    bodies: list[Mapping[str, Any]] = []

    def script(body: Mapping[str, Any]) -> list[dict[str, Any]]:
        bodies.append(body)
        turn = sum(1 for m in body["messages"] if m["role"] == "assistant")
        return calls[turn] if turn < len(calls) else [{"type": "text", "text": "Done."}]

    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    state = {"hasCompletedOnboarding": True, "bypassPermissionsModeAccepted": True}
    (isolated / ".claude.json").write_text(json.dumps({**state, "projects": {str(work): trusted}}))
    guard = {
        "type": "command",
        "command": guard_command(hook_executable(), town.root, "deacon"),
        "timeout": 30,
    }
    with served_locally(make_app(ScriptResponder("stub", script), TOKEN, ["stub"])) as url:
        settings = isolated / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "apiKeyHelper": f"echo {TOKEN}",
                    "env": {"ANTHROPIC_BASE_URL": url},
                    "hooks": {"PreToolUse": [{"matcher": "*", "hooks": [guard]}]},
                }
            )
        )
        options = ["--model", "stub", "--settings", str(settings), "--setting-sources", "user"]
        options += ["--tools", "Bash,Write", "--dangerously-skip-permissions", "--strict-mcp-config"]
        done = subprocess.run(
            [client, "-p", "go", *options],
            cwd=work,
            env={
                "HOME": str(isolated),
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "IS_SANDBOX": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_TELEMETRY": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0 and done.stdout.strip() == "Done.", done.stdout + done.stderr
    told = results(bodies[-1])
    assert len(told) == 4
    assert all("not allowed" in said for said in told[:3]) and "rules: look" in told[1]
    assert "all is well in the reports" in told[3]
    assert not (work / "escaped").exists()
