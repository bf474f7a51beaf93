"""A scrubber that a test can read, and towns with consent."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gt_plugins.corpus import consent
from gt_plugins.corpus.scrub.layers import ScrubError
from gt_plugins.corpus.sweep import SweepReport, sweep
from gt_plugins.town.root import Town
from gt_plugins.transcripts import claude
from gt_plugins.transcripts.model import Session

PLANT = re.compile(r"PLANT-[a-z]+")
SOURCES = list(claude.gt_transcript_sources())


@dataclass(frozen=True)
class Policy:
    version: str = "p1"


class PlainScrubber:
    """Replaces PLANT-words; cannot scrub what holds POISON."""

    def __init__(self, version: str = "p1") -> None:
        self.policy = Policy(version)

    def text(self, text: str) -> tuple[str, Counter[str]]:
        if "POISON" in text:
            raise ScrubError("a value could not be scrubbed")
        clean, found = PLANT.subn("[gone]", text)
        return clean, Counter({"plant": found}) if found else Counter()

    def value(self, value: Any) -> tuple[Any, Counter[str]]:
        clean, found = self.text(json.dumps(value))
        return json.loads(clean), found

    def session(self, session: Session) -> tuple[Session, Counter[str]]:
        clean, found = self.value(session.to_json())
        return replace(Session.from_json(clean), counts=session.counts), found


def consented(town: Town) -> Town:
    consent.grant(town, "Ann")
    return town


def capture(town: Town, projects: Path | None = None, **options: Any) -> SweepReport:
    """A sweep with the plain scrubber and the Claude reader alone."""
    settings: dict[str, Any] = {"sources": SOURCES, "scrubber": PlainScrubber(), **options}
    return sweep(town, projects, **settings)


def event(town: Town, session: str, role: str, cwd: str = "", at: str = "2026-03-01T08:00:00Z") -> None:
    """gt's record that a session started."""
    payload = {"session_id": session, "role": role, "cwd": cwd}
    add_event(town, "session_start", role, payload, at)


def add_event(town: Town, kind: str, actor: str, payload: dict[str, str], at: str) -> None:
    line = {"ts": at, "source": "gt", "type": kind, "actor": actor, "payload": payload}
    with town.events_file.open("a") as handle:
        handle.write(json.dumps(line) + "\n")


def modes(folder: Path) -> dict[str, str]:
    """Every folder and file below ``folder`` with its permission bits."""
    return {str(p.relative_to(folder)): oct(p.stat().st_mode & 0o777) for p in sorted(folder.rglob("*"))}


def raw_bytes(folder: Path, but: Sequence[str] = ()) -> bytes:
    """All bytes of all files below a folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in but]
    return b"".join(p.read_bytes() for p in files)
