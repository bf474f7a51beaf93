"""A version as a bead of the town, so that what was deployed when is in the town's Dolt history too.

Best effort: beads are not the truth about versions, the journal is. The bead is closed at once, since there
is nothing to do about it and nobody shall pick it up.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import FinetuneError
from ..town.root import Town
from .journal import fold, record, town_key
from .versions import Version

SECONDS = 15.0


def mirror(town: Town, home: Path, version: Version) -> str:
    """Make the version's bead in ``town`` unless it has one; a line that says what was done or why not."""
    from ..town.bd import Bd

    key = (town_key(town.root), version.model, version.version)
    known = fold(home).beads.get(key)
    if known:
        return f"mirrored as bead {known}"
    bd = Bd(town.root, SECONDS)
    problem = bd.problem()
    if problem:
        return f"not mirrored as a bead: {problem}"
    try:
        bead = bd.create(
            f"model version {version.ref}",
            f"{version.ref} for {version.role} on base {version.base}, registered {version.created}.",
            metadata={
                "finetune_model": version.model,
                "finetune_version": version.version,
                "finetune_role": version.role,
                "finetune_manifest": version.manifest_sha256,
            },
            labels=("finetune",),
        )
        bd.close(bead, f"completed: {version.ref} is registered")
    except FinetuneError as error:
        return f"not mirrored as a bead: {error}"
    record(home, "mirrored", town=key[0], model=version.model, version=version.version, bead=bead)
    return f"mirrored as bead {bead}"
