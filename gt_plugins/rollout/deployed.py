"""A deployed role on disk: ``<town>/.finetune/<role>/``, and its ``role.json`` which says what is live.

claude           the wrapper that gt starts (0700)
settings.json    the client's settings for it; settings-<rig>.json for each rig of a rig's role
system.txt rules.md fence.toml actions.toml    the profile, as it was when the version was trained
token            what the client shows the endpoint (0600)
role.json        model, version, endpoint, where the pointers stand
off              there while `gt model off` is in force; `changing` while a deploy is at work
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..durable import write_json
from ..errors import UserError
from ..town.roles import ROLES
from ..town.root import Town, read_json

ROLE_JSON = "role.json"
OFF = "off"
CHANGING = "changing"
TOKEN = "token"
WRAPPER = "claude"


@dataclass(frozen=True)
class Deployment:
    """What ``role.json`` says. ``rigs`` is empty for the whole town, else the rigs of a canary."""

    role: str
    model: str
    version: str
    models: str
    """The models folder."""
    url: str
    port: int
    alias: str
    """The agents entry in gt's settings."""
    client_model: str
    """The name by which the client asks the endpoint for this role's model."""
    rigs: tuple[str, ...] = ()
    client: str = ""
    """The real client as found at deploy."""
    at: str = ""
    base: str = ""
    """The version's base: ``tiny`` or a folder."""

    @property
    def ref(self) -> str:
        """``MODEL:VERSION``."""
        return f"{self.model}:{self.version}"


def role_dir(town: Town, role: str) -> Path:
    """``<town>/.finetune/<role>``."""
    return town.finetune_dir / role


def alias_for(role: str) -> str:
    """The agents entry of a role. Not the model's name: gt puts it into the session's environment."""
    return f"ft-{role}"


def client_model(role: str) -> str:
    """The model name the client is started with; ``gt-ft-`` tells its sessions from all others."""
    return f"gt-ft-{role}"


def read_deployment(town: Town, role: str) -> Deployment | None:
    """What is deployed for a role, None where nothing is. Raises UserError where role.json is broken."""
    path = role_dir(town, role) / ROLE_JSON
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        known = {k: value[k] for k in Deployment.__dataclass_fields__ if k in value}
        return Deployment(**{**known, "rigs": tuple(value.get("rigs", ())), "port": int(value["port"])})
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a deployment; deploy the role again") from None


def write_deployment(town: Town, deployment: Deployment) -> None:
    """Replace the role's ``role.json``."""
    value = json.loads(json.dumps(asdict(deployment)))
    write_json(role_dir(town, deployment.role) / ROLE_JSON, value)


def deployed_roles(town: Town) -> list[Deployment]:
    """Every deployed role of a town, in the order of the roles."""
    return [d for role in ROLES if (d := read_deployment(town, role)) is not None]


def read_token(town: Town, role: str) -> str:
    """The endpoint's token; empty where the role is not deployed."""
    try:
        return (role_dir(town, role) / TOKEN).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
