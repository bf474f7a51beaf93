"""``gt-hook session-end``: quick, silent, and never in the session's way."""

from __future__ import annotations

import json
import os
import random
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from claude_lines import SESSION, patrol
from corpus_helpers import consented, modes, raw_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.corpus import capture
from gt_plugins.corpus.lock import sweep_lock
from gt_plugins.corpus.store import Store
from gt_plugins.settings import update_settings
from gt_plugins.town.root import Town

HOOK = [sys.executable, "-m", "gt_plugins.cli.hook"]
SECRET = "PLANT-transcript-text"


def payload(town: Town, cwd: str = "deacon", **fields: Any) -> dict[str, Any]:
    path = town.root.parent / "s.jsonl"
    if not path.exists():
        path.write_text(SECRET)
    known = {
        "session_id": "abc",
        "transcript_path": str(path),
        "cwd": str(town.root / cwd),
        "reason": "other",
    }
    return {**known, "hook_event_name": "SessionEnd", **fields}


@contextmanager
def no_worker(town: Town) -> Iterator[None]:
    """A hook that sees the lock taken starts no worker."""
    with sweep_lock(town, 0) as held:
        assert held
        yield


def run(stdin: bytes, *args: str, env: dict[str, str] | None = None, **options: Any) -> Any:
    environment = {**os.environ, **(env or {})}
    command = [*HOOK, *(args or ("session-end",))]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=20, **options)


def spooled(town: Town) -> list[dict[str, Any]]:
    return (
        [json.loads(p.read_text()) for p in sorted(town.spool_dir.glob("*"))]
        if town.spool_dir.exists()
        else []
    )


