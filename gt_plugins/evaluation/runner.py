"""Running a suite: as it is served (what the gate counts), and by choice scoring (a diagnostic).

Served: every case goes through the endpoint with its grammar, as a live request would. Choice scoring asks
an engine in this process: it states its reason under the same grammar and is then given every allowed
action to score, each with its closing quote and brace, since tokens merge across them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import FinetuneError, call_with_retries
from .result import CaseResult
from .suites import Case, Suite, decision_body

if TYPE_CHECKING:
    from ..rendering.render import Budget
    from ..roles.profile import Profile
    from ..serving.client import EndpointClient
    from ..serving.engines import Engine

Told = Callable[[CaseResult], None]
NOTHING = "(no answer)"


def run_served(
    suite: Suite, client: EndpointClient, model: str, profile: Profile, prime: str, told: Told | None = None
) -> list[CaseResult]:
    """Every case through an endpoint; a reply that is no JSON with an action is wrong, not an error.

    Raises FinetuneError where the endpoint stays away for several attempts."""
    results = []
    for case in suite.cases():
        body = decision_body(model, profile.system, prime, case)
        reply = call_with_retries(lambda body=body: client.message(body), n_retries=4, initial_delay=0.2)  # type: ignore[misc]
        results.append(_judged(case, action_in(reply)))
        if told:
            told(results[-1])
    return results


def run_choice(
    suite: Suite, engine: Engine, profile: Profile, prime: str, budget: Budget, told: Told | None = None
) -> list[CaseResult]:
    """Every case by the likeliest of the allowed actions after the engine's own reason."""
    from ..serving.responder import ModelResponder

    responder = ModelResponder(engine, profile, budget)
    results = []
    for case in suite.cases():
        body = decision_body(engine.name, profile.system, prime, case)
        results.append(_judged(case, choose(engine, responder, body, case.allowed)))
        if told:
            told(results[-1])
    return results


def choose(engine: Engine, responder: Any, body: dict[str, Any], allowed: Sequence[str]) -> str:
    """The allowed action with the highest log-probability after the reason that the engine gives."""
    prepared = responder.prepare(body)
    text = responder.respond(body).blocks[0].get("text", "")
    reason, _, _ = text.rpartition(', "action":')
    if not reason:
        reason, _, _ = text.rpartition(',"action":')
    start = f'{reason or json.dumps({"reason": ""})[:-1]}, "action": "'
    renderer = engine.renderer
    candidates = [renderer.encode(f'{start}{name}"}}') for name in allowed]
    scores = engine.score(prepared.ids, candidates)
    return max(zip(scores, allowed, strict=True))[1]


def action_in(reply: dict[str, Any]) -> str:
    """The action that a reply's JSON names, or a word for none."""
    for block in reply.get("content") or ():
        if block.get("type") == "text":
            for value in _objects(str(block.get("text", ""))):
                if isinstance(value.get("action"), str):
                    return value["action"]
    return NOTHING


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON object that a text is or holds."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return
    try:
        value = json.loads(text[start : end + 1])
    except ValueError:
        return
    if isinstance(value, dict):
        yield value


def _judged(case: Case, got: str) -> CaseResult:
    return CaseResult(case.id, case.group, "|".join(case.expected), got, got in case.expected)


def check_nonempty(suite: Suite) -> None:
    """Raises FinetuneError where a suite has no cases: a score over nothing says nothing."""
    if not suite.cases():
        raise FinetuneError(f"suite {suite.name} has no cases")
