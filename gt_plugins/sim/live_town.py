"""A real town, brought up and torn down: real gt, bd, dolt and tmux, a fresh HOME, everything on loopback.

What the demo and the live tests share. Tools come from PATH alone; the environment is made from nothing, so
that no variable of the operator's own agent client reaches the town's. ``bring_up`` takes about ten seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..durable import write_json, write_text
from ..errors import FinetuneError, RetriableError, UserError
from ..town.agents import AgentChange, set_agent_entry
from ..town.root import Town

TOOLS = ("gt", "bd", "dolt", "tmux", "git", "claude")
CLIENT = "claude"
WHO, MAIL = "Ann Example", "ann@example.org"
STUB_ALIAS = "live-endpoint"
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Ran:
    """One finished command: what it was, its exit code, what it printed, how long it took in seconds."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    def checked(self) -> Ran:
        """This, if it went well. Raises FinetuneError with the end of what it said."""
        if self.code != 0:
            said = " ".join((self.err or self.out).split())[-400:]
            raise FinetuneError(f"{shlex.join(self.args)[:200]}: exit code {self.code}: {said}")
        return self


@dataclass(frozen=True)
class LiveTown:
    """A town that is up: where it is, and the environment in which its commands run."""

    base: Path
    town: Town
    port: int
    env: Mapping[str, str]
    rig: str = "demo"
    crew: tuple[str, ...] = ()
    extra_path: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def tmux_socket(self) -> str:
        """The name that gt gives the town's tmux server."""
        root = os.path.realpath(self.town.root)
        name = re.sub("[^a-z0-9-]+", "-", os.path.basename(root).lower()).strip("-")
        return f"{name}-{hashlib.sha256(root.encode()).hexdigest()[:6]}"

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a command: PATH begins with ``extra_path`` (our shim's folder, say)."""
        path = os.pathsep.join([*self.extra_path, self.env["PATH"]])
        return {**self.env, "PATH": path, **(more or {})}

    def run(
        self,
        *args: str,
        cwd: Path | None = None,
        timeout: float = 120.0,
        more: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Ran:
        """Run a command in the town. Raises RetriableError at the deadline, its process group killed."""
        return run(args, cwd or self.town.root, self.environ(more), timeout, stdin)

    def gt(self, *args: str, cwd: Path | None = None, timeout: float = 120.0) -> Ran:
        """``gt ARGS`` as somebody would type it in the town; raises FinetuneError where it fails."""
        return self.run("gt", *args, cwd=cwd, timeout=timeout).checked()

    def sessions(self) -> list[str]:
        """The names of the tmux sessions that are there."""
        listed = self.run("tmux", "-L", self.tmux_socket, "list-sessions", "-F", "#{session_name}")
        return listed.out.split() if listed.code == 0 else []

    def pane(self, session: str) -> str:
        """What a session's screen shows: for messages about what went wrong."""
        return self.run("tmux", "-L", self.tmux_socket, "capture-pane", "-p", "-t", session).out.strip()


def missing_tools(names: Sequence[str] = TOOLS) -> list[str]:
    """Those of the tools that are not on PATH."""
    return [name for name in names if shutil.which(name) is None]


def bring_up(
    base: Path, *, rig: str = "demo", crew: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> LiveTown:
    """Make ``base/home`` and ``base/town`` (with one rig from a ``file://`` repository) and start its Dolt.

    Raises UserError where a tool is missing or ``base`` holds a town already; FinetuneError with the tool's
    own words where a step fails, after everything that was started has been stopped.
    """
    absent = missing_tools([t for t in TOOLS if t != CLIENT])
    if absent:
        raise UserError(f"{', '.join(absent)}: not on PATH; a real town needs them")
    if (base / "town").exists():
        raise UserError(f"{base / 'town'}: there already; take a new folder")
    port = free_port()
    home = base / "home"
    home.mkdir(parents=True)
    live = LiveTown(base, Town(base / "town"), port, clean_environment(home, port), rig, tuple(crew))
    try:
        for what, step in (("identity", _identify), ("town", _install), ("rig", _add_rig)):
            begun = time.monotonic()
            step(live)
            say(f"{what}: {time.monotonic() - begun:.1f} s")
        write_onboarding(live)
    except BaseException:
        tear_down(live)
        raise
    return live


def clean_environment(home: Path, port: int) -> dict[str, str]:
    """An environment from nothing: the tools' folders on PATH, loopback, no telemetry, no updates."""
    found = [shutil.which(tool) for tool in (*TOOLS, "node")]
    folders = [str(Path(path).absolute().parent) for path in found if path]
    path = os.pathsep.join(dict.fromkeys([*folders, "/usr/local/bin", "/usr/bin", "/bin"]))
    env = {
        "HOME": str(home),
        "PATH": path,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "SHELL": "/bin/sh",
        "USER": os.environ.get("USER", "root"),
        "GT_DOLT_HOST": "127.0.0.1",
        "GT_DOLT_PORT": str(port),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DOLT_METRICS_DISABLED": "1",
        "DO_NOT_TRACK": "1",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        env["IS_SANDBOX"] = "1"  # else the client refuses to skip permissions as root
    return env


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _identify(live: LiveTown) -> None:
    for key, value in (("user.name", WHO), ("user.email", MAIL), ("init.defaultBranch", "main")):
        live.run("git", "config", "--global", key, value, cwd=live.home).checked()
    for key, value in (("user.name", WHO), ("user.email", MAIL)):
        live.run("dolt", "config", "--global", "--add", key, value, cwd=live.home).checked()


def _install(live: LiveTown) -> None:
    env = {k: v for k, v in live.environ().items() if k != "GT_DOLT_PORT"}
    flags = ("--name", "example", "--owner", MAIL, "--dolt-port", str(live.port))
    run(("gt", "install", str(live.town.root), *flags), live.home, env, 120.0).checked()
    live.run("git", "init", "-q").checked()


def _add_rig(live: LiveTown) -> None:
    """A rig whose repository is a bare one on this disk, with one commit, and its crew."""
    project, bare = live.base / "project", live.base / "project.git"
    project.mkdir()
    write_text(project / "README.md", "An example project.\n")
    for args in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "Begin")):
        live.run("git", *args, cwd=project).checked()
    live.run("git", "clone", "-q", "--bare", str(project), str(bare), cwd=live.base).checked()
    live.gt("rig", "add", live.rig, f"file://{bare}", "--prefix", "dm")
    for name in live.crew:
        live.gt("crew", "add", name, "--rig", live.rig)


def write_onboarding(live: LiveTown) -> None:
    """The client's own file that keeps it from asking questions: onboarded, folders trusted."""
    root, rig = live.town.root, live.town.root / live.rig
    folders = [root, root / "mayor", root / "deacon", root / "deacon/dogs/boot", rig, rig / "witness"]
    folders += [rig / "refinery/rig", *(rig / "crew" / name for name in live.crew)]
    trust = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    write_json(
        live.home / ".claude.json",
        {
            "hasCompletedOnboarding": True,
            "bypassPermissionsModeAccepted": True,
            "theme": "dark",
            "projects": {str(folder): trust for folder in folders},
        },
    )


def point_role(live: LiveTown, role: str, url: str, token: str, model: str = "teacher") -> AgentChange:
    """Send a role's real client to another provider, as an operator would: an agents entry with a wrapper.

    Returns the change, which ``town.agents.restore`` takes back. The wrapper lies outside the town.
    """
    client = shutil.which(CLIENT, path=live.env["PATH"])
    if client is None:
        raise UserError(f"{CLIENT}: not on PATH; a real session needs the agent client")
    wrapper = live.base / "endpoint" / role / CLIENT
    values = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": token, "ANTHROPIC_MODEL": model}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    write_text(wrapper, f'#!/bin/sh\n{exports}exec {shlex.quote(client)} "$@"\n', 0o700)
    entry = {"provider": "claude", "command": str(wrapper), "args": ["--dangerously-skip-permissions"]}
    return set_agent_entry(live.town, f"{STUB_ALIAS}-{role}", entry, role=role)


def transcripts(live: LiveTown) -> list[Path]:
    """Every transcript that the town's clients have written, the newest last."""
    files = (live.home / ".claude" / "projects").glob("*/*.jsonl")
    return sorted(files, key=lambda path: path.stat().st_mtime)


def wait_for(what: str, ready: Callable[[], bool], timeout: float = 60.0, step: float = 0.25) -> None:
    """Return once ``ready()`` holds. Raises RetriableError naming ``what`` at the deadline."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise RetriableError(f"{what}: not in {timeout:g} s")
        time.sleep(step)


def tear_down(live: LiveTown) -> list[str]:
    """Stop all that the town started, by its own commands, then by process id; returns what was stopped.

    Only processes whose HOME is this town's are ours to end. The folder is left to the caller.
    """
    stopped = []
    for name, args in (
        ("daemon", ("gt", "daemon", "stop")),
        ("tmux", ("tmux", "-L", live.tmux_socket, "kill-server")),
        ("dolt", ("gt", "dolt", "stop")),
    ):
        with contextlib.suppress(FinetuneError, OSError):
            if live.run(*args, cwd=_somewhere(live), timeout=30.0).code == 0:
                stopped.append(name)
    for pid in own_processes(live.home):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
            stopped.append(f"process {pid}")
    deadline = time.monotonic() + _KILL_SECONDS
    while (left := list(own_processes(live.home))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return stopped


def own_processes(home: Path) -> Iterator[int]:
    """The ids of the processes that run with this HOME; none where there is no /proc to tell."""
    wanted = f"HOME={home}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environ and int(entry.name) != os.getpid():
            yield int(entry.name)


def run(args: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float, stdin: str = "") -> Ran:
    """Run a command to its end. Raises RetriableError at the deadline, UserError where it is not there.

    Output goes through files: a server that the command leaves behind may hold its pipes open for ever.
    """
    import tempfile

    begun = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        command = [shutil.which(args[0], path=env.get("PATH")) or args[0], *args[1:]]
        try:
            process = subprocess.Popen(
                command, cwd=cwd, env=dict(env), stdin=given, stdout=out, stderr=err, start_new_session=True
            )
        except FileNotFoundError:
            raise UserError(f"{args[0]}: not on PATH") from None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RetriableError(f"{shlex.join(args)[:200]}: not done in {timeout:g} s; stopped") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    return Ran(tuple(args), code, texts[0], texts[1], time.monotonic() - begun)


def _somewhere(live: LiveTown) -> Path:
    return live.town.root if live.town.root.is_dir() else live.base


def snapshot(live: LiveTown) -> dict[str, str]:
    """Path → sha256 (or link target, or kind) of what stands in the town, but for what gt keeps changing.

    Left out: Dolt's data, git's, logs, locks and runtime state. For comparing a town with what it was.
    """
    found = {}
    for path in sorted(live.town.root.rglob("*")):
        name = str(path.relative_to(live.town.root))
        if _volatile(name):
            continue
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


_VOLATILE = re.compile(
    r"(^|/)(\.dolt-data|\.git|\.repo\.git|\.runtime|logs|daemon|\.dolt)(/|$)"
    r"|(^|/)(last-touched|\.local_version|dolt-server\.\w+|\.beads-credential-key|interactions\.jsonl)$"
    r"|\.(events|feed)\.jsonl(\.lock)?$|\.lock$|\.(pid|log)$"
)


def _volatile(name: str) -> bool:
    return _VOLATILE.search(name) is not None
