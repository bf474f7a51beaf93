"""A deploy with nothing faked but the client: the tiny base loads, is served, is asked, and goes again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from base_helpers import write_adapter
from deploy_helpers import make_client, recorded
from registry_helpers import score

from gt_plugins.evaluation import gate
from gt_plugins.registry.versions import Version, register, resolve_base
from gt_plugins.rollout import deploy as room
from gt_plugins.rollout import loadcheck
from gt_plugins.rollout.deployed import read_token, role_dir
from gt_plugins.serving.client import EndpointClient
from gt_plugins.town import bd
from gt_plugins.town.root import Town

pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow


@pytest.fixture
def version(isolated: Path, tmp_path: Path) -> Version:
    write_adapter(resolve_base("tiny"), tmp_path / "source/adapter", r=2)
    return register(isolated / ".models", "gt-ft-deacon", "deacon", tmp_path / "source", "tiny", {})


def test_from_load_check_to_rollback(
    town: Town, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "required_suites", lambda role: ("decisions",))
    monkeypatch.setattr(bd.Bd, "problem", lambda self: "bd is not on PATH")
    assert loadcheck.load_check(version) in ("transformers", "llama.cpp")
    score(version.home, version, 95)
    done = room.deploy(town, version.home, version.ref, "deacon", check=lambda v: "seen")
    try:
        assert done.served and done.after is not None
        with EndpointClient(done.after.url, read_token(town, "deacon")) as client:
            assert "gt-ft-deacon" in client.models()
            reply = client.message({**loadcheck._REQUEST, "model": "gt-ft-deacon"})
        assert reply["usage"]["output_tokens"] > 0
        record = tmp_path / "record"
        env = {"PATH": f"{make_client(tmp_path / 'bin').parent}:/usr/bin:/bin", "RECORD": str(record)}
        wrapper = str(role_dir(town, "deacon") / "claude")
        subprocess.run([wrapper, "prompt"], env={**env, "HOME": os.environ["HOME"]}, check=True, timeout=20)
        args, _ = recorded(record)
        assert args[:2] == ["--model", "gt-ft-deacon"] and args[-1] == "prompt"
        again = room.ensure_endpoint(town, "deacon")
        assert again.pid == json.loads((role_dir(town, "deacon") / "serve.json").read_text())["pid"]
    finally:
        room.rollback_all(town)
    assert room.running_endpoint(town, "deacon") is None
    assert not town.gt_settings_file.exists()
