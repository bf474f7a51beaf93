"""Evaluating a version: its suites as served, stored beside it, with paired comparisons on request."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .result import CaseResult, EvalResult
from .runner import check_nonempty, run_choice, run_served
from .suites import Suite, all_suites, find_suite

if TYPE_CHECKING:
    from ..registry.versions import Version
    from ..roles.profile import Profile
    from ..serving.responder import ModelResponder

Told = Callable[[CaseResult], None]


def suites_for(role: str, name: str = "") -> list[Suite]:
    """The suite that is named, or all that the role must pass. Raises UserError where there is none."""
    if name:
        return [find_suite(name, role)]
    found = [s for s in all_suites() if s.required and role in s.roles]
    if not found:
        raise UserError(f"no suite is required for {role}; name one with --suite")
    return found


def prime_for(version: Version, profile: Profile) -> str:
    """The slim prime that a version is asked with: that of its training sessions, else its rules alone."""
    path = version.path / "training" / "prime.txt"
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return text or profile.rules


def responder_for(version: Version, engine: str = "") -> ModelResponder:
    """The version loaded as it is served."""
    from ..serving.load import load_version

    return load_version(version, engine or None)


def evaluate(version: Version, suite: Suite, engine: str = "", told: Told | None = None) -> EvalResult:
    """One suite through an endpoint of the version's own: quantized file, grammar, fence, slim prime."""
    from ..serving.app import make_app
    from ..serving.client import EndpointClient
    from ..serving.local import served_locally

    check_nonempty(suite)
    responder = responder_for(version, engine)
    profile, token = responder.profile, secrets.token_hex(16)
    app = make_app(responder, token, [version.model])
    with served_locally(app) as url, EndpointClient(url, token) as client:
        cases = run_served(suite, client, version.model, profile, prime_for(version, profile), told)
    return _result(version, suite, cases, engine=responder.name, served=True)


def evaluate_at(version: Version, suite: Suite, url: str, token: str, told: Told | None = None) -> EvalResult:
    """One suite at an endpoint that is already there. It counts as a diagnostic, not at the gate: nothing
    proves that what answers there is this version."""
    from ..roles.profile import load_profile
    from ..serving.client import EndpointClient

    check_nonempty(suite)
    profile = load_profile(version.role, version.role_dir)
    with EndpointClient(url, token) as client:
        cases = run_served(suite, client, version.model, profile, prime_for(version, profile), told)
    return _result(version, suite, cases, engine=url, served=False)


def evaluate_choice(version: Version, suite: Suite, engine: str = "", told: Told | None = None) -> EvalResult:
    """One suite by choice scoring in this process: a diagnostic."""
    responder = responder_for(version, engine)
    prime = prime_for(version, responder.profile)
    cases = run_choice(suite, responder.engine, responder.profile, prime, responder.budget, told)
    return _result(version, suite, cases, engine=f"{responder.name}, choice scoring", served=False)


def evaluate_base(version: Version, suite: Suite, told: Told | None = None) -> EvalResult:
    """The version's base without its adapter, by choice scoring: free decoding gives a base nothing."""
    from ..registry.versions import base_folder
    from ..serving.engines import EngineSource, load_engine
    from ..serving.load import budget_of

    profile = _profile(version)
    engine = load_engine(EngineSource(base_folder(version)), prefer="transformers")
    cases = run_choice(suite, engine, profile, prime_for(version, profile), budget_of(version, engine), told)
    base = version.base if version.base == "tiny" else Path(version.base).name
    made = _result(version, suite, cases, engine="transformers, choice scoring", served=False)
    return replace(made, model=f"base {base}", version="")


def compare(name: str, result: EvalResult, other: EvalResult) -> EvalResult:
    """``result`` with its paired comparison against ``other`` under ``name``."""
    row: dict[str, Any] = {**asdict(result.against(other)), "score": other.score, "engine": other.engine}
    return replace(result, versus={**result.versus, name: row})


def _profile(version: Version) -> Profile:
    from ..roles.profile import load_profile

    return load_profile(version.role, version.role_dir)


def _result(
    version: Version, suite: Suite, cases: list[CaseResult], *, engine: str, served: bool
) -> EvalResult:
    return EvalResult.from_cases(
        version.model, version.version, suite.name, cases, engine=engine, served=served
    )
