"""Collecting artifacts: every source's documents, scrubbed, stored where they are new; then the outcomes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from ..errors import FinetuneError, UserError
from ..settings import load_settings
from ..town.root import Town
from . import consent as consents
from .artifacts import spec_globs
from .lock import sweep_lock
from .outcomes.compute import compute
from .reversions import Reversion, is_convention, observe
from .sources import CorpusSource, Document, Kept, Trouble, corpus_sources
from .store import Store

WAIT_SECONDS = 600.0


class ScrubsText(Protocol):
    """What collecting needs of a scrubber."""

    @property
    def policy(self) -> Any: ...

    def text(self, text: str) -> tuple[str, Counter[str]]: ...


@dataclass(frozen=True)
class CollectReport:
    """What collecting did; ``retired`` counts documents whose file is gone (their content stays stored)."""

    captured: int = 0
    updated: int = 0
    unchanged: int = 0
    retired: int = 0
    reversions: Sequence[Mapping[str, Any]] = ()
    """Conventions that went back on themselves, new with this run; see :mod:`.reversions`."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    redactions: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def collect(
    town: Town,
    source: str | None = None,
    *,
    sources: Sequence[CorpusSource] | None = None,
    scrubber: ScrubsText | None = None,
) -> CollectReport:
    """Collect from all sources, or one by name. Raises UserError without consent or for an unknown name."""
    consents.require(town)
    chosen = _chosen(sources if sources is not None else corpus_sources(town), source)
    if scrubber is None:
        from .scrub.engine import scrubber_for

        scrubber = scrubber_for(town)
    run = _Collect(town, scrubber)
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise UserError("a sweep has held the corpus for ten minutes; try again when it is done")
        with Store(town) as store:
            for one in chosen:
                run.source(store, one)
            run.passed_over(compute(town, store, scrubber).ahead)
    return run.report()


def _chosen(sources: Sequence[CorpusSource], name: str | None) -> list[CorpusSource]:
    chosen = [s for s in sources if name is None or s.name == name]
    if not chosen:
        names = ", ".join(sorted(s.name for s in sources)) or "none"
        raise UserError(f"unknown source {name!r}; there is {names}")
    return chosen


SAID = {
    "no_beads": "no beads here, so the work's outcomes stay unknown; `gt install` with Dolt makes them",
    "outside": "leads out of its folder",
    "no_file": "no plain file",
    "huge": "too large",
    "binary": "not text",
    "unreadable": "cannot be read",
    "broken": "not JSON",
    "bd_missing": "bd is not on PATH",
    "bd_failed": "bd failed",
    "gt_missing": "gt is not on PATH",
    "gt_failed": "gt failed",
    "broken_lines": "lines that are no JSON were passed over",
    "ahead": "records are dated after now, by a clock that is wrong; they were passed over",
    "history_next_time": "the next run asks for their history",
}
"""Reasons by which trouble is counted, in words."""


class _Collect:
    """State of one run."""

    def __init__(self, town: Town, scrubber: ScrubsText) -> None:
        settings = load_settings(town)
        spec_globs(town)  # a wrong setting of a rig is found before any work, too
        self.town = town
        self.scrubber = scrubber
        self.excluded = settings.exclude_rigs
        self.consent = consents.as_text(settings.consent)
        self.counted: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.redactions: Counter[str] = Counter()
        self.problems: list[str] = []
        self.reversions: list[Reversion] = []

    def source(self, store: Store, source: CorpusSource) -> None:
        """Everything that one source has."""
        keys: list[str] = []
        whole: list[str] = []
        for found in self._found(source, whole):
            key = self._one(store, found)
            if key:
                keys.append(key)
        if whole:
            self.counted["retired"] += store.retire_documents(source.name, keys)

    def _found(self, source: CorpusSource, whole: list[str]) -> Iterator[Document | Kept | Trouble]:
        """What a source yields; one that fails halfway is counted, and not noted in ``whole``."""
        try:
            yield from source.collect(self.town)
            whole.append(source.name)
        except FinetuneError:
            raise
        except Exception as error:  # a source may be a third party's; its message may quote the text
            self.skipped["source_failed"] += 1
            self.problems.append(f"source {source.name} failed ({type(error).__name__})")

    def _one(self, store: Store, found: Document | Kept | Trouble) -> str:
        """Store one document; returns the key under which it is (still) there, empty where it is not."""
        if isinstance(found, Kept):
            self.counted["unchanged"] += 1
            return found.key
        if isinstance(found, Trouble):
            self.skipped[found.reason] += 1
            told = SAID.get(found.reason, found.reason)
            self.problems.append(f"{self.town.root / found.key}: {told}")
            return self._kept(found) if found.reason == "unreadable" else ""
        if found.rig in self.excluded:
            self.skipped["excluded"] += 1
            return ""
        digest = hashlib.sha256(found.content.encode("utf-8", "replace")).hexdigest()
        policy = self.scrubber.policy.version
        try:
            key, _ = self.scrubber.text(found.key)
            if store.has_document(found.source, key, digest, policy):
                self.counted["unchanged"] += 1
                self._observe(store, found, key)
                return key
            content, redactions = self.scrubber.text(found.content)
        except Exception as error:  # a layer may be a third party's; its message may quote the text
            self.skipped["unscrubbable"] += 1
            self.problems.append(f"{found.key}: could not be scrubbed ({type(error).__name__})")
            return ""
        status = store.add_document(
            replace(found, content=content, key=key),
            policy=policy,
            consent=self.consent,
            source_hash=digest,
            redactions=dict(redactions),
        )
        self.counted[status] += 1
        if status != "unchanged":
            self.redactions.update(redactions)
        self._observe(store, found, key)
        return key

    def _observe(self, store: Store, found: Document, key: str) -> None:
        """Whether a convention goes back on itself: also one that is as it was may have gone to and fro."""
        if is_convention(found):
            self.reversions += observe(store, self.town, found, key, lambda text: self.scrubber.text(text)[0])

    def passed_over(self, ahead: int) -> None:
        """Count the town's records that are dated after now."""
        if ahead:
            self.skipped["ahead"] += ahead
            self.problems.append(f"{self.town.root}: {ahead} {SAID['ahead']}")

    def _kept(self, found: Trouble) -> str:
        """The key of what is there and cannot be read now: it stays as it is stored."""
        try:
            return self.scrubber.text(found.key)[0]
        except Exception:  # a layer may be a third party's
            return ""

    def report(self) -> CollectReport:
        counts = {name: self.counted[name] for name in ("captured", "updated", "unchanged", "retired")}
        return CollectReport(
            **counts,
            reversions=tuple(found.to_json() for found in self.reversions),
            skipped=dict(sorted(self.skipped.items())),
            redactions=dict(sorted(self.redactions.items())),
            problems=tuple(self.problems),
        )
