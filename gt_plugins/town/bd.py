"""A thin typed client of the real ``bd`` (beads), made so that bd can never hurt its caller.

Each call is one process of its own session with ``--json``, no stdin and a deadline; when that passes, the
whole process group is killed: some versions of an embedded bd wait for a held lock for ever. Others refuse at
once, which is no error here but a bd that is slow: the call is made again until its deadline. The environment
is cleaned first: an inherited BEADS_DIR would send our beads to another database, and bd changes its output
inside an agent's session. Warnings on stderr are passed over; only stdout is JSON.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import FinetuneError, NonRetriableError, RetriableError

ACTOR = "gastown-finetune"
GT_STATUSES = ("staged_ready", "staged_warnings")
"""gt's own custom statuses. ``gt convoy`` fails while none are set, so whoever sets any sets these too."""

LOCK_PAUSE, MOST_LOCK_PAUSE = 0.1, 1.0
"""Seconds between two calls while another process has the database."""
_STATUS = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_KEPT = (
    "BEADS_DOLT_PORT",
    "BEADS_DOLT_SERVER_HOST",
    "BEADS_DOLT_SERVER_PORT",
    "BEADS_DOLT_SERVER_USER",
    "BEADS_DOLT_PASSWORD",
)
_DROPPED = ("BEADS_", "BD_", "CLAUDE")
_SHORT_LIVED = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}
"""A call is over before Go's collector is worth its work, a third of the processor's time; it begins where a
call grows large after all."""
_GONE = ("no issue found", "no issues found", "issue not found")
_LOCKED = ("exclusive lock", "locked by another")
"""What an embedded bd says when another process has its database. Nothing has begun: to ask again is safe."""


class BdError(FinetuneError):
    """bd answered with an error; the message carries its own words."""


class BdNotFound(NonRetriableError):
    """The bead does not exist (any more)."""


class BdMissing(NonRetriableError):
    """There is no bd to call, or no beads database where it should be."""


