"""Reversions of conventions: noticed when they are collected, kept for review, blocked until then.

Each version of a CLAUDE.md that is collected leaves its hash and time in the corpus, also where a text comes
back that was there before. With the versions in the repository's history they make one sequence, and a new
version that goes back on it (:mod:`.reversion`) is a finding to be reviewed:

    open       neither the new version nor the one that it undoes trains
    confirmed  meant so: the convention is stored as an explicit entry, both may train
    rejected   a mistake: the new version does not train

The same change in several working folders of a rig is one finding. What keeps an example from training is a
line in it that stands in one of the two versions alone; of such lines only hashes are kept.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError
from ..town.root import Town
from .history import Come, come_since, file_history, head_of
from .reversion import (
    IN_PART,
    MESSAGE,
    TELLING,
    Finding,
    Version,
    days_between,
    find,
    line_hash,
    short_diff,
    telling_lines,
    version_hash,
)
from .sources import Document
from .store import Store, now

NAMES = ("CLAUDE.md", "CLAUDE.local.md")
SOURCE = "reversions"
OPEN, CONFIRMED, REJECTED = "open", "confirmed", "rejected"

Scrub = Callable[[str], str]


@dataclass(frozen=True)
class Reversion:
    """A finding and what was decided. ``hash`` is the new version's, ``undone`` that of the one before it,
    ``matches`` that of the older one; times are RFC 3339 in UTC."""

    id: str
    key: str
    rig: str
    kind: str
    """``whole``, or ``part`` where the last change was undone in part."""
    hash: str
    undone: str
    matches: str
    matches_at: str
    detected_at: str
    days: int
    state: str = OPEN
    by: str = ""
    reason: str = ""
    decided_at: str = ""

    @property
    def message(self) -> str:
        return MESSAGE.format(days=self.days) + (IN_PART if self.kind == "part" else "")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "message": self.message}


# Noticing ---------------------------------------------------------------------------------------------------


def is_convention(document: Document) -> bool:
    """Whether a document's versions are followed."""
    return document.corpus_type == "convention_doc" and PurePosixPath(document.key).name in NAMES


def observe(store: Store, town: Town, found: Document, key: str, scrub: Scrub) -> list[Reversion]:
    """Note a convention as it is now and return the reversions that are new.

    ``found`` is not scrubbed, ``key`` is its scrubbed key; its scrubbed content is stored already. What came
    into the repository's history since the last look is judged too, also where the file is in the end as it
    was; older history only tells what there was to go back to."""
    seen, path = _seen(store, key), town.root / found.key
    head, looked = head_of(path), _looked(store, key)
    present = Version(version_hash(found.content), min(found.at or now(), now()), found.content)
    if seen and seen[-1].version.hash == present.hash and head == looked:
        return []
    history = [(c.id, Version(version_hash(c.text), c.at, c.text)) for c in file_history(path)]
    came = _come(path, seen, looked, history, present)
    before, fresh = _sequence(seen, history, came, present)
    texts = _Texts(store, key, scrub, [*(version for _, version in history), *before, *fresh])
    noticed: list[Reversion] = []
    with store.transaction():
        if not came.went_on:
            shared = _apart(version for id, version in history if id not in came.come)
            for version, finding in _judged(shared, [v for id, v in history if id in came.fresh], texts):
                if not _noted(store, key, version, finding):
                    noticed += _note(store, found, key, version, finding)
        for version, finding in _judged(before, fresh, texts):
            noticed += _note(store, found, key, version, finding)
        store.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", key, head)
        if not seen or seen[-1].version.hash != present.hash:
            _save_seen(store, key, present, found.content)
    return noticed


def _judged(
    before: Sequence[Version], fresh: Iterable[Version], texts: _Texts
) -> Iterator[tuple[Version, Finding]]:
    """The versions of ``fresh``, each upon those before it, that go back on one."""
    until = list(before)
    for version in fresh:
        near = [*until[:-2], *map(texts.filled, until[-2:])]
        finding = find(near, texts.filled(version))
        if finding is not None:
            yield texts.filled(version), finding
        until = _apart([*until, version])


