"""``gt-hook``: what the agent's client calls. ``session-end`` never disturbs; ``guard`` fails closed.

Only the standard library here and on the way to it: the client waits for this process.
"""

import sys

USAGE = "usage: gt-hook session-end | guard"


def main() -> int:
    """Entry point of ``gt-hook``; returns the exit code."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("-h", "--help"):
        print(f"{USAGE}; the agent's client calls it, with its payload on stdin")
        return 0
    if command == "session-end":
        return _session_end()
    if command == "guard":
        return _guard()
    print(f"error: {USAGE}", file=sys.stderr)
    return 2


def _session_end() -> int:
    try:
        from ..corpus.capture import session_end

        session_end()
    except Exception:
        return 0
    return 0


def _guard() -> int:
    """A PreToolUse hook that exits 2 stops the tool: so does a guard that cannot be loaded."""
    try:
        from .hook_guard import main as guard

        return guard()
    except Exception as error:
        print(f"gt-hook guard: {type(error).__name__}: the tool is not allowed", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
