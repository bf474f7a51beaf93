"""Every extension point. A plugin implements any of these with ``@gt_plugins.hookimpl``.

Types in quotes are those of the rooms; nothing here imports anything heavy.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pluggy import HookspecMarker

if TYPE_CHECKING:
    import typer

    from .corpus.dataset import Example
    from .corpus.dataset import Verdict as FilterVerdict
    from .corpus.scrub.layers import Layer, Policy
    from .corpus.sources import CorpusSource
    from .evaluation.gate import Candidate, Verdict
    from .evaluation.suites import Suite
    from .prime.sections import PrimeContext, Section
    from .serving.engines import EngineFactory
    from .town.root import Town
    from .town.sling import Sling, SlingResult
    from .training.job import Job, TrainCallbacks
    from .transcripts.sources import TranscriptSource

hookspec = HookspecMarker("gt_plugins")


@hookspec
def gt_prime_sections(ctx: PrimeContext) -> Sequence[Section]:
    """Offer sections for the slim prime of a deployed role, each with priority, must_keep and text."""


@hookspec
def gt_session_shutdown(session: dict[str, Any]) -> None:
    """A session ended and is about to be spooled; ``session`` is the client's payload. Light imports only."""


@hookspec
def gt_sling(sling: Sling) -> Sling | None:
    """Before the real ``gt sling``: return a changed one (warn, add ``--agent``), or raise to veto it."""


@hookspec
def gt_slung(sling: Sling, result: SlingResult) -> None:
    """After the real ``gt sling``, with its exit code and the bead."""


@hookspec
def gt_model_commands(app: typer.Typer) -> None:
    """Add sub-commands to ``gt model``."""


@hookspec
def gt_transcript_sources() -> Sequence[TranscriptSource]:
    """Readers of agents' session files."""


@hookspec
def gt_corpus_sources(town: Town) -> Sequence[CorpusSource]:
    """Artifacts and operational records to collect."""


@hookspec
def gt_scrub_layers(policy: Policy) -> Sequence[Layer]:
    """Scrub layers; they run in the order of their ``order`` attribute.

    One that names ``keywords`` is asked only about values that hold one."""


@hookspec
def gt_dataset_filters(example: Example) -> FilterVerdict | None:
    """Drop an example with a reason that is counted, or None to keep it."""


@hookspec
def gt_train_callbacks(job: Job) -> Sequence[TrainCallbacks]:
    """Hear of steps, NaN, checkpoints and the end of a training job."""


@hookspec
def gt_eval_suites() -> Sequence[Suite]:
    """Suites that a role can be required to pass."""


@hookspec
def gt_deploy_gates(candidate: Candidate) -> Verdict:
    """Judge a version before it is deployed; every verdict must allow."""


@hookspec
def gt_staleness_signals(town: Town) -> dict[str, str]:
    """Named content hashes; one that changed marks what was trained on it as stale."""


@hookspec
def gt_serving_engines() -> Sequence[EngineFactory]:
    """Engines that can stand behind the endpoint."""