def _noted(store: Store, key: str, version: Version, finding: Finding) -> bool:
    """Whether a commit was there when it was noticed already: a folder may go between branches."""
    sql = """SELECT 1 FROM reversions WHERE key = ? AND hash = ? AND undone = ? AND matches = ?
             AND detected_at >= ?"""
    return bool(store.query(sql, key, version.hash, finding.undone.hash, finding.to.hash, version.at))


def _save_seen(store: Store, key: str, present: Version, content: str) -> None:
    source_hash = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
    sql = "INSERT INTO versions (key, hash, at, seen_at, source_hash) VALUES (?, ?, ?, ?, ?)"
    store.execute(sql, key, present.hash, present.at, now(), source_hash)


@dataclass(frozen=True)
class _Seen:
    """A version that was collected, without its text, and when that was."""

    version: Version
    seen_at: str
    source_hash: str


def _seen(store: Store, key: str) -> list[_Seen]:
    rows = store.query("SELECT hash, at, seen_at, source_hash FROM versions WHERE key = ? ORDER BY n", key)
    return [_Seen(Version(row["hash"], row["at"]), row["seen_at"], row["source_hash"]) for row in rows]


def _looked(store: Store, key: str) -> str | None:
    """The commit at the last look, empty outside a repository; None where there was no look or none noted."""
    rows = store.query("SELECT head FROM looks WHERE key = ?", key)
    return rows[0]["head"] if rows else None


def _come(
    path: Path,
    seen: Sequence[_Seen],
    looked: str | None,
    history: Sequence[tuple[str, Version]],
    present: Version,
) -> Come:
    """The commits that came since the last look: by their time where no commit was noted at it; those that
    brought the present version where git cannot tell, as in a clone that was made anew."""
    if not seen:
        return Come()
    since = come_since(path, looked) if looked else None
    if since is not None:
        return since
    if not looked:
        return Come(frozenset(id for id, version in history if version.at > seen[-1].seen_at))
    brought = itertools.takewhile(lambda one: one[1].hash == present.hash, reversed(history))
    return Come(frozenset(id for id, _ in brought), went_on=False)


def _sequence(
    seen: Sequence[_Seen],
    history: Sequence[tuple[str, Version]],
    came: Come,
    present: Version,
) -> tuple[list[Version], list[Version]]:
    """(versions until the last look, versions since; the present one is the last), no neighbours equal."""
    known = [version for id, version in history if id not in came.come]
    if not seen:
        before = _apart(known)
        while before and before[-1].hash == present.hash:
            before.pop()
        return before, [present]
    moments = [(one.at, one) for one in known] + [(one.seen_at, one.version) for one in seen]
    ordered = [version for _, version in sorted(moments, key=lambda moment: moment[0])]
    before = _apart([*ordered, seen[-1].version])
    fresh = [version for id, version in history if id in came.come] if came.went_on else []
    return before, _apart([before[-1], *fresh, present])[1:]


def _apart(versions: Iterable[Version]) -> list[Version]:
    """Without a version that equals the one before it."""
    kept: list[Version] = []
    for version in versions:
        if not kept or kept[-1].hash != version.hash:
            kept.append(version)
    return kept


class _Texts:
    """Scrubbed texts of versions: history's are scrubbed when asked for, the others are as stored."""

    def __init__(self, store: Store, key: str, scrub: Scrub, versions: Iterable[Version]) -> None:
        self._store = store
        self._key = key
        self._scrub = scrub
        self._raw = {version.hash: version.text for version in versions if version.text}
        self._clean: dict[str, str] = {}

    def filled(self, version: Version) -> Version:
        if version.hash not in self._clean:
            self._clean[version.hash] = self._text(version.hash)
        return replace(version, text=self._clean[version.hash])

    def _text(self, hash: str) -> str:
        """Empty where it cannot be scrubbed: then only whole versions are compared."""
        raw = self._raw.get(hash)
        if raw is None:
            return stored_text(self._store, self._key, hash)
        try:
            return self._scrub(raw)
        except Exception:  # a layer may be a third party's; its message may quote the text
            return ""


def stored_text(store: Store, key: str, hash: str) -> str:
    """The text of a version of a convention as it is stored; empty where it was purged."""
    document = _stored(store, key, hash)
    return document.content if document is not None else ""


