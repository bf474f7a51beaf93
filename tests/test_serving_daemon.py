"""``gt model serve``: what is meant by its arguments, in the background and stopped again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import BASH, make_base, request, write_adapter
from typer.testing import CliRunner

from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.registry.versions import Version, register
from gt_plugins.rollout.deployed import Deployment, read_token, role_dir, write_deployment
from gt_plugins.run_inference import build
from gt_plugins.serving import daemon, serve
from gt_plugins.serving.client import EndpointClient
from gt_plugins.serving.load import gguf_files, load_version
from gt_plugins.town.root import Town

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("daemon") / "base", seed=1)


@pytest.fixture
def home(isolated: Path) -> Path:
    return isolated / ".models"


@pytest.fixture
def version(base: Path, home: Path, tmp_path: Path) -> Version:
    write_adapter(tmp_path / "source" / "adapter")
    return register(home, "gt-ft-deacon", "deacon", tmp_path / "source", str(base))


@pytest.fixture
def deployed(town: Town, version: Version) -> Deployment:
    url = f"http://127.0.0.1:{free_port()}"
    deployment = Deployment(
        role="deacon",
        model=version.model,
        version=version.version,
        models=str(version.home),
        url=url,
        port=int(url.rsplit(":", 1)[1]),
        alias="ft-deacon",
        client_model="gt-ft-deacon",
    )
    write_deployment(town, deployment)
    return deployment


@pytest.fixture(autouse=True)
def nothing_left_running(isolated: Path, tmp_path: Path) -> Iterator[None]:
    yield
    for state in [*isolated.glob(".models/.serve/*.json"), *tmp_path.glob("town/.finetune/*/serve.json")]:
        daemon.stop(state)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*words: str) -> Any:
    return CliRunner().invoke(build(), list(words))


# -- what is meant --------------------------------------------------------------------------------


def test_a_model_alone_is_served_on_loopback_with_a_token_of_its_own(version: Version) -> None:
    plan = serve.plan("gt-ft-deacon")
    assert (plan.host, plan.port, plan.version.ref) == ("127.0.0.1", serve.DEFAULT_PORT, "gt-ft-deacon:v1")
    assert plan.names == ["gt-ft-deacon", "gt-ft-deacon:v1"]
    assert plan.state == version.home / ".serve/gt-ft-deacon-v1.json"
    assert plan.token_file == version.home / ".serve/token"


def test_a_role_is_served_as_it_is_deployed(town: Town, deployed: Deployment) -> None:
    plan = serve.plan(role="deacon", town=town.root)
    assert (plan.version.ref, plan.port, plan.url) == (deployed.ref, deployed.port, deployed.url)
    assert plan.token_file == role_dir(town, "deacon") / "token"
    assert plan.state == role_dir(town, "deacon") / "serve.json"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give a MODEL, or --role ROLE"),
        ({"model": "gt-ft-nobody"}, "no model 'gt-ft-nobody'"),
        ({"model": "gt-ft-deacon:v9"}, "v9"),
        ({"model": "gt-ft-deacon", "host": "0.0.0.0"}, "--host 0.0.0.0: not loopback"),
        ({"model": "gt-ft-deacon", "host": "example.org", "allow_remote": True}, "--token-file"),
        ({"model": "gt-ft-deacon", "host": "::"}, "not loopback"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    version: Version, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        serve.plan(**arguments)


def test_a_role_that_is_not_deployed_or_not_the_model_s(town: Town, version: Version) -> None:
    with pytest.raises(UserError, match="nothing is deployed for role 'deacon'"):
        serve.plan(role="deacon", town=town.root)
    with pytest.raises(UserError, match="trained for role 'deacon', not 'witness'"):
        serve.plan("gt-ft-deacon", role="witness", town=town.root)
    with pytest.raises(UserError, match="unknown role"):
        serve.plan("gt-ft-deacon", role="../x", town=town.root)


def test_remote_needs_to_be_asked_for_twice(version: Version, tmp_path: Path) -> None:
    plan = serve.plan("gt-ft-deacon", host="0.0.0.0", allow_remote=True, token_file=tmp_path / "t")
    assert plan.host == "0.0.0.0"
    assert serve.plan("gt-ft-deacon", host="::1").url == "http://[::1]:8808"
    assert serve.plan("gt-ft-deacon", host="127.0.0.2").host == "127.0.0.2"


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    with pytest.raises(UserError, match="no token can be read"):
        serve.read_token(path, make=False)
    token = serve.read_token(path, make=True)
    assert len(token) > 30 and path.stat().st_mode & 0o777 == 0o600
    assert serve.read_token(path, make=True) == token
    path.chmod(0o644)
    with pytest.raises(UserError, match="others can read the token"):
        serve.read_token(path, make=False)
    for text in ("short", "a b" * 10, "ü" * 20, ""):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(UserError, match="at least 16 plain characters"):
            serve.read_token(path, make=False)


def test_which_gguf_is_served(tmp_path: Path) -> None:
    def files(*names: str) -> tuple[str | None, str | None]:
        folder = tmp_path / "-".join(names) if names else tmp_path / "none"
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        gguf, lora = gguf_files(folder)
        return gguf.name if gguf else None, lora.name if lora else None

    assert files() == (None, None)
    assert files("lora.gguf") == (None, None)
    assert files("model-f16.gguf", "model-q8_0.gguf", "lora.gguf") == ("model-q8_0.gguf", None)
    assert files("base-q8_0.gguf", "lora.gguf") == ("base-q8_0.gguf", "lora.gguf")


def test_a_version_becomes_a_responder(version: Version) -> None:
    responder = load_version(version, "transformers")
    reply = responder.respond(request(tools=[BASH], tool_choice={"type": "any"}))
    assert responder.profile.folder == version.role_dir
    assert responder.profile.allows(reply.blocks[-1]["input"]["command"])


# -- in the background ----------------------------------------------------------------------------


def test_daemon_and_stop(town: Town, deployed: Deployment) -> None:
    words = ("--role", "deacon", "--town", str(town.root), "--engine", "transformers")
    begun = run(*words, "--daemon", "--json")
    assert begun.exit_code == 0, begun.output
    found = json.loads(begun.stdout)
    folder = role_dir(town, "deacon")
    assert found["url"] == deployed.url and found["ref"] == deployed.ref
    for name in ("serve.json", "serve.log", "token"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    with EndpointClient(found["url"], read_token(town, "deacon")) as client:
        assert client.status()["models"] == ["gt-ft-deacon", "gt-ft-deacon:v1"]
        reply = client.message(request(tools=[BASH], max_tokens=8))
        assert reply["usage"]["output_tokens"] <= 8
    assert os.getsid(found["pid"]) == found["pid"], "it outlives the terminal"

    again = json.loads(run(*words, "--daemon", "--json").stdout)
    assert again["pid"] == found["pid"], "what runs already is left as it is"
    busy = run("gt-ft-deacon", "--port", str(deployed.port), "--daemon")
    assert isinstance(busy.exception, FinetuneError) and "choose another --port" in str(busy.exception)
    assert "patrol" not in (folder / "serve.log").read_text()

    ended = run(*words[:4], "--stop")
    assert ended.exit_code == 0 and "stopped gt-ft-deacon:v1" in ended.stdout
    assert not daemon.is_ours(found["pid"]) and not (folder / "serve.json").exists()
    assert "no endpoint was running" in run(*words[:4], "--stop").stdout


def test_a_child_that_fails_says_why(version: Version, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x" * 20)
    (tmp_path / "token").chmod(0o600)
    (version.path / "adapter/adapter_model.safetensors").write_bytes(b"torn")
    plan = serve.plan("gt-ft-deacon", port=0, token_file=tmp_path / "token")
    with pytest.raises(FinetuneError, match=r"the endpoint did not start: .*not a safetensors file"):
        serve.background(plan)
    assert daemon.running(plan.state) is None


def test_somebody_else_s_process_is_never_signalled(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state = tmp_path / "serve.json"
        daemon.write_state(state, daemon.Running(other.pid, "http://127.0.0.1:1", "m:v1", "t"))
        assert daemon.stop(state) is None and not state.exists()
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert daemon.command_of(2**22 + 5) == "" and daemon.is_ours(os.getpid()) is False


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    state = tmp_path / "serve.json"
    state.write_text("{")
    with pytest.raises(UserError, match=r"serve\.json: line 1"):
        daemon.running(state)
    state.write_text("{}")
    with pytest.raises(UserError, match="not an endpoint's state"):
        daemon.running(state)


def test_daemon_and_stop_exclude_each_other(version: Version) -> None:
    result = run("gt-ft-deacon", "--daemon", "--stop")
    assert isinstance(result.exception, UserError)


@pytest.mark.parametrize("words", [["--port", "70000"], ["--port", "x"], ["--unknown"]])
def test_bad_arguments_are_usage_errors(words: list[str]) -> None:
    assert run(*words).exit_code == 2
