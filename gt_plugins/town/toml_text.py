"""Setting and removing keys in TOML text without losing the operator's comments and order.

Written as a careful edit of lines that is checked by parsing: where the edit does not mean exactly what was
asked for (dotted keys, inline tables, headers inside strings), the document is written anew, comments lost.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any


def set_values(text: str, table: str, values: Mapping[str, Any]) -> str:
    """``text`` with keys of ``[table]`` set. ``text`` must be TOML, and ``table`` a plain name."""
    document = tomllib.loads(text)
    wanted = copy.deepcopy(document)
    wanted.setdefault(table, {}).update(values)
    if wanted == document:
        return text
    lines = text.splitlines()
    span = _section(lines, table)
    if span is None:
        if lines and lines[-1].strip():
            lines.append("")
        lines += [f"[{table}]", *(_line(key, value) for key, value in values.items())]
    else:
        for key, value in values.items():
            span = _section(lines, table) or span
            at, end = _key(lines, span, key) or (_body_end(lines, span),) * 2
            lines[at:end] = _line(key, value).split("\n")
    return _checked("\n".join(lines) + "\n", wanted)


def remove_values(text: str, table: str, keys: Sequence[str]) -> str:
    """``text`` without those keys of ``[table]``; a table that is then empty goes too."""
    document = tomllib.loads(text)
    wanted = copy.deepcopy(document)
    for key in keys:
        wanted.get(table, {}).pop(key, None)
    if not wanted.get(table, True):
        del wanted[table]
    if wanted == document:
        return text
    lines = text.splitlines()
    for key in keys:
        span = _section(lines, table)
        place = _key(lines, span, key) if span else None
        if place:
            del lines[place[0] : place[1]]
    span = _section(lines, table)
    if span and table not in wanted:
        start, end = span
        while start and not lines[start - 1].strip():
            start -= 1
        del lines[start:end]
    return _checked("\n".join(lines) + "\n" if lines else "", wanted)


def _checked(text: str, wanted: dict[str, Any]) -> str:
    """``text`` if it means ``wanted``, else ``wanted`` written anew."""
    import tomli_w

    try:
        if tomllib.loads(text) == wanted:
            return text
    except tomllib.TOMLDecodeError:
        return tomli_w.dumps(wanted)
    return tomli_w.dumps(wanted)


def _line(key: str, value: Any) -> str:
    import tomli_w

    return tomli_w.dumps({key: value}).rstrip("\n")


def _section(lines: list[str], table: str) -> tuple[int, int] | None:
    """Index of the table's header line, and of the line after its body."""
    head = re.compile(rf"\s*\[\s*[\"']?{re.escape(table)}[\"']?\s*\]\s*(#.*)?$")
    start = next((i for i, line in enumerate(lines) if head.match(line)), None)
    if start is None:
        return None
    rest = range(start + 1, len(lines))
    return start, next((i for i in rest if lines[i].lstrip().startswith("[")), len(lines))


def _body_end(lines: list[str], span: tuple[int, int]) -> int:
    """Where a further key belongs: after the last line of the body that is not blank."""
    end = span[1]
    while end > span[0] + 1 and not lines[end - 1].strip():
        end -= 1
    return end


def _key(lines: list[str], span: tuple[int, int], key: str) -> tuple[int, int] | None:
    """The lines of ``key = value``; a value over several lines ends where the text first parses."""
    head = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
    for at in range(span[0] + 1, span[1]):
        if not head.match(lines[at]):
            continue
        for end in range(at + 1, len(lines) + 1):
            try:
                tomllib.loads("\n".join(lines[at:end]))
            except tomllib.TOMLDecodeError:
                continue
            return at, end
    return None