def _stored(store: Store, key: str, hash: str) -> Document | None:
    sql = """SELECT d.n FROM documents d JOIN versions v ON v.key = d.key AND v.source_hash = d.source_hash
             WHERE d.source = 'conventions' AND v.key = ? AND v.hash = ? ORDER BY d.n DESC LIMIT 1"""
    rows = store.query(sql, key, hash)
    stored = store.document(f"doc-{rows[0]['n']}") if rows else None
    return stored.document if stored is not None else None


def _repairs(store: Store, finding: Finding) -> bool:
    """Whether a version only takes back a reversion that was rejected."""
    sql = "SELECT 1 FROM reversions WHERE state = ? AND hash = ? AND undone = ?"
    return bool(store.query(sql, REJECTED, finding.undone.hash, finding.to.hash))


def _note(store: Store, found: Document, key: str, version: Version, finding: Finding) -> list[Reversion]:
    """Keep a finding, unless another working folder of the rig has shown it already, or it only takes back
    what was rejected."""
    if _repairs(store, finding):
        return []
    parts = (found.rig, _within(found), version.hash, finding.undone.hash, finding.to.hash)
    name = "rev-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]
    id, number = name, 1
    while known := store.query("SELECT key FROM reversions WHERE id = ?", id):
        if known[0]["key"] != key:
            return []
        number += 1
        id = f"{name}-{number}"
    at = now()
    lines = {
        "new": [line_hash(line) for line in telling_lines(version.text, finding.undone.text)],
        "undone": [line_hash(line) for line in telling_lines(finding.undone.text, version.text)],
    }
    noticed = Reversion(
        id=id,
        key=key,
        rig=found.rig,
        kind=finding.kind,
        hash=version.hash,
        undone=finding.undone.hash,
        matches=finding.to.hash,
        matches_at=finding.to.at,
        detected_at=at,
        days=days_between(finding.to.at, at),
    )
    values = asdict(noticed) | {"lines": json.dumps(lines, separators=(",", ":"))}
    names, marks = ", ".join(f'"{n}"' for n in values), ", ".join("?" * len(values))
    store.execute(f"INSERT INTO reversions ({names}) VALUES ({marks})", *values.values())
    return [noticed]


def _within(found: Document) -> str:
    """A document's place in its project, the same in every clone of a rig."""
    parts = found.key.split("/")
    if not found.rig or parts[0] != found.rig:
        return found.key
    if parts[1:3] in (["mayor", "rig"], ["refinery", "rig"]) or parts[1] in ("crew", "polecats"):
        inner = parts[3:]
        return "/".join(inner[1:] if len(inner) > 1 and inner[0] == found.rig else inner)
    return "/".join(parts[1:])


# Reviewing --------------------------------------------------------------------------------------------------


def reversions(store: Store, state: str | None = None) -> list[Reversion]:
    """Findings (in one state), the oldest first."""
    sql = "SELECT * FROM reversions WHERE ? IS NULL OR state = ? ORDER BY detected_at, id"
    fields = Reversion.__dataclass_fields__
    return [Reversion(**{n: row[n] for n in fields}) for row in store.query(sql, state, state)]


def changes(store: Store, town: Town, found: Reversion, scrub: Scrub) -> list[str]:
    """What the new version changed in the one that it undoes, as a short diff of scrubbed lines; empty where
    the text of one is known no more."""
    undone, new = (_known_text(store, town, found, hash, scrub) for hash in (found.undone, found.hash))
    return short_diff(undone, new) if undone and new else []


def _known_text(store: Store, town: Town, found: Reversion, hash: str, scrub: Scrub) -> str:
    """A version's text: as it is stored, of this folder or another, else from the repository, scrubbed."""
    rows = store.query("SELECT DISTINCT key FROM versions WHERE hash = ?", hash)
    stored = [stored_text(store, key, hash) for key in (found.key, *(row["key"] for row in rows))]
    if any(stored):
        return next(filter(None, stored))
    history = file_history(town.root / found.key)
    raw = [Version(hash, c.at, c.text) for c in history if version_hash(c.text) == hash]
    return _Texts(store, found.key, scrub, raw).filled(raw[0]).text if raw else ""


