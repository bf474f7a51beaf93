"""town/bd: what is asked of bd, how its answers and its failures are read, and that it never hangs us."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins.errors import NonRetriableError, RetriableError
from gt_plugins.town.bd import (
    Bd,
    BdError,
    BdMissing,
    BdNotFound,
    clean_environment,
    error_text,
    parse_output,
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """``fake(script)``: a Bd whose bd is this shell script; its calls are logged in tmp/calls."""
    binaries, folder = tmp_path / "bin", tmp_path / "rig"
    binaries.mkdir()
    (folder / ".beads").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")

    def make(script: str, timeout: float = 20.0) -> Bd:
        path = binaries / "bd"
        path.write_text(
            f'#!/bin/sh\nfor a in "$@"; do printf \'%s\\0\' "$a"; done >> {tmp_path}/calls\n{script}\n'
        )
        path.chmod(0o755)
        return Bd(folder, timeout)

    return make


def calls(tmp_path: Path) -> list[list[str]]:
    """The argument lists of the calls made; each ends with --json."""
    words = (tmp_path / "calls").read_bytes().split(b"\0")[:-1]
    found: list[list[str]] = [[]]
    for word in words:
        found[-1].append(word.decode())
        if word == b"--json":
            found.append([])
    return found[:-1]


# -- what is asked ----------------------------------------------------------------------------------


def test_create_assigns_at_once_and_hands_everything_over_as_it_is(fake, tmp_path: Path) -> None:
    bd = fake("""echo '{"id":"ft-a1","labels":[]}'""")
    text = '--danger `x` $HOME\n"quotes" é'
    assert bd.create(text, text, {"role": "deacon", "loss": 0.5}, ["a", "b"]) == "ft-a1"
    (args,) = calls(tmp_path)
    assert args[0] == "create" and f"--title={text}" in args and f"--description={text}" in args
    assert "--assignee=gastown-finetune" in args and "--labels=a" in args and "--labels=b" in args
    assert '--metadata={"role":"deacon","loss":0.5}' in args


def test_status_and_metadata_go_in_one_call(fake, tmp_path: Path) -> None:
    bd = fake("""echo '[{"id":"ft-a1"}]'""")
    bd.update_status("ft-a1", "training", {"loss": 0.5})
    bd.set_metadata("ft-a1", {})
    assert calls(tmp_path) == [["update", "ft-a1", "--status=training", '--metadata={"loss":0.5}', "--json"]]


def test_a_closed_bead_keeps_its_first_reason(fake, tmp_path: Path) -> None:
    bd = fake("""echo '[{"id":"ft-a1","status":"closed"}]'""")
    bd.close("ft-a1", "again")
    assert [c[0] for c in calls(tmp_path)] == ["show"]


@pytest.mark.parametrize("id", ["", "-f", "a b", "x;y", "../x", "a/b"])
def test_an_odd_id_never_reaches_bd(fake, id: str, tmp_path: Path) -> None:
    bd = fake("echo '[]'")
    with pytest.raises(NonRetriableError, match="no bead id"):
        bd.update_status(id, "training")
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("status", ["", "Training", "corpus validating", "1st", "x" * 40, "a,b"])
def test_an_odd_status_never_reaches_bd(fake, status: str, tmp_path: Path) -> None:
    bd = fake("echo '[]'")
    with pytest.raises(NonRetriableError, match="no status name"):
        bd.update_status("ft-1", status)
    with pytest.raises(NonRetriableError, match="no status name"):
        bd.merge_custom_statuses([status])
    assert not (tmp_path / "calls").exists()


def test_not_a_number_is_refused_before_bd_sees_it(fake) -> None:
    with pytest.raises(ValueError):
        fake("echo '[]'").update_status("ft-1", "training", {"loss": float("nan")})


# -- statuses ---------------------------------------------------------------------------------------

STORE = """
case "$2" in
  get) printf '{"key":"status.custom","value":"%s"}' "$(cat status 2>/dev/null)";;
  set) printf %s "$4" > status; echo "Set status.custom = $4";;
esac"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "staged_ready,staged_warnings,ready,training"),
        ("mine:wip,training", "mine:wip,training,staged_ready,staged_warnings,ready"),
        ("staged_ready, staged_warnings", "staged_ready,staged_warnings,ready,training"),
        ("training:wip", "training:wip,staged_ready,staged_warnings,ready"),
    ],
)
def test_statuses_are_merged_never_replaced(fake, before: str, after: str) -> None:
    bd = fake(STORE)
    (bd.folder / "status").write_text(before)
    assert bd.merge_custom_statuses(["ready", "training", "ready"]) is True
    assert (bd.folder / "status").read_text() == after
    assert bd.merge_custom_statuses(["ready"]) is False, "nothing to write the second time"


