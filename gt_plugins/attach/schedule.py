"""``gt-plugins schedule``: a sweep now and then, for sessions whose hook was lost; records and labels every
day, since gt prunes its events after some; an audit every week.

Where systemd runs user timers it is one of those; elsewhere the crontab line is printed, and nobody's
crontab is edited. The Gas Town plugin ``corpus-sweep`` is another way, which costs a dog's session each time.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import FinetuneError, UserError, in_file
from ..settings import resource
from ..town import edits
from ..town.root import Town
from . import pieces, record

TIMER, PLUGIN = pieces.TIMER, pieces.PLUGIN
SECONDS = 20.0
SWEEP, COLLECT, AUDIT = JOBS = ("sweep", "collect", "audit")


def add_timer(town: Town, minutes: int, only_print: bool = False) -> list[str]:
    """Set up the timer, or say what to put into a crontab. Raises UserError where nothing is installed."""
    files = unit_files(town, minutes)
    if only_print:
        shown = [f"# {path}\n{text}" for path, text in files.items()]
        return [*shown, "# or, in a crontab:\n" + "\n".join(crontab_lines(town, minutes))]
    _need_install(town)
    if not systemd_works():
        return [
            "systemd runs no timers for this user here; add these lines with `crontab -e`:",
            *crontab_lines(town, minutes),
        ]
    known = record.load_town(town)
    placed = [
        record.place(TIMER, path, partial(pieces.whole, text), known.placed, pieces.nothing, mode=0o644)
        for path, text in files.items()
    ]
    _place(town, known, placed)
    timers = [unit_name(town, what) + ".timer" for what in JOBS]
    for command in (["daemon-reload"], ["enable", "--now", *timers]):
        said = _systemctl(*command)
        if said:
            remove(town)
            raise FinetuneError(f"systemctl --user {' '.join(command)}: {said}; nothing was set up")
    return [
        f"{timers[0]}: every {minutes} minutes",
        f"{timers[1]}: every day, before gt prunes what decisions are labelled by",
        f"{timers[2]}: every week; its result is a line of .corpus/log and of .corpus/audits.jsonl",
        "gt-plugins schedule --remove takes all of them back",
    ]


def add_plugin(town: Town) -> list[str]:
    """Copy the Gas Town plugin into ``<town>/plugins/corpus-sweep``."""
    _need_install(town)
    known, placed = record.load_town(town), []
    for source in sorted((resource("hooks") / "plugins" / "corpus-sweep").iterdir()):
        path = town.root / "plugins" / "corpus-sweep" / source.name
        text = source.read_text(encoding="utf-8")
        if edits.read_text(path) not in (None, text) and record.find(known.placed, path) is None:
            raise UserError(in_file(path, "", "there already, and not ours", "move it away"))
        mode = 0o755 if source.suffix == ".sh" else 0o644
        placed.append(
            record.place(PLUGIN, path, partial(pieces.whole, text), known.placed, pieces.nothing, mode=mode)
        )
    _place(town, known, placed)
    return [
        f"{placed[0].edit.path.parent}: written; gt offers it to a dog every hour",
        "note: a dog is an agent session and costs tokens each time; the timer does not",
    ]


def remove(town: Town) -> list[str]:
    """Take timer and plugin back, if they are there; returns what was done."""
    known = record.load_town(town)
    ours = [p for p in known.placed if p.kind in (TIMER, PLUGIN)]
    if not ours:
        return ["no schedule of ours in this town"]
    stop(town, ours)
    lines = [f"{pieces.take_back(p)}: {p.edit.path}" for p in reversed(ours)]
    if any(p.kind == TIMER for p in ours) and systemd_works():
        _systemctl("daemon-reload")
    rest = tuple(p for p in known.placed if p not in ours)
    edits.write(record.town_edit(town, replace(known, placed=rest)))
    return lines


def stop(town: Town, placed: Iterable[record.Placed]) -> None:
    """Stop the timer, where ``placed`` has one and systemd is there."""
    if any(p.kind == TIMER for p in placed) and systemd_works():
        _systemctl("disable", "--now", *(unit_name(town, what) + ".timer" for what in JOBS))


def unit_name(town: Town, what: str = SWEEP) -> str:
    """One name per town and job: a hash of the town's path."""
    mark = hashlib.sha256(str(town.root).encode()).hexdigest()[:8]
    return f"gastown-finetune-{what}-{mark}"


def unit_files(town: Town, minutes: int) -> dict[Path, str]:
    """Path → text of the services and timers of the sweep, the daily collection and the weekly audit."""
    sweep = f"OnBootSec=5min\nOnUnitActiveSec={minutes}min"
    collect = "OnCalendar=daily\nPersistent=true\nRandomizedDelaySec=1h"
    audit = "OnCalendar=weekly\nPersistent=true\nRandomizedDelaySec=1h"
    return {
        **_units(town, SWEEP, "capture what was not captured in", sweep),
        **_units(town, COLLECT, "collect records and label decisions of", collect),
        **_units(town, AUDIT, "audit what is stored of", audit),
    }


def _units(town: Town, job: str, what: str, when: str) -> dict[Path, str]:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    command = " ".join(_unit_quote(word) for word in _command(town, job))
    head = f"[Unit]\nDescription=gastown-finetune: {what} {town.root}".replace("%", "%%")
    name = unit_name(town, job)
    return {
        base / f"{name}.service": f"{head}\n\n[Service]\nType=oneshot\nNice=10\nExecStart={command}\n",
        base / f"{name}.timer": f"{head}\n\n[Timer]\n{when}\n\n[Install]\nWantedBy=timers.target\n",
    }


def crontab_lines(town: Town, minutes: int) -> list[str]:
    """The same for cron, which knows no step above an hour: longer ones are rounded to hours."""
    when = f"*/{minutes} * * * *" if minutes < 60 else f"0 */{min(23, round(minutes / 60))} * * *"
    return [
        f"{at} {shlex.join(_command(town, job))} >/dev/null 2>&1".replace("%", "\\%")
        for at, job in ((when, SWEEP), ("47 3 * * *", COLLECT), ("17 4 * * 1", AUDIT))
    ]


def systemd_works() -> bool:
    """Whether this user has a running systemd of his own."""
    return shutil.which("systemctl") is not None and _systemctl("show-environment") is None


def _command(town: Town, job: str) -> list[str]:
    more = ["--since", "7d", "--quiet"] if job == AUDIT else []
    return [str(Path(sys.executable).parent / "gt-corpus"), job, "--town", str(town.root), *more]


def _unit_quote(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _systemctl(*args: str) -> str | None:
    """None where it worked, else what it said."""
    try:
        done = subprocess.run(
            ["systemctl", "--user", *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS:g} s"
    if done.returncode == 0:
        return None
    return " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}"


def _need_install(town: Town) -> None:
    if not record.installed(town):
        raise UserError(f"{town.root}: not installed here; run gt-plugins install first")


def _place(town: Town, known: record.TownRecord, placed: list[record.Placed]) -> None:
    changed = replace(known, placed=record.merged(placed, known.placed))
    edits.write_all([record.town_edit(town, changed), *(p.edit for p in placed)])
