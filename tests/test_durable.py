"""durable: all or nothing at any kill -9, private whatever the umask, torn journals, a full disk."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins import durable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> object:
    old = os.umask(0)
    yield
    os.umask(old)


def child(body: str, *args: str, **popen: object) -> subprocess.Popen[str]:
    """A process of its own that runs ``body`` with durable imported and sys.argv[1:] = args."""
    code = "import json, os, sys\nfrom pathlib import Path\nfrom gt_plugins import durable\n"
    return subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(body), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        **popen,  # type: ignore[call-overload]
    )


def kill_while_writing(body: str, folder: Path, dice: random.Random) -> None:
    """Start ``body``, wait for its first output line, let it run a random moment, kill -9."""
    process = child(body, str(folder))
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n", process.stderr and process.stderr.read()
    time.sleep(dice.uniform(0.0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


# -- kill -9 ----------------------------------------------------------------------------------------


def test_a_replaced_file_is_always_whole(tmp_path: Path) -> None:
    body = """
        path = Path(sys.argv[1]) / "state.json"
        n = json.loads(path.read_text())["n"] if path.exists() else 0
        durable.write_json(path, {"n": n, "pad": "x" * 200_000})
        print("go", flush=True)
        while True:
            n += 1
            durable.write_json(path, {"n": n, "pad": str(n % 10) * 200_000})
    """
    dice, last = random.Random(1), -1
    for _ in range(6):
        kill_while_writing(body, tmp_path, dice)
        value = json.loads((tmp_path / "state.json").read_text())
        assert len(value["pad"]) == 200_000 and len(set(value["pad"])) == 1
        assert value["n"] >= last, "what was written is never lost"
        last = value["n"]
        assert mode(tmp_path / "state.json") == 0o600


def test_a_journal_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    body = """
        path = Path(sys.argv[1]) / "journal.jsonl"
        ack = os.open(Path(sys.argv[1]) / "ack", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        n = sum(1 for _ in durable.read_lines(path))
        print("go", flush=True)
        while True:
            durable.append_line(path, {"n": n, "pad": "é" * (n % 7000)})
            os.write(ack, b"%d\\n" % n)
            n += 1
    """
    dice = random.Random(2)
    for _ in range(6):
        kill_while_writing(body, tmp_path, dice)
        seen = [r["n"] for r in durable.read_lines(tmp_path / "journal.jsonl")]
        acknowledged = {int(x) for x in (tmp_path / "ack").read_text().split()}
        assert acknowledged <= set(seen)
        assert seen == list(range(len(seen)))


def test_a_staged_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    body = """
        root = Path(sys.argv[1])
        n = len([p for p in root.iterdir() if not p.name.startswith(".")])
        print("go", flush=True)
        while True:
            with durable.staged_dir(root / f"step-{n:06}") as stage:
                for part in range(4):
                    (stage / f"part{part}").write_bytes(bytes([n % 256]) * 50_000)
            n += 1
    """
    dice = random.Random(3)
    for _ in range(6):
        kill_while_writing(body, tmp_path, dice)
        whole = sorted(p for p in tmp_path.iterdir() if not p.name.startswith("."))
        assert [p.name for p in whole] == [f"step-{n:06}" for n in range(len(whole))]
        for n, folder in enumerate(whole):
            parts = sorted(folder.iterdir())
            assert [p.name for p in parts] == ["part0", "part1", "part2", "part3"]
            assert all(p.read_bytes() == bytes([n % 256]) * 50_000 for p in parts)


def test_four_writers_of_one_journal_never_interleave(tmp_path: Path) -> None:
    body = """
        for n in range(150):
            record = {"who": sys.argv[2], "n": n, "pad": "y" * 3000}
            durable.append_line(Path(sys.argv[1]) / "j", record, sync=False)
    """
    writers = [child(body, str(tmp_path), str(w)) for w in range(4)]
    assert [w.wait(60) for w in writers] == [0, 0, 0, 0]
    for writer in writers:
        writer.communicate()
    assert all(json.loads(line) for line in (tmp_path / "j").read_bytes().splitlines() if line)
    records = list(durable.read_lines(tmp_path / "j"))
    for who in "0123":
        assert [r["n"] for r in records if r["who"] == who] == list(range(150))


# -- modes ------------------------------------------------------------------------------------------


def test_everything_is_private_under_umask_0(tmp_path: Path, open_umask: None) -> None:
    durable.write_text(tmp_path / "a/b/file", "x")
    durable.append_line(tmp_path / "c/d/journal", {"x": 1})
    durable.write_jsonl(tmp_path / "e/rows", [{"x": 1}, {"x": 2}])
    with durable.staged_dir(tmp_path / "f/g/target") as stage:
        (stage / "deep/er").mkdir(parents=True)
        (stage / "deep/er/file").write_text("x")
    for base, folders, files in os.walk(tmp_path):
        assert [f for f in folders if mode(Path(base, f)) != 0o700] == []
        assert [f for f in files if mode(Path(base, f)) != 0o600] == []


def test_a_tight_umask_does_not_lock_us_out(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        durable.append_line(tmp_path / "a/journal", {"x": 1})
        durable.write_text(tmp_path / "b/file", "x")
    finally:
        os.umask(old)
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o700
    assert mode(tmp_path / "a/journal") == mode(tmp_path / "b/file") == 0o600


def test_a_folder_that_was_there_keeps_its_mode_unless_it_is_ours(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "settings", tmp_path / ".corpus"
    theirs.mkdir(mode=0o755)
    ours.mkdir(mode=0o777)
    durable.write_text(theirs / "config.json", "{}")
    durable.private_dir(ours)
    assert mode(theirs) == 0o755 and mode(ours) == 0o700


def test_a_mode_can_be_chosen(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "wrapper", "#!/bin/sh\n", mode=0o700)
    assert mode(tmp_path / "wrapper") == 0o700


# -- torn and foreign journals ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\n\n",
        b"null\n",
        b"[1]\n",
        b'"x"\n',
        b"\xff\xfe\x00\n",
        b"{\n",
        b"[" * 100_000 + b"\n",
        b'{"x":',
    ],
)
def test_foreign_lines_are_passed_over(tmp_path: Path, foreign: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"n":0}\n' + foreign)
    durable.append_line(path, {"n": 1})
    assert [r["n"] for r in durable.read_lines(path)] == [0, 1]


@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20)), max_size=6),
    cut=st.integers(0, 400),
)
def test_a_journal_cut_anywhere_gives_its_whole_records_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal"
    for record in records:
        durable.append_line(path, record, sync=False)
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(whole[:cut])
    kept = list(durable.read_lines(path))
    assert kept == records[: len(kept)], "records in order, none invented"
    assert len(kept) >= whole[:cut].count(b"\n"), "each that had its newline is there"
    durable.append_line(path, {"new": 1}, sync=False)
    assert list(durable.read_lines(path)) == [*kept, {"new": 1}]


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert list(durable.read_lines(tmp_path / "none")) == []


# -- failures ---------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    durable.write_text(path, "old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        durable.write_text(path, "new")
    assert error.value.filename == str(path), "and not the temporary file"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_journal_on_a_full_disk_raises_and_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    durable.append_line(path, {"n": 0})
    body = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10,) * 2)
        try:
            durable.append_line(path, {"n": 1, "pad": "x" * 500})
        except OSError as error:
            print(type(error).__name__, error.filename == str(path))
    """
    process = child(body, str(path))
    out, err = process.communicate(timeout=30)
    assert out == "OSError True\n", err
    durable.append_line(path, {"n": 2})
    assert [r["n"] for r in durable.read_lines(path)] == [0, 2]


def test_a_file_is_no_private_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    mode = path.stat().st_mode
    with pytest.raises(NotADirectoryError):
        durable.private_dir(path)
    assert path.stat().st_mode == mode


def test_a_staged_folder_that_fails_vanishes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), durable.staged_dir(tmp_path / "target") as stage:
        (stage / "half").write_text("x")
        raise RuntimeError("broke")
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_is_never_changed(tmp_path: Path) -> None:
    with durable.staged_dir(tmp_path / "target") as stage:
        (stage / "a").write_text("first")
    with pytest.raises(FileExistsError), durable.staged_dir(tmp_path / "target"):
        pytest.fail("entered")
    with pytest.raises(FileExistsError), durable.staged_dir(tmp_path / "late") as stage:
        (stage / "a").write_text("second")
        (tmp_path / "late").mkdir()
        (tmp_path / "late/a").write_text("first, by another")
    assert (tmp_path / "target/a").read_text() == "first"
    assert (tmp_path / "late/a").read_text() == "first, by another"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["late", "target"]