def test_statuses_that_somebody_else_writes_meanwhile_are_merged_again(fake) -> None:
    racing = STORE.replace(
        'printf %s "$4" > status', '[ -e raced ] && printf %s "$4" > status || touch raced'
    )
    bd = fake(racing)
    assert bd.merge_custom_statuses(["ready"]) is True
    assert (bd.folder / "status").read_text() == "staged_ready,staged_warnings,ready"


def test_statuses_that_never_stay_are_an_error_that_can_be_retried(fake) -> None:
    with pytest.raises(RetriableError, match="somebody else"):
        fake(STORE.replace('printf %s "$4" > status;', "")).merge_custom_statuses(["ready"])


# -- answers ----------------------------------------------------------------------------------------


def test_warnings_around_the_answer_are_passed_over(fake) -> None:
    bd = fake(
        "echo 'Warning: .beads is readable by all' >&2; echo 'warning: beads.role is not set';"
        """ echo '{"id":"ft-a1"}'"""
    )
    assert bd.create("x") == "ft-a1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('[\n {"a": 1}\n]\n', [{"a": 1}]),
        ("null\n", None),
        ('warning: x\n{\n "a": 1}', {"a": 1}),
        ('{"schema_version": 1, "data": [1]}', [1]),
        ('{"schema_version": 1, "a": 2}', {"schema_version": 1, "a": 2}),
    ],
)
def test_answers_of_old_and_new_versions(text: str, value: object) -> None:
    assert parse_output(text) == value


@given(st.text(), st.text())
def test_whatever_bd_prints_becomes_one_line(out: str, err: str) -> None:
    line = error_text(out, err)
    assert "\n" not in line and len(line) <= 300


@pytest.mark.parametrize("answer", ["", "hello", "[]", "null", "{", "[1]"])
def test_an_answer_without_a_bead_is_an_error(fake, answer: str) -> None:
    with pytest.raises((BdError, BdNotFound)):
        fake(f"echo '{answer}'").show("ft-1")


# -- failures ---------------------------------------------------------------------------------------


def test_bd_that_fails_is_quoted(fake) -> None:
    bd = fake("echo 'Warning: one' >&2; echo 'Error: the database is locked' >&2; exit 1")
    with pytest.raises(BdError, match=r"^bd update: the database is locked$"):
        bd.update_status("ft-1", "training")
    bd = fake("echo 'starting' >&2; echo 'disk full' >&2; exit 1")
    with pytest.raises(BdError, match=r"^bd update: disk full$"):
        bd.update_status("ft-1", "training")
    bd = fake("exit 3")
    with pytest.raises(BdError, match=r"^bd update: exit code 3$"):
        bd.update_status("ft-1", "training")


@pytest.mark.parametrize("channel", ["", ">&2"])
def test_the_error_document_is_read_from_either_channel(fake, channel: str) -> None:
    bd = fake(f"""echo '{{"error":"invalid status \\"x\\"","schema_version":1}}' {channel}; exit 1""")
    with pytest.raises(BdError, match='invalid status "x"'):
        bd.update_status("ft-1", "x")


def test_a_bead_that_is_gone_is_not_retried(fake) -> None:
    bd = fake("""echo 'Error resolving ft-1: no issue found matching "ft-1"' >&2; exit 1""")
    with pytest.raises(BdNotFound):
        bd.update_status("ft-1", "training")
    bd = fake("""echo 'Error: issue not found: ft-1' >&2; exit 0""")
    with pytest.raises(BdNotFound):
        bd.update_status("ft-1", "training")


