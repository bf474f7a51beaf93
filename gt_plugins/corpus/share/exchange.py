"""Sessions of a rig out to a bundle, and in from one.

Out goes what was captured here, scrubbed once more by the present policy; never what came in from others, nor
sessions of tuned models. In comes what nobody here captured or purged, scrubbed by our own policy, whatever
the sender's was: each side's lists are its own secret, so neither can know which is stricter. A session that
came in is marked as such: its outcome and labels are the sender's, since our records know nothing of it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import FinetuneError, RetriableError, UserError, in_file
from ...town.root import Town
from ...transcripts.model import Session, Turn
from .. import consent as consents
from ..lock import sweep_lock
from ..names import scrub_names
from ..outcomes.rows import decision_outcomes
from ..scrub.layers import ScrubError
from ..store import Store, exists, now
from . import rows
from .bundle import Bundle, Manifest, read_bundle, sessions_in, write_bundle
from .keys import fingerprint, is_signed, public_key, sign
from .settings import opted_in

if TYPE_CHECKING:
    from ..scrub.engine import Scrubber

WAIT_SECONDS = 60.0
OUTCOMES = frozenset("merged closed good bad rejected reopened abandoned unknown".split())
_TEXTS = ("id", "source", "cwd", "client_version", "started", "ended", "role", "rig", "name", "parent")
_TURN_TEXTS = ("id", "at", "model", "hook")


@dataclass
class Exchange:
    """What an export or an import did. ``sessions`` are those that went out or may come in; of the latter
    ``came`` counts the ``new``, ``updated`` and ``unchanged``. ``skipped`` counts sessions by why they were
    left out."""

    path: str
    bundle: str = ""
    rig: str = ""
    sender: str = ""
    key: str = ""
    sessions: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    came: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# -- out ---------------------------------------------------------------------------------------------


def export(town: Town, rig: str, out: Path, role: str | None = None) -> Exchange:
    """Write the rig's sessions into the bundle ``out``. Raises UserError where the rig did not opt in, there
    is no consent, or ``out`` exists."""
    from ..scrub.engine import scrubber_for

    opted_in(town, rig)
    consent = consents.require(town)
    if not exists(town):
        raise UserError(f"{town.corpus_db}: no corpus yet; run `gt corpus sweep` first")
    if out.exists():
        raise UserError(in_file(out, "", "is there already", "choose another name"))
    scrubber = scrubber_for(town)
    skipped: Counter[str] = Counter()
    redactions: Counter[str] = Counter()
    taken: list[str] = []
    with Store(town) as store:
        found = _going_out(store, rig, role, scrubber, skipped, redactions, taken)
        head = Manifest(rig, public_key(town), consent.by, now(), scrubber.policy.version, __version__)
        made = write_bundle(out, found, head, lambda data: sign(town, data))
        if not taken:
            out.unlink()
            raise FinetuneError(f"no session of rig {rig} to share: {_told(skipped)}")
        bundle = read_bundle(out)
        rows.note_exported(store, bundle.id, taken)
    return Exchange(
        str(out), bundle.id, rig, made.sender, made.key, len(taken), dict(skipped), dict(redactions)
    )


def _told(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in skipped.items()) or "none is stored"


def _going_out(
    store: Store,
    rig: str,
    role: str | None,
    scrubber: Scrubber,
    skipped: Counter[str],
    redactions: Counter[str],
    taken: list[str],
) -> Iterator[dict[str, Any]]:
    received = rows.received(store)
    for stored in store.sessions(role):
        session = stored.session
        if session.rig != rig:
            continue
        why = "came from others" if session.id in received else "of a tuned model" if stored.tuned else ""
        if not why:
            try:
                clean, counts = _scrubbed(session, scrubber)
            except ScrubError:
                why = "could not be scrubbed"
        if why:
            skipped[why] += 1
            continue
        redactions.update(counts)
        taken.append(session.id)
        labels = {call: o.label for call, o in decision_outcomes(store, session.id).items()}
        yield {
            "session": clean.to_json(),
            "outcome": stored.outcome,
            "labels": labels,
            "captured_at": stored.captured_at,
            "consent": stored.consent,
            "redactions": dict(stored.redactions),
        }


# -- in ----------------------------------------------------------------------------------------------


def import_bundle(town: Town, path: Path, rig: str | None = None, dry_run: bool = False) -> Exchange:
    """Store the sessions of a bundle: all that may come in, or none. ``rig`` names ours where it is called
    otherwise here; ``dry_run`` checks and counts and stores nothing.

    Raises UserError where there is no consent, the rig did not opt in, or the bundle is none, is not signed
    by somebody whom the rig trusts or is not what was signed; RetriableError while a sweep is running."""
    from ..scrub.engine import scrubber_for

    consents.require(town)
    bundle = read_bundle(path)
    sender = _sender(town, bundle, rig or bundle.manifest.rig)
    for _ in sessions_in(bundle):  # every hash is looked at before the first session comes in
        pass
    scrubber = scrubber_for(town)
    done = Exchange(str(path), bundle.id, rig or bundle.manifest.rig, sender, bundle.manifest.key)
    with sweep_lock(town, WAIT_SECONDS) as held:
        if not held:
            raise RetriableError("a sweep is running; import when it is done")
        with Store(town) as store:
            coming = _Coming(store, scrubber, bundle, done)
            with contextlib.suppress(_OnlyLooking), store.transaction():
                coming.store_all()
                if dry_run:
                    raise _OnlyLooking
    return done


class _OnlyLooking(Exception):
    """Takes back what a dry run stored."""


def _sender(town: Town, bundle: Bundle, rig: str) -> str:
    """The name under which our rig trusts the key that signed. Raises UserError where it does not."""
    settings = opted_in(town, rig)
    manifest = bundle.manifest
    name = (settings.trust or {}).get(manifest.key)
    if name is None:
        told = f"is signed by {fingerprint(manifest.key)}, whom rig {rig} does not trust"
        mend = f"ask them for `gt corpus share key`, and add it to share.trust in {settings.path}"
        raise UserError(in_file(bundle.path, "", told, mend))
    if not is_signed(manifest.key, bundle.signed, bundle.signature):
        raise UserError(in_file(bundle.path, "", "its signature is wrong", "ask for the bundle again"))
    return name


@dataclass
class _Coming:
    """One import."""

    store: Store
    scrubber: Scrubber
    bundle: Bundle
    done: Exchange

    def __post_init__(self) -> None:
        self.purged = self.store.purged()
        self.received = rows.received(self.store)
        self.came = Counter({"new": 0, "updated": 0, "unchanged": 0})
        self.skipped: Counter[str] = Counter()
        self.redactions: Counter[str] = Counter()

    def store_all(self) -> None:
        for number, value in enumerate(sessions_in(self.bundle)):
            taken = self._take(value)
            if taken is not None:
                self.came[self._put(value, *taken, number)] += 1
        self.done.came = dict(self.came)
        self.done.skipped, self.done.redactions = dict(self.skipped), dict(self.redactions)

    def _take(self, value: Mapping[str, Any]) -> tuple[Session, Counter[str]] | None:
        """A session that may come in, scrubbed; None where it may not, which is counted."""
        try:
            session = replace(session_from(value.get("session")), rig=self.done.rig)
            clean, counts = _scrubbed(session, self.scrubber)
        except ValueError as error:
            problem = f"a session in it has not the form of one ({error})"
            raise UserError(in_file(self.bundle.path, "", problem, "ask for the bundle again")) from None
        except (ScrubError, RecursionError):
            self.skipped["could not be scrubbed"] += 1
            return None
        why = ""
        if clean.id in self.purged:
            why = "was purged here"
        elif clean.id not in self.received and self.store.session(clean.id) is not None:
            why = "was captured here"
        if why:
            self.skipped[why] += 1
            return None
        self.done.sessions += 1
        self.redactions.update(counts)
        return clean, counts

    def _put(self, value: Mapping[str, Any], session: Session, counts: Counter[str], number: int) -> str:
        """Store a session with the sender's labels: ``new``, ``updated`` or ``unchanged``."""
        manifest, name = self.bundle.manifest, list(self.bundle.manifest.files)[number]
        outcome = str(value.get("outcome"))
        said, _ = self.scrubber.text(str(value.get("consent", ""))[:400])
        added = self.store.add_session(
            session,
            policy=self.scrubber.policy.version,
            consent=f"shared by {self.done.sender} ({fingerprint(manifest.key)}): {said}",
            source_hash=manifest.files[name][0],
            outcome=outcome if outcome in OUTCOMES else "unknown",
            redactions=counts,
            file=f"share:{session.id}",
            identity_rank=3,
        )
        labels = value.get("labels")
        labels = labels if isinstance(labels, dict) else {}
        kept = {str(c): str(o) for c, o in labels.items() if o in OUTCOMES}
        told = rows.note_received(
            self.store, session.id, self.bundle.id, self.done.sender, manifest.key, kept
        )
        if added.status == "captured":
            return "new"
        return "updated" if told or added.status == "updated" else "unchanged"


