"""``gt-plugins doctor``: each point where we touch a town, whether it holds, and how to mend it.

A check only looks. ``mend`` (for ``--fix``) runs the install again, which repairs shim, hooks and formulas,
and tightens modes. It grants no consent and never attaches to a town that nobody installed to.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import FinetuneError
from ..settings import load_settings, unknown_exclusions
from ..town import client_settings, edits, gt
from ..town.accounts import config_dirs
from ..town.bd import Bd
from ..town.root import Town, read_json
from ..training.job import STATES
from . import install, pieces, record, shim

Status = Literal["ok", "warn", "fail"]
ASK_SECONDS = 10.0


@dataclass(frozen=True)
class Check:
    """One point: what was looked at, how it is, what was found and how to mend it."""

    name: str
    status: Status
    detail: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)


def examine(town: Town) -> list[Check]:
    """Every check, in the order of the way a session goes. A check that fails to run is a failed check."""
    checks: list[Check] = []
    for look in (_install, _gt, _shim, _client, _formulas, _consent, _folders, _tools, _beads, _roles):
        try:
            checks += look(town)
        except FinetuneError as error:
            checks.append(Check(look.__name__[1:], "fail", str(error)))
    return checks


def mend(town: Town) -> list[str]:
    """Repair what can be repaired without asking anybody; returns what was done, one line each."""
    done = []
    for folder, path in _loose(town):
        os.chmod(path, 0o700 if folder else 0o600)
        done.append(f"made private: {path}")
    if record.installed(town):
        install.install(town, None)
        done.append("installed again: shim, hooks, formulas")
    return done


def _fix(town: Town) -> str:
    """What mends shim, hooks and formulas: ``--fix`` repeats an install, it does not make one."""
    return "gt-plugins doctor --fix" if record.installed(town) else "gt-plugins install"


def _install(town: Town) -> Iterator[Check]:
    if record.installed(town):
        yield Check("install", "ok", f"{town.root}, since {record.load_town(town).at}")
    else:
        yield Check("install", "fail", f"{town.root}: not installed here", "gt-plugins install")


def _gt(town: Town) -> Iterator[Check]:
    recorded, found = gt.recorded_gt(), gt.gt_on_path()
    path = recorded or found
    if path is None:
        yield Check("gt", "fail", "no real gt on PATH", "install Gas Town, or put its folder on PATH")
    elif recorded is None and record.installed(town):
        yield Check("gt", "warn", f"{path}, not the one recorded", "gt-plugins doctor --fix")
    else:
        answers, said = _version([str(path), "version"])
        detail, fix = f"{path} ({said})", f"see what `{path} version` does"
        yield Check("gt", "ok", detail) if answers else Check("gt", "fail", detail, fix)


def _shim(town: Town) -> Iterator[Check]:
    path, state = shim.shim_path(), shim.read_state()
    fix = _fix(town)
    if edits.read_text(path) is None or state is None:
        yield Check("shim", "fail", f"{path}: not there", "gt-plugins install")
        return
    if edits.read_text(path) != shim.shipped_shim() or not os.access(path, os.X_OK):
        yield Check("shim", "fail", f"{path}: not as this version ships it", fix)
    elif not os.access(state.python, os.X_OK) or not (Path(state.package) / "cli" / "gt.py").is_file():
        yield Check("shim", "fail", f"{path}: its Python is gone ({state.python or 'none'})", fix)
    else:
        yield Check("shim", "ok", f"{path} with {state.python}")
    first = shim.first_on_path()
    if first == path:
        yield Check("path", "ok", "the shim is the first gt on PATH")
    else:
        line = 'add to your shell\'s profile: eval "$(gt-plugins shellenv)"'
        yield Check("path", "warn", f"the first gt on PATH is {first or 'none'}, not the shim", line)


def _client(town: Town) -> Iterator[Check]:
    expected = client_settings.session_end_entry(client_settings.hook_executable())
    for folder in config_dirs(town):
        path = folder / "settings.json"
        try:
            ours = client_settings.our_entries(read_json(path)) if path.exists() else []
        except FinetuneError as error:
            yield Check("session-end", "fail", str(error), f"mend the file, then {_fix(town)}")
            continue
        if ours == [expected]:
            yield Check("session-end", "ok", str(path))
        elif ours:
            yield Check("session-end", "fail", f"{path}: an entry of another install", _fix(town))
        else:
            yield Check("session-end", "fail", f"{path}: no entry of ours", _fix(town))


def _formulas(town: Town) -> Iterator[Check]:
    for name, text in pieces.shipped_formulas().items():
        path = town.formulas_dir / name
        current = edits.read_text(path)
        if current == text:
            yield Check("formula", "ok", str(path))
        elif current is None:
            yield Check("formula", "fail", f"{path}: not there", _fix(town))
        else:
            yield Check("formula", "warn", f"{path}: changed", f"move it away, then {_fix(town)}")


def _consent(town: Town) -> Iterator[Check]:
    consent = load_settings(town).consent
    if consent.granted:
        yield Check("consent", "ok", f"by {consent.by} at {consent.at}")
    else:
        yield Check("consent", "warn", "none: nothing is captured", "gt corpus consent --grant --by NAME")
    for name in unknown_exclusions(town):
        detail = f"{town.settings_file}: capture.exclude_rigs: no rig {name!r}"
        yield Check("left out", "warn", detail, f"name one of {', '.join(town.rigs()) or 'no rigs yet'}")


def _folders(town: Town) -> Iterator[Check]:
    loose = list(_loose(town))
    if loose:
        shown = ", ".join(str(path) for _, path in loose[:3])
        yield Check("modes", "fail", f"open to others: {shown} ({len(loose)})", "gt-plugins doctor --fix")
    else:
        yield Check("modes", "ok", "corpus, checkpoints and deployed roles are private (0700/0600)")


def _loose(town: Town) -> Iterator[tuple[bool, Path]]:
    """(is a folder, path) of everything of ours in the town that others could open."""
    for top in (town.corpus_dir, town.checkpoints_dir, town.finetune_dir):
        if not top.is_dir():
            continue
        for base, _, files in os.walk(top):
            if stat.S_IMODE(os.stat(base).st_mode) & 0o077:
                yield True, Path(base)
            for name in files:
                path = Path(base, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o066:
                    yield False, path


def _tools(town: Town) -> Iterator[Check]:
    asked: tuple[tuple[str, list[str], Status, str], ...] = (
        ("bd", ["bd", "version"], "warn", "install beads; without it jobs keep a local journal"),
        ("dolt", ["dolt", "version"], "warn", "install Dolt; gt's beads need it"),
        ("tmux", ["tmux", "-V"], "warn", "install tmux; gt starts its agents in it"),
        ("client", ["claude", "--version"], "warn", "install the agent client (claude)"),
    )
    for name, command, status, fix in asked:
        if shutil.which(command[0]) is None:
            yield Check(name, status, f"{command[0]}: not on PATH", fix)
            continue
        answers, said = _version(command)
        if answers:
            yield Check(name, "ok", said)
        else:
            yield Check(name, status, f"{command[0]}: {said}", f"see what `{' '.join(command)}` does")


def _beads(town: Town) -> Iterator[Check]:
    if not pieces.has_beads(town):
        yield Check(
            "statuses", "warn", "no beads: jobs keep a local journal", "gt install with beads, if wanted"
        )
        return
    try:
        known = {s.partition(":")[0] for s in Bd(town.root, timeout=ASK_SECONDS).custom_statuses()}
    except FinetuneError as error:
        yield Check("statuses", "warn", str(error), "gt dolt start; jobs keep a local journal meanwhile")
        return
    missing = [s for s in STATES if s not in known]
    if missing:
        detail = f"beads does not know {', '.join(missing)}"
        yield Check("statuses", "warn", detail, f"{_fix(town)} (a training job adds them, too)")
    else:
        yield Check("statuses", "ok", "beads knows the states of training jobs")


def _roles(town: Town) -> Iterator[Check]:
    """Deployed roles: their files, and whether their endpoint answers."""
    for file in sorted(town.finetune_dir.glob("*/role.json")):
        role = file.parent
        missing = [n for n in ("claude", "settings.json", "fence.toml") if not (role / n).is_file()]
        if missing:
            yield Check(
                f"role {role.name}", "fail", f"{role}: {', '.join(missing)} not there", _redeploy(role)
            )
        elif not os.access(role / "claude", os.X_OK):
            yield Check(f"role {role.name}", "fail", f"{role / 'claude'}: cannot be run", _redeploy(role))
        else:
            yield _endpoint(role)


def _endpoint(role: Path) -> Check:
    import urllib.error
    import urllib.request

    value: Any = read_json(role / "settings.json")
    url = str((value.get("env") or {}).get("ANTHROPIC_BASE_URL") or "")
    name = f"role {role.name}"
    if not re.match(r"https?://", url):
        return Check(name, "warn", f"{role / 'settings.json'}: no endpoint", _redeploy(role))
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2) as answer:
            return Check(name, "ok", f"{url} answers ({answer.status})")
    except (urllib.error.URLError, OSError, ValueError) as error:
        detail = f"{url} does not answer ({error}); the stock agent runs instead"
        return Check(name, "warn", detail, "gt model serve --daemon")


def _redeploy(role: Path) -> str:
    return f"gt model rollback --role {role.name}, or deploy it again"


def _version(command: list[str], run: Callable[..., Any] = subprocess.run) -> tuple[bool, str]:
    """Whether a tool answers, and the first line that it says of itself, or why it says none."""
    try:
        done = run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {ASK_SECONDS:g} s"
    except OSError as error:
        return False, f"cannot be run: {error.strerror}"
    lines = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return done.returncode == 0, lines[0][:80] if lines else f"exit code {done.returncode}"
