"""``gt model deploy|rollback|off|on``: what gt starts for a role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, ModelsOption, TownOption, checked_town, print_json

if TYPE_CHECKING:
    from ..evaluation.gate import Verdict
    from ..rollout.deploy import Done

RoleOption = Annotated[str, typer.Option("--role", help="The role, e.g. deacon.")]
RoleArgument = Annotated[str, typer.Argument(help="Only this role.", show_default=False)]
NoServe = Annotated[bool, typer.Option("--no-serve", help="Do not start the endpoint; the stock agent runs.")]


def register(app: typer.Typer) -> None:
    """Mount these commands."""
    app.command("deploy")(deploy)
    app.command("rollback")(rollback)
    app.command("off")(off)
    app.command("on")(on)


def deploy(
    ref: Annotated[str, typer.Argument(metavar="MODEL[:V]", help="MODEL, MODEL:v2 or MODEL@alias.")],
    role: RoleOption,
    rig: Annotated[str | None, typer.Option("--rig", help="Only in this rig.", show_default=False)] = None,
    force_deploy: Annotated[bool, typer.Option("--force-deploy", help="Deploy past the gate.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the journal.")] = "",
    no_serve: NoServe = False,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let gt start a version for a role, once the gate allows it and it has been seen to load."""
    from ..evaluation.gate import Refused
    from ..rollout import deploy as room
    from ..settings import models_home

    place, home = checked_town(town), models_home(models)
    how = {"rig": rig, "force": force_deploy, "reason": reason, "serve": not no_serve}
    try:
        done = room.deploy(place, home, ref, role, **how)  # type: ignore[arg-type]
    except Refused as refusal:
        if as_json:
            print_json({"role": role, "refused": True, "verdicts": _verdicts(refusal.verdicts)})
        raise
    _tell(done, as_json)


def rollback(
    role: RoleOption,
    stock: Annotated[bool, typer.Option("--stock", help="Straight back to the stock agent.")] = False,
    no_serve: NoServe = False,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put back what stood there before: the version of before, else the stock agent."""
    from ..rollout import deploy as room
    from ..town.root import find_town

    place = find_town(town)  # broken settings keep nobody from the way back
    _tell(room.rollback(place, role, stock=stock, serve=not no_serve), as_json)


def _tell(done: Done, as_json: bool) -> None:
    """One JSON document, or what a person wants to know."""
    if as_json:
        print_json(_document(done))
        return
    for verdict in done.verdicts:
        word = "allows" if verdict.allow else "REFUSED, overridden"
        print(f"gate {verdict.gate} {word}: {verdict.reason}")
    if done.engine:
        print(f"loads with {done.engine}")
    now = done.after.ref if done.after else "the stock agent"
    where = f" in {', '.join(done.after.rigs)}" if done.after and done.after.rigs else ""
    print(f"{done.role}: {done.before or 'the stock agent'} -> {now}{where}, from its next start")
    if done.after:
        state = "answers" if done.served else "is not started (gt model serve --daemon)"
        print(f"endpoint {done.after.url} {state}")
    for note in done.notes:
        print(f"note: {note}")


def _document(done: Done) -> dict[str, Any]:
    after = done.after
    return {
        "role": done.role,
        "before": done.before or None,
        "after": after.ref if after else None,
        "rigs": list(after.rigs) if after else [],
        "url": after.url if after else None,
        "served": done.served,
        "engine": done.engine or None,
        "forced": done.forced,
        "verdicts": _verdicts(done.verdicts),
        "notes": list(done.notes),
    }


def _verdicts(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [{"gate": v.gate, "allow": v.allow, "reason": v.reason} for v in verdicts]


def off(role: RoleArgument = "", town: TownOption = None, as_json: JsonOption = False) -> None:
    """Start the stock agent for a role, or for every deployed one, until `gt model on`."""
    _switch(role, town, True, as_json)


def on(role: RoleArgument = "", town: TownOption = None, as_json: JsonOption = False) -> None:
    """Undo `gt model off`."""
    _switch(role, town, False, as_json)


def _switch(role: str, town: Any, is_off: bool, as_json: bool) -> None:
    from ..rollout.off import switch

    word = "off" if is_off else "on"
    changed = switch(checked_town(town), role or None, is_off)
    if as_json:
        print_json({"changed": changed, "state": word})
    elif changed:
        print(f"{word}, from the next start: {', '.join(changed)}")
    else:
        print(f"already {word}")
