"""Databases of rules that are kept compiled: used again, private, and not trusted when they are not whole."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import hyperscan
import pytest

from gt_plugins.corpus.scrub import compiled
from gt_plugins.corpus.scrub.patterns import regex
from gt_plugins.corpus.scrub.scan import Marks, word

WORDS = ("token", "secret", "sk_live_")
TEXT = b"a token, a SECRET and sk_live_ with a token"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many expressions each compilation had."""
    made: list[int] = []
    compile = compiled._compile

    def counted(expressions: list[bytes], flags: list[int]) -> hyperscan.Database:
        made.append(len(expressions))
        return compile(expressions, flags)

    monkeypatch.setattr(compiled, "_compile", counted)
    return made


def found(words: tuple[str, ...] = WORDS) -> list[tuple[int, int, int]]:
    return Marks(map(word, words)).hits(TEXT)


def kept() -> list[Path]:
    return sorted(compiled.cache_folder().glob("*.hsdb"))


def test_a_database_is_compiled_once(compilations: list[int], isolated: Path) -> None:
    first = found()
    assert [TEXT[a:b].lower() for _, a, b in first] == [b"token", b"secret", b"sk_live_", b"token"]
    assert found() == first and compilations == [3]
    [path] = kept()
    assert path.is_relative_to(isolated)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"SECRET and" not in path.read_bytes()
    assert found((*WORDS, "more")) == first and compilations == [3, 4]


@pytest.mark.parametrize("what", ["torn", "changed", "empty", "open to others", "link", "no database"])
def test_what_is_not_whole_or_not_ours_is_compiled_anew(what: str, compilations: list[int]) -> None:
    first = found()
    [path] = kept()
    data = path.read_bytes()
    match what:
        case "torn":
            path.write_bytes(data[: len(data) // 2])
        case "changed":
            path.write_bytes(data[:-100] + bytes(b ^ 1 for b in data[-100:]))
        case "empty":
            path.write_bytes(b"")
        case "open to others":
            path.chmod(0o666)
        case "link":
            path.rename(path.with_suffix(".moved"))
            path.symlink_to(path.with_suffix(".moved"))
        case "no database":
            path.write_bytes(hashlib.sha256(b"none").digest() + b"none")
    assert found() == first and compilations == [3, 3]
    assert found() == first and compilations == [3, 3], "and kept again"
    assert kept()[0].read_bytes() == data and not path.is_symlink()


def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    compilations: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert found() == found() and compilations == [3, 3]


def test_databases_of_earlier_rules_go(compilations: list[int]) -> None:
    for number in range(compiled.KEPT + 3):
        found((f"word{number}",))
        os.utime(max(kept(), key=lambda p: p.stat().st_mtime), (number, number))
    assert len(kept()) == compiled.KEPT


def test_an_expression_that_waits_is_one_that_is_compiled() -> None:
    later, at_once = regex(r"(a+)(b)?", re.IGNORECASE), re.compile(r"(a+)(b)?", re.IGNORECASE)
    for text in ("AAB", "xab", ""):
        assert str(later.match(text)) == str(at_once.match(text))
        assert str(later.search(text)) == str(at_once.search(text))
        assert later.sub("-", text) == at_once.sub("-", text)
    assert later.groups == 2 and later.flags == at_once.flags and later.pattern == at_once.pattern
    with pytest.raises(re.error):
        regex("(").match("")
