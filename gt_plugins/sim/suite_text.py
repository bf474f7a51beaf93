"""How a suite asks for a decision: the one wording for suites, datasets and pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decision_question(evidence: str, allowed: Sequence[str]) -> str:
    """The user's text of a decision request: the evidence, the actions allowed, the form of the answer."""
    return f"{evidence}\n\nAllowed: {', '.join(allowed)}\nAnswer with one JSON object: reason, then action."


def decision_schema(allowed: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the answer; the reason stands first, so that facts are stated before the action."""
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": 160},
            "action": {"type": "string", "enum": list(allowed)},
        },
        "required": ["reason", "action"],
        "additionalProperties": False,
    }