def _scrubbed(session: Session, scrubber: Scrubber) -> tuple[Session, Counter[str]]:
    clean, counts = scrubber.session(session)
    return scrub_names(clean, lambda name: scrubber.text(name)[0]), counts


def session_from(value: Any) -> Session:
    """A session from a foreign hand. Raises ValueError naming the key that has not its form."""
    if not isinstance(value, dict):
        raise ValueError("session: not an object")
    for key in _TEXTS:
        if not isinstance(value.get(key, ""), str) or len(value.get(key, "")) > 4096:
            raise ValueError(f"session.{key}: not a text")
    for key in ("models", "beads"):
        if not _are_texts(value.get(key, [])):
            raise ValueError(f"session.{key}: not a list of texts")
    for key in ("counts", "usage"):
        found = value.get(key, {})
        if not isinstance(found, dict) or not all(type(n) is int for n in found.values()):
            raise ValueError(f"session.{key}: not counts")
    turns = value.get("turns")
    if not isinstance(turns, list) or not value.get("id"):
        raise ValueError("session: no id or no turns")
    for number, turn in enumerate(turns):
        _check_turn(f"turns[{number}]", turn)
    return Session.from_json(value)


def _check_turn(where: str, turn: Any) -> None:
    if not isinstance(turn, dict) or not turn.keys() <= Turn.__dataclass_fields__.keys():
        raise ValueError(f"{where}: not a turn")
    if turn.get("role") not in ("user", "assistant", "hook") or type(turn.get("meta", False)) is not bool:
        raise ValueError(f"{where}: not a turn's role")
    if not all(isinstance(turn.get(key, ""), str) for key in _TURN_TEXTS) or "id" not in turn:
        raise ValueError(f"{where}: not texts")
    blocks = turn.get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        raise ValueError(f"{where}.blocks: not a list of blocks")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
