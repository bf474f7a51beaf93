"""The guard refuses whatever it does not know, and does so in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.cli import hook_guard
from gt_plugins.cli.hook_guard import Denied, judge, read_payload
from gt_plugins.roles.profile import SHIPPED
from gt_plugins.town.client_settings import guard_command
from gt_plugins.town.root import Town

FENCE = """tools = ["Bash", "Read", "Write"]
[[allow]]
name = "escalate"
pattern = "gt escalate '[A-Za-z0-9 .,]{1,120}' -s (low|medium|high|critical)"
[[allow]]
name = "look"
pattern = "gt hook|cat [a-z.]+"
"""


@pytest.fixture
def fenced(town: Town) -> Town:
    folder = town.finetune_dir / "deacon"
    folder.mkdir(parents=True)
    (folder / "fence.toml").write_text(FENCE)
    return town


def payload(tool: str = "Bash", **arguments: object) -> dict[str, Any]:
    return {"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": arguments}


def options(town: Town, role: str = "deacon") -> dict[str, str]:
    return {"town": str(town.root), "role": role}


@pytest.mark.parametrize("command", ["gt hook", "cat report.txt", "gt escalate 'all is lost, help.' -s high"])
def test_a_command_that_a_rule_matches_as_a_whole_may_run(fenced: Town, command: str):
    judge(payload(command=command), options(fenced))
    judge(payload(command=command, description="look", timeout=5), options(fenced))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "gt hook ",
        " gt hook",
        "gt hook; rm -rf /",
        "gt hook\nrm -rf /",
        "gt hook && true",
        "gt hook | sh",
        "cat a > b",
        "cat $(id)",
        "cat `id`",
        "gt hook\0",
        "gt escalate 'x' -s urgent",
        "a" * 20_000,
    ],
)
def test_any_other_command_is_refused(fenced: Town, command: str):
    with pytest.raises(Denied):
        judge(payload(command=command), options(fenced))


def test_a_rule_that_admits_too_much_does_not_let_a_second_command_through(fenced: Town):
    (fenced.finetune_dir / "deacon/fence.toml").write_text('[[allow]]\nname = "all"\npattern = "(?s).*"\n')
    judge(payload(command="anything at all"), options(fenced))
    for breaking in ";|&$`<>\n\r":
        with pytest.raises(Denied):
            judge(payload(command=f"a {breaking} b"), options(fenced))


@pytest.mark.parametrize(
    "call",
    [
        payload("Write", file_path="/x", content="y"),
        payload("Task", prompt="do it"),
        payload("mcp__x__y"),
        payload("bash", command="gt hook"),
        payload(command=["gt hook"]),
        payload(command="gt hook", run_in_background=True),
        payload(command="gt hook", dangerouslyDisableSandbox=True),
        payload(),
        {"tool_name": "Bash"},
        {"tool_name": "Bash", "tool_input": "gt hook"},
        {"tool_name": None, "tool_input": {}},
        {},
    ],
)
def test_every_other_tool_and_odd_payload_is_refused(fenced: Town, call: dict[str, Any]):
    with pytest.raises(Denied):
        judge(call, options(fenced))


def test_read_is_for_files_of_the_town(fenced: Town, tmp_path: Path):
    inside = fenced.root / "deacon" / "notes.md"
    inside.write_text("x")
    (fenced.root / "link").symlink_to("/etc")
    judge(payload("Read", file_path=str(inside)), options(fenced))
    refused = ["/etc/passwd", "notes.md", str(fenced.root / "link/passwd"), str(fenced.root / "../x")]
    refused += [str(fenced.finetune_dir / "deacon/token"), str(fenced.corpus_db)]
    for name in refused:
        with pytest.raises(Denied):
            judge(payload("Read", file_path=name), options(fenced))
    (fenced.finetune_dir / "deacon/fence.toml").write_text(FENCE.replace('"Read", ', ""))
    with pytest.raises(Denied, match="no tool 'Read'"):
        judge(payload("Read", file_path=str(inside)), options(fenced))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "tools = [",
        "",
        'tools = ["Bash"]',
        '[[allow]]\nname = "a"',
        '[[allow]]\nname="a"\npattern="("',
        "allow=1",
    ],
)
def test_a_fence_that_cannot_be_read_lets_nothing_through(fenced: Town, text: str | None):
    path = fenced.finetune_dir / "deacon/fence.toml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(Denied, match="fence"):
        judge(payload(command="gt hook"), options(fenced))


def test_role_and_town_come_from_the_session_where_the_command_does_not_say(
    fenced: Town, monkeypatch: pytest.MonkeyPatch
):
    call = {**payload(command="gt hook"), "cwd": str(fenced.root / "deacon")}
    for role in ("", "stranger", "../deacon"):
        monkeypatch.setenv("GT_ROLE", role)
        with pytest.raises(Denied, match="which role"):
            judge(call, {})
    monkeypatch.setenv("GT_ROLE", "deacon")
    judge(call, {})
    with pytest.raises(Denied, match="which town"):
        judge({**call, "cwd": "/"}, {})
    with pytest.raises(Denied, match="which role"):
        judge(call, {"town": str(fenced.root), "role": "../deacon"})
    judge(call, {"town": "/", "fence": str(fenced.finetune_dir / "deacon/fence.toml")})


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(), st.none() | st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())
    )
)
def test_no_payload_but_a_call_is_ever_let_through(
    tmp_path_factory: pytest.TempPathFactory, call: dict[str, Any]
):
    fence = tmp_path_factory.mktemp("f") / "fence.toml"
    fence.write_text(FENCE)
    with pytest.raises(Denied):
        judge(call, {"town": "/", "fence": str(fence)})


@pytest.mark.parametrize(
    ("data", "closed", "said"),
    [
        (b"", True, "no JSON"),
        (b"not json}", True, "no JSON"),
        (b'{"tool_name": "Bash"', False, "in time"),
        (b"[]", True, "no JSON object"),
        (b'{"tool_name": "Bash", "tool_name": "Read"}', True, "twice"),
        (b"", False, "in time"),
    ],
)
def test_stdin_that_is_odd_or_never_ends_is_refused(data: bytes, closed: bool, said: str):
    read, write = os.pipe()
    os.write(write, data)
    if closed:
        os.close(write)
    begun = time.monotonic()
    with pytest.raises(Denied, match=said):
        read_payload(read, seconds=0.2)
    assert time.monotonic() - begun < 2


def test_a_whole_payload_is_taken_though_stdin_stays_open():
    read, write = os.pipe()
    os.write(write, b'{"a": {"b": "}')
    os.write(write, b'"}}')
    assert read_payload(read) == {"a": {"b": "}"}}


def run_guard(arguments: list[str], stdin: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt_plugins.cli.hook_guard", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=30, env={**os.environ, **environ}
    )


def test_the_exit_code_is_what_the_client_understands(fenced: Town):
    arguments = ["--town", str(fenced.root), "--role", "deacon"]
    allowed = run_guard(arguments, json.dumps(payload(command="gt hook")))
    assert (allowed.returncode, allowed.stdout, allowed.stderr) == (0, "", "")
    refused = run_guard(arguments, json.dumps(payload(command="gt hook; id")))
    assert refused.returncode == 2 and refused.stdout == ""
    assert (
        refused.stderr.startswith("not allowed: one plain command only") and refused.stderr.count("\n") == 1
    )
    assert run_guard(["--town"], "{}").returncode == 2
    assert run_guard(["--who", "x"], "{}").returncode == 2


def test_a_pattern_that_runs_away_is_a_refusal(fenced: Town, monkeypatch: pytest.MonkeyPatch):
    (fenced.finetune_dir / "deacon/fence.toml").write_text('[[allow]]\nname = "a"\npattern = "(a+)+b"\n')
    code = (
        "from gt_plugins.cli import hook_guard; hook_guard.ALL_SECONDS = 0.5; "
        f"hook_guard.main(['--town', {str(fenced.root)!r}, '--role', 'deacon'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(payload(command="a" * 60)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2 and "too long" in done.stderr


def test_a_bug_of_ours_is_a_refusal(fenced: Town):
    code = (
        "from gt_plugins.cli import hook_guard\n"
        "def bug(*a): raise RuntimeError('boom')\n"
        "hook_guard.judge = bug\n"
        "hook_guard.main([])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="{}", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and "RuntimeError: boom" in done.stderr


def test_the_settings_command_refuses_even_where_python_has_gone(fenced: Town, tmp_path: Path):
    line = guard_command(tmp_path / "gone" / "gt-hook", fenced.root, "deacon")
    done = subprocess.run(["sh", "-c", line], input="{}", capture_output=True, text=True, timeout=30)
    assert done.returncode == 2


@pytest.mark.parametrize("role", sorted(p.parent.name for p in SHIPPED.glob("*/fence.toml")))
def test_the_shipped_fences_are_understood(town: Town, role: str):
    fence = hook_guard._fence(SHIPPED / role / "fence.toml")
    assert {"escalate"} <= {name for name, _ in fence["allow"]} and fence["tools"] <= {"Bash", "Read"}
    judge(
        payload(command="gt escalate 'the queue is stuck' -s high"),
        {"town": str(town.root), "fence": str(SHIPPED / role / "fence.toml")},
    )
