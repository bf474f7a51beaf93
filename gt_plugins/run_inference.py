"""``node0-inference``: serve a model. The same as ``gt model serve``, as a command of its own."""

from __future__ import annotations

import typer

from .cli import model_serve
from .cli.common import new_app, run


def build() -> typer.Typer:
    """An application with the one command, so that no sub-command has to be named."""
    app = new_app("node0-inference", "Serve a role's model to the agent client.")
    model_serve.register(app)
    return app


def main() -> None:
    """Entry point. Raises SystemExit."""
    run(build())


if __name__ == "__main__":
    main()
