"""Built-in ``gt_sling``: a polecat task of a type that is in rollout goes to the tuned polecat.

    [rollout.polecat]
    task_types = ["chore", "docs"]      a bead's type, or one of its labels

gt maps no task type to an agent, so a deployed polecat has an agents entry and no pointer, and this chooses
per sling. It never vetoes one: whatever cannot be told (no bd, an unknown bead) leaves the sling as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import hookimpl
from ..errors import FinetuneError, UserError, in_file
from ..settings import Settings, load_settings
from ..town.root import Town
from ..town.sling import Sling

BD_SECONDS = 5.0


@hookimpl
def gt_sling(sling: Sling) -> Sling | None:
    """Add ``--agent`` where every slung bead is of a type in rollout; None leaves the sling alone."""
    if sling.town is None or sling.agent is not None or {"-h", "--help"} & sling.parsed.switches:
        return None
    try:
        return _routed(sling, sling.town)
    except (FinetuneError, OSError) as error:
        return sling.with_note(f"gastown-finetune: {error}; slung as it is")


def _routed(sling: Sling, town: Town) -> Sling | None:
    from .deployed import OFF, read_deployment, role_dir

    if not (role_dir(town, "polecat") / "role.json").is_file():
        return None
    settings = load_settings(town)
    types = task_types(settings)
    rigs = list(town.rigs())
    rig = sling.rig(rigs)
    if (
        not types
        or rig is None
        or "polecat" in settings.roles_off
        or (role_dir(town, "polecat") / OFF).exists()
    ):
        return None
    deployment = read_deployment(town, "polecat")
    if deployment is None or (deployment.rigs and rig not in deployment.rigs):
        return None
    matched = [kind for bead in sling.beads if (kind := _kind(town, rig, bead, types))]
    if not matched or len(matched) < len(sling.beads):
        return None
    return sling.with_agent(
        deployment.alias, f"gastown-finetune: {matched[0]} is in rollout, so {deployment.ref} takes it"
    )


def task_types(settings: Settings) -> tuple[str, ...]:
    """The task types in rollout. Raises UserError naming the key where they are no list of strings."""
    table = (settings.raw.get("rollout") or {}).get("polecat", {})
    value = table.get("task_types", []) if isinstance(table, dict) else None
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UserError(
            in_file(settings.path, "rollout.polecat.task_types", "not a list of strings", 'write ["chore"]')
        )
    return tuple(value)


def _kind(town: Town, rig: str, bead: str, types: Iterable[str]) -> str | None:
    """The type in rollout that a bead has, None where it has none or cannot be read."""
    from ..town.bd import Bd

    for folder in (town.root / rig, town.root):
        try:
            found: dict[str, Any] = Bd(folder, BD_SECONDS).show(bead)
        except FinetuneError:
            continue
        has = {str(found.get("issue_type", "")), *map(str, found.get("labels") or ())}
        return next((kind for kind in types if kind in has), None)
    return None
