"""``gt model``: the commands of every room under one roof, each mounted by its own module.

``gt model`` must come up quickly, so a module of ours imports nothing but typer and the standard library at
its top, and third-party commands are looked for only when none of ours is meant. ``gt model list`` comes up
without typer, too, which takes a tenth of a second.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

MODULES = (
    "model_registry",
    "model_deploy",
    "model_rollout",
    "model_train",
    "model_jobs",
    "model_gather",
    "model_eval",
    "model_serve",
    "model_prime",
    "model_export",
)
HELP = "Role models: train, evaluate, deploy behind a gate, serve, roll back."


def build(plugins: bool = True) -> typer.Typer:
    """The application; with ``plugins`` also what third parties add through ``gt_model_commands``."""
    from .common import new_app

    app = new_app("model", HELP)
    for name in MODULES:
        full = f"{__package__}.{name}"
        if importlib.util.find_spec(full) is not None:
            importlib.import_module(full).register(app)
    if plugins:
        from ..plugins import answers

        answers("gt_model_commands", app=app)
    return app


def is_ours(app: typer.Typer, argv: list[str]) -> bool:
    """Whether the command line names a command of ours, so that no plugin needs to be loaded for it."""
    ours = {c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands}
    groups = [group.typer_instance for group in app.registered_groups]
    ours |= {str(group.info.name) for group in groups if group is not None}
    return bool(argv) and argv[0] in ours


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``gt-model`` and, through the shim, of ``gt model``."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["list"]:
        if argv is None:
            gc.disable()  # many small objects in a process that soon ends
        from .exits import leave
        from .model_list import quick

        call = quick(words[1:])
        if call is not None:
            leave(call)
    from .common import run

    app = build(plugins=False)
    if not is_ours(app, words):
        app = build(plugins=True)
    if argv is not None:
        sys.argv = ["gt-model", *argv]
    run(app)


if __name__ == "__main__":
    main()
