"""Every command of every console script: a wrong command line and a broken place are one line on stderr, exit
code 2 or 1, and leave stdout clean, with ``--json`` above all."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gt_plugins.cli.common import run
from gt_plugins.cli.exits import one_line
from gt_plugins.town.root import Town
from tests.docs_help import applications


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None or getattr(command, "invoke_without_command", False):
        yield words, command
    for name, one in (inner or {}).items():
        yield from _leaves(one, (*words, name))


COMMANDS = {
    words: command
    for name, app in applications().items()
    for words, command in _leaves(typer.main.get_command(app), (name,))
}
WITH_JSON = {w: c for w, c in COMMANDS.items() if any("--json" in p.opts for p in c.params)}
IN_TOWN = {w: c for w, c in WITH_JSON.items() if any("--town" in p.opts for p in c.params)}
ELSEWHERE = {("gt-plugins", "list"): "of no town", ("gt-model", "base", "build"): "of no town"}
"""Commands that have nothing to be wrong about when no argument is."""


def ids(words: tuple[str, ...]) -> str:
    return " ".join(words)


def call(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], *more: str) -> tuple[int, str, str]:
    sys.argv = [words[0], *words[1:], *more]
    with pytest.raises(SystemExit) as left:
        run(applications()[words[0]])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside any town, an argv of our own, no real gt to be asked."""
    folder = tmp_path / "outside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder


def needed(command: Any) -> list[str]:
    """A made-up value for each argument and option that a command cannot do without."""
    words: list[str] = []
    for param in command.params:
        if not getattr(param, "required", False):
            continue
        value = {"role": "deacon", "keep": "1", "verdict": "good"}.get(param.name, "made-up")
        words += [value] if param.param_type_name == "argument" else [param.opts[0], value]
    return words


def one_error(err: str) -> None:
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err


@pytest.mark.parametrize("words", COMMANDS, ids=ids)
def test_an_unknown_option_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, words, "--no-such-option")
    assert (code, out) == (2, "")
    one_error(err)
    assert "--no-such-option" in err and f"{' '.join(words[1:])} --help` shows" in err


@pytest.mark.parametrize("words", [w for w, c in COMMANDS.items() if needed(c)], ids=ids)
def test_a_missing_argument_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, words)
    assert (code, out) == (2, "")
    one_error(err)
    assert "missing" in err


def numbers(command: Any) -> list[str]:
    """The options that want a number."""
    kinds = (int, float, int | None, float | None)
    return [p.opts[0] for p in command.params if p.opts and p.type_descriptor.annotation in kinds]


@pytest.mark.parametrize("words", [w for w, c in COMMANDS.items() if numbers(c)], ids=ids)
def test_a_word_for_a_number_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for option in numbers(COMMANDS[words]):
        code, out, err = call(capsys, words, *needed(COMMANDS[words]), option, "many")
        assert (code, out) == (2, "")
        one_error(err)
        assert f"'{option}'" in err and "valid" in err


@pytest.mark.parametrize("words", COMMANDS, ids=ids)
def test_help_is_still_there(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, words, "--help")
    assert (code, err) == (0, "") and "Usage:" in out


