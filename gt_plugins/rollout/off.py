"""``gt model off`` and ``on``: the stock agent for a role from its next start, the deployment untouched.

The wrapper looks for the flag file; the settings say the same to everything else and outlive a new deploy.
"""

from __future__ import annotations

from ..durable import write_text
from ..errors import UserError
from ..settings import load_settings, update_settings
from ..town.roles import check_role
from ..town.root import Town
from .deployed import OFF, deployed_roles, role_dir


def switch(town: Town, role: str | None, off: bool) -> list[str]:
    """Switch a role, or every deployed one, to the stock agent or back; returns the roles that changed.

    Raises UserError for an unknown role, one that is not deployed, and where nothing is deployed at all.
    """
    there = [d.role for d in deployed_roles(town)]
    settings = load_settings(town)
    if role is not None:
        check_role(role)
        if role not in there and role not in settings.roles_off:
            known = f"deployed: {', '.join(there)}" if there else "no role is deployed"
            raise UserError(f"{role} is not deployed in {town.root}; {known}")
    chosen = [role] if role is not None else (there if off else [*there, *settings.roles_off])
    if not chosen:
        raise UserError(f"no role is deployed in {town.root}")
    now_off = [r for r in settings.roles_off if off or r not in chosen]
    now_off += [r for r in chosen if off and r not in now_off]
    changed = [r for r in dict.fromkeys(chosen) if (r in now_off) != is_off(town, r)]
    update_settings(town, "rollout", off=now_off)
    for name in chosen:
        set_flag(town, name, name in now_off)
    return changed


def set_flag(town: Town, role: str, off: bool) -> None:
    """Bring the flag file in line; nothing where the role has no folder."""
    folder = role_dir(town, role)
    if not folder.is_dir():
        return
    if off:
        write_text(folder / OFF, "switched off by gt model off\n")
    else:
        (folder / OFF).unlink(missing_ok=True)


def is_off(town: Town, role: str) -> bool:
    """Whether the wrapper would start the stock agent because of the flag."""
    return (role_dir(town, role) / OFF).exists()
