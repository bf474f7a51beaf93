"""Keychains: files in which the operator's own secrets stand, each of which goes wherever it occurs.

``[scrub] keychains`` lists them: dotenv, INI and properties files, JSON, netrc, or one secret in a line.
Where a key stands beside a value, the value counts if the key names a secret or the value looks generated: a
region or a user's name is none. Values are held in memory and kept nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from .judge import PASSWORD, is_code, is_placeholder, key_strength, looks_random
from .layers import Exact

MOST_BYTES = 1 << 20
_LEAST = 6
_ALONE = 12
"""Shorter ones may be a part of another word, and count only where they stand alone."""
_NETRC = re.compile(r"\b(?:password|account)\s+(\S+)")
_PAIR = re.compile(r"(?:export\s+|set\s+)?[\"']?([\w.-]+)[\"']?\s*[=:]\s*(.*)")
_NETRC_LINE = re.compile(r"(?:machine\s+\S+|default|login\s+\S+|password\s+\S+|account\s+\S+)\b")


def keychain_values(town: Path, names: Iterable[str]) -> Iterator[Exact]:
    """The secrets of the files at ``names`` (from the town's folder, or with ``~``).

    Raises UserError for one that cannot be read: what it holds could not be taken out.
    """
    for name in names:
        for value in sorted(set(_secrets(_text(town / Path(name).expanduser(), name)))):
            if len(value) >= _LEAST and not is_placeholder(value):
                yield Exact(value, "secret", word=len(value) < _ALONE)


def _text(path: Path, name: str) -> str:
    try:
        with open(path, "rb") as handle:
            data = handle.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UserError(f"scrub.keychains: {name}: over {MOST_BYTES >> 20} MiB; list a smaller file")
        return data.decode("utf-8-sig")
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise UserError(f"scrub.keychains: {name}: {problem}; mend the path, or take it out") from None
    except UnicodeDecodeError:
        raise UserError(f"scrub.keychains: {name}: not UTF-8 text; export it as text") from None


def _secrets(text: str) -> list[str]:
    try:
        return list(_in_json("", json.loads(text)))
    except (ValueError, RecursionError):  # one of the formats of lines
        return list(_in_lines(text))


def _in_lines(text: str) -> Iterator[str]:
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith(("#", ";", "[", "//")):
            continue
        if _NETRC_LINE.match(line):
            yield from _NETRC.findall(line)
            continue
        pair = _PAIR.fullmatch(line)
        if pair is not None:
            yield from _judged(pair[1], _unquoted(pair[2]))
        elif not any(map(str.isspace, line)):
            yield line


def _in_json(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _in_json(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _in_json(key, item)
    elif isinstance(value, str):
        yield from _judged(key, value) if key else (value,)


def _judged(key: str, value: str) -> Iterator[str]:
    if key_strength(key) == PASSWORD or (
        not is_code(value) and (key_strength(key) or looks_random(value, _ALONE))
    ):
        yield value


def _unquoted(value: str) -> str:
    """The value without its quotes, or without a comment behind it."""
    if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
        return value[1 : value.find(value[0], 1)]
    return value.partition(" #")[0].strip()
