"""Which sessions came from other towns, and which went to them: tables ``shared`` and ``exported``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ..store import Store, now


def received(store: Store) -> set[str]:
    """Ids of the sessions that came from others."""
    return {row["session_id"] for row in store.query("SELECT session_id FROM shared")}


def note_received(
    store: Store, session: str, bundle: str, sender: str, key: str, labels: Mapping[str, str]
) -> bool:
    """Note that a session came in, with the sender's labels of its decisions; True where they changed."""
    labelled = json.dumps(dict(labels))
    before = store.query("SELECT labels FROM shared WHERE session_id = ?", session)
    sql = "INSERT OR REPLACE INTO shared VALUES (?, ?, ?, ?, ?, ?)"
    store.execute(sql, session, bundle, sender, key, now(), labelled)
    return not before or before[0]["labels"] != labelled


def note_exported(store: Store, bundle: str, sessions: Iterable[str]) -> None:
    """Note that sessions went out, so that a purge can say with which bundle."""
    with store.transaction():
        for session in sessions:
            store.execute("INSERT OR REPLACE INTO exported VALUES (?, ?, ?)", session, bundle, now())


def shared_labels(store: Store, session: str) -> dict[str, str]:
    """Id of the tool call → what became of that decision, for a session that came from others; our own
    operator's label wins."""
    rows = store.query(
        """SELECT s.labels, l.label FROM shared s LEFT JOIN labels l ON l.session_id = s.session_id
           WHERE s.session_id = ?""",
        session,
    )
    labels: dict[str, str] = json.loads(rows[0]["labels"]) if rows else {}
    return dict.fromkeys(labels, rows[0]["label"]) if labels and rows[0]["label"] else labels


def bundles_with(store: Store, sessions: Iterable[str]) -> list[str]:
    """Bundles that any of the sessions went out with."""
    sql = "SELECT DISTINCT bundle FROM exported WHERE session_id = ?"
    return sorted({row["bundle"] for session in sessions for row in store.query(sql, session)})
