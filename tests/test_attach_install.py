"""Attaching to a folder town and leaving it: everything or nothing, twice as once, and back to the byte."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gt_plugins.attach import pieces, record, shim
from gt_plugins.attach.install import install
from gt_plugins.attach.uninstall import uninstall
from gt_plugins.errors import UserError
from gt_plugins.settings import load_settings, resource
from gt_plugins.town import client_settings, edits, gt
from gt_plugins.town.root import Town

OTHERS = {
    "env": {"ANTHROPIC_AUTH_TOKEN": "sk-secret-of-the-operator"},
    "hooks": {
        "SessionEnd": [{"matcher": "", "hooks": [{"type": "command", "command": "say bye"}]}],
        "Stop": [{"hooks": [{"type": "command", "command": "gt costs record &"}]}],
    },
}


def tree(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Every path below a folder with kind, mode and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        kind = "link" if path.is_symlink() else "dir" if path.is_dir() else "file"
        data = os.readlink(path).encode() if kind == "link" else path.read_bytes() if kind == "file" else b""
        found[str(path.relative_to(root))] = (kind, stat.S_IMODE(mode), data)
    return found


def fake_gt(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gt"
    path.write_text("#!/bin/sh\necho real\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real gt on a PATH that has neither bd nor a client."""
    path = fake_gt(tmp_path / "real bin")
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


@pytest.fixture
def client(isolated: Path) -> Path:
    """The client's settings with other people's hooks."""
    path = isolated / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps(OTHERS, indent=4))
    path.chmod(0o644)
    return path


def session_end(path: Path) -> list[Any]:
    return json.loads(path.read_text())["hooks"]["SessionEnd"]


def test_install_attaches_and_uninstall_leaves_no_trace(town: Town, isolated: Path, real: Path, client: Path):
    before, home = tree(town.root), tree(isolated)
    report = install(town, "Ann")
    assert len(report.done) == 7 and any("first on PATH" in n for n in report.notes)
    assert session_end(client)[0] == OTHERS["hooks"]["SessionEnd"][0] and len(session_end(client)) == 2
    ours = session_end(client)[1]["hooks"][0]
    assert ours["timeout"] == 10 and str(client_settings.hook_executable()) in ours["command"]
    assert json.loads(client.read_text())["hooks"]["Stop"] == OTHERS["hooks"]["Stop"]
    assert load_settings(town).consent.by == "Ann"
    assert (town.formulas_dir / "train-role-model.formula.toml").read_bytes() == (
        resource("formulas") / "train-role-model.formula.toml"
    ).read_bytes()
    assert shim.read_state().real == str(real) and os.access(shim.shim_path(), os.X_OK)
    assert edits.read_text(shim.shim_path()) == shim.shipped_shim()
    uninstall(town)
    assert tree(town.root) == before and tree(isolated) == home


