"""Scrub again what was stored under another policy: the promise that a stricter policy reaches old rows.

Surrogates in a row stay as they are, so only what the present rules find in addition changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...durable import write_text
from ...errors import RetriableError
from ...town.root import Town
from ..lock import sweep_lock
from ..store import Store, exists
from .engine import Scrubber, scrubber_for
from .layers import ScrubError

WAIT_SECONDS = 60.0
MARKER = "rescrub"
"""In ``.corpus`` while overwritten text may still stand in free pages of the database."""


@dataclass
class RescrubReport:
    """What was done, and what it means for what was built from the corpus."""

    policy: str = ""
    rows: int = 0
    current: int = 0
    """Rows that the present policy had scrubbed already."""
    rescrubbed: int = 0
    changed: int = 0
    """Of those, rows in which something more was found."""
    failed: list[str] = field(default_factory=list)
    """Rows that could not be scrubbed; they keep their old policy."""
    replaced: dict[str, int] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    """Dataset folders built from rows that changed: build them again."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rescrub(
    town: Town,
    *,
    everything: bool = False,
    scrubber: Scrubber | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RescrubReport:
    """Scrub every row whose policy version is not the present one (``everything``: every row), in place.

    Killed halfway, the rows done stay done and the next run takes the rest. Raises RetriableError while a
    sweep is running.
    """
    if not exists(town):
        return RescrubReport()
    scrubber = scrubber or scrubber_for(town)
    report = RescrubReport(policy=scrubber.policy.version)
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise RetriableError("a sweep is running; scrub again when it is done")
        with Store(town) as store:
            run = _Run(store, scrubber, report, everything)
            ids = store.session_ids()
            documents = [ref for ref, _ in store.documents()]
            report.rows = len(ids) + len(documents)
            for number, ref in enumerate([*ids, *documents]):
                run.session(ref) if number < len(ids) else run.document(ref)
                if progress is not None:
                    progress(number + 1, report.rows)
            report.datasets = sorted(map(str, store.datasets_with(run.changed)))
            if run.marker.exists():
                store.compact()
                run.marker.unlink()
    report.replaced = dict(run.counts.most_common())
    return report


class _Run:
    """One pass over the rows."""

    def __init__(self, store: Store, scrubber: Scrubber, report: RescrubReport, everything: bool) -> None:
        self.store, self.scrubber, self.report = store, scrubber, report
        self.everything = everything
        self.changed: list[str] = []
        self.marker = store.path.with_name(MARKER)
        self.counts: Counter[str] = Counter()

    def session(self, ref: str) -> None:
        stored = self.store.session(ref)
        if stored is None or self._is_current(stored.policy):
            return
        try:
            fresh, counts = self.scrubber.session(stored.session)
        except ScrubError:
            self.report.failed.append(ref)
            return
        self._mark(counts)
        redactions = _sum(stored.redactions, counts)
        self.store.rewrite_session(fresh, policy=self.scrubber.policy.version, redactions=redactions)
        self._done(ref, counts)

    def document(self, ref: str) -> None:
        stored = self.store.document(ref)
        if stored is None or self._is_current(stored.policy):
            return
        old = stored.document
        try:
            content, counts = self.scrubber.text(old.content)
            key, more = self.scrubber.text(old.key)
        except ScrubError:
            self.report.failed.append(ref)
            return
        counts += more
        self._mark(counts)
        fresh = replace(old, content=content, key=key)
        redactions = _sum(stored.redactions, counts)
        self.store.rewrite_document(ref, fresh, policy=self.scrubber.policy.version, redactions=redactions)
        self._done(ref, counts)

    def _mark(self, counts: Counter[str]) -> None:
        """Called before old text is written over: free pages hold it until the end, if that is reached."""
        if counts and not self.marker.exists():
            write_text(self.marker, "")

    def _is_current(self, policy: str) -> bool:
        if policy == self.scrubber.policy.version and not self.everything:
            self.report.current += 1
            return True
        return False

    def _done(self, ref: str, counts: Counter[str]) -> None:
        self.report.rescrubbed += 1
        self.counts += counts
        if counts:
            self.report.changed += 1
            self.changed.append(ref)


def _sum(*counts: Mapping[str, int] | Iterable[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)
