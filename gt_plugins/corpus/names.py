"""The names in a session, scrubbed: ids, models, versions, hooks, the types that were counted.

A scrubber leaves names alone, because everything hangs on ids. A name comes from a file all the same, and
what looks like a secret must not be stored because it stands where a name should.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

from ..transcripts.model import Session, Turn

_PLAIN_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.agent-[0-9a-f]{1,17})?|"
    r"msg_[A-Za-z0-9_]{1,40}|(line|odd)-[0-9a-f]{24}|"
    r"ses_[0-9A-Za-z]{26}(\.ses_[0-9A-Za-z]{26})?|[0-9a-f-]{36}\.[0-9a-f-]{36}"
)


def scrub_names(session: Session, scrub: Callable[[str], str]) -> Session:
    """``session`` with every name that ``scrub`` would change replaced; ids by a hash, so they stay apart."""
    clean: dict[str, str] = {"": ""}

    def name(value: str) -> str:
        if value not in clean:
            clean[value] = scrub(value)
        return clean[value]

    def identifier(value: str) -> str:
        if not value or _PLAIN_ID.fullmatch(value) or name(value) == value:
            return value
        return "odd-" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()[:24]

    def turn(value: Turn) -> Turn:
        known = (identifier(value.id), name(value.model), name(value.hook))
        if known == (value.id, value.model, value.hook):
            return value
        return replace(value, id=known[0], model=known[1], hook=known[2])

    turns = session.turns
    names = {t.model for t in turns} | {t.hook for t in turns}
    if not all(map(_PLAIN_ID.fullmatch, [t.id for t in turns])) or any(name(n) != n for n in names):
        turns = tuple(turn(t) for t in turns)
    return replace(
        session,
        id=identifier(session.id),
        parent=identifier(session.parent),
        client_version=name(session.client_version),
        models=tuple(name(model) for model in session.models),
        turns=turns,
        counts={name(key): count for key, count in session.counts.items()},
    )
