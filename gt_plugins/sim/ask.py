"""Asking a deployed role for a patrol over HTTP, as the client would, with the example town's answers."""

from __future__ import annotations

from typing import Any

from ..roles.profile import load_profile
from ..rollout.deployed import role_dir
from ..serving.client import EndpointClient
from ..town.root import Town
from .reports import role_report
from .situations import situations, stream
from .town_text import command_output, start_prompt, stock_prime

_BASH = {
    "name": "Bash",
    "description": "Run a command.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}
MOST_TURNS = 24


def ask_patrol(town: Town, url: str, role: str, prime: str, reports: int = 3) -> tuple[int, int, list[str]]:
    """Let the endpoint play one patrol over fresh reports; its commands are answered by the example town.

    Returns the prime's characters before and after slimming, and a line for each of the model's turns."""
    rng = stream(role, "patrol", "shown")
    texts = [role_report(role, s, "common", rng) for s in situations(role, reports, rng)]
    profile = load_profile(role, role_dir(town, role))
    token = (role_dir(town, role) / "token").read_text().strip()
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": start_prompt(role, "2026-11-23T09:00")},
        {"role": "system", "content": f"SessionStart hook: <gt-prime>\n{prime}\n</gt-prime>"},
    ]
    lines: list[str] = []
    with EndpointClient(url, token) as client:
        for _ in range(MOST_TURNS):
            body = {
                "model": f"gt-ft-{role}",
                "max_tokens": 256,
                "system": profile.system,
                "tools": [_BASH],
                "messages": messages,
            }
            reply = client.message(body)
            messages.append({"role": "assistant", "content": reply["content"]})
            calls = [b for b in reply["content"] if b["type"] == "tool_use"]
            said = " ".join(b["text"] for b in reply["content"] if b["type"] == "text")
            commands = [str(c["input"].get("command", "")) for c in calls]
            lines.append(" -> ".join(part for part in (said, *commands) if part))
            if not calls:
                break
            results = []
            for call, command in zip(calls, commands, strict=True):
                output, failed = command_output(command, texts, rng)
                results.append(
                    {
                        "type": "tool_result",
                        "tool_use_id": call["id"],
                        "content": output,
                        "is_error": failed,
                    }
                )
            messages.append({"role": "user", "content": results})
    return len(stock_prime(role, "x" * 36, rng)), len(prime), lines