class Bd:
    """The bd of one beads database: ``folder/.beads``, followed through gt's redirect file by bd itself.

    ``behind`` lets bd have what the process that it reports on leaves of the processors: a call is up to half
    a second of one, and may then take many.
    """

    def __init__(self, folder: Path, timeout: float = 20.0, binary: str = "bd", behind: bool = False) -> None:
        self.folder = folder
        self.timeout = timeout
        self.behind = behind
        self._binary = binary
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._cancelled = 0

    # -- what is there ------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why bd cannot be called here, or None if it can."""
        if shutil.which(self._binary) is None:
            return "bd is not on PATH"
        if not (self.folder / ".beads").is_dir():
            return f"{self.folder}: no beads database (.beads is not there)"
        return None

    def available(self) -> bool:
        """True where both bd and a database are there; starts no process."""
        return self.problem() is None

    def version(self) -> str:
        """bd's version, e.g. ``1.0.0``; an empty string where it tells none."""
        answer = self._json("version")
        return str(answer.get("version", "")) if isinstance(answer, dict) else ""

    # -- beads --------------------------------------------------------------------------------------

    def create(
        self,
        title: str,
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        assignee: str = ACTOR,
        type: str = "task",
    ) -> str:
        """Create a bead and return its id. It is assigned at once, so that nobody picks it up."""
        args = ["create", f"--title={title[:500]}", f"--description={description}", f"--type={type}"]
        if assignee:
            args.append(f"--assignee={assignee}")
        if metadata:
            args.append(f"--metadata={_compact(metadata)}")
        args += [f"--labels={label}" for label in labels]
        answer = _first(self._json(*args))
        if not answer.get("id"):
            raise BdError("bd create gave no id")
        return str(answer["id"])

    def update_status(self, id: str, status: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Set a bead's status, with metadata (merged, not replaced) in the same call."""
        if not _STATUS.fullmatch(status):
            raise NonRetriableError(f"{status!r} is no status name for bd")
        more = [f"--metadata={_compact(metadata)}"] if metadata else []
        self._json("update", _checked_id(id), f"--status={status}", *more)

    def set_metadata(self, id: str, metadata: Mapping[str, Any]) -> None:
        """Merge top-level keys into a bead's metadata; no keys, no call."""
        if metadata:
            self._json("update", _checked_id(id), f"--metadata={_compact(metadata)}")

    def close(self, id: str, reason: str) -> None:
        """Close a bead with a reason; one that is closed already stays as it is, its reason too."""
        # bd 1.0.0 overwrites the reason of a closed bead and then calls it "not found".
        if self.show(id).get("status") != "closed":
            self._json("close", _checked_id(id), f"--reason={reason}")

    def show(self, id: str) -> dict[str, Any]:
        """A bead as bd shows it. Raises BdNotFound."""
        return _first(self._json("show", _checked_id(id)))

    def find(self, key: str, value: str) -> list[dict[str, Any]]:
        """Beads, closed ones too, whose metadata has ``key`` = ``value``, the oldest first."""
        answer = self._json("list", f"--metadata-field={key}={value}", "--all", "--flat", "--limit=0")
        beads = [b for b in answer if isinstance(b, dict)] if isinstance(answer, list) else []
        return sorted(beads, key=lambda b: str(b.get("created_at", "")))

    # -- formulas -------------------------------------------------------------------------------------

    def formulas(self) -> list[dict[str, Any]]:
        """The formulas that bd finds from here: name, type, description, ``source`` (a path) of each."""
        answer = self._json("formula", "list")
        return [f for f in answer if isinstance(f, dict)] if isinstance(answer, list) else []

    def formula(self, name: str) -> dict[str, Any]:
        """One formula as bd parses it. Raises BdError where it cannot."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise NonRetriableError(f"{name!r} is no formula's name")
        answer = self._json("formula", "show", name)
        if not isinstance(answer, dict):
            raise BdError(f"bd formula show {name} gave no formula")
        return answer

    # -- whole databases ----------------------------------------------------------------------------

    def export(self) -> list[dict[str, Any]]:
        """Every bead with its labels, dependencies and comments, each once; what else bd lets out, too."""
        found: dict[str, dict[str, Any]] = {}
        for line in self._run("export").splitlines():
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict) and value.get("id"):
                    found[str(value["id"])] = value
        return list(found.values())

    def labelled(self, label: str) -> list[dict[str, Any]]:
        """Beads of one label, closed and ephemeral ones too."""
        answer = self._json("list", f"--label={label}", "--all", "--flat", "--limit=0")
        return [b for b in answer if isinstance(b, dict)] if isinstance(answer, list) else []

    def history(self, id: str) -> list[dict[str, Any]]:
        """A bead as it stood at each commit, the oldest first: ``CommitDate`` and ``Issue``."""
        answer = self._json("history", _checked_id(id))
        steps = [s for s in answer if isinstance(s, dict)] if isinstance(answer, list) else []
        return sorted(steps, key=lambda s: str(s.get("CommitDate", "")))

    @property
    def on_server(self) -> bool:
        """Whether the database is a Dolt server's, which alone can be asked in SQL."""
        try:
            meta = json.loads((self.folder / ".beads" / "metadata.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(meta, dict) and meta.get("dolt_mode") == "server"

    def events(self) -> list[dict[str, Any]]:
        """The events table, the oldest first; only on a server. Raises BdError elsewhere."""
        columns = "issue_id, event_type, actor, old_value, new_value, comment, created_at"
        answer = self._json("sql", f"SELECT {columns} FROM events ORDER BY created_at, id")
        return [e for e in answer if isinstance(e, dict)] if isinstance(answer, list) else []

    # -- statuses -----------------------------------------------------------------------------------

    def custom_statuses(self) -> list[str]:
        """The database's custom statuses as they are written there (a name, or ``name:category``)."""
        answer = self._json("config", "get", "status.custom")
        value = answer.get("value", "") if isinstance(answer, dict) else ""
        return [s.strip() for s in str(value).split(",") if s.strip()]

    def set_custom_statuses(self, statuses: Sequence[str]) -> None:
        """Replace the whole list: what an uninstall does with the list it found before."""
        self._run("config", "set", "status.custom", ",".join(statuses))

    def merge_custom_statuses(self, names: Iterable[str], attempts: int = 3) -> bool:
        """Add statuses to those that are there, gt's two included; True if anything had to be written.

        The list has no lock of its own, so it is read again after the write: gt merges its own in between.
        """
        wanted = [*GT_STATUSES, *names]
        wrong = [n for n in wanted if not _STATUS.fullmatch(n)]
        if wrong:
            raise NonRetriableError(f"{wrong[0]!r} is no status name for bd")
        for attempt in range(attempts):
            there = self.custom_statuses()
            known = {s.partition(":")[0] for s in there}
            missing = [n for n in dict.fromkeys(wanted) if n not in known]
            if not missing:
                return attempt > 0
            self.set_custom_statuses([*there, *missing])
        raise RetriableError("bd: the custom statuses are being changed by somebody else")

    # -- the process --------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the calls that are running or wait for a lock; their callers get a RetriableError."""
        with self._lock:
            running = list(self._running)
            self._cancelled += 1
        for process in running:
            _kill_group(process)

    def _json(self, *args: str) -> Any:
        out = self._run(*args)
        try:
            return parse_output(out)
        except ValueError:
            raise BdError(f"bd {args[0]} did not answer in JSON: {_line(out)}") from None

    def _run(self, *args: str) -> str:
        """stdout of one call, made again while another process holds the database.

        Raises BdMissing, BdNotFound, BdError, or RetriableError at the deadline."""
        problem = self.problem()
        if problem:
            raise BdMissing(problem)
        until, pause, cancelled = time.monotonic() + self.timeout, LOCK_PAUSE, self._cancelled
        while True:
            code, out, err = self._process([self._binary, *args, "--json"])
            if code == 0 and not (out.strip() == "" and "Error" in err):
                return out
            message = error_text(out, err) or f"exit code {code}"
            if any(sign in message.lower() for sign in _GONE):
                raise BdNotFound(f"bd {args[0]}: {message}")
            if not any(sign in message.lower() for sign in _LOCKED):
                raise BdError(f"bd {args[0]}: {message}")
            if time.monotonic() + pause > until or self._cancelled != cancelled:
                raise RetriableError(f"bd {args[0]}: another process holds its database ({self.timeout:g} s)")
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, MOST_LOCK_PAUSE)

    def _process(self, argv: list[str]) -> tuple[int, str, str]:
        env = clean_environment(self.folder, os.environ)
        try:
            process = subprocess.Popen(
                [*stepping_back(), *argv] if self.behind else argv,
                cwd=self.folder,
                env=env | {"GOMAXPROCS": "1"} if self.behind else env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise BdMissing(f"bd cannot be started: {error.strerror or error}") from None
        with self._lock:
            self._running.add(process)
        try:
            out, err = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            _drain(process)
            raise RetriableError(
                f"bd {argv[1]} gave no answer in {self.timeout:g} s and was stopped; "
                "is its database locked or its server gone?"
            ) from None
        except BaseException:
            _kill_group(process)
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode < 0:
            raise RetriableError(f"bd {argv[1]} was ended by signal {-process.returncode}")
        return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


@cache
def stepping_back() -> tuple[str, ...]:
    """The words before a command that let it run when nobody else wants the processor.

    A process that is told so after it began would keep the threads it has as they are."""
    idle = (("chrt", "--idle", "0"), ("nice", "-n", "19"))
    return next((words for words in idle if shutil.which(words[0])), ())


def clean_environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for a bd that works on ``folder``: no other database, no prompts, no telemetry, plain text.

    The server's port comes from the database's own files, as gt does it, and else from gt's variables.
    """
    env = {k: v for k, v in environ.items() if k in _KEPT or not k.startswith(_DROPPED)}
    beads = folder / ".beads"
    port, host = _server(beads)
    port, host = port or env.get("GT_DOLT_PORT", ""), host or env.get("GT_DOLT_HOST", "")
    if port:
        env["BEADS_DOLT_PORT"] = port
    if host:
        env["BEADS_DOLT_SERVER_HOST"] = host
    return (
        _SHORT_LIVED
        | env
        | {
            "BEADS_DIR": str(beads),
            "BEADS_ACTOR": ACTOR,
            "BD_ACTOR": ACTOR,
            "BD_NON_INTERACTIVE": "1",
            "BEADS_DOLT_AUTO_START": "0",
            "BD_DISABLE_METRICS": "1",
            "DOLT_METRICS_DISABLED": "1",
            "DO_NOT_TRACK": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "NO_COLOR": "1",
        }
    )


def _server(beads: Path) -> tuple[str, str]:
    """Port and host of a Dolt server as written beside the database; empty for an embedded one."""
    try:
        port = (beads / "dolt-server.port").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        port = ""
    try:
        meta = json.loads((beads / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        meta = {}
    if not isinstance(meta, dict):
        meta = {}
    return port or str(meta.get("dolt_server_port") or ""), str(meta.get("dolt_server_host") or "").strip()


def parse_output(text: str) -> Any:
    """bd's JSON answer: warning lines before it are passed over, the envelope of newer versions is opened.

    Raises ValueError where there is no JSON.
    """
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line[:1] in "{[" or line.strip() == "null":
            value = json.loads("".join(lines[index:]))
            if isinstance(value, dict) and set(value) == {"schema_version", "data"}:
                return value["data"]
            return value
    raise ValueError("no JSON")


def error_text(out: str, err: str) -> str:
    """One line that says what bd complained about: its error JSON, else its ``Error`` line, else its last."""
    for text in (out, err):
        with suppress(ValueError):
            value = parse_output(text)
            if isinstance(value, dict) and value.get("error"):
                return _line(str(value["error"]))
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    chosen = (errors or lines or [out.strip()])[-1]
    return _line(re.sub(r"(?i)^error:\s*", "", chosen))


def _line(text: str) -> str:
    flat = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return flat if len(flat) <= 300 else flat[:299] + "…"


def _first(answer: Any) -> dict[str, Any]:
    """The one bead of an answer that may be an object or an array of one."""
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    if not isinstance(answer, dict):
        raise BdNotFound("bd answered with no bead")
    return answer


def _checked_id(id: str) -> str:
    """bd takes an empty id for the bead touched last, and a leading dash for a flag."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", id):
        raise NonRetriableError(f"{id!r} is no bead id")
    return id


def _compact(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Reap a killed process; a grandchild that left its group may hold the pipes, so never wait for long."""
    try:
        process.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
