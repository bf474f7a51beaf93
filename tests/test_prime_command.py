"""``gt prime`` and ``gt sling`` as the shim calls them, over a gt of our own that shows what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest
from prime_texts import hooked, mail, patrol, prime

from gt_plugins import hookimpl, hookspecs
from gt_plugins.cli import gt as shim
from gt_plugins.errors import GateRefused
from gt_plugins.prime import command, sections
from gt_plugins.prime.budget import TINY_TOKENS
from gt_plugins.prime.command import cut_prime
from gt_plugins.prime.sections import Section
from gt_plugins.town.root import Town

STOCK = prime(
    "deacon", hooked("hq-wisp-aa1", "mol-deacon-patrol"), patrol("deacon"), mail("m from mayor/: hi")
)
FAKE = """#!/bin/sh
# Writes what it was given, then answers with the text beside it.
here=${0%/*}
{ for a; do printf '[%s]' "$a"; done; printf '\\n'; } >> "$here/args"
env | sort > "$here/env"
[ -f "$here/read-stdin" ] && cat > "$here/stdin"
[ -f "$here/err" ] && cat "$here/err" >&2
[ -f "$here/out" ] && cat "$here/out"
exit "$(cat "$here/code" 2>/dev/null || echo 0)"
"""


class Gt:
    """The fake gt: what it prints and how it exits can be set, what it was given can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "gt").write_text(FAKE)
        (folder / "gt").chmod(0o755)

    def says(self, out: str | bytes, err: str = "", code: int = 0) -> None:
        (self.folder / "out").write_bytes(out if isinstance(out, bytes) else out.encode())
        (self.folder / "err").write_text(err)
        (self.folder / "code").write_text(str(code))

    @property
    def calls(self) -> list[str]:
        path = self.folder / "args"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def gt(tmp_path: Path, town: Town, monkeypatch: pytest.MonkeyPatch) -> Gt:
    """A deacon's session in the town, with the fake gt first on PATH and no role deployed."""
    made = Gt(tmp_path / "gtbin")
    made.says(STOCK)
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GT_ROLE", "deacon")
    monkeypatch.setenv("GT_TOWN_ROOT", str(town.root))
    monkeypatch.chdir(town.root / "deacon")
    monkeypatch.setenv("PWD", str(town.root / "deacon"))
    return made


def deploy(town: Town, role: str = "deacon", **entry: object) -> Path:
    folder = town.finetune_dir / role
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "role.json").write_text(json.dumps({"model": f"gt-ft-{role}", "version": "v1", **entry}))
    (folder / "rules.md").write_text("- Deployed rule.\n")
    return folder


def run(
    *args: str, stdin: bytes = b"", cwd: Path | None = None, path: Sequence[Path] = ()
) -> SimpleNamespace:
    """A process of ours; ``path`` are more folders to import from."""
    done = subprocess.run(
        [sys.executable, "-m", "gt_plugins.cli.gt", *args],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parent.parent, *path]))},
        timeout=60,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr.decode())


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> pluggy.PluginManager:
    """A manager with the built-in sections alone; a test registers what it needs."""
    manager = pluggy.PluginManager("gt_plugins")
    manager.add_hookspecs(hookspecs)
    manager.register(sections, name="gt_plugins.prime.sections")
    monkeypatch.setattr("gt_plugins.plugins.plugin_manager", lambda hook="": manager)
    monkeypatch.setattr(command, "third_parties", lambda: True)
    return manager


# --- not deployed: the real gt, byte for byte ---------------------------------------------------------------


def test_a_role_that_is_not_deployed_gets_the_stock_prime_byte_for_byte(gt: Gt):
    raw = STOCK.encode() + b"\xff\xfe\x00 not text"
    gt.says(raw, err="a warning\n", code=7)
    (gt.folder / "read-stdin").touch()
    done = run("prime", "--hook", "--odd=ä b", stdin=b'{"session_id":"s"}\n')
    assert (done.out, done.err, done.code) == (raw, "a warning\n", 7)
    assert gt.calls == ["[prime][--hook][--odd=ä b]"]
    assert (gt.folder / "stdin").read_bytes() == b'{"session_id":"s"}\n'


@pytest.mark.parametrize("flags", [["--state"], ["--state", "--json"], ["--dry-run"], ["--help"], ["--new"]])
def test_other_flags_go_to_the_real_gt_also_for_a_deployed_role(gt: Gt, town: Town, flags: list[str]):
    deploy(town)
    done = run("prime", *flags)
    assert done.out.decode() == STOCK
    assert gt.calls == ["[prime]" + "".join(f"[{f}]" for f in flags)]


def test_full_prints_the_original_and_is_not_passed_on(gt: Gt, town: Town):
    deploy(town)
    done = run("prime", "--full", "--hook")
    assert done.out.decode() == STOCK and gt.calls == ["[prime][--hook]"]


@pytest.mark.parametrize("how", ["file", "settings", "shadow", "rig", "stock client", "torn role.json"])
def test_a_role_that_is_off_gets_the_stock_prime(
    gt: Gt, town: Town, how: str, monkeypatch: pytest.MonkeyPatch
):
    folder = deploy(
        town, **({"shadow": True} if how == "shadow" else {"rigs": ["a"]} if how == "rig" else {})
    )
    if how == "file":
        (folder / "off").touch()
    elif how == "settings":
        town.settings_file.write_text('[rollout]\noff = ["deacon"]\n')
    elif how == "stock client":
        monkeypatch.setenv("GT_FINETUNE_STOCK", "1")
    elif how == "torn role.json":
        (folder / "role.json").write_text('{"model": ')
    assert run("prime", "--hook").out.decode() == STOCK


def test_outside_a_town_and_for_other_commands_it_is_the_real_gt(gt: Gt, tmp_path: Path):
    os.environ.pop("GT_TOWN_ROOT", None)
    assert run("prime", cwd=tmp_path).out.decode() == STOCK
    run("status", "-x", cwd=tmp_path)
    assert gt.calls == ["[prime]", "[status][-x]"]


def test_without_a_real_gt_it_says_so(gt: Gt):
    (gt.folder / "gt").unlink()
    os.environ["PATH"] = str(gt.folder)
    done = run("prime")
    assert done.code == 2 and done.err.startswith("error: gt: not found") and done.err.count("\n") == 1


# --- deployed: the slim one --------------------------------------------------------------------------------


def test_a_deployed_role_gets_the_slim_prime(gt: Gt, town: Town):
    deploy(town, prime_tokens=350)
    (gt.folder / "read-stdin").touch()
    done = run("prime", "--hook", stdin=b'{"session_id":"s"}')
    text = done.out.decode()
    assert done.code == 0
    assert text.startswith('<gt-prime role="deacon">\n') and text.endswith("</gt-prime>\n")
    assert "hq-wisp-aa1" in text and "- m from mayor/: hi" in text and "- Deployed rule." in text
    assert len(text) < 1300 and gt.calls == ["[prime][--hook]"]
    assert (gt.folder / "stdin").read_bytes() == b'{"session_id":"s"}'


def test_hook_is_passed_on_only_if_given(gt: Gt, town: Town):
    deploy(town)
    assert run("prime").out.startswith(b"<gt-prime")
    assert gt.calls == ["[prime]"]


@pytest.mark.parametrize(
    ("entry", "most"),
    [
        ({"base": "tiny"}, TINY_TOKENS),
        ({"prime_tokens": 500}, 500),
        ({"prime_tokens": 99_999}, 3000),
        ({}, 800),
    ],
)
def test_the_budget_is_the_roles(gt: Gt, town: Town, entry: dict[str, object], most: int):
    town.settings_file.write_text("[prime]\ntokens = 800\n")
    gt.says(STOCK + "\n## Extra\n\n" + "Words NEVER end here. More of them.\n" * 2000)
    deploy(town, **entry)
    text = run("prime").out.decode().rstrip("\n")
    assert most * 3.5 * 0.7 < len(text) <= min(most * 3.5, 10_000)


def test_the_base_is_read_from_the_versions_manifest(gt: Gt, town: Town, tmp_path: Path):
    manifest = tmp_path / "m" / "gt-ft-deacon" / "v1" / "manifest.toml"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('base = "tiny"\n')
    deploy(town, models=str(tmp_path / "m"))
    gt.says(STOCK + "\n## Extra\n\n" + "Words NEVER end here.\n" * 500)
    assert len(run("prime").out.decode()) <= TINY_TOKENS * 3.5 + 1


def test_a_broken_settings_file_does_not_undeploy(gt: Gt, town: Town):
    deploy(town)
    town.settings_file.write_text("not toml [")
    assert run("prime").out.startswith(b"<gt-prime")


def test_explain_lists_sizes_after_the_text_and_is_not_passed_on(gt: Gt, town: Town):
    deploy(town)
    done = run("prime", "--explain")
    after = done.out.decode().split("</gt-prime>\n")[1]
    assert "kept" in after and "doctrine" in after and gt.calls == ["[prime]"]
    hook = run("prime", "--hook", "--explain")
    assert hook.out.decode().endswith("</gt-prime>\n") and "doctrine" in hook.err


def test_a_real_gt_that_fails_is_passed_on(gt: Gt, town: Town):
    deploy(town)
    gt.says(b"half \xff a prime", err="no database\n", code=3)
    done = run("prime", "--hook")
    assert (done.out, done.code) == (b"half \xff a prime", 3) and done.err.startswith("no database\n")


def test_silence_stays_silence(gt: Gt, town: Town):
    deploy(town)
    gt.says("")
    assert run("prime").out == b""


def test_a_database_warning_on_stderr_reaches_the_model(gt: Gt, town: Town):
    deploy(town)
    warning = (
        "\n## ⚠️  DATABASE ERROR — DO NOT RUN gt done ⚠️\nHook query failed: x\nDo NOT close any beads.\n\n"
    )
    gt.says(STOCK, err=warning)
    done = run("prime")
    assert done.err.startswith(warning)
    assert "DATABASE ERROR — DO NOT RUN gt done" in done.out.decode().split("GAS TOWN")[0]
    assert "Do NOT close any beads." in done.out.decode().split("GAS TOWN")[0]


def test_what_the_wrapper_put_aside_is_given_back(gt: Gt, town: Town, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GT_FT_HELD_ANTHROPIC_AUTH_TOKEN", "the operator's")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "")
    for args in (["prime"], ["sling", "dm-1", "demo"]):
        run(*args)
        seen = (gt.folder / "env").read_text()
        assert "ANTHROPIC_AUTH_TOKEN=the operator's\n" in seen and "HELD" not in seen


def test_a_larger_output_than_a_pipe_holds_does_not_stall(gt: Gt, town: Town):
    deploy(town)
    gt.says(STOCK + "\n## More\n\n" + "x" * 300_000, err="y" * 100_000)
    done = run("prime")
    assert done.code == 0 and len(done.out.decode()) <= 10_001 and done.err.startswith("y" * 100_000)


def shimmed(gt: Gt, monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    """As if the shim had started us: it says so, and its record names the real gt."""
    state = isolated / ".local/share/gastown-finetune/shim.state"
    state.parent.mkdir(parents=True)
    state.write_text(f"{gt.folder}/gt\n{sys.executable}\n/x\n")
    monkeypatch.setenv("GT_FINETUNE_SHIM", "1.1")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def test_from_the_shim_the_real_gt_starts_before_our_modules(
    gt: Gt, town: Town, monkeypatch: pytest.MonkeyPatch, isolated: Path
):
    shimmed(gt, monkeypatch, isolated)
    deploy(town)
    assert run("prime", "--hook").out.startswith(b"<gt-prime") and gt.calls == ["[prime][--hook]"]


def test_from_the_shim_a_role_that_is_off_still_gets_every_byte(
    gt: Gt, town: Town, monkeypatch: pytest.MonkeyPatch, isolated: Path
):
    shimmed(gt, monkeypatch, isolated)
    (deploy(town) / "off").touch()
    gt.says(b"raw \xff" + STOCK.encode(), err="w\n", code=9)
    done = run("prime", "--hook")
    assert (done.out, done.err, done.code) == (b"raw \xff" + STOCK.encode(), "w\n", 9)
    assert gt.calls == ["[prime][--hook]"]


# --- failures of ours ---------------------------------------------------------------------------------------


def test_when_slimming_fails_the_original_is_cut_by_sections(
    gt: Gt,
    town: Town,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    plugins: object,
):
    deploy(town)
    gt.says(
        STOCK.replace("\n# Gas Town Worker", "\n## Filler\n\n" + "long words here\n" * 900 + "\n# Gas Town W")
    )
    monkeypatch.setattr("gt_plugins.prime.stock.stock_sections", lambda *a: 1 / 0)
    assert shim.run(["prime", "--hook"]) == 0
    out, err = capfdbinary.readouterr()
    text = out.decode()
    assert len(text) <= 10_000 and text.startswith("[gt prime, cut: 1 of ")
    assert "hq-wisp-aa1" in text and "m from mayor/: hi" in text and "long words" not in text
    assert err.decode() == "gt prime: slimming: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize(
    "text", ["x" * 50_000, "line\n" * 9000, "# a\n" + "y" * 30_000 + "\n# b\nshort\n", "short"]
)
def test_a_cut_prime_is_never_too_long(text: str):
    cut = cut_prime(text)
    assert len(cut) <= 10_000 and (cut == text or cut.startswith("[gt prime, cut: "))
    if len(text) > 10_000 and "# b" in text:
        assert "# b\nshort\n" in cut


def test_a_third_party_section_is_in_the_slim_text(
    gt: Gt, town: Town, plugins: pluggy.PluginManager, capfdbinary: pytest.CaptureFixture[bytes]
):
    class Notes:
        @hookimpl
        def gt_prime_sections(self, ctx):
            assert ctx.role == "deacon" and ctx.town == town.root and "hq-wisp-aa1" in ctx.prime
            return [
                Section("weather", "Frost tonight.", priority=15, must_keep=True),
                Section("later", "Much later.", priority=9000),
            ]

    plugins.register(Notes(), name="weather")
    deploy(town, prime_tokens=350)
    assert shim.run(["prime"]) == 0
    lines = capfdbinary.readouterr().out.decode().split("\n")
    assert lines[1] == "Frost tonight." and lines[2].startswith("GAS TOWN role:deacon")


@pytest.mark.parametrize(
    "offer", [lambda: 1 / 0, lambda: "text", lambda: [object()], lambda: [Section("n", "x", 5), 7]]
)
def test_a_plugin_that_fails_costs_one_line(
    gt: Gt, town: Town, plugins: pluggy.PluginManager, capfdbinary: pytest.CaptureFixture[bytes], offer
):
    class Bad:
        @hookimpl
        def gt_prime_sections(self):
            return offer()

    plugins.register(Bad(), name="bad")
    deploy(town)
    assert shim.run(["prime"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.startswith(b"<gt-prime") and b"hq-wisp-aa1" in out
    assert err.decode().startswith("gt prime: bad: ") and err.count(b"\n") == 1


def test_a_plugin_manager_that_does_not_load_costs_one_line(
    gt: Gt, town: Town, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
):
    def broken():
        raise ImportError("no such thing")

    monkeypatch.setattr("gt_plugins.plugins.plugin_manager", broken)
    monkeypatch.setattr(command, "third_parties", lambda: True)
    deploy(town)
    assert shim.run(["prime"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.startswith(b"<gt-prime") and err.decode() == "gt prime: plugins: ImportError: no such thing\n"


# --- sling -------------------------------------------------------------------------------------------------


class Spy:
    """A third party that adds an agent and hears how it went."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, tuple[str, ...]]] = []

    @hookimpl
    def gt_sling(self, sling):
        return sling.with_agent("ft-polecat", "to the tuned one")

    @hookimpl
    def gt_slung(self, sling, result):
        self.heard.append((result.code, result.bead, sling.args))


def test_a_sling_is_changed_by_a_plugin_and_told_of(
    gt: Gt, town: Town, plugins: pluggy.PluginManager, capfd: pytest.CaptureFixture[str]
):
    spy = Spy()
    plugins.register(spy, name="spy")
    gt.says("slung\n", code=4)
    assert shim.run(["sling", "dm-1", "demo", "-m", "two words"]) == 4
    out, err = capfd.readouterr()
    assert out == "slung\n" and err == "to the tuned one\n"
    assert gt.calls == ["[sling][--agent=ft-polecat][dm-1][demo][-m][two words]"]
    assert spy.heard == [(4, "dm-1", ("--agent=ft-polecat", "dm-1", "demo", "-m", "two words"))]


def test_a_third_party_may_veto(
    gt: Gt, plugins: pluggy.PluginManager, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    class Veto:
        @hookimpl
        def gt_sling(self, sling):
            raise GateRefused(f"{sling.beads[0]}: not on a Friday")

    plugins.register(Veto(), name="veto")
    monkeypatch.setattr(sys, "argv", ["gt", "sling", "dm-1", "demo"])
    with pytest.raises(SystemExit) as left:
        shim.main()
    assert left.value.code == 3 and gt.calls == []
    assert capfd.readouterr().err == "error: dm-1: not on a Friday\n"


def test_a_built_in_plugin_cannot_veto(
    gt: Gt, plugins: pluggy.PluginManager, capfd: pytest.CaptureFixture[str]
):
    class Wrong:
        @hookimpl
        def gt_sling(self, sling):
            raise GateRefused("never mind")

    plugins.register(Wrong(), name="gt_plugins.rollout.sling")
    assert shim.run(["sling", "dm-1", "demo"]) == 0
    assert gt.calls == ["[sling][dm-1][demo]"] and "never mind" in capfd.readouterr().err


@pytest.mark.parametrize("answer", [lambda: 1 / 0, lambda: "not a sling", lambda: SystemError("x")])
def test_a_plugin_that_fails_leaves_the_sling_as_it_is(
    gt: Gt, plugins: pluggy.PluginManager, capfd: pytest.CaptureFixture[str], answer
):
    class Bad:
        @hookimpl
        def gt_sling(self, sling):
            return answer()

        @hookimpl
        def gt_slung(self, sling, result):
            raise ValueError("deaf\nand dumb")

    plugins.register(Bad(), name="bad")
    gt.says("ok\n", code=0)
    assert shim.run(["sling", "dm-1", "demo"]) == 0
    out, err = capfd.readouterr()
    assert out == "ok\n" and gt.calls == ["[sling][dm-1][demo]"]
    assert err.count("\n") == 2 and all(x.startswith("gt sling: bad: ") for x in err.splitlines())


def test_without_plugins_a_sling_is_the_real_gt_itself(gt: Gt, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    monkeypatch.setattr(command, "exec_real", lambda args: seen.append(list(args)) or sys.exit(0))
    monkeypatch.setattr("gt_plugins.plugins.plugin_manager", lambda: 1 / 0)
    with pytest.raises(SystemExit):
        shim.run(["sling", "dm-1", "demo"])
    assert seen == [["sling", "dm-1", "demo"]]


def test_a_sling_writes_nothing(gt: Gt, town: Town, plugins: pluggy.PluginManager, isolated: Path):
    plugins.register(Spy(), name="spy")
    before = sorted(str(p) for root in (town.root, isolated) for p in root.rglob("*"))
    shim.run(["sling", "dm-1", "demo", "-m", "a secret"])
    assert sorted(str(p) for root in (town.root, isolated) for p in root.rglob("*")) == before


def test_the_way_to_the_real_gt_imports_nothing_heavy():
    heavy = "typer torch transformers tokenizers numpy scrubadub rich jinja2 git"
    code = (
        "import sys\nfrom gt_plugins.cli import gt\n"
        "from gt_plugins.prime import command, slim, sections, stock\n"
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_installed_package_adds_a_section(
    gt: Gt, town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A third party's package as pip leaves it: a module, and an entry point in its metadata."""
    site = tmp_path / "site"
    (site / "frost-1.0.dist-info").mkdir(parents=True)
    (site / "frost-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: frost\nVersion: 1.0\n")
    (site / "frost-1.0.dist-info/entry_points.txt").write_text("[gt_plugins]\nfrost = frost\n")
    (site / "frost.py").write_text(
        "from gt_plugins import hookimpl\nfrom gt_plugins.prime.sections import Section\n\n"
        "@hookimpl\ndef gt_prime_sections(ctx):\n"
        "    return [Section('frost', f'Frost for {ctx.role}.', priority=15, must_keep=True)]\n"
    )
    deploy(town, base="tiny")
    monkeypatch.setenv("GT_PLUGINS_LOAD", "frost")
    done = run("prime", "--hook", path=[site])
    assert done.out.decode().split("\n")[1] == "Frost for deacon." and done.err == ""
    monkeypatch.setenv("GT_PLUGINS_DISABLE", "frost")
    assert b"Frost" not in run("prime", "--hook", path=[site]).out
