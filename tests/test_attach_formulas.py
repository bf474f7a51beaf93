"""The formulas we ship: what gt and bd ask of a workflow, checked without them, and by bd where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer

from gt_plugins.cli import corpus, model
from gt_plugins.settings import resource

FILES = sorted(resource("formulas").glob("*.formula.toml"))
STRINGS = ("id", "title", "description", "acceptance")


def test_the_three_are_there():
    assert [f.name.removesuffix(".formula.toml") for f in FILES] == [
        "corpus-collect",
        "eval-suite",
        "train-role-model",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_each_is_a_valid_workflow(file: Path):
    formula = tomllib.loads(file.read_text())
    assert formula["formula"] == file.name.removesuffix(".formula.toml"), "bd lists by name, gt by file"
    assert formula["type"] == "workflow" and formula["version"] >= 1 and formula["description"].strip()
    seen: list[str] = []
    for step in formula["steps"]:
        assert set(step) <= {*STRINGS, "needs"} and all(step[key].strip() for key in STRINGS)
        assert step["id"] not in seen and set(step.get("needs", [])) <= set(seen), (
            "needs come first, no cycles"
        )
        seen.append(step["id"])
    for name, var in formula.get("vars", {}).items():
        assert var["description"] and ("default" in var) != var.get("required", False), name
    declared = set(formula.get("vars", {}))
    assert set(re.findall(r"\{\{(\w+)\}\}", file.read_text())) <= declared


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_step_command_is_one_of_ours(file: Path):
    blocks = re.findall(r"```bash\n(.*?)```", file.read_text(), re.S)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    commands = {tuple(line.split()[1:3]) for line in lines}
    assert lines and all(line.startswith("gt ") for line in lines)
    for area, name in sorted(commands):
        assert name in known_commands(area), f"gt {area} {name}"


@cache
def known_commands(area: str) -> set[str]:
    app = {"corpus": lambda: corpus.app, "model": lambda: model.build(plugins=False)}[area]()
    return set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_bd_cooks_them(file: Path, tmp_path: Path, isolated: Path):
    if not shutil.which("bd"):
        pytest.skip("bd is not on PATH")
    (tmp_path / "town").mkdir()
    init = subprocess.run(
        ["bd", "init", "--prefix", "ft"], cwd=tmp_path / "town", capture_output=True, text=True, timeout=60
    )
    assert init.returncode == 0, init.stderr
    done = subprocess.run(
        ["bd", "cook", str(file)], cwd=tmp_path / "town", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