def test_a_bd_that_hangs_is_killed_with_its_whole_group(fake, tmp_path: Path) -> None:
    bd = fake(f"sleep 300 & echo $! > {tmp_path}/grandchild; wait", timeout=0.5)
    start = time.monotonic()
    with pytest.raises(RetriableError, match=r"no answer in 0\.5 s"):
        bd.show("ft-1")
    assert time.monotonic() - start < 5
    grandchild = int((tmp_path / "grandchild").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not _is_gone(grandchild):
        time.sleep(0.02)
    assert _is_gone(grandchild)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(shutil.which("setsid") is None, reason="no setsid command on this system")
def test_a_grandchild_in_a_session_of_its_own_cannot_hold_us(fake, tmp_path: Path) -> None:
    bd = fake(f"setsid sh -c 'echo $$ > {tmp_path}/away; exec sleep 30' & wait", timeout=0.5)
    start = time.monotonic()
    with pytest.raises(RetriableError):
        bd.show("ft-1")
    assert time.monotonic() - start < 5
    os.kill(int((tmp_path / "away").read_text()), 9)


def test_a_bd_that_steps_back_runs_when_nobody_else_does_and_on_one_processor(fake) -> None:
    if not hasattr(os, "SCHED_IDLE") or shutil.which("chrt") is None:
        pytest.skip("no scheduling class for what is idle here")
    bd = fake("""echo '[{"id":"'$(chrt -p $$ | grep -c IDLE)-$GOMAXPROCS-$GOGC'"}]'""")
    assert bd.show("ft-1")["id"] == "0--off"
    bd.behind = True
    assert bd.show("ft-1")["id"] == "1-1-off"


LOCKED = """echo '{"error":"failed to open: another process holds the exclusive lock on x"}' >&2; exit 1"""


def test_a_database_that_another_process_holds_is_waited_for(fake, tmp_path: Path) -> None:
    bd = fake(f"""[ -e free ] || {{ echo x >> tries; [ $(wc -l < tries) -lt 3 ] || touch free; {LOCKED}; }}
echo '[{{"id":"ft-1","status":"open"}}]'""")
    assert bd.show("ft-1")["status"] == "open"
    assert [c[0] for c in calls(tmp_path)] == ["show"] * 4


def test_one_that_is_held_too_long_can_be_retried_and_the_wait_be_ended(fake) -> None:
    bd = fake(LOCKED, timeout=0.3)
    with pytest.raises(RetriableError, match="another process holds its database"):
        bd.show("ft-1")
    bd.timeout = 60.0
    ended: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(RetriableError) as caught:
            bd.show("ft-1")
        ended.append(caught.value)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    time.sleep(0.3)
    bd.cancel()
    waiting.join(20)
    assert ended


def test_no_bd_and_no_database_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Bd(tmp_path).available() is False
    with pytest.raises(BdMissing, match="not on PATH"):
        Bd(tmp_path).version()
    binary = tmp_path / "bd"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    with pytest.raises(BdMissing, match=r"\.beads is not there"):
        Bd(tmp_path).version()
    (tmp_path / ".beads").mkdir()
    binary.write_bytes(b"\x7fELF not really")
    assert Bd(tmp_path).available() is True
    with pytest.raises(BdMissing, match="cannot be started"):
        Bd(tmp_path).version()


# -- environment ------------------------------------------------------------------------------------


def test_the_environment_names_our_database_and_nothing_odd(tmp_path: Path) -> None:
    odd = {
        "PATH": "/bin",
        "HOME": "/h",
        "BEADS_DIR": "/other/.beads",
        "BEADS_DB": "/other.db",
        "BD_JSON_ENVELOPE": "1",
        "BD_ACTOR": "deacon",
        "BD_READONLY": "1",
        "BD_DOLT_AUTO_COMMIT": "off",
        "CLAUDE_CODE": "1",
        "CLAUDECODE": "1",
        "BEADS_DOLT_PASSWORD": "p",
        "GT_DOLT_PORT": "4000",
    }
    env = clean_environment(tmp_path, odd)
    assert env["BEADS_DIR"] == str(tmp_path / ".beads") and env["BEADS_ACTOR"] == "gastown-finetune"
    assert not {"BEADS_DB", "BD_JSON_ENVELOPE", "BD_READONLY", "CLAUDE_CODE", "CLAUDECODE"} & set(env)
    assert env["BEADS_DOLT_PASSWORD"] == "p" and env["HOME"] == "/h"
    assert env["DOLT_METRICS_DISABLED"] == "1" and env["BD_NON_INTERACTIVE"] == "1"
    assert env["BEADS_DOLT_AUTO_START"] == "0", "never a server of our own beside the town's"


def test_the_server_is_the_databases_own(tmp_path: Path) -> None:
    beads = tmp_path / ".beads"
    beads.mkdir()
    gt = {"GT_DOLT_PORT": "4000", "GT_DOLT_HOST": "10.0.0.1"}
    env = clean_environment(tmp_path, gt)
    assert (env["BEADS_DOLT_PORT"], env["BEADS_DOLT_SERVER_HOST"]) == ("4000", "10.0.0.1")
    (beads / "metadata.json").write_text(
        json.dumps({"dolt_server_port": 5000, "dolt_server_host": "127.0.0.1"})
    )
    env = clean_environment(tmp_path, gt | {"BEADS_DOLT_PORT": "1"})
    assert (env["BEADS_DOLT_PORT"], env["BEADS_DOLT_SERVER_HOST"]) == ("5000", "127.0.0.1")
    (beads / "dolt-server.port").write_text("6000\n")
    assert clean_environment(tmp_path, gt)["BEADS_DOLT_PORT"] == "6000"
    (beads / "metadata.json").write_text("[broken")
    assert clean_environment(tmp_path, {})["BEADS_DOLT_PORT"] == "6000"
