"""``gt model prime build|show`` over a gt of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from prime_texts import hooked, mail, patrol, prime
from typer.testing import CliRunner

from gt_plugins.cli import model_prime
from gt_plugins.cli.common import new_app
from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.prime.ask import place_of
from gt_plugins.town.root import Town

STOCK = prime(
    "deacon", hooked("hq-wisp-aa1", "mol-deacon-patrol"), patrol("deacon"), mail("m from mayor/: hi")
)


@pytest.fixture
def app():
    made = new_app("model", "test")
    model_prime.register(made)
    return made


@pytest.fixture
def gt(tmp_path: Path, town: Town, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gt that prints a deacon's prime and writes down where and how it was asked."""
    folder = tmp_path / "gtbin"
    folder.mkdir()
    (folder / "out").write_text(STOCK)
    script = '#!/bin/sh\necho "$PWD $GT_ROLE $GT_RIG $GT_CREW $*" >> "${0%/*}/asked"\ncat "${0%/*}/out"\n'
    (folder / "gt").write_text(script)
    (folder / "gt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GT_TOWN_ROOT", str(town.root))
    return folder


def call(app, *args: str, stdin: str = ""):
    return CliRunner().invoke(app, ["prime", *args], input=stdin)


def test_show_asks_the_real_gt_in_the_roles_place(app, gt: Path, town: Town):
    done = call(app, "show", "deacon", "--tokens", "350")
    assert done.exit_code == 0 and done.stdout.startswith('<gt-prime role="deacon">\n')
    assert "hq-wisp-aa1" in done.stdout and "Never kill a session yourself" in done.stdout
    assert (gt / "asked").read_text() == f"{town.root}/deacon deacon   prime\n"


def test_show_explains_with_sizes(app, gt: Path):
    done = call(app, "show", "deacon", "--explain")
    assert "slim prime: " in done.stdout and "doctrine" in done.stdout


def test_show_json_is_one_document(app, gt: Path):
    value = json.loads(call(app, "show", "deacon", "--json", "--tokens", "400").stdout)
    assert value["role"] == "deacon" and value["budget"] == 400 and value["slim"]["tokens"] <= 400
    assert value["recall"]["live"] == 1.0 and value["unknown_form"] == []
    assert {"name", "chars", "units", "reason"} == set(value["dropped"][0])


def test_a_crew_is_asked_without_taking_its_lock(app, gt: Path, town: Town):
    call(app, "show", "crew")
    asked = (gt / "asked").read_text()
    assert asked == f"{town.root}/demo/crew/alice demo/crew/alice demo alice prime --dry-run\n"


def test_build_judges_and_says_what_is_lost(app, gt: Path):
    good = call(app, "build", "deacon")
    assert good.exit_code == 0 and "live facts   " in good.stdout
    bad = call(app, "build", "deacon", "--tokens", "60")
    assert bad.exit_code == 1 and isinstance(bad.exception, FinetuneError)
    assert "live facts do not fit 60 tokens" in str(bad.exception)


def test_build_notices_a_gt_that_prints_otherwise(app, gt: Path):
    (gt / "out").write_text(STOCK.replace("GAS TOWN role:", "TOWN who="))
    done = call(app, "build", "deacon")
    assert "shows no actor, session for deacon" in str(done.exception)


def test_a_stock_prime_can_come_from_a_file_or_stdin_without_a_town(
    app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").write_text(STOCK)
    from_file = call(app, "show", "deacon", "--from", "p")
    assert from_file.exit_code == 0 and "hq-wisp-aa1" in from_file.stdout
    assert call(app, "show", "deacon", "--from", "-", stdin=STOCK).stdout == from_file.stdout
    missing = call(app, "show", "deacon", "--from", "nowhere")
    assert isinstance(missing.exception, UserError)


def test_bad_names_are_told_at_once(app, gt: Path, town: Town):
    for args, words in (
        (("show", "king"), "unknown role 'king'"),
        (("show", "witness", "--rig", "mars"), "no rig 'mars'"),
        (("show", "polecat"), "the town has no polecat"),
        (("show", "crew", "--name", "bob"), "not there"),
    ):
        done = call(app, *args)
        assert isinstance(done.exception, UserError) and words in str(done.exception), args
    assert not (gt / "asked").exists()


def test_a_gt_that_fails_is_one_line(app, gt: Path):
    (gt / "gt").write_text("#!/bin/sh\necho 'a\nno town' >&2\nexit 4\n")
    done = call(app, "show", "deacon")
    assert str(done.exception) == "gt prime for deacon: exit 4: no town"


@pytest.mark.parametrize(
    ("role", "folder", "gt_role"),
    [
        ("mayor", "mayor", "mayor"),
        ("boot", "deacon/dogs/boot", "deacon/boot"),
        ("witness", "demo/witness", "demo/witness"),
        ("refinery", "demo/refinery", "demo/refinery"),
        ("crew", "demo/crew/alice", "demo/crew/alice"),
    ],
)
def test_where_roles_live(town: Town, role: str, folder: str, gt_role: str):
    place = place_of(town, role)
    assert (place.folder, place.gt_role) == (town.root / folder, gt_role)


def test_a_polecat_lives_in_its_worktree(town: Town):
    (town.root / "demo/polecats/rust/demo").mkdir(parents=True)
    (town.root / "demo/refinery/rig").mkdir()
    assert place_of(town, "polecat").folder == town.root / "demo/polecats/rust/demo"
    assert place_of(town, "refinery").folder == town.root / "demo/refinery/rig"
    (town.root / "demo/polecats/slit").mkdir()
    with pytest.raises(UserError, match="which polecat"):
        place_of(town, "polecat")


def test_what_is_written_is_scrubbed_and_private(app, gt: Path, town: Town, tmp_path: Path):
    secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
    (gt / "out").write_text(STOCK.replace("from mayor/: hi", f"from mayor/: token {secret}"))
    out = tmp_path / "prime.txt"
    assert call(app, "build", "deacon", "--out", str(out)).exit_code == 0
    assert secret not in out.read_text() and "hq-wisp-aa1" in out.read_text()
    assert out.stat().st_mode & 0o777 == 0o600
