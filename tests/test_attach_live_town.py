"""Bringing a real town up: what can be told without the real tools."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gt_plugins.errors import FinetuneError, RetriableError, UserError
from gt_plugins.sim import live_town
from gt_plugins.sim.live_town import LiveTown
from gt_plugins.town.root import Town


@pytest.fixture
def live(tmp_path: Path, town: Town) -> LiveTown:
    (tmp_path / "home").mkdir()
    return LiveTown(tmp_path, town, 1, live_town.clean_environment(tmp_path / "home", 1))


def test_missing_tools_are_named_and_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert live_town.missing_tools() == list(live_town.TOOLS)
    with pytest.raises(UserError, match="gt, bd, dolt, tmux, git: not on PATH"):
        live_town.bring_up(tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_step_that_fails_is_told_in_the_tools_words_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bd", "dolt", "tmux", "git"):
        (tools / name).write_text("#!/bin/sh\nexit 0\n")
        (tools / name).chmod(0o755)
    (tools / "gt").write_text(
        '#!/bin/sh\ncase $1 in install) sleep 60 & echo "port is taken" >&2; exit 4;; esac\n'
    )
    (tools / "gt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(FinetuneError, match=r"gt install .*: exit code 4: port is taken"):
        live_town.bring_up(tmp_path / "base")
    assert list(live_town.own_processes(tmp_path / "base" / "home")) == []
    (tmp_path / "base" / "town").mkdir()
    with pytest.raises(UserError, match="there already"):
        live_town.bring_up(tmp_path / "base")


def test_the_environment_has_nothing_of_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CONFIG_DIR", "GT_ROLE", "TMUX", "BEADS_DIR"):
        monkeypatch.setenv(name, "x")
    env = live_town.clean_environment(tmp_path, 4242)
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CONFIG_DIR", "GT_ROLE", "TMUX", "BEADS_DIR"} & set(env)
    assert env["HOME"] == str(tmp_path) and env["GT_DOLT_PORT"] == "4242"


def test_the_shim_can_be_put_first_on_path(live: LiveTown):
    live.extra_path.append("/first")
    assert live.environ({"A": "b"})["PATH"].startswith("/first:") and live.environ({"A": "b"})["A"] == "b"


def test_the_tmux_socket_is_named_as_gt_names_it(live: LiveTown):
    name = live.tmux_socket
    assert name.startswith("town-") and len(name) == len("town-") + 6


def test_a_command_that_hangs_is_stopped_with_its_children(live: LiveTown):
    begun = time.monotonic()
    with pytest.raises(RetriableError, match=r"not done in 0\.3 s"):
        live.run("sh", "-c", "sleep 60 & sleep 60", timeout=0.3)
    assert time.monotonic() - begun < 5
    live_town.wait_for("their end", lambda: list(live_town.own_processes(live.home)) == [], 5)


def test_a_child_left_behind_does_not_hold_the_caller(live: LiveTown):
    begun = time.monotonic()
    assert live.run("sh", "-c", "sleep 20 & echo up").out == "up\n"
    assert time.monotonic() - begun < 5
    assert live_town.tear_down(live)
    assert list(live_town.own_processes(live.home)) == []


def test_only_processes_of_this_home_are_ended(live: LiveTown):
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(30)"], env={"HOME": "/elsewhere"}
    )
    try:
        live_town.tear_down(live)
        assert other.poll() is None and other.pid not in live_town.own_processes(live.home)
    finally:
        other.kill()
        other.wait()


def test_stdin_output_and_code_come_back(live: LiveTown):
    done = live.run("sh", "-c", "cat; echo bad >&2; exit 3", stdin="in")
    assert (done.out, done.err, done.code) == ("in", "bad\n", 3)
    with pytest.raises(FinetuneError, match="exit code 3: bad"):
        done.checked()
    with pytest.raises(UserError, match="no-such-tool: not on PATH"):
        live.run("no-such-tool")


def test_a_snapshot_leaves_out_what_gt_keeps_changing(live: LiveTown):
    root = live.town.root
    before = live_town.snapshot(live)
    for name in (
        ".events.jsonl",
        ".dolt-data/x",
        ".runtime/pids/1",
        "deacon/.runtime/session_id",
        "daemon/a.log",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert live_town.snapshot(live) == before
    (root / "deacon/new").write_text("x")
    os.symlink("x", root / "link")
    assert {k for k in live_town.snapshot(live) if k not in before} == {"deacon/new", "link"}


def test_waiting_ends_with_the_deadline():
    live_town.wait_for("it", lambda: True, timeout=0)
    with pytest.raises(RetriableError, match=r"it: not in 0\.1 s"):
        live_town.wait_for("it", lambda: False, timeout=0.1, step=0.02)