def test_what_is_ours_is_private_and_holds_no_secret_of_others(
    town: Town, isolated: Path, real: Path, client: Path
):
    os.umask(0)
    try:
        install(town, "Ann")
    finally:
        os.umask(0o022)
    for path in (town.finetune_dir, gt.attach_home()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (record.town_file(town), record.user_file(), gt.shim_state(), town.settings_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (town.finetune_dir / ".gitignore").read_text() == "*\n"
    for path in [*town.root.rglob("*"), *gt.attach_home().rglob("*")]:
        assert not path.is_file() or b"sk-secret" not in path.read_bytes()


def test_a_second_install_changes_nothing(town: Town, isolated: Path, real: Path, client: Path):
    install(town, "Ann")
    once, home = tree(town.root), tree(isolated)
    install(town, "Bob")
    assert tree(town.root) == once and tree(isolated) == home


def test_every_account_gets_the_hook(town: Town, isolated: Path, real: Path):
    work = isolated / "accounts" / "work"
    town.accounts_file.write_text(json.dumps({"accounts": {"work": {"config_dir": str(work)}}}))
    before, home = tree(town.root), tree(isolated)
    install(town, "Ann")
    for folder in (isolated / ".claude", work):
        assert len(session_end(folder / "settings.json")) == 1
    uninstall(town)
    assert tree(town.root) == before and tree(isolated) == home


def test_an_account_that_came_later_gets_it_with_the_next_install(town: Town, isolated: Path, real: Path):
    install(town, "Ann")
    work = isolated / "work"
    town.accounts_file.write_text(json.dumps({"accounts": {"work": {"config_dir": str(work)}}}))
    install(town, "Ann")
    assert len(session_end(work / "settings.json")) == 1
    town.accounts_file.unlink()
    uninstall(town)
    assert not work.exists() and not (isolated / ".claude").exists()


BROKEN: list[tuple[str, Callable[[Town, Path], Path], str]] = [
    ("client", lambda town, home: home / ".claude/settings.json", '{\n  "hooks": {,}\n}'),
    ("client", lambda town, home: home / ".claude/settings.json", '{"hooks": []}'),
    ("client", lambda town, home: home / ".claude/settings.json", '{"hooks": {"SessionEnd": {}}}'),
    ("client", lambda town, home: home / ".claude/settings.json", "[]"),
    ("client", lambda town, home: home / ".claude/settings.json", ""),
    ("accounts", lambda town, home: town.accounts_file, '{"accounts":'),
    ("toml", lambda town, home: town.settings_file, "[gate\n"),
    ("toml", lambda town, home: town.settings_file, "consent = 1\n"),
    ("formula", lambda town, home: town.formulas_dir / "eval-suite.formula.toml", "theirs"),
    ("record", lambda town, home: town.finetune_dir / "install.json", '{"placed": [{}]}'),
    ("record", lambda town, home: town.finetune_dir / "install.json", "{"),
]


@pytest.mark.parametrize(("what", "where", "text"), BROKEN)
def test_anything_broken_is_named_and_nothing_is_written(
    town: Town, isolated: Path, real: Path, what: str, where: Callable[[Town, Path], Path], text: str
):
    path = where(town, isolated)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    before, home = tree(town.root), tree(isolated)
    with pytest.raises(UserError) as raised:
        install(town, "Ann")
    message = str(raised.value)
    assert path.name in message and "\n" not in message
    if text.startswith(("{\n", "[gate")):
        assert "line 2" in message or "line 1" in message
    assert tree(town.root) == before and tree(isolated) == home


@pytest.mark.parametrize("fail_at", range(1, 10))
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    town: Town, isolated: Path, real: Path, client: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
):
    before, home = tree(town.root), tree(isolated)
    written = 0
    write_bytes = edits.write_bytes

    def failing(path: Path, data: bytes, mode: int) -> None:
        nonlocal written
        written += 1
        if written == fail_at:
            raise OSError(28, "No space left on device", str(path))
        write_bytes(path, data, mode)

    monkeypatch.setattr(edits, "write_bytes", failing)
    with pytest.raises(OSError, match="No space left"):
        install(town, "Ann")
    assert tree(town.root) == before and tree(isolated) == home


def test_settings_that_the_client_rewrote_lose_ours_alone(
    town: Town, isolated: Path, real: Path, client: Path
):
    install(town, "Ann")
    document = json.loads(client.read_text())
    document["theme"] = "dark"
    client.write_text(json.dumps(document))
    uninstall(town)
    assert json.loads(client.read_text()) == {**OTHERS, "theme": "dark"}


def test_settings_that_we_made_and_the_client_rewrote_keep_the_clients(
    town: Town, isolated: Path, real: Path
):
    install(town, "Ann")
    path = isolated / ".claude" / "settings.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "theme": "dark"}))
    install(town, "Ann")
    uninstall(town)
    assert json.loads(path.read_text()) == {"theme": "dark"}
    path.write_text("{}")
    install(town, "Ann")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    uninstall(town)
    assert json.loads(path.read_text()) == {}


def test_the_operators_own_settings_survive(town: Town, isolated: Path, real: Path):
    text = "# strict\n[gate]\nthreshold = 0.97 # agreed\n"
    town.settings_file.write_text(text)
    install(town, "Ann")
    assert load_settings(town).threshold == 0.97 and load_settings(town).consent.granted
    town.settings_file.write_text(town.settings_file.read_text() + "\n[prime]\ntokens = 2000\n")
    uninstall(town)
    assert town.settings_file.read_text().startswith(text)
    assert not load_settings(town).consent.granted and load_settings(town).prime_tokens == 2000


def test_consent_that_was_there_before_stays(town: Town, isolated: Path, real: Path):
    town.settings_file.write_text('[consent]\ngranted = true\nby = "Ann"\nat = "2026-01-01T00:00:00Z"\n')
    before = tree(town.root)
    install(town, "")
    uninstall(town)
    assert tree(town.root) == before


def test_a_formula_that_somebody_changed_is_theirs(town: Town, isolated: Path, real: Path):
    install(town, "Ann")
    path = town.formulas_dir / "eval-suite.formula.toml"
    path.write_text(path.read_text() + "# mine\n")
    report = install(town, "Ann")
    assert any("left as it is" in n for n in report.notes)
    assert any(n.startswith("left, because it was changed") for n in uninstall(town).notes)
    assert path.read_text().endswith("# mine\n") and len(list(town.formulas_dir.iterdir())) == 1


def test_an_older_formula_of_ours_is_brought_up_to_date(
    town: Town, isolated: Path, real: Path, monkeypatch: pytest.MonkeyPatch
):
    before = tree(town.root)
    shipped = pieces.shipped_formulas()
    with monkeypatch.context() as old:
        old.setattr(pieces, "shipped_formulas", lambda: {n: f"# old\n{t}" for n, t in shipped.items()})
        install(town, "Ann")
    install(town, "Ann")
    for name, text in shipped.items():
        assert (town.formulas_dir / name).read_text() == text
    uninstall(town)
    assert tree(town.root) == before


def second_town(tmp_path: Path) -> Town:
    root = tmp_path / "other town"
    (root / "mayor").mkdir(parents=True)
    (root / "mayor/town.json").write_text("{}")
    return Town(root)


def test_two_towns_share_the_shim_until_the_last_one_leaves(
    town: Town, tmp_path: Path, isolated: Path, real: Path, client: Path
):
    other, home = second_town(tmp_path), tree(isolated)
    befores = tree(town.root), tree(other.root)
    install(town, "Ann")
    install(other, "Ann")
    report = uninstall(town)
    assert any(str(other.root) in n for n in report.notes)
    assert shim.shim_path().exists() and len(session_end(client)) == 2
    uninstall(other)
    assert (tree(town.root), tree(other.root)) == befores and tree(isolated) == home


def test_a_town_that_was_deleted_does_not_hold_the_shim(
    town: Town, tmp_path: Path, isolated: Path, real: Path, client: Path
):
    import shutil

    other, home = second_town(tmp_path), tree(isolated)
    install(other, "Ann")
    install(town, "Ann")
    shutil.rmtree(other.root)
    uninstall(town)
    assert tree(isolated) == home


def test_uninstall_in_a_town_without_install_does_nothing(town: Town, isolated: Path, real: Path):
    before = tree(town.root)
    uninstall(town)
    assert tree(town.root) == before


def test_uninstall_stops_at_broken_settings_before_it_changes_anything(
    town: Town, isolated: Path, real: Path, client: Path
):
    install(town, "Ann")
    client.write_text("{oops")
    before, home = tree(town.root), tree(isolated)
    with pytest.raises(UserError, match=r"settings\.json: line 1"):
        uninstall(town)
    assert tree(town.root) == before and tree(isolated) == home


def test_the_corpus_stays_unless_purged(town: Town, isolated: Path, real: Path):
    before = tree(town.root)
    for purge in (False, True):
        install(town, "Ann")
        for folder in (town.corpus_dir, town.checkpoints_dir / "job"):
            town.own_dir(folder)
            (folder / "kept").write_text("x")
        report = uninstall(town, purge=purge)
        assert town.corpus_dir.exists() is not purge
        if not purge:
            assert any(n.startswith("kept:") and "--purge" in n for n in report.notes)
    assert [line for line in report.done if line.startswith("deleted:")] and tree(town.root) == before


def test_the_real_gt_stays_recorded_when_the_shim_stands_first(
    town: Town, isolated: Path, real: Path, monkeypatch: pytest.MonkeyPatch
):
    install(town, "Ann")
    monkeypatch.setenv("PATH", f"{gt.shim_dir()}:{os.environ['PATH']}")
    install(town, "Ann")
    assert shim.read_state().real == str(real) == str(gt.real_gt())
    real.unlink()
    install(town, "Ann")
    assert shim.read_state().real == ""


def test_a_killed_install_is_accounted_for(
    town: Town, isolated: Path, real: Path, client: Path, monkeypatch: pytest.MonkeyPatch
):
    before, home = tree(town.root), tree(isolated)

    class Killed(BaseException):
        pass

    def kill_at_formulas(edit: edits.FileEdit) -> None:
        if edit.path.parent == town.formulas_dir:
            raise Killed
        write(edit)

    write = edits.write
    with monkeypatch.context() as killing:
        killing.setattr(edits, "write", kill_at_formulas)
        killing.setattr(edits, "write_all", lambda planned: [edits.write(e) for e in planned])
        with pytest.raises(Killed):
            install(town, "Ann")
    assert len(session_end(client)) == 2
    uninstall(town)
    assert tree(town.root) == before and tree(isolated) == home


HOOK = st.fixed_dictionaries({"type": st.just("command"), "command": st.text(max_size=9)})
ENTRY = st.fixed_dictionaries(
    {"hooks": st.lists(HOOK, max_size=2)}, optional={"matcher": st.text(max_size=5)}
)
EVENTS = st.sampled_from(["SessionEnd", "Stop", "PreToolUse"])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "hooks": st.dictionaries(EVENTS, st.lists(ENTRY, max_size=3)),
        "model": st.text(max_size=5),
        "permissions": st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=4))),
    },
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=SETTINGS, indent=st.sampled_from([None, 2, 4]), rewritten=st.booleans())
def test_any_settings_come_back(town: Town, isolated: Path, real: Path, document, indent, rewritten):
    path = isolated / ".claude" / "settings.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=indent))
    text = path.read_text()
    install(town, "Ann")
    assert len(client_settings.our_entries(json.loads(path.read_text()))) == 1
    if rewritten:
        path.write_text(json.dumps(json.loads(path.read_text()), indent=1) + "\n")
        install(town, "Ann")
        uninstall(town)
        assert json.loads(path.read_text()) == document
    else:
        uninstall(town)
        assert path.read_text() == text
