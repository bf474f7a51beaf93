"""Uninstalling from a town in which roles are deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_attach_install import tree
from test_deploy_rollout import SETTINGS, World, home, world  # noqa: F401  fixtures

from gt_plugins.attach import doctor
from gt_plugins.attach.install import install
from gt_plugins.attach.uninstall import uninstall
from gt_plugins.errors import UserError


def test_deployed_roles_are_rolled_back_and_every_byte_is_as_before(
    world: World,  # noqa: F811
    isolated: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    town = world.town
    town.gt_settings_file.write_text(SETTINGS)
    before, at_home = tree(town.root), tree(isolated)
    install(town, "Ann")
    world.deploy(world.version("deacon"))
    world.deploy(world.version("witness"), "witness", rig="demo")
    world.deploy(world.version("polecat"), "polecat")
    roles = {c.name: c.status for c in doctor.examine(town) if c.name.startswith("role ")}
    assert roles == {"role deacon": "warn", "role witness": "warn", "role polecat": "warn"}, (
        "no endpoint runs"
    )
    assert not [c for c in doctor.examine(town) if c.name == "modes" and c.status != "ok"]
    report = uninstall(town)
    assert [d for d in report.done if d.startswith("rolled back")] == [
        "rolled back: deacon",
        "rolled back: witness",
        "rolled back: polecat",
    ]
    assert world.running == {}
    assert tree(town.root) == before and tree(isolated) == at_home


def test_a_role_that_cannot_be_rolled_back_stops_the_uninstall(
    world: World,  # noqa: F811
    isolated: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    town = world.town
    install(town, "Ann")
    world.deploy(world.version("deacon"))
    good = town.gt_settings_file.read_text()
    town.gt_settings_file.write_text("{oops")
    with pytest.raises(UserError, match=r"config\.json: line 1"):
        uninstall(town)
    assert (town.finetune_dir / "install.json").exists() and (isolated / ".claude/settings.json").exists()
    town.gt_settings_file.write_text(good)
    uninstall(town)
    assert not town.finetune_dir.exists()
