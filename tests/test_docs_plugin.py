"""The example plugin of docs/plugins.md works as the page says, installed beside ours.

Module and entry point are taken from the page itself; tests/test_plugins.py has a plugin for every hook.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text()
STOCK_PRIME = "[GAS TOWN] role:deacon session:0ee399c1\n\n# Deacon Context\n\n" + "Patrol the town.\n" * 60


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: the package, and the metadata with its entry point."""
    site = tmp_path / "site"
    info = site / "our_town-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "our_town").mkdir()
    (site / "our_town/__init__.py").touch()
    (site / "our_town/plugin.py").write_text(block("python"))
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: our-town\nVersion: 1.2\n")
    name, value = re.findall(r'^([\w-]+) = "([\w.]+)"$', block("toml"), re.MULTILINE)[0]
    info.joinpath("entry_points.txt").write_text(f"[gt_plugins]\n{name} = {value}\n")
    return site


def ran(site: Path, *args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "GT_PLUGINS_LOAD"}
    env |= {"PYTHONPATH": str(site)} | variables
    command = [sys.executable, *args]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=env, timeout=60, cwd=site.parent
    )


def test_it_is_listed_with_its_origin_and_its_hooks(site: Path):
    done = ran(site, "-m", "gt_plugins.cli.plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    ours = next(p for p in json.loads(done.stdout) if p["name"] == "our-town")
    assert (ours["origin"], ours["version"]) == ("our-town", "1.2")
    assert ours["hooks"] == ["gt_eval_suites", "gt_prime_sections", "gt_scrub_layers"]


def test_its_scrub_layer_runs_beside_ours(site: Path):
    text = "ticket ACME-48213 of mara.lindqvist@corp-mail.net, again ACME-48213\n"
    done = ran(site, "-m", "gt_plugins.cli.corpus", "scrub", "-", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert "ACME-48213" not in done.stdout and "mara.lindqvist" not in done.stdout
    first, second = re.findall(r"ticket (\S+) of \S+ again (\S+)", done.stdout)[0]
    assert first == second, "the same value always gets the same surrogate"
    plain = ran(site, "-m", "gt_plugins.cli.corpus", "scrub", "-", "-", stdin=text, GT_PLUGINS_LOAD="")
    assert "ACME-48213" in plain.stdout


def test_its_suite_stands_before_every_deploy_of_the_role(site: Path):
    code = "from gt_plugins.evaluation.gate import required_suites as r; print(*r('deacon'), '|', *r('boot'))"
    done = ran(site, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["deacon-decisions", "our-deacon", "|", "boot-decisions"]


def test_its_section_stands_in_the_slim_prime(site: Path, tmp_path: Path):
    stock = tmp_path / "prime.txt"
    stock.write_text(STOCK_PRIME)
    command = ("-m", "gt_plugins.cli.model", "prime", "show", "deacon", "--from", str(stock))
    done = ran(site, *command)
    assert done.returncode == 0, done.stderr
    assert "On call: Ann." in done.stdout
    assert "On call: Ann." not in ran(site, *command, GT_PLUGINS_LOAD="").stdout
