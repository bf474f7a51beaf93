"""The child that runs for us: every byte, its exit code, and no waiting for what it leaves behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gt_plugins.prime.real import RealGt


def sh(script: str, **environ: str) -> RealGt:
    return RealGt(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], **environ})


def test_every_byte_and_the_exit_code(capfd: pytest.CaptureFixture[str]):
    child = sh("head -c 300000 /dev/zero; echo oops >&2; exit 7")
    code, out, err = child.finish()
    assert (code, len(out), err) == (7, 300_000, "oops\n")
    assert capfd.readouterr().err == "oops\n" and child.ended()


def test_a_signal_is_128_and_its_number():
    assert sh("kill -9 $$").finish()[0] == 137


def test_the_child_has_the_usual_answer_to_a_broken_pipe():
    code, out, _ = sh(
        "trap '' INT; cat /proc/self/status 2>/dev/null | grep SigIgn || echo SigIgn: 0"
    ).finish()
    ignored = int(out.split()[1], 16)
    assert code == 0 and not ignored & (1 << 12)


def test_a_process_left_behind_with_our_pipes_does_not_hold_us():
    begun = time.monotonic()
    code, out, _ = sh("sleep 30 & echo $!; exit 0").finish()
    os.kill(int(out), 9)
    assert code == 0 and time.monotonic() - begun < 5


def test_it_ends_once_and_may_be_asked_often():
    child = sh("exit 3")
    while not child.ended():
        time.sleep(0.01)
    assert child.ended() and child.finish()[0] == 3


def test_a_command_that_cannot_run_is_an_oserror_and_leaks_nothing(tmp_path: Path):
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir())) if fds.is_dir() else 0
    for _ in range(3):
        with pytest.raises(OSError):
            RealGt([str(tmp_path / "nowhere")], {})
    assert not fds.is_dir() or len(list(fds.iterdir())) == before
