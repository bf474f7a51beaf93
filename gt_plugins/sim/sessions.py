"""Sessions of the teacher written in the client's own transcript format, for where there is no client.

One file per session under ``<projects>/<folder name>/<session id>.jsonl``, with its ``session_start`` event
in the town's ``.events.jsonl``, as the real client and the real ``gt prime --hook`` leave them, and with what
the town recorded before and after (``records.py``). Some reports
carry planted secrets and personal data, which the demo expects to find scrubbed.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import FinetuneError
from ..town.root import Town
from .records import ACTORS, Decided, append_events, event, write_records
from .reports import role_report
from .situations import Situation, situations, stream
from .teacher import patrol_steps
from .town_text import command_output, start_prompt, stock_prime

CLIENT_VERSION = "2.1.197"
TEACHER_MODEL = "sim-teacher-1"
PER_PATROL = 4
"""Decisions on one patrol."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Written:
    """A session that was written: its file, its id, what was planted in it, what it decided."""

    path: Path
    session_id: str
    situations: tuple[Situation, ...]
    planted: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """What stood around a session's reports: its stock prime, the first prompt, what `gt hook` said."""

    session_id: str
    prime: str
    prompt: str
    hook: str


def frame_of(transcript: Path) -> Frame:
    """The frame of a session that a real client wrote, so that written ones begin as the town's own do.

    Raises FinetuneError where the transcript lacks a part of it."""
    from ..rendering.conversation import prime_of
    from ..transcripts.claude import read

    session = read(transcript)
    blocks = [(turn.role, block) for turn in session.turns for block in turn.blocks]
    asked = [b["id"] for _, b in blocks if (b.get("input") or {}).get("command") == "gt hook"]
    parts = {
        "prime": prime_of(session.turns),
        "prompt": next((b["text"] for role, b in blocks if role == "user" and b.get("type") == "text"), ""),
        "hook": next((str(b["content"]) for _, b in blocks if b.get("tool_use_id") in asked), ""),
    }
    missing = [name for name, found in parts.items() if not found]
    if missing:
        raise FinetuneError(f"{transcript}: no {', '.join(missing)} in it")
    return Frame(session.id, **parts)


def plant(rng: random.Random) -> tuple[str, str]:
    """A line as it slips into real logs, and the secret or personal datum in it."""
    token = "".join(rng.choice(_LETTERS) for _ in range(36))
    who = rng.choice(("mara.lindqvist", "tobias.okafor", "ines.vargas"))
    kind = rng.randrange(5)
    if kind == 0:
        key = "AKIA" + "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))
        return f"export AWS_ACCESS_KEY_ID={key}", key
    if kind == 1:
        return f"remote: https://ci:{token[:24]}@git.example.net/demo.git", token[:24]
    if kind == 2:
        mail = f"{who}@corp-mail.net"
        return f"last commit by {mail}", mail
    if kind == 3:
        return f"Authorization: Bearer {token}", token
    return f"DATABASE_PASSWORD={token[:20]}", token[:20]


class _Transcript:
    """Lines of one session in the client's format, each the child of the one before."""

    def __init__(self, session_id: str, cwd: str, started: datetime, rng: random.Random) -> None:
        self.session_id, self.cwd, self.at, self.rng = session_id, cwd, started, rng
        self.parent: str | None = None
        self.lines: list[dict[str, Any]] = []

    def _id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def add(self, kind: str, **fields: Any) -> str:
        """One line; returns its uuid."""
        self.at += timedelta(milliseconds=self.rng.randrange(80, 900))
        line = {
            "parentUuid": self.parent,
            "isSidechain": False,
            "userType": "external",
            "cwd": self.cwd,
            "sessionId": self.session_id,
            "version": CLIENT_VERSION,
            "type": kind,
            "uuid": self._id(),
            "timestamp": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **fields,
        }
        self.lines.append(line)
        self.parent = line["uuid"]
        return str(line["uuid"])

    def assistant(self, blocks: Sequence[dict[str, Any]]) -> None:
        """One reply: a line for every block, all with the same message id and usage."""
        message_id = f"msg_{self.rng.getrandbits(64):016x}"
        stop = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
        for block in blocks:
            self.add(
                "assistant",
                message={
                    "id": message_id,
                    "type": "message",
                    "role": "assistant",
                    "model": TEACHER_MODEL,
                    "content": [block],
                    "stop_reason": stop,
                    "stop_sequence": None,
                    "usage": {"input_tokens": 1, "output_tokens": 1},
                },
            )


