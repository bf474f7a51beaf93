"""``gt model serve``: the endpoint of a model, in the foreground or in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import JsonOption, ModelsOption, TownOption, print_json

if TYPE_CHECKING:
    from ..serving.serve import Plan

Model = Annotated[str | None, typer.Argument(help="MODEL, MODEL:VERSION or MODEL@live.", show_default=False)]
Role = Annotated[str | None, typer.Option(help="Serve what is deployed for this role.")]
Host = Annotated[str, typer.Option(help="Address to listen on (127.0.0.1).", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port (8808); 0 takes a free one.", min=0, max=65535)]
Engine = Annotated[str | None, typer.Option(help="llama.cpp or transformers.")]
TokenFile = Annotated[Path | None, typer.Option(help="File that holds the bearer token.")]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Permit a --host beyond loopback.")]
Daemon = Annotated[bool, typer.Option("--daemon", help="Serve in the background.")]
Stop = Annotated[bool, typer.Option("--stop", help="Stop what is served in the background.")]
State = Annotated[Path | None, typer.Option(hidden=True)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    model: Model = None,
    role: Role = None,
    town: TownOption = None,
    models: ModelsOption = None,
    host: Host = "",
    port: Port = None,
    engine: Engine = None,
    token_file: TokenFile = None,
    allow_remote: AllowRemote = False,
    daemon: Daemon = False,
    stop: Stop = False,
    state: State = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a model to the agent client: the Messages API, on loopback, behind a token.

    What a reply may be is fixed by grammar: JSON in the schema that is asked for, or a short text and
    commands on the role's allow-list.
    """
    from ..serving import serve as serving

    if daemon and stop:
        raise UserError("--daemon and --stop exclude each other")
    if stop:
        _stop(serving.state_file(model, role=role, town=town, models=models), as_json)
        return
    plan = serving.plan(
        model,
        role=role,
        town=town,
        models=models,
        host=host,
        port=port,
        engine=engine,
        token_file=token_file,
        allow_remote=allow_remote,
    )
    if daemon:
        _daemon(plan, as_json)
    else:
        serving.foreground(plan, state)


def _stop(state: Path, as_json: bool) -> None:
    from ..serving import daemon

    ended = daemon.stop(state)
    if as_json:
        print_json({"stopped": ended is not None, "url": ended.url if ended else None})
    else:
        print(f"stopped {ended.ref} at {ended.url}" if ended else "no endpoint was running")


def _daemon(plan: Plan, as_json: bool) -> None:
    from ..serving import serve as serving

    found = serving.background(plan)
    if as_json:
        print_json(found.__dict__)
    else:
        print(f"{found.ref} is served at {found.url} (process {found.pid}, token in {found.token_file})")
