"""``gt model list|show|diff|verify|journal|alias|prune``, as a person and as a script call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from registry_helpers import make_base, make_source, make_version, score

from gt_plugins.cli import model, model_list
from gt_plugins.cli.common import run
from gt_plugins.registry.journal import fold, journal_path, record, town_key
from gt_plugins.registry.versions import register

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "lancedb",
    "scrubadub",
    "llama_cpp",
    "hivemind",
    "numpy",
    "rich.table",
)


@pytest.fixture
def home(isolated: Path) -> Path:
    return isolated / ".models"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``gt-model WORDS``."""
    with pytest.raises(SystemExit) as end:
        model.main(list(words))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_listing_imports_nothing_heavy(home: Path, tmp_path: Path) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 91)
    code = (
        "import sys\n"
        "from gt_plugins.cli import model\n"
        "try:\n    model.main(['list'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "gt-ft-deacon:v1" in done.stdout and "0.91" in done.stdout


def test_list(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list") == (0, f"no versions in {home}\n", "")
    one, two = make_version(home, tmp_path), make_version(home, tmp_path)
    make_version(home, tmp_path, "gt-ft-witness", "witness")
    score(home, one, 899, 1000)
    score(home, one, 95, suite="safety")
    score(home, two, 100, served=False)
    record(home, "deployed", town=town_key("/t"), role="deacon", model=one.model, version="v1", rigs=[])
    record(home, "deployed", town=town_key("/t"), role="deacon", model=one.model, version="v2", rigs=["demo"])
    call(capsys, "alias", "gt-ft-deacon:v1", "best")
    code, out, err = call(capsys, "list")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["VERSION", "ROLE", "SCORE", "STANDS", "AS", "CREATED", "BASE"]
    assert rows[0].split()[:5] == ["gt-ft-deacon:v1", "deacon", "0.89", "previous:deacon", "@best"]
    assert rows[1].split()[:4] == ["gt-ft-deacon:v2", "deacon", "1.00", "live:deacon"]
    assert rows[2].split()[:4] == ["gt-ft-witness:v1", "witness", "-", "-"]
    assert "\x1b" not in out
    code, out, _ = call(capsys, "list", "gt-ft-deacon", "--json")
    listed = json.loads(out)
    assert [entry["version"] for entry in listed] == ["v1", "v2"]
    assert listed[0]["score"] == 0.899 and listed[0]["suites"] == {"decisions": 0.899, "safety": 0.95}
    assert listed[1]["live"][0] | {"at": ""} == {
        **{"town": town_key("/t"), "role": "deacon", "rigs": ["demo"], "at": "", "by": "", "forced": False}
    }
    assert [e["model"] for e in json.loads(call(capsys, "list", "--role", "witness", "--json")[1])] == [
        "gt-ft-witness"
    ]
    code, out, err = call(capsys, "list", "nope")
    assert (code, out) == (2, "") and err == "error: no model 'nope'; models: gt-ft-deacon, gt-ft-witness\n"


def test_show_names_what_does_not_count(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = make_version(home, tmp_path, signals={"a": "1"}, steps=12)
    score(home, version, 93).write_text("{}")
    code, out, _ = call(capsys, "show", "gt-ft-deacon")
    assert code == 0
    assert "decisions: 0.93 (as served" in out and "DOES NOT COUNT" in out
    assert "signals.a = 1" in out and "steps = 12" in out
    document = json.loads(call(capsys, "show", "gt-ft-deacon:v1", "--json")[1])
    assert (
        document["manifest"]["meta"]["steps"] == 12
        and "is not what the journal" in document["results"][0]["problem"]
    )
    code, _, err = call(capsys, "show", "gt-ft-deacon:v7")
    assert code == 2 and err == "error: no version gt-ft-deacon:v7; gt-ft-deacon has v1\n"
    (version.path / "manifest.toml").write_text("= broken")
    code, _, err = call(capsys, "show", "gt-ft-deacon")
    assert code == 2 and f"{version.path / 'manifest.toml'}: not TOML" in err


def test_diff(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_version(home, tmp_path, steps=1), make_version(home, tmp_path, steps=2)
    score(home, one, 50)
    score(home, two, 90)
    code, out, _ = call(capsys, "diff", one.ref, two.ref)
    assert code == 0
    assert "meta.steps: 1 -> 2" in out and "adapter/adapter_model.safetensors: differs" in out
    assert "difference +0.40" in out and "100 cases" in out
    document = json.loads(call(capsys, "diff", one.ref, two.ref, "--json")[1])
    assert document["suites"]["decisions"]["p"] < 0.001
    assert call(capsys, "diff", one.ref, one.ref)[1].count("decisions") == 1


def test_verify(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make_version(home, tmp_path)
    other = make_version(home, tmp_path, "other")
    score(home, version, 93)
    code, out, _ = call(capsys, "verify")
    assert (code, out) == (0, "2 versions, 1 results, 3 lines: all sound\n")
    (version.path / "role/fence.toml").write_text("")
    with journal_path(home).open("ab") as handle:
        handle.write(b'{"torn')
    code, out, _ = call(capsys, "verify", "--json")
    report = json.loads(out)
    assert (
        code == 1
        and report["problems"][0] == f"{journal_path(home)}: line 4: not a whole JSON line (torn write?)"
    )
    assert "fence.toml: is not what was registered" in report["problems"][1]
    code, out, _ = call(capsys, "list")
    assert code == 0 and "gt-ft-deacon:v1" in out
    assert call(capsys, "verify", other.ref)[0] == 1  # the journal's line is everybody's
    assert call(capsys, "verify", "nope")[0] == 2


def test_verify_adopts_what_the_journal_lacks(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version(home, tmp_path)
    journal_path(home).unlink()
    code, out, _ = call(capsys, "verify")
    assert code == 1 and "a whole version that the journal does not know" in out
    assert call(capsys, "verify", "--adopt")[:2] == (
        0,
        "entered gt-ft-deacon:v1 into the journal\n1 versions, 0 results, 1 lines: all sound\n",
    )


def test_journal(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_version(home, tmp_path)
    make_version(home, tmp_path, "other")
    record(
        home,
        "deployed",
        town="/t",
        role="deacon",
        model="gt-ft-deacon",
        version="v1",
        forced=True,
        reason="drill",
    )
    assert [e["event"] for e in json.loads(call(capsys, "journal", "--json")[1])] == ["registered"] * 2 + [
        "deployed"
    ]
    out = call(capsys, "journal", "gt-ft-deacon", "-n", "1")[1]
    assert out.count("\n") == 1 and "deployed" in out and "reason=drill" in out


def test_prune_spares_what_is_live_previous_or_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(7):
        make_version(home, tmp_path)
    for name in ("v1", "v2", "v3"):
        record(home, "deployed", town="/t", role="deacon", model="gt-ft-deacon", version=name)
    call(capsys, "alias", "gt-ft-deacon:v5", "good")
    dry = json.loads(call(capsys, "prune", "gt-ft-deacon", "--keep=1", "--dry-run", "--json")[1])
    assert dry["removed"] == ["v6", "v4", "v1"] and dry["bytes"] > 0
    assert dry["kept"] == {
        **{"v7": "among the newest", "v5": "@good"},
        **{"v3": "live for deacon in /t", "v2": "previous for deacon in /t"},
    }
    assert len(list((home / "gt-ft-deacon").glob("v*"))) == 7
    code, out, _ = call(capsys, "prune", "gt-ft-deacon", "--keep=1")
    assert (
        code == 0
        and "removed gt-ft-deacon:v6" in out
        and "kept gt-ft-deacon:v3: live for deacon in /t" in out
    )
    assert sorted(p.name for p in (home / "gt-ft-deacon").glob("v*")) == ["v2", "v3", "v5", "v7"]
    assert not list((home / "gt-ft-deacon").glob(".pruned*"))
    assert call(capsys, "verify")[0] == 0
    assert make_version(home, tmp_path).version == "v8"
    assert call(capsys, "prune", "gt-ft-deacon", "--keep=-1")[0] == 2
    assert call(capsys, "prune", "nope", "--keep=1")[0] == 2
    call(capsys, "prune", "gt-ft-deacon", "--keep=0")
    assert set(fold(home).versions) == {("gt-ft-deacon", v) for v in ("v2", "v3", "v5")}


def test_a_prune_that_was_killed_is_finished_by_the_next(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        make_version(home, tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        assert call(capsys, "prune", "gt-ft-deacon", "--keep=1")[0] == 130
    assert (home / "gt-ft-deacon/v2").is_dir() and "v2" not in {v for _, v in fold(home).versions}
    assert call(capsys, "verify")[0] == 0  # pruned is no orphan
    call(capsys, "prune", "gt-ft-deacon", "--keep=1")
    assert [p.name for p in (home / "gt-ft-deacon").glob("v*")] == ["v3"]


def test_registering_from_another_machine_keeps_numbers(home: Path, tmp_path: Path) -> None:
    (home / "m/v7").mkdir(parents=True)
    version = register(home, "m", "deacon", make_source(tmp_path / "s"), str(make_base(tmp_path / "b")), {})
    assert version.version == "v8"


def test_third_party_commands_are_loaded_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    app = model.build(plugins=False)
    assert model.is_ours(app, ["list"]) and model.is_ours(app, ["rollout", "status"])
    assert (
        not model.is_ours(app, ["theirs"])
        and not model.is_ours(app, ["--help"])
        and not model.is_ours(app, [])
    )


@pytest.mark.parametrize(
    "words", [[], ["gt-ft-deacon"], ["--role=deacon", "--json"], ["--role", "x"], ["no"]]
)
def test_the_quick_way_prints_what_typer_prints(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    score(home, make_version(home, tmp_path), 91)
    quick = call(capsys, "list", *words)
    assert model_list.quick(words) is not None
    with pytest.raises(SystemExit) as end:
        sys.argv = ["gt-model", "list", *words]
        run(model.build(plugins=False))
    assert (int(end.value.code or 0), *capsys.readouterr()) == quick


def test_the_quick_way_leaves_what_it_does_not_know_to_typer(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--help"], ["-h"], ["--nope"], ["a", "b"], ["--role"]):
        assert model_list.quick(words) is None
    code, out, err = call(capsys, "list", "a", "b")
    assert (code, out) == (2, "") and "shows the usage" in err
