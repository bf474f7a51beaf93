"""``gt sling`` through the shim: plugins are asked before it and told after it; the real one does the work.

A plugin may return a changed sling (rollout adds ``--agent``), and a third party's may raise GateRefused to
veto it. A plugin that fails costs one line on stderr and nothing else: the sling goes on without it. The real
gt has our stdin, stdout and stderr, so that nothing of it passes through us or lands on disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import GateRefused

if TYPE_CHECKING:
    from ..plugins import Implementation
    from ..town.sling import Sling

BUILT_IN = "gt_plugins."


def main(args: Sequence[str]) -> int:
    """``gt sling ARGS``: the real one's exit code; 3 where a third party vetoed it."""
    from ..prime.command import exec_real

    asked: list[Implementation] = []
    told: list[Implementation] = []
    try:
        sling = _sling(args)
        asked, told = _hooks("gt_sling"), _hooks("gt_slung")
    except Exception as error:
        _say("plugins", error)
    if not asked and not told:
        exec_real(["sling", *args])
    try:
        sling = _ask(sling, asked)
    except GateRefused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return refusal.exit_code
    code = _run_real(["sling", *sling.args])
    _tell(sling, code, told)
    return code


def _sling(args: Sequence[str]) -> Sling:
    from ..prime.budget import session_town
    from ..prime.command import working_folder
    from ..town.sling import Sling

    cwd = working_folder()
    return Sling(tuple(args), cwd, session_town(os.environ, cwd))


def _hooks(name: str) -> list[Implementation]:
    """Who implements a hook, in the order in which pluggy would call them: the last registered first."""
    from ..plugins import implementations

    return implementations(name)[::-1]


def _ask(sling: Sling, hooks: Sequence[Implementation]) -> Sling:
    """The sling as the plugins would have it, with what they have to say printed. Raises GateRefused for a
    third party's veto; built-in plugins have none."""
    from ..town.sling import Sling

    for hook in hooks:
        try:
            changed = hook(sling=sling)
            if changed is not None and not isinstance(changed, Sling):
                raise TypeError(f"gt_sling returned {type(changed).__name__}, not a Sling")
            if changed is not None and not all(isinstance(a, str) for a in changed.args):
                raise TypeError("gt_sling returned arguments that are no text")
            sling = changed or sling
        except GateRefused as refusal:
            if not hook.name.startswith(BUILT_IN):
                raise
            _say(hook.name, refusal)
        except Exception as error:
            _say(hook.name, error)
    for note in sling.notes:
        print(note, file=sys.stderr)
    return sling


def _run_real(args: Sequence[str]) -> int:
    """The real gt on our own stdin, stdout and stderr. An interrupt is the child's to answer; we wait."""
    from ..prime.command import real_environ
    from ..town.gt import real_gt

    sys.stdout.flush()
    sys.stderr.flush()
    process = subprocess.Popen([str(real_gt(None)), *args], env=real_environ())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _tell(sling: Sling, code: int, hooks: Sequence[Implementation]) -> None:
    from ..town.sling import SlingResult

    beads = sling.beads
    result = SlingResult(code, beads[0] if beads else "")
    for hook in hooks:
        try:
            hook(sling=sling, result=result)
        except Exception as error:
            _say(hook.name, error)


def _say(who: str, error: BaseException) -> None:
    text = f"gt sling: {who}: {type(error).__name__}: {error}; slung without it"
    print(text.replace("\n", " ")[:300], file=sys.stderr)
