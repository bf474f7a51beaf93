"""A trainer's membership in a swarm: a listener that averages at the borders of rounds.

A round is ``sync_steps`` local steps. At its border a peer announces its adapter, waits for the others to
come to the same border (not longer than the time-out, and not for the dead), fetches theirs, drops what the
guard drops, takes the mean, and deals out the rows that are left. A peer that comes late takes the mean
of the last border and goes on from there as if it had been there; so does one that fell behind. Losing
peers never stops training: a peer that is alone goes on alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...durable import append_line, write_json
from ...errors import FinetuneError, NonRetriableError, UserError, call_with_retries
from ...town.root import read_json
from ..adapter import adapter_state, set_adapter_state
from ..callbacks import Listener
from . import guard
from .board import DONE, LEFT, TRAINING, Board, Entry, Peer, short
from .deal import Deal, agreed, deal, lower_median, together_of, usual_rows
from .exchange import Exchange, pack, unpack
from .peers import Peers
from .runfile import SwarmSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..loader import Batch

EVENTS = "swarm.jsonl"
"""In the job's folder: every border, every peer that was dropped, and why."""
STATE = "swarm.json"
"""In the job's folder: where the swarm stood at the last border, for a resume without the others."""
OFFERED = 3
"""Borders whose adapters a peer still offers: others may be a little behind."""
METRICS_KEY = "training_metrics_training_metrics"
"""As ``records.METRICS_KEY``, which cannot be imported without hivemind."""
METRICS_LIFE = 120.0
POLL = 0.1


class Trainee(Protocol):
    """What a member needs of a trainer."""

    model: Any
    steps: list[Batch]
    state: Any
    listeners: Any
    stop_asked: bool
    rate_factor: float


class Notes(Protocol):
    """What hears of dropped peers; a JobLifecycle is one."""

    def note(self, **metadata: Any) -> None: ...


@dataclass(frozen=True)
class Border:
    """Where a round began."""

    round: int
    step: int
    """The trainer's step."""
    tokens: int
    """Tokens that the trainer had seen."""
    done: int
    """Batches of the common plan that the swarm had dealt out."""
    dealt: Deal
    average: Mapping[str, Tensor]
    """The adapter that the round began from."""


