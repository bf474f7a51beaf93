"""Events, accounts and the real gt, as a town on disk has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import RetriableError, UserError
from gt_plugins.town import accounts, events, gt
from gt_plugins.town.roles import Identity
from gt_plugins.town.root import Town


def start(session: str, role: str, **more: object) -> str:
    payload = {"session_id": session, "role": role, "actor_pid": f"{role}-1", **more}
    return json.dumps(
        {"ts": "2026-11-23T08:06:07Z", "type": "session_start", "actor": role, "payload": payload}
    )


def test_sessions_are_joined_with_their_roles(town: Town):
    lines = [
        start("a", "deacon", cwd="/t/deacon"),
        '{"type": "sling", "payload": {"note": "\\"session_start\\""}}',
        start("b", "demo/polecats/Toast"),
        start("torn", "deacon")[:40],
        "\x00\xff not a line",
        start("odd", "stranger"),
        json.dumps({"type": "session_start", "payload": {"session_id": 7, "role": "deacon"}}),
        json.dumps(["session_start"]),
        start("a", "demo/witness"),
        start("last", "mayor")[:-2],
    ]
    town.events_file.write_bytes("\n".join(lines).encode("latin-1"))
    assert events.session_identities(town) == {
        "a": Identity("witness", "demo"),
        "b": Identity("polecat", "demo", "Toast"),
    }
    first = next(events.session_starts(town.events_file))
    assert (first.cwd, first.at) == ("/t/deacon", "2026-11-23T08:06:07Z")


def test_no_events_are_no_sessions(town: Town):
    assert events.session_identities(town) == {}


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_are_tolerated(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]):
    path = tmp_path_factory.mktemp("e") / ".events.jsonl"
    path.write_bytes(b'"session_start"'.join(lines) + b"\n" + start("z", "mayor").encode())
    assert [s.session_id for s in events.session_starts(path)][-1:] == ["z"]


def test_configuration_folders_of_all_accounts(town: Town, isolated: Path, monkeypatch: pytest.MonkeyPatch):
    assert accounts.config_dirs(town) == [isolated / ".claude"]
    town.accounts_file.write_text(
        json.dumps(
            {
                "version": 1,
                "accounts": {
                    "work": {"email": "a@example.org", "config_dir": "~/.claude-accounts/work"},
                    "same": {"config_dir": str(isolated / ".claude-accounts" / "x" / ".." / "work")},
                    "none": {"email": "b@example.org"},
                },
            }
        )
    )
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(isolated / "own"))
    assert accounts.config_dirs(town) == [
        isolated / ".claude",
        isolated / "own",
        isolated / ".claude-accounts" / "work",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n"accounts": {,}}', r"accounts.json: line 2: not JSON"),
        ('{"accounts": []}', "accounts: not a JSON object"),
        ('{"accounts": {"a": {"config_dir": 3}}}', r"accounts\.a\.config_dir: not a string"),
    ],
)
def test_broken_accounts_are_named(town: Town, text: str, said: str):
    town.accounts_file.write_text(text)
    with pytest.raises(UserError, match=said):
        accounts.config_dirs(town)


def fake_gt(folder: Path, body: str = "echo real $*") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gt"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_real_gt_is_never_a_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_gt(tmp_path / "shim", "# gastown-finetune shim\nexit 9")
    (tmp_path / "folder" / "gt").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "gt").write_text("not to be run")
    folders = [tmp_path / name for name in ("shim", "folder", "plain")]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    with pytest.raises(UserError, match="gt: not found on PATH"):
        gt.real_gt()
    real = fake_gt(tmp_path / "with space")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, [*folders, real.parent])))
    assert gt.real_gt() == real
    gt.shim_state().parent.mkdir(parents=True)
    other = fake_gt(tmp_path / "recorded")
    gt.shim_state().write_text(f"{other}\n\n\n")
    assert gt.real_gt() == other
    other.unlink()
    assert gt.real_gt() == real, "a record of what has gone is passed over"


def test_running_gt_gives_back_what_it_did_and_stops_one_that_hangs(tmp_path: Path, monkeypatch):
    fake_gt(
        tmp_path, 'case $1 in hang) sleep 60 & wait;; *) cat; echo "real $*"; echo bad >&2; exit 3;; esac'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    done = gt.run_gt(["a", "b c"], tmp_path, stdin=b"in\n")
    assert (done.code, done.out, done.err) == (3, "in\nreal a b c\n", "bad\n")
    with pytest.raises(RetriableError, match=r"gt hang: no answer in 0\.2 s"):
        gt.run_gt(["hang"], tmp_path, timeout=0.2)