def write_session(
    town: Town,
    projects: Path,
    role: str,
    found: Sequence[Situation],
    rng: random.Random,
    started: datetime,
    secrets: bool = False,
    frame: Frame | None = None,
) -> Written:
    """One patrol of ``role`` over ``found`` as a transcript file and a ``session_start`` event; in the
    example town's own words where there is no ``frame``."""
    session_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    cwd = town.root / {"boot": "deacon/dogs/boot", "witness": "demo/witness"}.get(role, role)
    reports: list[str] = []
    planted: list[str] = []
    for situation in found:
        text = role_report(role, situation, "common", rng)
        if secrets and rng.random() < 0.3:
            line, secret = plant(rng)
            text = f"{text}\n{line}"
            planted.append(secret)
        reports.append(text)
    script = _Transcript(session_id, str(cwd), started, rng)
    prime = frame.prime.replace(frame.session_id, session_id) if frame else stock_prime(role, session_id, rng)
    script.add(
        "attachment",
        attachment={
            "type": "hook_success",
            "hookName": "SessionStart:startup",
            "hookEvent": "SessionStart",
            "content": prime,
        },
    )
    prompt = frame.prompt if frame else start_prompt(role, script.at.isoformat())
    script.add("user", message={"role": "user", "content": prompt})
    decided = iter(found)
    made: list[Decided] = []
    for step in patrol_steps(role, found):
        at, output, failed = _play(script, step.text, step.command, reports, rng, frame.hook if frame else "")
        if step.text and step.command:
            made.append(Decided(next(decided), at, reports[len(made)], output, failed))
    folder = projects / str(cwd).replace("/", "-").replace("_", "-").replace(".", "-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{session_id}.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in script.lines))
    actor = ACTORS.get(role, role)
    begun = {"session_id": session_id, "role": actor, "cwd": str(cwd), "topic": "patrol"}
    append_events(town, [event(started, "session_start", actor, **begun)])
    write_records(town, role, session_id, made)
    return Written(path, session_id, tuple(found), tuple(planted))


def _play(
    script: _Transcript, text: str, command: str, reports: list[str], rng: random.Random, hook: str
) -> tuple[datetime, str, bool]:
    """One step into the transcript; returns when its command was run, what it printed (``gt hook``: ``hook``,
    where there is one) and whether it failed."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    call = f"toolu_{rng.getrandbits(64):016x}"
    if command:
        blocks.append({"type": "tool_use", "id": call, "name": "Bash", "input": {"command": command}})
    script.assistant(blocks)
    at, output, failed = script.at, "", False
    if command:
        output, failed = command_output(command, reports, rng)
        if hook and command == "gt hook":
            output = hook
        result = {"type": "tool_result", "tool_use_id": call, "content": output, "is_error": failed}
        script.add("user", message={"role": "user", "content": [result]})
    return at, output, failed


def write_sessions(
    town: Town,
    projects: Path,
    role: str,
    decisions: int,
    *,
    seed: str = "training",
    frames: Sequence[Frame] = (),
) -> list[Written]:
    """Sessions with ``decisions`` decisions in all, from a stream that no held-out case comes from.

    Each session has one of the ``frames`` in turn. Boot looks at one agent only, so each of its patrols is
    one decision, hours after the one before."""
    rng = stream(role, "sessions", seed)
    found = situations(role, decisions, rng)
    size, gap = (1, timedelta(hours=5)) if role == "boot" else (PER_PATROL, timedelta(minutes=5))
    began = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
    written: list[Written] = []
    for start in range(0, decisions, size):
        part = found[start : start + size]
        began += gap
        frame = frames[len(written) % len(frames)] if frames else None
        written.append(write_session(town, projects, role, part, rng, began, start % 40 == 0, frame))
    append_events(town, [event(began + timedelta(days=1), "boot", "gt", rig="town", agents=["deacon"])])
    return written
