"""Building a dataset folder: the town's corpus, the role's profile, every plugin's filters and suites."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..durable import read_lines
from ..errors import UserError
from ..plugins import all_answers
from ..rendering.conversation import prime_in
from ..roles.profile import Profile, load_profile
from ..settings import load_settings
from ..town.root import Town
from . import dataset
from .dataset import Dataset, Example, Facts, Finder, Ids, Length, Options, Outcomes, Overlap, Redraw, Verdict
from .dataset.outcomes import DEFAULT
from .dedup import NEAR
from .outcomes.compute import compute
from .outcomes.rows import decision_outcomes
from .reversions import blocked_lines, tells_of
from .share.rows import shared_labels
from .store import Store, exists, now


@dataclass(frozen=True)
class Wanted:
    """What somebody asks of a dataset."""

    base: str = "tiny"
    formats: Sequence[str] = dataset.FORMATS
    outcomes: Sequence[str] | None = DEFAULT
    """None: every outcome."""
    tuned: bool = False
    near: float = NEAR
    length: str = "window"
    max_tokens: int = 0
    """0: the budget of a request to that base."""


def build_dataset(
    town: Town, role: str, out: Path, base: str = "tiny", wanted: Wanted | None = None
) -> Dataset:
    """Write ``out`` and note it in the corpus. Raises UserError where there is no corpus, before any work
    also where ``out`` or what is wanted cannot be."""
    if not exists(town):
        raise UserError(f"{town.corpus_db}: no corpus yet; run `gt corpus sweep` first")
    wanted = wanted or Wanted(base)
    profile = load_profile(role)
    dataset.check_free(out)
    length = _length(wanted)
    slim = slimmer(town, profile, wanted.base)
    with Store(town) as store:
        compute(town, store)
        redraw = _redraw(town)
        options = Options(
            formats=wanted.formats,
            outcomes=Outcomes(wanted.outcomes, lambda session: labels(store, session)),
            tuned=wanted.tuned,
            near=wanted.near,
            ids=Ids(store.bead_ids() | routes(town), redraw.finder.kinds),
            overlap=Overlap(suite_texts()),
            filters=unreverted(store, plugin_filters()),
            length=length,
            redraw=redraw,
        )
        built = dataset.build(store.sessions(role), profile, slim, options)
        sessions = sorted({e.session for e in (*built.train, *built.heldout)})
        store.record_dataset(out, sessions, f"unfinished {out}", role)  # a purge must find what a kill leaves
        made = dataset.write(out, role, built, _facts(town, wanted, built))
        store.record_dataset(out, sessions, made.hash, role)
    return made


def labels(store: Store, session: str) -> dict[str, str]:
    """Id of the tool call → what became of that decision, for a patrol's session; of one that another town
    shared, what that town says."""
    found = {call: outcome.label for call, outcome in decision_outcomes(store, session).items()}
    return found or shared_labels(store, session)


def unreverted(
    store: Store, judge: Callable[[Example], Verdict | None]
) -> Callable[[Example], Verdict | None]:
    """``judge`` behind a filter that drops what comes from a reverted convention nobody has decided on."""
    lines = blocked_lines(store)

    def judged(example: Example) -> Verdict | None:
        if tells_of(example.text(), lines):
            return Verdict(False, "from a reverted convention (`gt corpus reversions list`)")
        return judge(example)

    return judged


def slimmer(town: Town, profile: Profile, base: str) -> Callable[[str], str]:
    """The function that makes a stock prime as small as the deployed role's, plugins' sections in it too,
    without the tags around it."""
    from ..prime.budget import Deployed, prime_tokens
    from ..prime.command import offered_sections
    from ..prime.slim import slim

    tokens = prime_tokens({"base": base}, load_settings(town))
    deployed = Deployed(profile.role, profile.folder, tokens, profile.rules)
    offers = offered_sections(deployed, town.root)

    def made(stock: str) -> str:
        extra = [section for offer in offers for section in offer(stock)]
        return prime_in(slim(stock, profile.role, tokens=tokens, rules=profile.rules, extra=extra).text)

    return made


def suite_texts() -> dict[str, list[str]]:
    """The evidence of every held-out case of every suite that is registered, whichever role it is for."""
    from ..evaluation.suites import all_suites

    return {suite.name: [case.evidence for case in suite.cases()] for suite in all_suites()}


def plugin_filters() -> Callable[[Example], Verdict | None]:
    """All filters as one: the first that drops an example decides. A filter that fails ends the build with a
    FinetuneError that names its plugin: without it, what it was to drop would train."""

    def judge(example: Example) -> Verdict | None:
        verdicts = [v for v in all_answers("gt_dataset_filters", example=example) if v is not None]
        return next((v for v in verdicts if not v.keep), None)

    return judge


def _redraw(town: Town) -> Redraw:
    """Surrogates of an example's own, under a key that follows from the town's and tells nothing of it."""
    from .scrub.engine import scrubber_for

    scrubber = scrubber_for(town)
    key = hmac.new(scrubber.policy.key, b"datasets", hashlib.sha256).digest()
    return Redraw(key, Finder(scrubber.surrogates_in))


def _length(wanted: Wanted) -> Length:
    """How long examples may be, in the base's own tokens where its tokenizer can be read.

    Raises UserError where the base is none."""
    from ..errors import FinetuneError
    from ..rendering.render import STANDARD, TINY, Budget, Renderer
    from ..training.base import base_path

    folder = base_path(wanted.base)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"--base {wanted.base}: no base: it has no config.json; name a model's folder, or tiny"
        )
    budget = TINY if wanted.base == "tiny" else STANDARD
    tokens = wanted.max_tokens or budget.request
    try:
        renderer = Renderer.from_folder(folder)
    except FinetuneError as error:
        raise UserError(f"--base {wanted.base}: no base: {error}") from None
    whole = Budget(1 << 40, budget.result, budget.prime, budget.reply)
    return Length(wanted.length, tokens, lambda c: len(renderer.request(c, whole).ids))


def _facts(town: Town, wanted: Wanted, built: dataset.Built) -> Facts:
    from .. import __version__

    rigs = {e.origin.rig for e in (*built.train, *built.heldout) if e.origin.rig}
    return Facts(
        budget="tiny" if wanted.base == "tiny" else "standard",
        base=Path(wanted.base).name,
        built_at=now(),
        made_with=f"gastown-finetune {__version__}",
        licences=licences(town, rigs),
    )


def routes(town: Town) -> set[str]:
    """A bead id for each prefix that the town knows, from ``.beads/routes.jsonl``."""
    path = town.root / ".beads" / "routes.jsonl"
    prefixes = (str(line.get("prefix") or "") for line in read_lines(path))
    return {f"{prefix.rstrip('-')}-0" for prefix in prefixes if prefix.strip("-")}


def licences(town: Town, rigs: Iterable[str]) -> Mapping[str, str]:
    """Rig → the first line of its licence file, empty where none is found."""
    found = {}
    known = town.rigs()
    for rig in sorted(rigs):
        folders = [known[rig] / part for part in ("mayor/rig", "refinery/rig", "")] if rig in known else []
        files = [p for f in folders if f.is_dir() for p in sorted(f.glob("LICEN[CS]E*")) if p.is_file()]
        files += [p for f in folders if f.is_dir() for p in sorted(f.glob("COPYING*")) if p.is_file()]
        found[rig] = _first_line(files[0]) if files else ""
    return found


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as handle:
        head = handle.read(2000)
    return next((line.strip()[:120] for line in head.splitlines() if line.strip()), path.name)