@pytest.mark.parametrize("words", [w for w in WITH_JSON if w not in ELSEWHERE], ids=ids)
def test_outside_a_town_json_is_clean(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """What can be answered without a town and a registry is one document; all else is an error, and no word
    of it on stdout."""
    code, out, err = call(capsys, words, *needed(WITH_JSON[words]), "--json")
    if out:
        json.loads(out)
    else:
        assert code in (1, 2)
        one_error(err)


BROKEN = {
    "settings/finetune.toml": '[gate]\nthreshold = "high\n',
    "mayor/rigs.json": '{"rigs": {"demo": {}},\n',
}
NEEDS_NEITHER = {
    "gt-plugins uninstall": "must work in a town that is broken",
    "gt-model rollback": "the way back must be open in a town that is broken",
    "gt-plugins doctor": "finds it among its checks",
    "gt-model jobs": "a job must be seen and stopped in any case",
    "gt-model jobs list": "the same",
    "gt-model jobs follow": "the same",
    "gt-model jobs stop": "the same",
    "gt-model serve": "reads the role's own files",
    "node0-inference": "the same",
    "gt-corpus scrub": "needs no town",
}


@pytest.mark.parametrize("file", BROKEN)
@pytest.mark.parametrize("words", [w for w in IN_TOWN if ids(w) not in NEEDS_NEITHER], ids=ids)
def test_a_broken_file_of_the_town(
    words: tuple[str, ...], file: str, town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    (town.root / file).write_text(BROKEN[file])
    before = {p for p in town.root.rglob("*")}
    code, out, err = call(capsys, words, *needed(IN_TOWN[words]), "--town", str(town.root), "--json")
    assert (code, out) == (2, "")
    one_error(err)
    assert f"{town.root / file}: " in err and "line 2" in err
    assert {p for p in town.root.rglob("*")} == before


# -- files for folders, folders for files, names that there are not ----------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """Names for the lines below: a file, a folder, a folder that is called like a file, nothing at all."""
    (tmp_path / "file").write_text("x")
    for name in ("folder", "dir.jsonl"):
        (tmp_path / name).mkdir()
    return {name: str(tmp_path / name) for name in ("file", "folder", "dir.jsonl", "nothing")}


LINES = [
    ("gt-model list --models FILE", "FILE: a file, not a folder (--models)"),
    ("gt-model journal --models FILE", "FILE: a file, not a folder (--models)"),
    ("gt-model verify --models FILE", "FILE: a file, not a folder (--models)"),
    ("gt-model jobs --checkpoints FILE", "FILE: a file, not a folder (--checkpoints)"),
    ("gt-model jobs list --checkpoints NOTHING", "NOTHING: no such folder (--checkpoints)"),
    ("node0-finetune --role deacon --dataset FOLDER --checkpoints FILE", "FILE: a file, not a folder"),
    ("gt-model train deacon --town TOWN --config FOLDER", "FOLDER: a folder; pass a recipe file"),
    ("gt-model train deacon --town TOWN --config NOTHING", "NOTHING: not there; pass a recipe file"),
    ("gt-model train deacon --town TOWN --rank 0", "--rank: must be more than zero"),
    (
        "gt-model train deacon --town TOWN --batch-tokens -3",
        "--batch-tokens: -3 is not a number from zero up",
    ),
    ("gt-model train deacon --town TOWN --epochs 1e308", "--epochs: 1e+308 is too much; 10,000 at most"),
    ("gt-model train deacon --town TOWN --rank 9999999999", "--rank: 9999999999 is too much"),
    ("gt-model train deacon --town TOWN --threads -5", "'--threads': Input should be greater"),
    ("gt-model train deacon --town TOWN --rate nan", "--rate: nan is not a number"),
    ("gt-model train deacon --town TOWN --schedule steps", "--schedule: 'steps' is not cosine, wsd"),
    (
        "gt-model train nosuch --town TOWN",
        "unknown role 'nosuch'; a model can be tuned for boot, crew, deacon",
    ),
    ("gt-corpus dataset --town TOWN --role nosuch --out NOTHING", "unknown role 'nosuch'; a model can be"),
    (
        "gt-corpus dataset --town TOWN --role mayor --out NOTHING",
        "no profile for role 'mayor': it cannot",
    ),
    ("gt-corpus search x --town TOWN --role nosuch", "unknown role 'nosuch'; a town has mayor, deacon"),
    ("gt-corpus outcomes --town TOWN --role nosuch", "unknown role 'nosuch'"),
    ("gt-model list --role nosuch", "unknown role 'nosuch'"),
    ("gt-model jobs --town TOWN --role nosuch", "unknown role 'nosuch'"),
    ("gt-model off nosuch --town TOWN", "unknown role 'nosuch'"),
    ("gt-model show gt-ft-deacon:v9", "no model 'gt-ft-deacon'"),
    ("gt-corpus audit --town TOWN --since 9999-12-31T23:59:59-14:00", "not a span such as 7d"),
    ("gt-corpus search x --town TOWN --limit 99999999999999999999", "'--limit': Input should be less than"),
    ("gt-corpus label x good --town TOWN --reason ", "--reason is empty"),
    ("gt-model rollout hold --town TOWN --reason ", "--reason is empty"),
    ("gt-corpus scrub FILE NOTHING --report FOLDER", "FOLDER: a folder; name a file for --report"),
    ("gt-corpus share import FOLDER --town TOWN", "capturing needs consent"),
]


@pytest.mark.parametrize(("line", "said"), LINES)
def test_a_wrong_name(
    line: str, said: str, odd: dict[str, str], town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name.upper(): path for name, path in odd.items()} | {"TOWN": str(town.root)}
    words = tuple(names.get(word, word) for word in line.split(" "))
    before = {p for p in town.root.rglob("*")}
    code, out, err = call(capsys, words)
    assert (code, out) == (2, "")
    one_error(err)
    for name, path in names.items():
        said = said.replace(name, path)
    assert said in err
    assert Path(odd["file"]).stat().st_mode & 0o777 == 0o644 and {p for p in town.root.rglob("*")} == before


def test_a_folder_for_a_suite(odd: dict[str, str]) -> None:
    from gt_plugins.errors import UserError
    from gt_plugins.evaluation.suites import find_suite

    with pytest.raises(UserError, match=r"dir\.jsonl: a folder, not a suite file"):
        find_suite(odd["dir.jsonl"], "deacon")


def test_a_recipe_file_is_named_with_its_key(odd: dict[str, str], town: Town, capsys: Any) -> None:
    recipe = Path(odd["folder"]) / "r.toml"
    recipe.write_text("rank = 0\n")
    words = ("gt-model", "train", "deacon", "--town", str(town.root), "--config", str(recipe))
    code, _, err = call(capsys, words)
    assert code == 2 and err == f"error: {recipe}: rank: must be more than zero\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gt-model journal", "no events in "),
        ("gt-model list", "no versions in "),
        ("gt-model jobs --town TOWN", "no jobs yet"),
        ("gt-corpus search nothing --town TOWN", "nothing was found"),
        ("gt-corpus reversions list --town TOWN", "none waits for a decision"),
        ("gt-corpus audit --history --town TOWN", "no audit yet"),
        ("gt-model stale --town TOWN", "nothing is deployed in"),
    ],
)
def test_nothing_is_said_to_be_nothing(
    line: str, said: str, town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tuple(str(town.root) if word == "TOWN" else word for word in line.split())
    code, out, err = call(capsys, words)
    assert (code, err) == (0, "") and said in out and out.count("\n") == 1


def test_a_rig_to_leave_out_that_is_not_there_is_told(town: Town, capsys: Any, monkeypatch: Any) -> None:
    text = '[consent]\ngranted = true\nby = "Ann"\n[capture]\nexclude_rigs = ["demo", "dmeo", "deacon"]\n'
    town.settings_file.write_text(text)
    code, _, err = call(capsys, ("gt-corpus", "sweep"), "--town", str(town.root))
    assert code == 0
    assert err == f"note: {town.settings_file}: capture.exclude_rigs: no rig 'dmeo' here yet\n"
    _, out, _ = call(capsys, ("gt-plugins", "doctor"), "--town", str(town.root), "--json")
    found = [c for c in json.loads(out)["checks"] if c["name"] == "left out"]
    assert len(found) == 1 and "'dmeo'" in found[0]["detail"] and "demo" in found[0]["mend"]


@pytest.mark.parametrize(
    "line",
    [
        "corpus sweep",
        "corpus consent --revoke --by Ann",
        "corpus share key",
        "plugins init",
        "plugins install --yes --consent-by Ann",
        "model rollout hold --reason wait",
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_trace(line: str, town: Town) -> None:
    """RLIMIT_FSIZE stands for the disk: no file can take a byte."""
    town.settings_file.write_text('[consent]\ngranted = true\nby = "Ann"\n')
    module, *words = line.split()
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    limit += f"runpy.run_module('gt_plugins.cli.{module}', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-B", "-c", limit, *words, "--town", str(town.root)]
    before = contents(town.root)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    one_error(done.stderr)
    assert f"error: {town.root}/" in done.stderr and ".tmp" not in done.stderr
    assert contents(town.root) == before


def contents(folder: Path) -> dict[str, bytes]:
    """The files that hold anything."""
    found = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if data}


def test_what_an_error_names_is_shown_in_one_line() -> None:
    assert one_line("a\n  b\tc") == "a b\\tc"
    assert one_line("/tmp/\x1b[31mred\udcff/é") == "/tmp/\\x1b[31mred\\udcff/é"


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_the_hook_has_help_too(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = importlib.import_module("gt_plugins.cli.hook")
    monkeypatch.setattr(sys, "argv", ["gt-hook", asked])
    assert hook.main() == 0 and capsys.readouterr().out.startswith("usage: gt-hook")
    monkeypatch.setattr(sys, "argv", ["gt-hook", "session-endd"])
    assert hook.main() == 2
    one_error(capsys.readouterr().err)
