"""``gt corpus audit``: sample stored rows, look for misses and needless replacements, list reversions.

Stored text is scanned again by the present rules and by detectors that are not ours. Whether something was
replaced without need can be judged only from the original: where a session's file still exists, it is read
once more, in memory, and what the rules replace in it is asked for its harm. Nothing raw is kept.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...town.root import Town
from ...transcripts.model import Session
from ...transcripts.sources import TranscriptSource, transcript_sources
from ..scrub.engine import Scrubber, scrubber_for
from ..scrub.layers import ScrubError
from ..store import Store, exists, now
from ..sweep import file_key
from ..text import block_texts
from . import independent
from .report import AuditReport, Place, Rate, keep, rate

SAMPLE = 50
_SINCE = re.compile(r"(\d{1,5})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def parse_since(text: str, moment: datetime | None = None) -> str:
    """``36h``, ``7d``, ``2w`` or a date as RFC 3339 in UTC; empty for no limit. Raises UserError."""
    if not text:
        return ""
    match = _SINCE.fullmatch(text)
    if match is not None:
        back = timedelta(hours=int(match[1]) * _HOURS[match[2]])
        return ((moment or datetime.now(UTC)) - back).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(f"--since {text}: not a span such as 7d, 36h, 2w, nor a date") from None
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")


def audit(
    town: Town,
    *,
    sample: int = SAMPLE,
    since: str = "",
    scrubber: Scrubber | None = None,
    sources: Iterable[TranscriptSource] | None = None,
    rng: random.Random | None = None,
) -> AuditReport:
    """Audit ``sample`` rows captured after ``since`` (RFC 3339; empty: all); the series gets the result.

    Raises UserError where there is no corpus yet.
    """
    if not exists(town):
        raise UserError("nothing is stored in this town yet; `gt corpus sweep` captures sessions")
    scrubber = scrubber or scrubber_for(town)
    with Store(town) as store:
        rows = _rows(store, since)
        chosen = (rng or random.Random()).sample(rows, min(sample, len(rows)))
        run = _Audit(store, scrubber)
        for kind, ref in sorted(chosen):
            run.row(kind, ref)
        run.judge(_files(town, sources), [ref for kind, ref in chosen if kind == "session"])
        report = run.report(since, len(rows), _reversions(store))
    keep(town, report)
    return report


def _rows(store: Store, since: str) -> list[tuple[str, str]]:
    """(kind, reference) of the rows captured since then."""
    sessions = [("session", r["id"]) for r in store.session_rows() if r["captured_at"] >= since]
    documents = [("document", ref) for ref, stored in store.documents() if stored.captured_at >= since]
    return sessions + documents


_Files = Mapping[str, tuple[TranscriptSource, Path]]
"""The name that the corpus has for a file → its reader and path."""


def _files(town: Town, sources: Iterable[TranscriptSource] | None) -> _Files:
    """The readers' files that exist, by the name that the corpus knows them by."""
    found: dict[str, tuple[TranscriptSource, Path]] = {}
    for source in transcript_sources() if sources is None else sources:
        for folder in source.roots(town) if source.roots is not None else ():
            try:
                for path in source.find(folder):
                    found[file_key(path)] = (source, path)
            except OSError:
                continue
    return found


def _reversions(store: Store) -> tuple[Mapping[str, Any], ...]:
    """Reversions of conventions that wait for a decision."""
    from .. import reversions

    return tuple(found.to_json() for found in reversions.reversions(store, "open"))


@dataclass
class _Audit:
    """What was found so far."""

    store: Store
    scrubber: Scrubber
    sampled: int = 0
    outdated: int = 0
    characters: int = 0
    judged: int = 0
    rows_with: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    replaced: Counter[str] = field(default_factory=Counter)
    needless: Counter[str] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def row(self, kind: str, ref: str) -> None:
        """Scan one stored row."""
        policy, texts = self._texts(kind, ref)
        self.sampled += 1
        self.outdated += policy != self.scrubber.policy.version
        for turn, text in texts:
            self.characters += len(text)
            try:
                hits = {found for found, _ in self.scrubber.findings(text)}
            except ScrubError:
                self.failed.append(ref)
                continue
            others = {found for found, _ in independent.suspects(text)}
            self._note(ref, turn, "rules", hits)
            self._note(ref, turn, "independent", others)

    def _texts(self, kind: str, ref: str) -> tuple[str, Iterator[tuple[int, str]]]:
        if kind == "document":
            document = self.store.document(ref)
            return (document.policy, iter([(0, document.document.content)])) if document else ("", iter(()))
        stored = self.store.session(ref)
        return (stored.policy, _session_texts(stored.session)) if stored else ("", iter(()))

    def _note(self, ref: str, turn: int, by: str, kinds: Iterable[str]) -> None:
        for kind in sorted(kinds):
            self.rows_with[by, kind].add(ref)
            self.places.append(Place(ref, turn, kind, by))

    def judge(self, files: _Files, refs: Iterable[str]) -> None:
        """Read the originals that still exist, and ask what was replaced in them for its harm."""
        for ref in refs:
            row = self.store.query("SELECT owner FROM sessions WHERE id = ?", ref)
            place = files.get(row[0]["owner"]) if row else None
            if place is None:
                continue
            try:
                sessions = place[0].sessions(place[1])
            except Exception:  # a reader may be a third party's; its message may quote the text
                self.failed.append(ref)
                continue
            for session in sessions:
                if session.id == ref:
                    self._judge(session)

    def _judge(self, session: Session) -> None:
        self.judged += 1
        for _, text in _session_texts(session):
            try:
                found = self.scrubber.findings(text)
            except ScrubError:
                continue
            for kind, value in found:
                self.replaced[kind] += 1
                self.needless[kind] += independent.harmless(kind, value)

    def report(self, since: str, rows: int, reversions: tuple[Mapping[str, Any], ...]) -> AuditReport:
        missed: dict[str, dict[str, Rate]] = {"rules": {}, "independent": {}}
        for (by, kind), refs in sorted(self.rows_with.items()):
            missed[by][kind] = rate(len(refs), self.sampled)
        any_row = {ref for refs in self.rows_with.values() for ref in refs}
        over = {k: rate(n, self.replaced[k]) for k, n in sorted(self.needless.items()) if n}
        return AuditReport(
            at=now(),
            policy=self.scrubber.policy.version,
            since=since,
            rows=rows,
            sampled=self.sampled,
            outdated=self.outdated,
            characters=self.characters,
            missed_by_rules=missed["rules"],
            missed_by_independent=missed["independent"],
            any_miss=rate(len(any_row), self.sampled),
            judged=self.judged,
            over_redacted=over,
            over_redaction=rate(self.needless.total(), self.replaced.total()),
            places=tuple(self.places),
            reversions=reversions,
            failed=tuple(dict.fromkeys(self.failed)),
        )


def _session_texts(session: Session) -> Iterator[tuple[int, str]]:
    """(turn, counted from 1; what it says, calls and answers)."""
    for number, turn in enumerate(session.turns, 1):
        for block in turn.blocks:
            for text in block_texts(block):
                yield number, text
