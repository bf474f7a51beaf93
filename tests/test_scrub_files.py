"""``gt corpus scrub``: files, folders, streams; atomic, private, nothing half written."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scrub_helpers import scrubber
from scrub_plants import CONTEXTS, TOKENS, personal, secret_of, structured, transcript
from typer.testing import CliRunner

from gt_plugins.cli.common import new_app
from gt_plugins.cli.corpus_scrub import register
from gt_plugins.corpus.scrub import files
from gt_plugins.corpus.scrub.files import scrub_path
from gt_plugins.errors import FinetuneError, UserError

app = new_app("corpus", "test")
register(app)
run = CliRunner()


@pytest.fixture
def plants() -> list[Any]:
    rng = random.Random(7)
    return structured(rng) + personal(rng)


@pytest.fixture
def source(tmp_path: Path, plants: list[Any]) -> Path:
    rng = random.Random(8)
    path = tmp_path / "session.jsonl"
    path.write_text(transcript([rng.choice(list(CONTEXTS.values()))(p.text) for p in plants], rng))
    return path


def test_a_transcript_stays_json_with_ids_and_pairs(source: Path, tmp_path: Path, plants: list[Any]) -> None:
    out = tmp_path / "out.jsonl"
    report = scrub_path(scrubber(), str(source), str(out))
    before = [json.loads(line) for line in source.read_text().splitlines()]
    after = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(before) == len(after) == report.json_lines == 2 * len(plants)
    for old, new in zip(before, after, strict=True):
        assert list(old) == list(new)
        assert (old["uuid"], old["sessionId"], old["timestamp"]) == (
            new["uuid"],
            new["sessionId"],
            new["timestamp"],
        )
    text = out.read_text()
    assert [p.kind for p in plants if secret_of(p) in text or json.dumps(secret_of(p))[1:-1] in text] == []
    assert out.stat().st_mode & 0o777 == 0o600
    assert sum(report.replaced.values()) == sum(sum(kinds.values()) for kinds in report.layers.values()) > 100
    assert set(report.layers) == {"secrets", "personal", "exact"}


def test_lines_that_nothing_is_found_in_stay_byte_for_byte(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = b'{"b" : 1.10,"a":"\\u00e9"}\r\n  [1,  2]\n\n{"torn": "x\n{"a":1,"a":2}\n'
    lines += b'plain \xff text\n{"n": 1e400}'
    source.write_bytes(lines)
    scrub_path(scrubber(), str(source), str(out))
    assert out.read_bytes() == lines


def test_spacing_escapes_and_line_ends_are_kept_where_something_changes(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(
        '{"a": "é", "password": "hunter22"}\r\n'
        '{"a":"\\u00e9","password":"hunter22","inner":"{\\"a\\": 1, \\"b\\": 2}"}\n'
        '{"half":"\\ud800","é":"password=hunter22"}\n'.encode()
    )
    scrub_path(scrubber(), str(source), str(out))
    first, second, third = out.read_bytes().split(b"\n")[:3]
    assert first.startswith('{"a": "é", "password": "'.encode()) and first.endswith(b'"}\r')
    assert second.startswith(b'{"a":"\\u00e9","password":"') and b'": "' not in second
    assert json.loads(third)["half"] == "\ud800" and b"hunter22" not in third


def test_a_key_twice_in_an_object_hides_nothing(tmp_path: Path) -> None:
    token = TOKENS["github_pat"](random.Random(1))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"a":"{token}","a":"x"}}\n')
    scrub_path(scrubber(), str(source), str(out))
    assert token not in out.read_text() and out.read_text().endswith('","a":"x"}\n')


def test_other_text_as_text(tmp_path: Path) -> None:
    source, out = tmp_path / "app.env", tmp_path / "out.env"
    source.write_bytes(b"# caf\xe9\nDB_PASSWORD=hunter22!\nURL=http://127.0.0.1:3307\n")
    scrub_path(scrubber(), str(source), str(out))
    lines = out.read_bytes().split(b"\n")
    assert lines[0] == b"# caf\xe9" and lines[2] == b"URL=http://127.0.0.1:3307"
    assert lines[1].startswith(b"DB_PASSWORD=") and b"hunter22" not in lines[1]


def test_a_key_over_the_edge_of_a_block_is_seen_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK", 4096)
    block = next(p for p in structured(random.Random(3)) if p.kind == "pem").text
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    for shift in range(3400, 4100, 64):
        source.write_text("x" * 63 + "\n" + ("word " * 12 + "end\n") * (shift // 64) + block + "\nafter\n")
        scrub_path(scrubber(), str(source), str(out))
        assert not set(block.split("\n")[1:-1]) & set(out.read_text().split("\n")), f"left at {shift}"


def test_utf16_and_binary(tmp_path: Path) -> None:
    wide, out = tmp_path / "wide.txt", tmp_path / "out.txt"
    wide.write_text("password=hunter22\n", encoding="utf-16")
    scrub_path(scrubber(), str(wide), str(out))
    assert "hunter22" not in out.read_text(encoding="utf-16")
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\x00\x01password=hunter22")
    with pytest.raises(FinetuneError, match="binary"):
        scrub_path(scrubber(), str(binary), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("order", [b"\xff\xfe", b"\xfe\xff"])
@pytest.mark.parametrize("tail", [b"\n", b"\n\0", b"\n\0\0"])
def test_bytes_that_only_begin_like_utf16_are_scrubbed_or_not_copied(
    order: bytes, tail: bytes, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(order + b" bad AKIAQ4GYKZ7XMPLW2RTB" + tail)
    with suppress(FinetuneError):
        scrub_path(scrubber(), str(source), str(out))
    assert not out.exists() or (
        b"AKIAQ4GYKZ7XMPLW2RTB" not in out.read_bytes() and b" bad " in out.read_bytes()
    )
    assert out.exists() is (b"\0" not in tail)


def test_a_folder_with_everything_in_it(tmp_path: Path, source: Path) -> None:
    place = tmp_path / "in" / "-home-quist-town"
    place.mkdir(parents=True)
    (place / "s.jsonl").write_bytes(source.read_bytes())
    (place / "pic.png").write_bytes(b"\x89PNG\x00")
    (place / "link").symlink_to(source)
    (tmp_path / "in" / "empty.txt").write_bytes(b"")
    os.mkfifo(tmp_path / "in" / "pipe")
    report = scrub_path(scrubber(), str(tmp_path / "in"), str(tmp_path / "out"))
    found = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*"))
    assert len(found) == 3 and "quist" not in str(found)
    assert report.files == 2 and report.skipped == {"binary": 1, "link": 1, "special": 1}
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    again = scrub_path(scrubber(), str(tmp_path / "out"), str(tmp_path / "again"))
    assert again.replaced == {}


def test_folders_whose_names_become_alike_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a@quist.dev", "b@quist.dev"):
        (tmp_path / "in" / name).write_text("x")
    scrub_path(scrubber(), str(tmp_path / "in"), str(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("nope", "out", "no such file"),
        ("in", "in", "output is the input"),
        ("in", "in/out", "inside the input"),
        ("in", "-", "folder cannot be written to a stream"),
        ("in", "full", "is there already"),
        ("in/a.txt", "full", "a folder"),
        ("in/a.txt", "in/a.txt", "output is the input"),
        ("in/a.txt", "in/same.txt", "output is the input"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, source: str, target: str, problem: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("x")
    (tmp_path / "in/same.txt").symlink_to(tmp_path / "in/a.txt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    where = "-" if target == "-" else str(tmp_path / target)
    with pytest.raises(UserError, match=problem):
        scrub_path(scrubber(), str(tmp_path / source), where)
    assert not (tmp_path / "in/out").exists() and (tmp_path / "in/a.txt").read_text() == "x"


@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("password=hunter22\n")
    (tmp_path / "old.txt").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files._Lines, "flush", full)
    source, target = (
        (tmp_path / "in", tmp_path / "out") if folder else (tmp_path / "in/a.txt", tmp_path / "old.txt")
    )
    with pytest.raises(OSError, match="No space"):
        scrub_path(scrubber(), str(source), str(target))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrap:
        def __init__(self, buffer: io.BytesIO) -> None:
            self.buffer = buffer

    out = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdin", Wrap(io.BytesIO(b'{"password": "hunter22"}\nexport API_KEY=Ab12Cd34Ef56\n'))
    )
    monkeypatch.setattr(sys, "stdout", Wrap(out))
    scrub_path(scrubber(), "-", "-")
    assert b"hunter22" not in out.getvalue() and b"Ab12" not in out.getvalue()
    assert out.getvalue().count(b"\n") == 2


def test_the_command_needs_no_town(
    tmp_path: Path, source: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run.invoke(app, ["scrub", "session.jsonl", "out.jsonl", "--report", "report.json", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["files"] == 1 and report["replaced"]["private_key"] > 1
    assert (isolated / ".config/gastown-finetune/scrub.key").exists()
    assert run.invoke(app, ["scrub", "out.jsonl", "again.jsonl"]).exit_code == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_the_command_refuses_before_it_makes_a_key(tmp_path: Path, isolated: Path) -> None:
    done = run.invoke(app, ["scrub", str(tmp_path / "nope"), str(tmp_path / "out")])
    assert isinstance(done.exception, UserError) and done.exception.exit_code == 2
    assert isinstance(run.invoke(app, ["scrub", str(tmp_path), "-", "--json"]).exception, UserError)
    assert not (isolated / ".config").exists()


def test_inside_a_town_its_key_is_used(
    town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated: Path
) -> None:
    monkeypatch.chdir(town.root / "deacon")
    (tmp_path / "a.txt").write_text("password=hunter22")
    assert run.invoke(app, ["scrub", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]).exit_code == 0
    assert (town.root / ".finetune/scrub.key").exists() and not (isolated / ".config").exists()


def test_memory_is_bounded_by_the_longest_line(tmp_path: Path) -> None:
    import tracemalloc

    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    line = json.dumps({"text": "a patrol line with password=hunter22 in it " * 20}) + "\n"
    source.write_text(line * 12_000)
    scrub = scrubber()
    scrub.text("a@b.io")
    tracemalloc.start()
    scrub_path(scrub, str(source), str(out))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.stat().st_size > 10_000_000 and peak < 12_000_000, f"{peak / 1e6:.0f} MB"
