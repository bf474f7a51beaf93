"""A deployed role in a real town: the real gt starts the real client through our wrapper, and back again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.evaluation.result import CaseResult, EvalResult
from gt_plugins.registry.evals import store
from gt_plugins.registry.versions import Version, register, resolve_base
from gt_plugins.rollout import deploy as room
from gt_plugins.rollout.deployed import read_deployment, read_token, role_dir
from gt_plugins.sim.live_town import LiveTown, own_processes, snapshot, wait_for
from gt_plugins.town.gt import shim_dir

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture
def home(in_town: LiveTown) -> Path:
    return in_town.home / ".models"


def make_version(home: Path, tmp: Path, role: str) -> Version:
    """An untrained adapter on the shipped base, with a result that the gate takes."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from gt_plugins.evaluation.gate import required_suites

    base = AutoModelForCausalLM.from_pretrained(resolve_base("tiny"))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp / role / "adapter")
    version = register(home, f"gt-ft-{role}", role, tmp / role, "tiny", {})
    cases = [CaseResult(str(i), "", "a", "a", True) for i in range(20)]
    for name in required_suites(role):
        store(home, version, EvalResult.from_cases(version.model, version.version, name, cases, served=True))
    return version


def clients(live: LiveTown) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of the agent clients that run in the town."""
    found = []
    for pid in own_processes(live.home):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
            pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words and Path(words[0]).name == "claude":
            found.append((words[1:], dict(pair.split("=", 1) for pair in pairs if "=" in pair)))
    return found


def started(live: LiveTown, role: str, *command: str) -> tuple[list[str], dict[str, str]]:
    """Start a role with gt and wait for its client."""
    live.gt(*command)
    wait_for(f"the client of {role}", lambda: bool(clients(live)), 30)
    return clients(live)[0]


def replies(live: LiveTown, role: str) -> int:
    log = role_dir(live.town, role) / "serve.log"
    return log.read_text().count("reply:") if log.exists() else 0


@pytest.fixture
def attached(in_town: LiveTown, monkeypatch: pytest.MonkeyPatch) -> LiveTown:
    """The town with our shim first on PATH, as an install leaves it."""
    from gt_plugins.attach.install import install

    install(in_town.town, "Ann")
    in_town.extra_path[:] = [str(shim_dir())]
    monkeypatch.setenv("PATH", in_town.environ()["PATH"])
    return in_town


def test_a_tuned_deacon_falls_back_and_rolls_back(attached: LiveTown, home: Path, tmp_path: Path) -> None:
    live, town = attached, attached.town
    version = make_version(home, tmp_path, "deacon")
    before = snapshot(live)
    done = room.deploy(town, home, version.ref, "deacon")
    try:
        assert done.served and done.engine and any(n.startswith("mirrored as bead") for n in done.notes)
        words, env = started(live, "deacon", "deacon", "start")
        assert words[:2] == ["--model", "gt-ft-deacon"] and "--dangerously-skip-permissions" in words
        token = read_token(town, "deacon")
        assert token and not [k for k, v in env.items() if token in v or "gt-ft-deacon" in v]
        assert not [k for k in env if k.startswith("ANTHROPIC_")]
        assert env["PATH"].split(os.pathsep)[0] == str(shim_dir())
        wait_for("a reply of the tuned model", lambda: replies(live, "deacon") > 0, 60)
        wait_for("the slim prime", lambda: bool(slim_primes(live)), 60)
        assert all(len(text) <= 10_000 for text in slim_primes(live))
        live.gt("deacon", "stop")

        running = room.running_endpoint(town, "deacon")
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        wait_for("the endpoint's end", lambda: room.running_endpoint(town, "deacon") is None, 10)
        words, env = started(live, "deacon", "deacon", "start")
        assert words[0] == "--dangerously-skip-permissions" and len(words) == 2
        assert "--model" not in words and not [k for k in env if k.startswith("ANTHROPIC_")]
        live.gt("deacon", "stop")
    finally:
        room.rollback(town, "deacon")
    left = read_deployment(town, "deacon")
    assert left is None and room.running_endpoint(town, "deacon") is None
    assert not town.gt_settings_file.exists()
    words, env = started(live, "deacon", "deacon", "start")
    assert words[0] == "--dangerously-skip-permissions" and env["GT_AGENT"] == "claude"
    live.gt("deacon", "stop")
    after = snapshot(live)
    ours = (".finetune", ".corpus", ".beads/", "deacon/")  # gt rewrites the deacon's folder, bd its own
    changed = {k for k in {**before, **after} if before.get(k) != after.get(k)}
    assert not [k for k in changed if not k.startswith(ours)]


def slim_primes(live: LiveTown) -> list[str]:
    """The hook outputs in the town's transcripts that are slim primes."""
    found = []
    for path in (live.home / ".claude/projects").glob("*/*.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            content = (entry.get("attachment") or {}).get("content")
            if isinstance(content, str) and content.startswith("<gt-prime"):
                found.append(content)
    return found


def test_a_canary_witness_runs_in_its_rig_with_its_rigs_hooks(
    attached: LiveTown, home: Path, tmp_path: Path
) -> None:
    live, town = attached, attached.town
    version = make_version(home, tmp_path, "witness")
    rig_file = town.root / "demo/settings/config.json"
    before = rig_file.read_bytes() if rig_file.exists() else None
    room.deploy(town, home, version.ref, "witness", rig="demo")
    try:
        words, _ = started(live, "witness", "witness", "start", "demo")
        settings = Path(words[words.index("--settings") + 1])
        assert settings == role_dir(town, "witness") / "settings-demo.json"
        text = settings.read_text()
        assert "mail check --inject" in text and f"{shim_dir()}/gt prime --hook" in text
        assert words.count("--settings") == 1
        wait_for("a reply of the tuned witness", lambda: replies(live, "witness") > 0, 60)
        live.gt("witness", "stop", "demo")
    finally:
        room.rollback(town, "witness")
    assert (rig_file.read_bytes() if rig_file.exists() else None) == before
    shutil.rmtree(role_dir(town, "witness"))
