"""Does a version load and speak? Asked in a process of its own, before the pointer moves.

A process of its own, because native code that meets a broken file may end it, and because what was loaded
is then gone from memory. It loads the version as the endpoint does, has it answer one request within grammar
and fence, and looks whether its probabilities are numbers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import FinetuneError, NonRetriableError, UserError
from ..registry.versions import Version

SECONDS = 600.0
_REQUEST = {
    "model": "load-check",
    "max_tokens": 24,
    "system": [{"type": "text", "text": "check"}],
    "tools": [
        {
            "name": "Bash",
            "description": "Run a command.",
            "input_schema": {
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
            },
        }
    ],
    "messages": [{"role": "user", "content": "Begin."}],
}


def load_check(version: Version, seconds: float = SECONDS) -> str:
    """The engine that loaded the version. Raises NonRetriableError with the child's own words."""
    words = [sys.executable, "-m", "gt_plugins.rollout.loadcheck", str(version.home), version.ref]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NonRetriableError(
            f"{version.ref} did not load within {seconds:g} s; nothing was changed"
        ) from None
    if done.returncode != 0:
        if done.returncode < 0:
            why = f"its process was ended by signal {-done.returncode}"
        else:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = (lines or ["no reason given"])[-1].removeprefix("error: ")
        raise NonRetriableError(f"{version.ref} does not load: {why}; nothing was changed")
    return done.stdout.strip().splitlines()[-1]


def speaks(version: Version) -> str:
    """Load a version here and let it answer; the engine's name. Raises FinetuneError where it cannot."""
    import math

    from ..serving.load import load_version

    responder = load_version(version)
    reply = responder.respond(_REQUEST)
    if reply.output_tokens < 1:
        raise NonRetriableError("it answers nothing")
    engine = responder.engine
    ids = list(responder.prepare(_REQUEST).ids)
    scores = engine.score(ids, [ids[-1:], ids[:1]])
    if not all(math.isfinite(score) for score in scores):
        raise NonRetriableError("its probabilities are NaN or infinite")
    return engine.name


def main(argv: list[str]) -> int:
    """``python -m gt_plugins.rollout.loadcheck HOME REF``: prints the engine, exit code 0 where it speaks."""
    from ..registry.versions import resolve

    try:
        if len(argv) != 2:
            raise UserError("usage: loadcheck HOME REF")
        print(speaks(resolve(Path(argv[0]), argv[1])))
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
