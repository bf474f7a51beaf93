"""What the ``gt`` shim hands to Python: ``python -m gt_plugins.cli.gt prime …`` and ``… sling …``.

Everything else is the real gt's, and so is whatever goes wrong here before the real one has run.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """``gt ARGV``: the exit code, or this process becomes the real gt."""
    if argv[:1] == ["prime"]:
        from ..prime.command import main as prime

        return prime(argv[1:])
    if argv[:1] == ["sling"]:
        from .sling import main as sling

        return sling(argv[1:])
    from ..prime.command import exec_real

    exec_real(argv)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point. Raises SystemExit with the exit code."""
    gc.disable()  # a process of a tenth of a second that every session start waits for
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = _fail(f"{error.filename or 'gt'}: {error.strerror or error}", 1)
    except Exception as error:
        from ..errors import FinetuneError

        if not isinstance(error, FinetuneError):
            raise
        code = _fail(str(error), error.exit_code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