def resolve(store: Store, ref: str) -> Reversion:
    """The finding meant by an id or its unambiguous start. Raises UserError."""
    found = [r for r in reversions(store) if r.id == ref] or [
        r for r in reversions(store) if ref and r.id.startswith(ref)
    ]
    if len(found) != 1:
        problem = f"{len(found)} reversions begin so" if found else "no such reversion"
        raise UserError(f"{ref!r}: {problem}; `gt corpus reversions list --all` shows what there is")
    return found[0]


def confirm(store: Store, ref: str, by: str, reason: str = "") -> Reversion:
    """The reversion was meant: add the explicit entry, let both versions train. Raises UserError."""
    with store.transaction():
        decided = _decide(store, resolve(store, ref), CONFIRMED, by, reason)
        _add_entry(store, decided)
    return decided


def reject(store: Store, ref: str, by: str, reason: str = "") -> Reversion:
    """The reversion was a mistake: the new version does not train; an explicit entry is current no more.

    Raises UserError."""
    with store.transaction():
        decided = _decide(store, resolve(store, ref), REJECTED, by, reason)
        store.retire_documents(SOURCE, [one.id for one in reversions(store, CONFIRMED)])
    return decided


def _decide(store: Store, found: Reversion, state: str, by: str, reason: str) -> Reversion:
    decided = replace(found, state=state, by=by, reason=reason, decided_at=now())
    sql = 'UPDATE reversions SET state = ?, "by" = ?, reason = ?, decided_at = ? WHERE id = ?'
    store.execute(sql, state, by, reason, decided.decided_at, found.id)
    return decided


def _add_entry(store: Store, decided: Reversion) -> None:
    """The explicit corpus entry: who confirmed, when and why, and the convention as it stands."""
    head = f"{decided.message}\nConfirmed by {decided.by} at {decided.decided_at}"
    head += f": {decided.reason}" if decided.reason else "."
    sql = "SELECT policy, consent FROM documents WHERE source = 'conventions' AND key = ? ORDER BY n DESC"
    known = store.query(sql, decided.key)
    text = stored_text(store, decided.key, decided.hash)
    content = f"{head}\n\n{text}" if text else f"{head}\n"
    entry = Document(SOURCE, decided.id, "convention_doc", content, rig=decided.rig, at=decided.decided_at)
    store.add_document(
        entry,
        policy=known[0]["policy"] if known else "",
        consent=known[0]["consent"] if known else "",
        source_hash=hashlib.sha256(content.encode("utf-8", "replace")).hexdigest(),
    )


# Blocking ---------------------------------------------------------------------------------------------------


def blocked_versions(store: Store) -> frozenset[str]:
    """Hashes (:func:`.reversion.version_hash`) of versions that may not train now."""
    blocked: set[str] = set()
    for found in reversions(store):
        blocked |= {OPEN: {found.hash, found.undone}, REJECTED: {found.hash}}.get(found.state, set())
    return frozenset(blocked)


def blocked_documents(store: Store) -> frozenset[str]:
    """Ids of stored convention documents whose version may not train now."""
    sql = """SELECT d.n, v.hash FROM documents d
             JOIN versions v ON v.key = d.key AND v.source_hash = d.source_hash
             WHERE d.source = 'conventions'"""
    blocked = blocked_versions(store)
    return frozenset(f"doc-{row['n']}" for row in store.query(sql) if row["hash"] in blocked)


def blocked_lines(store: Store) -> frozenset[str]:
    """Hashes of the lines by which text from a blocked version is known; empty where nothing is blocked."""
    blocked: set[str] = set()
    for row in store.query("SELECT state, lines FROM reversions WHERE state != ?", CONFIRMED):
        lines: Mapping[str, Sequence[str]] = json.loads(row["lines"])
        blocked |= set(lines["new"]) | (set(lines["undone"]) if row["state"] == OPEN else set())
    return frozenset(blocked)


def tells_of(text: str, lines: frozenset[str]) -> bool:
    """Whether a text has a line of a blocked version in it."""
    return bool(lines) and any(
        len(line) >= TELLING and line_hash(line) in lines for line in map(str.strip, text.splitlines())
    )