def test_one_note_without_text(town: Town) -> None:
    consented(town)
    with no_worker(town):
        done = run(json.dumps(payload(town)).encode(), env={"GT_ROLE": "deacon"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (note,) = spooled(town)
    assert note.pop("at").startswith("20")
    assert note == {
        "v": 1,
        "path": str(town.root.parent / "s.jsonl"),
        "session_id": "abc",
        "cwd": str(town.root / "deacon"),
        "reason": "other",
        "gt_role": "deacon",
    }


def test_modes_under_umask_zero(town: Town) -> None:
    consented(town)
    with no_worker(town):
        run(json.dumps(payload(town)).encode(), preexec_fn=lambda: os.umask(0))
    found = modes(town.corpus_dir)
    assert found["spool"] == "0o700" and found[".gitignore"] == "0o600"
    assert {mode for name, mode in found.items() if name.startswith("spool/")} == {"0o600"}


def test_no_note_without_consent_or_town_or_of_an_excluded_rig(town: Town, tmp_path: Path) -> None:
    assert run(json.dumps(payload(town)).encode()).returncode == 0
    assert not town.corpus_dir.exists()
    consented(town)
    update_settings(town, "capture", exclude_rigs=["demo"])
    outside = {**payload(town), "cwd": str(tmp_path)}
    for value in (payload(town, "demo/crew/alice"), outside, {**outside, "cwd": "relative"}):
        assert run(json.dumps(value).encode(), cwd=tmp_path).returncode == 0
    update_settings(town, "consent", granted=False)
    assert run(json.dumps(payload(town)).encode()).returncode == 0
    assert spooled(town) == []


def test_stdin_that_never_closes(town: Town) -> None:
    consented(town)
    with no_worker(town):
        hook = subprocess.Popen([*HOOK, "session-end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert hook.stdin is not None
        hook.stdin.write(json.dumps(payload(town)).encode())
        hook.stdin.flush()
        assert hook.wait(10) == 0
        hook.stdin.close()
    assert len(spooled(town)) == 1


def test_stdin_that_says_nothing_is_waited_for_shortly(town: Town) -> None:
    hook = subprocess.Popen([*HOOK, "session-end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert hook.wait(10) == 0
    assert hook.stdin is not None
    hook.stdin.close()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"nonsense", b'{"cwd": 7}', b"{}", b"\xff\xfe", b"[" * 100_000, b"}" * 70_000]
)
def test_nonsense_is_silent(town: Town, text: bytes) -> None:
    done = run(text, cwd=town.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_trouble_goes_to_the_log_without_text(town: Town) -> None:
    consented(town)
    town.own_dir(town.corpus_dir)
    town.settings_file.write_text(f'granted = "{SECRET}\n')
    done = run(json.dumps(payload(town)).encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    log = town.corpus_dir / "hook.log"
    assert "TOMLDecodeError" in log.read_text() and SECRET not in log.read_text()
    assert oct(log.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize(
    "text",
    [
        '[capture]\nexclude_rig = ["demo"]\n[consent]\ngranted = true\nby = "Ann"\n',
        '[captur]\nexclude_rigs = ["demo"]\n[consent]\ngranted = true\nby = "Ann"\n',
        '[capture]\nexclude_rigs = "demo"\n[consent]\ngranted = true\nby = "Ann"\n',
        '[consent]\ngranted = "true"\nby = "Ann"\n',
    ],
)
def test_a_slip_in_the_settings_stores_nothing_and_is_logged(town: Town, text: str) -> None:
    """The same that stops the sweep: nobody can tell which rig was meant."""
    town.own_dir(town.corpus_dir)
    town.settings_file.write_text(text)
    done = run(json.dumps(payload(town, "demo/crew/alice")).encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert spooled(town) == []
    assert "session-end: settings/finetune.toml: " in (town.corpus_dir / "hook.log").read_text()


def test_a_town_that_cannot_be_written(town: Town) -> None:
    consented(town)
    town.corpus_dir.write_text("a file where the folder should be")
    done = run(json.dumps(payload(town)).encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_outermost_town_wins_and_a_link_is_followed(town: Town, tmp_path: Path) -> None:
    inner = town.root / "demo"
    (inner / "mayor").mkdir()
    (inner / "mayor/town.json").write_text("{}")
    assert capture.town_of(str(inner / "crew")) == str(town.root)
    assert capture.town_of(str(town.root / "gone/worktree")) == str(town.root)
    assert capture.town_of("/") == capture.town_of("") == ""


def test_a_town_named_by_the_environment(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(town.root / "deacon")
    monkeypatch.setenv("GT_ROOT", str(town.root))
    assert capture.town_of(str(link)) == str(town.root)
    assert capture.town_of(str(real)) == ""


def test_other_words(town: Town) -> None:
    done = run(b"", "dance")
    assert done.returncode == 2 and b"usage" in done.stderr


@pytest.mark.parametrize(
    ("text", "quick", "allowed"),
    [
        ('[consent]\ngranted = true\nby = "Ann"\n', True, True),
        ('[gate]\nthreshold = 0.5\n\n[consent]\nby = "Ann"\ngranted = true\n', True, True),
        ("[consent]\ngranted = false\n", False, False),
        ("[consent]\n[other]\ngranted = true\n", False, False),
        ("consent.granted = true\n", False, True),
        ("consent = { granted = true }\n", False, True),
        ('[consent]\nby = """\ngranted = true\n"""\n', False, False),
        ('[consent]\ngranted = true\n[capture]\nexclude_rigs = ["demo"]\n', False, True),
        ('[consent]\ngranted = true\n[capture]\nexclude_rigs = ["deacon"]\n', False, False),
        ("", False, False),
    ],
)
def test_reading_the_settings_quickly_changes_nothing(
    town: Town, text: str, quick: bool, allowed: bool
) -> None:
    town.settings_file.write_text(text)
    assert capture.plainly_granted(text.encode()) is quick
    assert capture.may_capture(str(town.root), str(town.root / "deacon")) is allowed


FAKE_PYTHON = """#!/bin/sh
echo "$@" > {out}/args; pwd > {out}/cwd; nice > {out}/nice; ls -l /proc/$$/fd > {out}/fds 2>/dev/null
sleep 1; echo outlived > {out}/end
"""


def test_the_worker_is_on_its_own(town: Town, tmp_path: Path) -> None:
    """It has no terminal, no pipe of the client, little priority, and outlives its parent's process group."""
    consented(town)
    out = tmp_path / "out"
    out.mkdir()
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON.format(out=out))
    fake.chmod(0o755)
    code = "import sys; from gt_plugins.corpus import capture; "
    code += f"sys.executable = {str(fake)!r}; capture.session_end()"
    hook = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    out_text, _ = hook.communicate(json.dumps(payload(town)).encode(), timeout=10)
    assert out_text == b"" and not (out / "end").exists(), "its pipe is not held open"
    with suppress(ProcessLookupError):
        os.killpg(hook.pid, 9)
    deadline = time.monotonic() + 10
    while not (out / "end").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (out / "end").exists()
    words = (out / "args").read_text().split()
    assert words[:3] == ["-P", "-m", "gt_plugins.cli.corpus"]
    assert words[3:] == ["sweep", "--town", str(town.root), "--spool-only", "--quiet"]
    assert (out / "cwd").read_text().strip() == str(town.root)
    assert int((out / "nice").read_text()) >= 10
    if (out / "fds").exists():
        assert "pipe:" not in (out / "fds").read_text()


def test_light_imports() -> None:
    """The hook has 50 ms: none of these may be on its way."""
    heavy = (
        "torch transformers peft lancedb scrubadub llama_cpp hivemind numpy typer rich pluggy sqlite3 typing"
    )
    heavy += " subprocess shutil tempfile importlib.metadata json re tomllib"
    code = (
        "import sys, os; os._real = sys.modules.copy(); sys.argv = ['gt-hook', 'session-end'];"
        "from gt_plugins.cli import hook; from gt_plugins.corpus import capture;"
        "capture._silence = lambda: None; hook.main();"
        f"print([m for m in {heavy.split()!r} if m in sys.modules and m not in os._real])"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"{}", capture_output=True, cwd="/")
    assert done.stdout.strip() == b"[]", done.stderr


@given(
    value=st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20), max_size=4)
)
@settings(max_examples=50, deadline=None)
def test_read_payload_stops_at_one_object(value: dict[str, Any]) -> None:
    read, write = os.pipe()
    try:
        os.write(write, json.dumps(value).encode())
        assert capture.read_payload(read, 5.0) == value
    finally:
        os.close(read)
        os.close(write)


def test_from_the_hook_to_the_corpus(town: Town, isolated: Path) -> None:
    """The real worker, the real scrubber, no help: a planted key is nowhere, and the session is there."""
    consented(town)
    key = "ghp_" + "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=36))
    script = patrol(town.root / "deacon", word=f"token {key} patrol")
    path = script.write(isolated / ".claude/projects/p")
    value = payload(town, transcript_path=str(path), session_id=SESSION)
    assert run(json.dumps(value).encode(), env={"GT_ROLE": "deacon"}).returncode == 0
    log = town.corpus_dir / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert json.loads(log.read_text())["captured"] == 1
    with Store(town) as store:
        found = store.session(SESSION)
        assert store.search(key) == []
    assert found is not None and found.session.role == "deacon" and len(found.session.turns) == 7
    assert key not in json.dumps(found.session.to_json())
    assert key.encode() not in raw_bytes(town.root) and spooled(town) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(["", " ", "\n\t"]), st.booleans())
def test_the_payload_is_read_as_json_reads_it(value: object, space: str, ascii: bool) -> None:
    text = f"{space}{json.dumps(value, ensure_ascii=ascii)}{space}"
    assert capture._loads(text) == json.loads(text)


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_the_note_is_json(record: dict[str, object]) -> None:
    assert json.loads(capture._dumps(record)) == record


@pytest.mark.parametrize("text", ["", "{", '{"a": ', "{} {}", "nul", '{"a": "\n"}', "[1,]"])
def test_what_is_no_json_is_incomplete(text: str) -> None:
    with pytest.raises(capture.Incomplete):
        capture._loads(text)
