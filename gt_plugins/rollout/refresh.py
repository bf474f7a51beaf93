"""``python -m gt_plugins.rollout.refresh TOWN ROLE [RIG]``: make a role's client settings from gt's anew.

The wrapper calls it when gt has written its own file again or a rig is new; exit code 0 when ours are made.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from ..durable import write_json, write_text
from ..errors import FinetuneError, UserError
from ..town.gt import shim_dir
from ..town.root import Town
from .client_settings import build, gt_settings, settings_name
from .deployed import Deployment, read_deployment, role_dir


def prime_command() -> str:
    """What stands in place of ``gt`` before ``prime``: our shim, else our Python where none is installed."""
    shim = shim_dir() / "gt"
    if shim.is_file():
        return shlex.quote(str(shim))
    return shlex.join([sys.executable, "-m", "gt_plugins.cli.gt"])


def refresh(town: Town, deployment: Deployment, rig: str | None) -> Path:
    """Write the settings of one role (in ``rig``), and beside them what gt's file was; returns the path.

    Raises UserError where gt's file is broken.
    """
    path = role_dir(town, deployment.role) / settings_name(rig)
    _, source = gt_settings(town, deployment.role, rig)
    mark = cksum(source) if source.is_file() else ""
    settings = build(town, deployment.role, rig, deployment.url, prime_command())
    write_json(path, settings)
    write_text(path.with_name(f"{path.name}.from"), mark)
    return path


def cksum(path: Path) -> str:
    """What ``cksum <path`` prints, by which the wrapper tells whether gt has changed its file."""
    with path.open("rb") as handle:
        done = subprocess.run(["cksum"], stdin=handle, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(argv: list[str]) -> int:
    """Entry point; the wrapper looks at the exit code only."""
    try:
        town, role = Town(Path(argv[0])), argv[1]
        rig = argv[2] if len(argv) > 2 and argv[2] else None
        deployment = read_deployment(town, role)
        if deployment is None:
            raise UserError(f"{role} is not deployed in {town.root}")
        if rig is not None and rig not in town.rigs():
            raise UserError(f"no rig {rig!r} in {town.root}")
        refresh(town, deployment, rig)
    except (FinetuneError, OSError, IndexError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
