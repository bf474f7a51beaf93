"""The wrapper ``claude``: tuned with a healthy endpoint, else the stock agent exactly as gt called it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from deploy_helpers import endpoint, make_client, recorded
from registry_helpers import make_version

from gt_plugins.rollout import rolefiles, wrapper
from gt_plugins.rollout.deployed import Deployment, role_dir
from gt_plugins.town.gt import shim_dir
from gt_plugins.town.root import Town

GT_ARGS = ["--dangerously-skip-permissions", '[GAS TOWN] deacon <- daemon: it\'s a "prompt"\nwith $two lines']


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Place:
    """A deployed role, without the rest of a deploy."""

    def __init__(self, town: Town, tmp: Path, role: str) -> None:
        self.town, self.role, self.port = town, role, free_port()
        self.client = make_client(tmp / "client bin")
        self.record = tmp / "record"
        version = make_version(tmp / "models", tmp, f"gt-ft-{role}", role)
        self.deployment = Deployment(
            role=role,
            model=version.model,
            version=version.version,
            models=str(tmp / "models"),
            url=f"http://127.0.0.1:{self.port}",
            port=self.port,
            alias=f"ft-{role}",
            client_model=f"gt-ft-{role}",
            client=str(self.client),
        )
        rolefiles.write_role(town, version, self.deployment)
        rolefiles.finished(town, role)
        self.folder = role_dir(town, role)

    def start(self, *args: str, path: str | None = None, **env: str) -> tuple[list[str], dict[str, str]]:
        """Start the wrapper as gt does and return what the client was given."""
        self.record.unlink(missing_ok=True)
        search = f"{self.client.parent}:/usr/bin:/bin" if path is None else path
        full = {"PATH": search, "HOME": os.environ["HOME"], "RECORD": str(self.record), **env}
        done = subprocess.run(
            [str(self.folder / "claude"), *(args or GT_ARGS)],
            env=full,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == done.stderr == ""
        return recorded(self.record)


@pytest.fixture
def deacon(town: Town, tmp_path: Path) -> Place:
    return Place(town, tmp_path, "deacon")


@pytest.fixture
def live(deacon: Place) -> Iterator[Place]:
    with endpoint(deacon.port, ["gt-ft-deacon"]):
        yield deacon


def test_shellcheck_has_nothing_to_say(town: Town, tmp_path: Path) -> None:
    check = shutil.which("shellcheck")
    if check is None:
        pytest.skip("shellcheck is not on PATH")
    for role in ("deacon", "boot", "witness", "polecat", "crew"):
        place = Place(Town(town.root), tmp_path / role, role)
        done = subprocess.run([check, str(place.folder / "claude")], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_healthy_starts_the_tuned_agent(live: Place) -> None:
    args, env = live.start()
    assert args == [
        *("--model", "gt-ft-deacon", "--setting-sources", "user"),
        *("--settings", str(live.folder / "settings.json"), "--tools", "Bash"),
        *("--strict-mcp-config", "--disable-slash-commands", "--system-prompt", "# system.txt"),
        *GT_ARGS,
    ]
    token = (live.folder / "token").read_text().strip()
    words = json.dumps(env)
    assert token not in words and "gt-ft-deacon" not in words and str(live.port) not in words


def test_neither_token_nor_anything_secret_is_sent_to_the_probe(deacon: Place) -> None:
    with endpoint(deacon.port, ["gt-ft-deacon"]) as seen:
        deacon.start()
    assert len(seen) == 1 and "uthorization" not in seen[0] and "api-key" not in seen[0].lower()


def test_gts_own_settings_and_model_give_way_and_the_rest_stays(live: Place) -> None:
    args, _ = live.start(
        *(
            "--settings",
            "/gt/settings.json",
            "--model=sonnet",
            "--model",
            "opus",
            "--resume",
            "abc",
            "--effort",
            "low",
        ),
        *("--setting-sources=project", "--system-prompt", "x", "the prompt"),
    )
    assert args[-5:] == ["--resume", "abc", "--effort", "low", "the prompt"]
    assert args.count("--settings") == args.count("--model") == args.count("--system-prompt") == 1
    args, _ = live.start("--model")  # a prompt that looks like an option is still the prompt
    assert args[-1] == "--model"
    args, _ = live.start("--settings", "/gt/settings.json")
    assert "/gt/settings.json" not in args


REASONS = ["dead", "off", "changing", "rolled back", "other model", "slow", "500", "no system"]


@pytest.mark.parametrize("why", REASONS)
def test_anything_else_is_the_stock_agent_with_exactly_gts_arguments(deacon: Place, why: str) -> None:
    shim_dir().mkdir(parents=True)
    models, delay, status = ["gt-ft-deacon"], 0.0, 200
    if why in ("off", "changing"):
        (deacon.folder / why).write_text("x")
    elif why == "rolled back":
        (deacon.folder / "role.json").unlink()
    elif why == "no system":
        (deacon.folder / "system.txt").unlink()
    models = ["gt-ft-witness"] if why == "other model" else models
    delay = 2.0 if why == "slow" else 0.0
    status = 500 if why == "500" else 200
    gt_args = ("--dangerously-skip-permissions", "--settings", "/x y", "--model", "opus", "a prompt")
    if why == "dead":
        args, env = deacon.start(*gt_args)
    else:
        with endpoint(deacon.port, models, delay, status):
            begun = time.monotonic()
            args, env = deacon.start(*gt_args)
            assert time.monotonic() - begun < 1.5
    assert args == list(gt_args)
    changed = {"PATH", "GT_FINETUNE_STOCK", "PWD", "_", "SHLVL", "OLDPWD"}
    assert {k for k in env if k not in changed} == {"HOME", "RECORD"}
    assert env["PATH"].split(":")[0] == str(shim_dir())
    assert env["GT_FINETUNE_STOCK"] == "1"
    assert "stock" in (deacon.folder / "starts.log").read_text()


def test_the_shim_folder_stands_first_once(live: Place) -> None:
    shim_dir().mkdir(parents=True)
    path = f"{shim_dir()}:{live.client.parent}:/usr/bin:/bin"
    assert live.start(path=path)[1]["PATH"] == path
    assert live.start()[1]["PATH"] == path


def test_variables_of_the_same_names_are_left_alone(live: Place) -> None:
    mine = {name: "mine" for name in ("model", "url", "town", "python", "settings", "client", "rest")}
    _, env = live.start(**mine)
    assert {k: env[k] for k in mine} == mine
    assert not [k for k in env if k.startswith("ft_")]


def test_an_operators_credentials_are_kept_for_the_agents_started_from_within(live: Place) -> None:
    _, env = live.start(ANTHROPIC_AUTH_TOKEN="operator", CLAUDE_CODE_USE_BEDROCK="1", HTTP_PROXY="http://p:1")
    assert env["GT_FT_HELD_ANTHROPIC_AUTH_TOKEN"] == "operator"
    assert env["GT_FT_HELD_CLAUDE_CODE_USE_BEDROCK"] == "1"
    assert env["NO_PROXY"] == env["no_proxy"] == "127.0.0.1,localhost"
    settings = json.loads((live.folder / "settings.json").read_text())
    assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == settings["env"]["CLAUDE_CODE_USE_BEDROCK"] == ""


def test_without_curl_python_probes(live: Place, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env", "sort", "sed", "cat", "date", "cksum"):
        (tools / name).symlink_to(shutil.which(name) or name)
    args, _ = live.start(path=f"{live.client.parent}:{tools}")
    assert "gt-ft-deacon" in args
    (live.folder / "claude").write_text(
        wrapper.script(live.town, replace(live.deployment, url=f"http://127.0.0.1:{free_port()}"))
    )
    args, _ = live.start(path=f"{live.client.parent}:{tools}")
    assert args == GT_ARGS


def test_a_client_that_moved_is_found_where_it_was_and_never_ourselves(live: Place, tmp_path: Path) -> None:
    path = f"{live.folder}:/usr/bin:/bin"
    assert "gt-ft-deacon" in live.start(path=path)[0]
    live.client.rename(tmp_path / "gone")
    done = subprocess.run(
        [str(live.folder / "claude"), "x"],
        env={"PATH": path, "HOME": os.environ["HOME"], "RECORD": str(live.record)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 127 and "not on PATH" in done.stderr
    local = Path(os.environ["HOME"], ".claude/local/claude")
    make_client(local.parent)
    assert "gt-ft-deacon" in live.start(path=path)[0]


def test_our_settings_follow_gts(live: Place) -> None:
    theirs = live.town.root / "deacon/.claude/settings.json"
    theirs.parent.mkdir(parents=True)
    hooks = {"Stop": [{"matcher": "", "hooks": [{"type": "command", "command": "echo one"}]}]}
    theirs.write_text(json.dumps({"hooks": hooks}))
    live.start()
    ours = live.folder / "settings.json"
    assert json.loads(ours.read_text())["hooks"]["Stop"] == hooks["Stop"]
    before = ours.stat().st_mtime_ns
    live.start()
    assert ours.stat().st_mtime_ns == before
    theirs.write_text("{ broken")
    args, _ = live.start("a")
    assert args == ["a"]
    assert "could not be made" in (live.folder / "starts.log").read_text()


def test_a_rigs_role_gets_the_settings_of_its_rig(town: Town, tmp_path: Path) -> None:
    theirs = town.root / "demo/witness/.claude/settings.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(json.dumps({"hooks": {}, "mark": 1}))
    place = Place(town, tmp_path, "witness")
    with endpoint(place.port, ["gt-ft-witness"]):
        for env in ({"GT_RIG": "demo"}, {"GT_ROLE": "demo/witness"}):
            args, _ = place.start("--settings", str(theirs), "prompt", **env)
            assert args[args.index("--settings") + 1] == str(place.folder / "settings-demo.json")
        args, _ = place.start("prompt")
        assert args[args.index("--settings") + 1] == str(place.folder / "settings.json")
        for bad in ("../../x", "unknown"):
            args, _ = place.start("prompt", GT_RIG=bad)
            assert args == ["prompt"] or args[args.index("--settings") + 1] == str(
                place.folder / "settings.json"
            )
        rigs = town.root / "mayor/rigs.json"
        rigs.write_text(json.dumps({"version": 1, "rigs": {"demo": {}, "fresh": {}}}))
        args, _ = place.start("prompt", GT_RIG="fresh")
        assert args[args.index("--settings") + 1] == str(place.folder / "settings-fresh.json")
    assert json.loads((place.folder / "settings-demo.json").read_text())["mark"] == 1


def test_files_are_private_whatever_the_umask(town: Town, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        place = Place(town, tmp_path, "witness")
    finally:
        os.umask(old)
    for path in place.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.name == "claude" else 0o600), path
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert (town.finetune_dir / ".gitignore").read_text() == "*\n"
    assert len((place.folder / "token").read_text().strip()) == 64
    assert sys.executable in (place.folder / "claude").read_text()
