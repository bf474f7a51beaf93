"""Source ``primes``: what ``gt prime`` printed, as it was seen in the sessions that were captured."""

from __future__ import annotations

from collections.abc import Iterator

from ...rendering.conversation import prime_of
from ...town.root import Town
from ..sources import Document, Kept, Trouble
from ..store import Store, exists

SOURCE = "primes"


def primes(town: Town) -> Iterator[Document | Kept | Trouble]:
    """The prime of each main session; sessions that did not change since it was stored are not read again."""
    if not exists(town):
        return
    with Store(town) as store:
        known = {one.document.key: one.captured_at for _, one in store.documents(SOURCE, current=True)}
        rows = store.query("SELECT id, updated_at FROM sessions WHERE parent = '' ORDER BY n")
        for row in rows:
            if known.get(row["id"], "") > row["updated_at"]:
                yield Kept(row["id"])
                continue
            stored = store.session(row["id"])
            text = prime_of(stored.session.turns) if stored is not None else ""
            if stored is None or not text:
                continue
            session = stored.session
            yield Document(
                SOURCE,
                session.id,
                "prime",
                text,
                role=session.role or "all",
                rig=session.rig,
                session_id=session.id,
                bead_id=session.beads[0] if session.beads else "",
                at=session.started,
                model=session.models[0] if session.models else "",
                client_version=session.client_version,
            )
