"""The gt shim: what goes where, never to itself, and alive without us."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gt_plugins.rollout.client_settings import HELD, HELD_PREFIX
from gt_plugins.settings import resource
from gt_plugins.town.root import Town

SHIM = resource("hooks") / "gt.sh"


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


SAY = 'printf "%s:" "$0"; for a; do printf " <%s>" "$a"; done; echo'


@dataclass(frozen=True)
class Bench:
    """A shim with a recorded real gt, a fake Python and a fake package, in a folder with a space."""

    home: Path
    real: Path
    python: Path
    state: Path
    env: dict[str, str]

    def gt(self, *args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["gt", *args],
            cwd=cwd or self.home,
            env={**self.env, **environ},
            capture_output=True,
            text=True,
            timeout=20,
            input="stdin",
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    home = tmp_path / "a home"
    shim = home / "data" / "bin" / "gt"
    shim.parent.mkdir(parents=True)
    shutil.copy(SHIM, shim)
    shim.chmod(0o755)
    real = script(tmp_path / "real bin" / "gt", f"{SAY}; exit 7")
    python = script(home / "venv" / "bin" / "python", SAY)
    for tool in ("gt-model", "gt-corpus"):
        script(python.parent / tool, f"{SAY}; exit 3")
    package = home / "venv" / "lib" / "gt_plugins"
    (package / "cli").mkdir(parents=True)
    (package / "cli" / "gt.py").write_text("")
    state = home / "data" / "shim.state"
    state.write_text(f"{real}\n{python}\n{package}\n")
    env = {"PATH": f"{shim.parent}:{real.parent}:/usr/bin:/bin", "HOME": str(home)}
    return Bench(home, real, python, state, env)


def test_the_shim_is_clean_sh():
    for shell in (["dash", "-n"], ["bash", "--posix", "-n"]):
        if shutil.which(shell[0]):
            assert subprocess.run([*shell, str(SHIM)], capture_output=True).returncode == 0
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not here")
    done = subprocess.run(["shellcheck", "-s", "sh", str(SHIM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("args", [(), ("version",), ("mail", "a b", "", "*", "$x"), ("models",), ("--help",)])
def test_everything_else_reaches_the_real_gt_untouched(bench: Bench, args: tuple[str, ...]):
    done = bench.gt(*args)
    assert done.stdout == f"{bench.real}:{''.join(f' <{a}>' for a in args)}\n" and done.returncode == 7


def test_stdin_and_environment_pass_through(bench: Bench):
    script(bench.real, 'cat; echo " $GIVEN"')
    assert bench.gt("x", GIVEN="kept").stdout == "stdin kept\n"


def test_model_and_corpus_are_ours(bench: Bench):
    done = bench.gt("model", "list", "a b")
    assert done.stdout == f"{bench.python.parent}/gt-model: <list> <a b>\n" and done.returncode == 3
    assert bench.gt("corpus", "stats").stdout == f"{bench.python.parent}/gt-corpus: <stats>\n"


def test_sling_goes_to_our_python(bench: Bench):
    expected = f"{bench.python}: <-E> <-P> <-m> <gt_plugins.cli.gt> <sling> <dm-1> <demo>\n"
    assert bench.gt("sling", "dm-1", "demo").stdout == expected


def deploy(town: Town, role: str) -> None:
    (town.finetune_dir / role).mkdir(parents=True)
    (town.finetune_dir / role / "role.json").write_text("{}")


PLACES = [
    ("deacon", "deacon", "deacon"),
    ("deacon/boot", "deacon/dogs/boot", "boot"),
    ("demo/witness", "demo/witness", "witness"),
    ("demo/polecats/Toast", "demo/polecats/Toast/demo", "polecat"),
    ("demo/crew/alice", "demo/crew/alice", "crew"),
    ("demo/refinery", "demo/refinery/rig", "refinery"),
    ("mayor", "mayor", "mayor"),
    ("dog", "deacon/dogs/alpha", "dog"),
]


@pytest.mark.parametrize(("gt_role", "folder", "role"), PLACES)
def test_prime_starts_python_for_a_deployed_role_alone(
    bench: Bench, town: Town, gt_role: str, folder: str, role: str
):
    cwd = town.root / folder
    cwd.mkdir(parents=True, exist_ok=True)
    ways: list[dict[str, str]] = [{}, {"GT_ROLE": gt_role}]
    for environ in ways:
        assert bench.gt("prime", "--hook", cwd=cwd, **environ).stdout.startswith(f"{bench.real}:")
    for other in {place[2] for place in PLACES} - {role}:
        deploy(town, other)
    for environ in ways:
        assert bench.gt("prime", "--hook", cwd=cwd, **environ).stdout.startswith(f"{bench.real}:")
    deploy(town, role)
    for environ in ways:
        assert bench.gt("prime", "--hook", cwd=cwd, **environ).stdout == (
            f"{bench.python}: <-E> <-P> <-m> <gt_plugins.cli.gt> <prime> <--hook>\n"
        )
    elsewhere = bench.gt("prime", cwd=bench.home, GT_ROLE=gt_role, GT_TOWN_ROOT=str(town.root))
    assert elsewhere.stdout.startswith(f"{bench.python}:")


def test_a_stock_agent_in_place_of_a_tuned_one_gets_the_stock_prime(bench: Bench, town: Town):
    deploy(town, "deacon")
    done = bench.gt("prime", cwd=town.root / "deacon", GT_FINETUNE_STOCK="1")
    assert done.stdout == f"{bench.real}: <prime>\n"


def test_what_a_tuned_session_holds_back_is_given_to_the_real_gt_alone(bench: Bench):
    held = {f"{HELD_PREFIX}{name}": f"value of {name} $x '\"" for name in HELD}
    names = [n for name in HELD for n in (name, HELD_PREFIX + name)]
    body = "; ".join(f'echo "{name}=${{{name}-unset}}"' for name in names)
    script(bench.real, body)
    given = dict.fromkeys(HELD, "")
    lines = bench.gt("witness", "start", **held, **given).stdout.splitlines()
    for name in HELD:
        assert f"{name}=value of {name} $x '\"" in lines and f"{HELD_PREFIX}{name}=unset" in lines
    lines = bench.gt("version", ANTHROPIC_AUTH_TOKEN="own").stdout.splitlines()
    assert "ANTHROPIC_AUTH_TOKEN=own" in lines and "CLAUDE_CODE_USE_VERTEX=unset" in lines


def test_prime_outside_a_town_or_role_is_the_real_one(bench: Bench, town: Town):
    deploy(town, "deacon")
    for cwd in (bench.home, Path("/"), town.root, town.root / "settings"):
        assert bench.gt("prime", cwd=cwd).stdout == f"{bench.real}: <prime>\n"
    assert bench.gt("prime", cwd=town.root / "deacon", GT_ROLE="who/knows").stdout.startswith(
        f"{bench.real}:"
    )


def test_the_outermost_town_counts_as_for_gt(bench: Bench, town: Town):
    inner = town.root / "demo" / "witness" / "mayor"
    inner.mkdir()
    (inner / "town.json").write_text("{}")
    deploy(town, "witness")
    assert bench.gt("prime", cwd=inner).stdout.startswith(f"{bench.python}:")


def test_full_is_the_original_whatever_is_deployed(bench: Bench, town: Town):
    deploy(town, "deacon")
    done = bench.gt("prime", "--full", "--hook", "a b", cwd=town.root / "deacon", full="x")
    assert done.stdout == f"{bench.real}: <prime> <--hook> <a b>\n"
    assert bench.gt("prime", cwd=town.root, full="yes").stdout == f"{bench.real}: <prime>\n"


def test_without_our_python_the_town_goes_on(bench: Bench, town: Town):
    deploy(town, "deacon")
    shutil.rmtree(bench.home / "venv" / "lib")
    assert bench.gt("prime", cwd=town.root / "deacon").stdout == f"{bench.real}: <prime>\n"
    shutil.rmtree(bench.home / "venv")
    assert bench.gt("sling", "x").stdout == f"{bench.real}: <sling> <x>\n"
    done = bench.gt("model", "list")
    assert done.returncode == 127 and "gastown-finetune is no longer in" in done.stderr and done.stdout == ""
    bench.state.unlink()
    assert bench.gt("sling", "x").stdout == f"{bench.real}: <sling> <x>\n"


def test_a_real_gt_that_moved_is_found_again_and_written_down(bench: Bench, tmp_path: Path):
    bench.real.unlink()
    (tmp_path / "real bin" / "gt").mkdir()
    done = bench.gt("version")
    assert done.returncode == 127 and "the real gt is not on PATH" in done.stderr
    new = script(tmp_path / "new bin" / "gt", SAY)
    path = f"{bench.env['PATH']}:{new.parent}"
    assert bench.gt("version", PATH=path).stdout == f"{new}: <version>\n"
    assert bench.state.read_text().splitlines()[0] == str(new)
    assert bench.gt("version").stdout == f"{new}: <version>\n", "now without its folder on PATH"
    assert sorted(p.name for p in bench.state.parent.iterdir()) == ["bin", "shim.state"]


def test_a_record_that_cannot_be_written_is_no_failure(bench: Bench, tmp_path: Path):
    new = script(tmp_path / "new" / "gt", SAY)
    bench.state.write_text(f"/gone\n{bench.python}\n\n")
    shim = shutil.copy(SHIM, tmp_path / "gt")
    os.chmod(shim, 0o755)
    env = {"HOME": "/nonexistent", "PATH": f"{tmp_path}:{new.parent}:/usr/bin:/bin"}
    done = subprocess.run(["gt", "x"], env=env, capture_output=True, text=True, timeout=20)
    assert done.stdout == f"{new}: <x>\n" and done.stderr == ""


@pytest.mark.parametrize("kind", ["itself", "copy", "link", "exec wrapper", "forking wrapper"])
def test_it_never_runs_in_circles(bench: Bench, tmp_path: Path, kind: str):
    shim = bench.home / "data" / "bin" / "gt"
    other = tmp_path / "other" / "gt"
    other.parent.mkdir()
    if kind == "copy":
        shutil.copy(shim, other)
    elif kind == "link":
        other.symlink_to(shim)
    elif kind == "exec wrapper":
        script(other, 'exec gt "$@"')
    elif kind == "forking wrapper":
        script(other, 'gt "$@"; exit $?')
    recorded = shim if kind == "itself" else other
    bench.state.write_text(f"{recorded}\n{bench.python}\n{bench.state.parent}\n")
    path = f"{shim.parent}:{other.parent}:{bench.real.parent}:/usr/bin:/bin"
    if "wrapper" in kind:  # a wrapper stands behind the real one, or it would call itself without us too
        path = f"{shim.parent}:{bench.real.parent}:{other.parent}:/usr/bin:/bin"
    done = bench.gt("version", "a b", PATH=path)
    assert done.stdout == f"{bench.real}: <version> <a b>\n" and done.returncode == 7


def test_the_mark_that_a_session_inherits_does_not_switch_us_off(bench: Bench):
    for mark in ("1.3", "nonsense", "1.08", "1.999999", "", "x.y"):
        assert bench.gt("sling", "x", GT_FINETUNE_SHIM=mark).stdout.startswith(f"{bench.python}:")
    script(bench.real, 'echo "$GT_FINETUNE_SHIM"')
    assert bench.gt("x", GT_FINETUNE_SHIM="1.3").stdout.strip().endswith(".4")


def test_a_link_to_the_shim_finds_the_state_of_the_user(bench: Bench, tmp_path: Path):
    home = tmp_path / "user"
    (home / ".local/share/gastown-finetune").mkdir(parents=True)
    shutil.copy(bench.state, home / ".local/share/gastown-finetune/shim.state")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "gt").symlink_to(bench.home / "data" / "bin" / "gt")
    done = bench.gt("model", "x", HOME=str(home), PATH=f"{tmp_path}/links:/usr/bin:/bin")
    assert done.stdout == f"{bench.python.parent}/gt-model: <x>\n"
