"""``gt model rollout status|advance|hold`` and ``gt model stale``: the march of the roles, what grew old."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import JsonOption, ModelsOption, TownOption, checked_town, new_app, print_json


def register(app: typer.Typer) -> None:
    """Mount these commands."""
    rollout = new_app("rollout", "The order in which roles go live.")
    rollout.command("status")(status)
    rollout.command("advance")(advance)
    rollout.command("hold")(hold)
    app.add_typer(rollout)
    app.command("stale")(stale)


def status(town: TownOption = None, as_json: JsonOption = False) -> None:
    """Show each role's stage: what is deployed, whether it answers, what holds it up."""
    from ..rollout import stages as room
    from .tables import print_table

    place = checked_town(town)
    found, held = room.stages(place), room.held(place)
    if as_json:
        rows = [
            {
                "role": s.role,
                "version": s.deployment.ref if s.deployment else None,
                "rigs": list(s.deployment.rigs) if s.deployment else [],
                "answers": s.answers,
                "off": s.off,
                "done": s.done,
                "blocked": s.blocked or None,
            }
            for s in found
        ]
        print_json({"held": held or None, "stages": rows})
        return
    print_table(
        ["ROLE", "VERSION", "ENDPOINT", "STAGE"],
        [
            [
                s.role,
                s.deployment.ref if s.deployment else "-",
                "answers" if s.answers else "-",
                s.blocked or "holds",
            ]
            for s in found
        ],
    )
    if held:
        print(f"held: {held}")


def advance(
    ref: Annotated[
        str, typer.Argument(metavar="MODEL[:V]", help="What to deploy next.", show_default=False)
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="End a hold.")] = False,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy the next role, if every stage before it holds; exit 3 where one does not."""
    from ..errors import UserError
    from ..rollout import deploy as deploying
    from ..rollout import stages as room
    from ..settings import models_home
    from .model_deploy import _tell

    place, home = checked_town(town), models_home(models)
    if resume:
        room.hold(place, "")
    role = room.next_stage(place)
    if role is None:
        print_json({"done": True}) if as_json else print("every role of the rollout is deployed")
        return
    chosen = ref or room.candidate(home, role)
    if chosen is None:
        raise UserError(f"no version for {role} in {home}; gt model train {role}")
    _tell(deploying.deploy(place, home, chosen, role), as_json)


def hold(
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    town: TownOption = None,
) -> None:
    """Let no further role go live until `advance --resume`."""
    from ..errors import UserError
    from ..rollout import stages as room

    if not reason.strip():
        raise UserError("--reason is empty; say why the rollout is held")
    room.hold(checked_town(town), reason)
    print(f"held: {reason}")


def stale(
    model: Annotated[str, typer.Argument(help="A model or version; else what is live.")] = "",
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what a version was trained to follow with what the town says now."""
    from ..registry.journal import fold
    from ..registry.versions import resolve
    from ..rollout.deployed import deployed_roles
    from ..rollout.staleness import compare
    from ..settings import models_home

    place, home = checked_town(town), models_home(models)
    state = fold(home)
    refs = [model] if model else [d.ref for d in deployed_roles(place)]
    found = [compare(place, resolve(home, ref, place.root, state=state)) for ref in refs]
    if as_json:
        rows = [
            {
                "version": s.version.ref,
                "role": s.version.role,
                "stale": s.stale if s.known else None,
                "changed": list(s.changed),
                "added": list(s.added),
                "removed": list(s.removed),
            }
            for s in found
        ]
        print_json(rows)
        return
    for one in found:
        lines = [f"changed {n}" for n in one.changed] + [f"new {n}" for n in one.added]
        lines += [f"gone {n}" for n in one.removed]
        verdict = (
            "nothing is known of what it was trained on" if not one.known else "stale" if lines else "fresh"
        )
        print(f"{one.version.ref} ({one.version.role}): {verdict}")
        for line in lines:
            print(f"  {line}")
    if not found:
        print(f"nothing is deployed in {place.root}")