class SwarmMember(Listener):
    """One peer's part in the swarm. ``enter`` before training; ``close`` after it, whatever happened."""

    def __init__(
        self,
        peers: Peers,
        key: str,
        role: str,
        base: str,
        settings: SwarmSettings,
        say: Callable[[str], None],
        *,
        allowed: frozenset[str] = frozenset(),
        read: Callable[[Any], dict[str, Tensor]] = adapter_state,
        write: Callable[[Any, dict[str, Tensor]], None] = set_adapter_state,
    ) -> None:
        self._read, self._write = read, write
        self.peers, self.role, self.settings = peers, role, settings
        self.folder = Path()
        self.board = Board(peers, key, say)
        self._base, self._say = base, say
        self._life: Notes | None = None
        self._exchange = Exchange(peers.dht, key, lambda peer: not allowed or peer in allowed)
        self._entries: tuple[Entry, ...] = ()
        self._own = b""
        self._metrics: dict[str, Any] = {}
        self._condition = TRAINING
        self._alone, self._warned = False, False
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None
        self._trainer: Trainee
        self._plan: tuple[Batch, ...]
        self._total, self._rows = 0, 1
        self._border: Border | None = None

    # -- coming and going ---------------------------------------------------------------------------

    def enter(self, trainer: Trainee, folder: Path, life: Notes | None = None) -> None:
        """Join: take over what the others have reached, or begin; then deal out the first batches.

        ``folder`` is the job's; ``life`` hears of peers whose adapters were dropped. Raises UserError where
        all the others train something else, NonRetriableError where they are done, or where nothing that
        they offer can be used."""
        self.folder, self._life = folder, life
        self._trainer, self._plan = trainer, tuple(trainer.steps)
        self._total, self._rows = len(self._plan), usual_rows(self._plan)
        state = self._read(trainer.model)
        self.board.shape = shape_of(state, self._base)
        others = self.board.look()
        if not others and self.board.strangers:
            raise UserError(
                "this run's peers train another base or another shape of adapter; compare the recipes"
            )
        if others and all(p.state == DONE for p in others.values()):
            raise NonRetriableError("the swarm has come to the end of its plan; nothing is left to train")
        at, step, done = self._stood(trainer.state.step)
        counted: list[str] = []
        if others:
            at = min(p.newest for p in others.values())
            state, step, done, counted = self._caught_up(others, at, state)
            self._write(trainer.model, state)
        self._offer(state, at, step, done, tokens=0)
        self._renewer = threading.Thread(target=self._renew, name="swarm-announcer", daemon=True)
        self._renewer.start()
        if at == 0:
            least = self.settings.min_peers
            if len(others) + 1 < least:
                self._say(f"waiting until there are {least} peers (min_peers); now {len(others) + 1}")
            while not self._wait(lambda there: len(there) + 1 >= least, f"{least} peers"):
                pass  # they must be there; that is what the key says
            self._average(0, state, done)
        else:
            self._go_on(at, step, done, counted, state)

    def close(self) -> None:
        """Say goodbye and stop. Safe to call twice."""
        if self._over.is_set():
            return
        self._over.set()
        if self._renewer is not None:
            self._renewer.join(5.0)
        self._condition = LEFT
        self._announce()
        self._exchange.close()
        self.peers.close()

    def __enter__(self) -> SwarmMember:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def company(self) -> tuple[int, int]:
        """How many other peers are there, and how many should be: what a MonitorWorker asks."""
        return self.board.counted()

    # -- what it hears from the trainer -------------------------------------------------------------

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self._metrics = dict(metrics)
        border = self._border
        if border is None or step - border.step < border.dealt.stretch:
            return
        while border.done < self._total:
            border = self._cross(border)
            if border.dealt.stretch > 0:
                return  # else fewer rows are left than peers, and none is ours
        self._finish()

    def on_end(self, state: str) -> None:
        self.close()

    # -- a border -----------------------------------------------------------------------------------

    def _cross(self, before: Border) -> Border:
        """Announce, wait, average, deal: from one round to the next."""
        trainer, at, done = self._trainer, before.round + 1, before.dealt.done_then
        with trainer.listeners.during("syncing"):
            state = self._read(trainer.model)
            self._offer(state, at, trainer.state.step, done, trainer.state.tokens - before.tokens)
            self._wait(
                lambda there: all(p.newest >= at or p.state == DONE for p in there.values()), "the others"
            )
            border = self._average(at, state, done, before.average)
        self.board.round_over()
        return border

    def _average(
        self,
        at: int,
        state: dict[str, Tensor],
        done: int,
        reference: Mapping[str, Tensor] | None = None,
    ) -> Border:
        """Fetch what the others offer for round ``at``, go on from the mean, deal out what is left."""
        others = self._look()
        ahead = [p for p in others.values() if p.entries[0].round > at]
        behind = len(ahead) * 2 > len(others)
        if behind:  # go where most are
            at = min(p.newest for p in ahead)
        chosen = {i: entry for i, p in others.items() if (entry := p.at(at)) is not None}
        offers = self._fetched(chosen, at, state)
        mine = unpack(self._own, state)  # as the others see it, so that all of them come to the same mean
        offers[self.board.me] = guard.Offer(mine, self._entries[-1].tokens)
        kept = self._sifted(offers, at, reference)
        counted = sorted(set(kept) - {self.board.me})
        if counted:
            state = guard.mean(kept)
            self._write(self._trainer.model, state)
        entries = [chosen[i] for i in counted]
        if at == 0:
            self._total = lower_median([self._total, *(e.total for e in entries)])
            self._rows = lower_median([self._rows, *(e.rows for e in entries)])
        if behind and entries:
            done = lower_median([e.done for e in entries])
        done = agreed(done, [e.done for e in entries], self.settings.sync_steps * (len(entries) + 1))
        return self._go_on(at, self._trainer.state.step, done, counted, state)

    def _caught_up(
        self, others: Mapping[str, Peer], at: int, like: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], int, int, list[str]]:
        """What the others went on from at border ``at``: their mean, the step, the batches dealt, and who.
        ``like`` is this peer's own fresh adapter, from which it begins with all others at the first border
        where none of theirs can be used."""
        chosen = {i: entry for i, p in others.items() if (entry := p.at(at)) is not None}
        kept = self._sifted(self._fetched(chosen, at, like), at, None, like)
        if not kept:
            if at == 0:
                return like, self._trainer.state.step, 0, []
            raise NonRetriableError("not one adapter of this swarm's peers can be used; see the lines above")
        entries = [chosen[i] for i in kept]
        self._total = lower_median([e.total for e in entries])
        self._rows = lower_median([e.rows for e in entries])
        step, done = lower_median([e.step for e in entries]), lower_median([e.done for e in entries])
        self._say(f"joining {len(kept)} peers at round {at}: {done} of {self._total} batches are dealt")
        return guard.mean(kept), step, done, sorted(kept)

    def _go_on(
        self, at: int, step: int, done: int, counted: list[str], state: Mapping[str, Tensor]
    ) -> Border:
        """Put the trainer at ``step``, with this peer's share of the batches that are left before it."""
        trainer, plan, me = self._trainer, self._plan, self.board.me
        dealt = deal(plan, done, self._total, self._rows, counted, me, self.settings.sync_steps)
        behind = [*trainer.steps[:step], *[plan[0]] * max(0, step - len(trainer.steps))]
        trainer.state.step, trainer.rate_factor = step, dealt.rate_factor
        trainer.steps = [*behind, *dealt.steps]
        self._warn_of_few_rows(len(counted) + 1)
        self._border = Border(at, step, trainer.state.tokens, done, dealt, state)
        where = {"round": at, "done": done, "total": self._total}
        self._note("border", **where, peers=[short(i) for i in counted])
        with contextlib.suppress(OSError):
            write_json(self.folder / STATE, where)
        return self._border

    def _warn_of_few_rows(self, peers: int) -> None:
        """Said once: with fewer rows in a batch than peers, it makes fewer steps than one peer would."""
        together = together_of(self._rows, peers)
        if together > 1 and not self._warned:
            self._warned = True
            few = f"a batch has {self._rows} rows for {peers} peers, so {together} batches make one step"
            self._say(f"{few}; with a larger batch_tokens the swarm makes as many steps as one peer")

    def _finish(self) -> None:
        """The plan is at its end: stay until the others have come to the last border too."""
        self._condition = DONE
        self._announce()
        self._wait(lambda there: all(p.state == DONE for p in there.values()), "the others to end")
        self._say("the swarm has come to the end of its plan")

    # -- others' adapters ---------------------------------------------------------------------------

    def _fetched(
        self, chosen: Mapping[str, Entry], at: int, like: Mapping[str, Tensor]
    ) -> dict[str, guard.Offer]:
        """The adapters that could be had, all fetched at once; who sent something else is reported."""
        most = sum(4 * t.numel() + 512 for t in like.values())

        half = self.settings.averaging_timeout / 2

        def fetch(peer_id: str) -> guard.Offer | FinetuneError:
            entry = chosen[peer_id]
            once = partial(self._exchange.fetch, peer_id, entry.sha256, entry.size, half)
            try:
                if entry.size > most:
                    raise NonRetriableError(f"{entry.size} bytes, more than any adapter of this shape has")
                return guard.Offer(unpack(call_with_retries(once, 2, 0.5), like), entry.tokens)
            except FinetuneError as error:
                return error

        if not chosen:
            return {}
        with ThreadPoolExecutor(min(8, len(chosen))) as pool:
            came = dict(zip(chosen, pool.map(fetch, chosen), strict=True))
        for peer_id, problem in came.items():
            if isinstance(problem, FinetuneError):
                self._report(peer_id, str(problem), at, wrong=isinstance(problem, NonRetriableError))
        return {i: offer for i, offer in came.items() if isinstance(offer, guard.Offer)}

    def _sifted(
        self,
        offers: Mapping[str, guard.Offer],
        at: int,
        reference: Mapping[str, Tensor] | None,
        fresh: Mapping[str, Tensor] | None = None,
    ) -> dict[str, guard.Offer]:
        sifted = guard.sift(offers, reference, self.settings.norm_factor, fresh)
        for peer_id, problem in sifted.dropped.items():
            self._report(peer_id, problem, at, wrong=True)
        return sifted.kept

    def _report(self, peer_id: str, problem: str, at: int, *, wrong: bool) -> None:
        """A peer's adapter was dropped: on the screen, in the job's folder, and with its bead."""
        who = "our own adapter" if peer_id == self.board.me else f"the adapter of peer {short(peer_id)}"
        self._say(f"round {at}: {who} was dropped: {problem}")
        self._note("dropped", round=at, peer=peer_id, reason=problem)
        if wrong and peer_id != self.board.me:
            self.board.strike(peer_id)
            if self._life is not None:
                self._life.note(dropped_peer=f"{short(peer_id)}: {problem}")

    # -- announcing and waiting ---------------------------------------------------------------------

    def _offer(self, state: Mapping[str, Tensor], at: int, step: int, done: int, tokens: int) -> None:
        self._own = pack(state, self.settings.compression)
        sha256 = self._exchange.offer(self._own)
        entry = Entry(at, step, done, self._total, self._rows, tokens, len(self._own), sha256)
        self._entries = (*self._entries, entry)[-OFFERED:]
        self._announce()

    def _announce(self) -> None:
        """Put up this peer's record and its metrics; a DHT that does not answer is said, and tried again."""
        life = self.settings.lifetime
        try:
            self.board.announce(self.role, self._condition, self._entries, life)
            if record := self._metrics_record():
                self.peers.announce(METRICS_KEY, record, max(life, METRICS_LIFE))
        except FinetuneError as error:
            self._cut_off(error)

    def _metrics_record(self) -> dict[str, Any]:
        """``TrainingMetricsV1`` of the last step; empty before it, or where the loss is no number."""
        last = self._metrics
        loss, speed = float(last.get("loss", math.nan)), float(last.get("tokens_per_second", 0.0))
        if not (math.isfinite(loss) and math.isfinite(speed)):
            return {}
        return {
            "peer_id": self.board.me,
            "role": self.role,
            "step": int(self._trainer.state.step),
            "loss": loss,
            "tokens_per_second": speed,
            "epoch": int(last.get("epoch", 0)),
        }

    def _renew(self) -> None:
        """In a thread: stay visible between borders, and see who comes and goes."""
        while not self._over.wait(self.settings.lifetime / 3) and self.peers.alive:
            self._announce()
            self._look()

    def _look(self) -> dict[str, Peer]:
        try:
            found = self.board.look()
        except FinetuneError as error:
            self._cut_off(error)
            return {}
        self._alone = False
        return found

    def _cut_off(self, error: FinetuneError) -> None:
        """The DHT does not answer: said once, until it answers again. Training goes on without the others."""
        if not self._alone:
            self._say(f"{error}; going on alone")
        self._alone = True

    def _wait(self, enough: Callable[[Mapping[str, Peer]], bool], what: str) -> bool:
        """Until the others are where they should be, or the trainer was asked to stop; False, and said, where
        the time was over before."""
        deadline = time.monotonic() + self.settings.averaging_timeout
        while not self._trainer.stop_asked and not enough(self._look()):
            if time.monotonic() > deadline:
                self._say(f"waited {self.settings.averaging_timeout:g} s for {what}")
                return False
            time.sleep(POLL)
        return True

    def _note(self, event: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):
            append_line(
                self.folder / EVENTS, {"event": event, "at": round(time.time(), 3)} | fields, sync=False
            )

    def _stood(self, step: int) -> tuple[int, int, int]:
        """(round, step, batches dealt) of a resumed job at its last border; zeros for a new one."""
        try:
            kept = read_json(self.folder / STATE)
            return int(kept["round"]), step, min(int(kept["done"]), self._total)
        except (FinetuneError, OSError, KeyError, TypeError, ValueError):
            return 0, step, 0


def shape_of(state: Mapping[str, Tensor], base: str) -> str:
    """A short hash of an adapter's names and shapes and of the base that it belongs to."""
    told = [base, *(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(state.items()))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
