"""The order in which roles go live: deacon, boot, witness, polecat, crew; each waits for the one before.

A stage is done when its role is deployed, not switched off, its endpoint answers, and its version still
passes the gate. ``hold`` stops the march until ``advance --resume``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FinetuneError, GateRefused
from ..registry.journal import fold
from ..registry.versions import resolve
from ..settings import load_settings, update_settings
from ..town.roles import ROLLOUT_ORDER
from ..town.root import Town
from .deployed import Deployment, read_deployment
from .off import is_off


@dataclass(frozen=True)
class Stage:
    """One role's place in the rollout; ``blocked`` says why the next role may not go, or is empty."""

    role: str
    deployment: Deployment | None
    answers: bool
    off: bool
    blocked: str

    @property
    def done(self) -> bool:
        """Whether the next role may be deployed."""
        return not self.blocked


def stages(town: Town) -> list[Stage]:
    """Every stage as it stands, in order."""
    return [_stage(town, role) for role in ROLLOUT_ORDER]


def _stage(town: Town, role: str) -> Stage:
    from .deploy import running_endpoint

    deployment = read_deployment(town, role)
    if deployment is None:
        return Stage(role, None, False, False, f"{role} is not deployed")
    answers, off = running_endpoint(town, role) is not None, is_off(town, role)
    if off:
        blocked = f"{role} is switched off"
    elif not answers:
        blocked = f"the endpoint of {role} does not run: gt model serve --role {role} --daemon"
    else:
        blocked = _gate(town, deployment)
    return Stage(role, deployment, answers, off, blocked)


def _gate(town: Town, deployment: Deployment) -> str:
    """Why the deployed version no longer passes the gate; empty where it does."""
    from ..evaluation import gate

    home = Path(deployment.models)
    try:
        version = resolve(home, deployment.ref)
        verdicts = gate.run_gates(
            gate.candidate_for(home, version, deployment.role, town, load_settings(town))
        )
    except FinetuneError as error:
        return f"{deployment.role}: {error}"
    return next((f"{deployment.role}: {v.reason}" for v in verdicts if not v.allow), "")


def held(town: Town) -> str:
    """Why the rollout is held, empty where it is not."""
    table = load_settings(town).raw.get("rollout") or {}
    return str(table.get("hold", "")) if isinstance(table, dict) else ""


def hold(town: Town, reason: str) -> None:
    """Stop the march with a reason; an empty one lets it go on."""
    update_settings(town, "rollout", hold=reason)


def next_stage(town: Town) -> str | None:
    """The role that may be deployed next, None where all are. Raises GateRefused where it may not yet be."""
    reason = held(town)
    if reason:
        raise GateRefused(f"The rollout is held: {reason}. Resume with gt model rollout advance --resume.")
    for stage in stages(town):
        if stage.deployment is None:
            return stage.role
        if not stage.done:
            raise GateRefused(f"Stage {stage.role} does not hold: {stage.blocked}")
    return None


def candidate(home: Path, role: str) -> str | None:
    """The newest version that was trained for a role, None where there is none."""
    found = [r for r in fold(home).versions.values() if r.role == role]
    return f"{found[-1].model}:{found[-1].version}" if found else None
