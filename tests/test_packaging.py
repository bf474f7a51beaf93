"""The wheel carries what it needs and works from a plain install; no committed file holds a download address.

A plain install is made without a network: a fresh virtual environment, the wheel by pip without its
dependencies, and links to those distributions alone that its core dependencies require, all the way down.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parent.parent
SHIPPED = (
    "_data/hooks/gt.sh",
    "_data/hooks/plugins/corpus-sweep/run.sh",
    "_data/formulas/train-role-model.formula.toml",
    "_data/formulas/corpus-collect.formula.toml",
    "_data/formulas/eval-suite.formula.toml",
    "training/tiny_base/model.safetensors",
    "training/tiny_base/tokenizer.json",
    "training/tiny_base/base.json",
    "py.typed",
)
SCRIPTS = (
    "gt-plugins",
    "gt-model",
    "gt-corpus",
    "gt-hook",
    "node0-finetune",
    "node0-inference",
    "node0-corpus",
)
REQUIREMENTS = sorted((REPO / "requirements").glob("*.txt"))
LOCKS = {"uv.lock", "poetry.lock", "pdm.lock", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "go.sum"}


def project() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


# -- the locked requirements ----------------------------------------------------------------------


def entries(path: Path) -> list[str]:
    """Each requirement with its continuation lines."""
    joined = path.read_text().replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda p: p.name)
def test_every_requirement_is_pinned_and_hashed_and_has_no_address(path: Path):
    assert entries(path)
    for entry in entries(path):
        assert re.match(r"[a-z0-9-]+==[\w.+!-]+ ", entry), entry
        assert re.search(r" --hash=sha256:[0-9a-f]{64}(\s|$)", entry), entry
    assert "://" not in path.read_text() and " @ " not in path.read_text()


def test_the_locked_files_hold_what_the_project_names():
    found = {p.stem: {entry.partition("==")[0] for entry in entries(p)} for p in REQUIREMENTS}
    extras = project()["optional-dependencies"]

    def names(*wanted: str) -> set[str]:
        lines = project()["dependencies"] + [line for extra in wanted for line in extras[extra]]
        return {canonicalize_name(Requirement(line).name) for line in lines} - {"gastown-finetune"}

    assert names(*extras) <= found["all"]
    assert names("train", "endpoint", "setup") <= found["demo"]
    assert "llama-cpp-python" not in found["demo"], "the demo must not need a compiler"


def test_no_file_of_a_package_manager_with_addresses_is_committed():
    done = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    assert not [line for line in done.stdout.splitlines() if line.rpartition("/")[2] in LOCKS]


# -- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True, timeout=300)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment with the wheel and its core dependencies."""
    root = tmp_path_factory.mktemp("plain")
    venv.create(root, with_pip=True)
    pip = [str(root / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300, env=clean(root))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)}))
    for distribution in core():
        link(distribution, site)
    return root / "bin"


def clean(home: Path) -> dict[str, str]:
    """An environment without anything of this one's Python."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "GT_"))}
    return kept | {"HOME": str(home), "COLUMNS": "100"}


def core() -> list[Distribution]:
    """The installed distributions that the core dependencies require, all the way down."""
    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
    found: dict[str, Distribution] = {}
    wanted = [(line, "") for line in project()["dependencies"]]
    while wanted:
        line, extra = wanted.pop()
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = installed[name]
        for needed in installed[name].requires or []:
            wanted += [(needed, e) for e in ("", *requirement.extras)]
    return list(found.values())


def link(distribution: Distribution, site: Path) -> None:
    """Links to the distribution's packages and modules; its scripts stay where they are."""
    for top in {
        file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
    }:
        target = site / top
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def ran(plain: Path, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = [str(plain / command[0]), *map(str, command[1:])]
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean(plain.parent),
        cwd=plain.parent,
    )


@pytest.mark.slow
def test_the_wheel_has_the_scripts_and_the_files(plain: Path):
    missing = [name for name in SCRIPTS if not (plain / name).is_file()]
    assert not missing
    code = (
        "import sys; from pathlib import Path; import gt_plugins;"
        "from gt_plugins.settings import resource; from gt_plugins.training.base import base_path;"
        "own = Path(gt_plugins.__file__).parent;"
        "assert own.is_relative_to(sys.prefix), own;"
        "assert resource('hooks') == own / '_data/hooks', resource('hooks');"
        "assert resource('formulas') == own / '_data/formulas';"
        "assert base_path('tiny') == own / 'training/tiny_base';"
        "print(own)"
    )
    done = ran(plain, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    own = Path(done.stdout.strip())
    assert not [name for name in SHIPPED if not (own / name).is_file()]
    for role in ("deacon", "boot", "witness", "polecat", "crew"):
        files = {path.name for path in (own / "roles" / role).iterdir()}
        assert {"system.txt", "actions.toml", "fence.toml", "rules.md"} <= files
    assert (own / "training/tiny_base/model.safetensors").stat().st_size <= 8_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("gt-plugins", "list"), "gt_scrub_layers"),
        (("gt-plugins", "--help"), "install"),
        (("gt-corpus", "--help"), "sweep"),
        (("gt-model", "--help"), "deploy"),
        (("gt-model", "train", "--help"), "--dataset"),
        (("gt-model", "list"), ""),
        (("node0-corpus", "--help"), "sweep"),
        (("node0-finetune", "--help"), "--checkpoints"),
        (("node0-inference", "--help"), "--port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_commands_work_from_a_plain_install(plain: Path, command: tuple[str, ...], said: str):
    done = ran(plain, *command)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.slow
def test_a_plain_install_attaches_captures_and_scrubs(plain: Path, tmp_path: Path):
    town = tmp_path / "town"
    (town / "mayor").mkdir(parents=True)
    (town / "mayor/town.json").write_text('{"type": "town", "version": 2, "name": "example"}')
    (town / "mayor/rigs.json").write_text('{"version": 1, "rigs": {}}')
    done = ran(plain, "gt-plugins", "install", "--town", town, "--yes", "--consent-by", "Ann")
    assert done.returncode == 0, done.stderr
    assert (town / ".beads/formulas/train-role-model.formula.toml").is_file()
    assert ran(plain, "gt-hook", "session-end", stdin="{}").returncode == 0
    swept = ran(plain, "gt-corpus", "sweep", "--town", town, "--json")
    assert swept.returncode == 0, swept.stderr
    secret = "AKIA" + "J7Q2XK4MZT6WBN3R"
    scrubbed = ran(plain, "gt-corpus", "scrub", "-", "-", stdin=f"AWS_ACCESS_KEY_ID={secret}\n")
    assert scrubbed.returncode == 0, scrubbed.stderr
    assert secret not in scrubbed.stdout and "AWS_ACCESS_KEY_ID=" in scrubbed.stdout
    left = ran(plain, "gt-plugins", "uninstall", "--town", town)
    assert left.returncode == 0, left.stderr
    assert not (town / ".beads").exists()


def test_the_shipped_base_is_what_its_card_says() -> None:
    from dataclasses import asdict

    from gt_plugins.training.base import SHIPPED, TinyShape, hashes
    from gt_plugins.training.pretrain import PretrainPlan

    card = json.loads((SHIPPED / "base.json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashes(SHIPPED)
    assert card["shape"] == asdict(TinyShape())
    plan = asdict(PretrainPlan())
    assert card["plan"] == {key: value for key, value in plan.items() if key != "shape"}
