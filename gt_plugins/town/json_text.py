"""Edits of JSON text that leave every other byte as it stands.

The files edited this way are other people's (the client's ``settings.json``, gt's ``settings/config.json``):
their order, indentation and spacing stay, and so does the possibility to take our part out again to the
byte. A path is a sequence of object keys. Where a key stands twice the last one counts, as for every reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"


class NoSuchPlace(ValueError):
    """The document has something else where an object or a list is needed; ``args[0]`` is the dotted key."""


@dataclass(frozen=True)
class _Child:
    """One member or item: offsets of its key (of its value, in a list) and of its value; the key or None."""

    key: str | None
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class _Node:
    """An object or a list: offsets of its brackets, and what is in it."""

    open: int
    close: int
    children: tuple[_Child, ...]


def get(document: Any, path: Sequence[str]) -> Any:
    """The value at ``path`` of a parsed document, None where there is none."""
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return None
        document = document[key]
    return document


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """``text`` with the member at ``path`` set to ``value``; parents that are missing are made.

    Raises NoSuchPlace where a parent is there and is no object.
    """
    node, depth = _root(text), 0
    while True:
        child = _find(node, path[depth])
        last = depth == len(path) - 1
        if child is None:
            for key in reversed(path[depth + 1 :]):
                value = {key: value}
            return _insert(text, node, depth + 1, value, path[depth])
        if last:
            return text[: child.value] + _dump(text, value, depth + 1) + text[child.end :]
        node, depth = _open(text, child.value, "{", path[: depth + 1]), depth + 1


def append_item(text: str, path: Sequence[str], value: Any) -> str:
    """``text`` with ``value`` appended to the list at ``path``, which is made where it is missing."""
    child = _walk(text, path)
    if child is None:
        return set_member(text, path, [value])
    return _insert(text, _open(text, child.value, "[", path), len(path) + 1, value, None)


def remove_member(text: str, path: Sequence[str]) -> str:
    """``text`` without the member at ``path``; unchanged where it is not there."""
    node = _node_at(text, path[:-1], "{")
    if node is None:
        return text
    for index in reversed(range(len(node.children))):
        if node.children[index].key == path[-1]:
            text = _cut(text, node, index)
            node = _node_at(text, path[:-1], "{") or node
    return text


def remove_items(text: str, path: Sequence[str], drop: Callable[[Any], bool]) -> str:
    """``text`` without those items of the list at ``path`` for which ``drop`` is true."""
    node = _node_at(text, path, "[")
    if node is None:
        return text
    for index in reversed(range(len(node.children))):
        child = node.children[index]
        if drop(json.loads(text[child.value : child.end])):
            text = _cut(text, node, index)
            node = _node_at(text, path, "[") or node
    return text


def _root(text: str) -> _Node:
    return _open(text, _skip(text, 0), "{", ())


def _open(text: str, at: int, bracket: str, path: Sequence[str]) -> _Node:
    if at >= len(text) or text[at] != bracket:
        raise NoSuchPlace(".".join(path))
    opened, close, children = at, "}" if bracket == "{" else "]", []
    at = _skip(text, at + 1)
    while text[at] != close:
        start, key = at, None
        if bracket == "{":
            key, at = scanstring(text, at + 1)
            at = _skip(text, _skip(text, at) + 1)
        value = at
        _, at = _DECODER.raw_decode(text, at)
        children.append(_Child(key, start, value, at))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return _Node(opened, at, tuple(children))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _find(node: _Node, key: str) -> _Child | None:
    return next((c for c in reversed(node.children) if c.key == key), None)


def _walk(text: str, path: Sequence[str]) -> _Child | None:
    node, child = _root(text), None
    for depth, key in enumerate(path):
        child = _find(node, key)
        if child is None:
            return None
        if depth < len(path) - 1:
            node = _open(text, child.value, "{", path[: depth + 1])
    return child


def _node_at(text: str, path: Sequence[str], bracket: str) -> _Node | None:
    """The object or list at ``path``, None where it is missing or of another kind."""
    try:
        if not path:
            return _root(text)
        child = _walk(text, path)
        return None if child is None else _open(text, child.value, bracket, path)
    except NoSuchPlace:
        return None


def _unit(text: str) -> str | None:
    """One step of indentation as this document has it; None where it is written on one line."""
    node = _root(text)
    if not node.children:
        return "  "
    lead = text[node.open + 1 : node.children[0].start]
    return lead.rsplit("\n", 1)[1] or "  " if "\n" in lead else None


def _dump(text: str, value: Any, depth: int) -> str:
    """``value`` as it is written at ``depth`` steps of indentation of this document."""
    unit = _unit(text)
    if unit is None:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", "\n" + unit * depth)


def _insert(text: str, node: _Node, depth: int, value: Any, key: str | None) -> str:
    """Put a member (or, without key, an item) last into ``node``, whose content stands at ``depth`` steps."""
    written = _dump(text, value, depth)
    if key is not None:
        written = f"{json.dumps(key, ensure_ascii=False)}: {written}"
    unit = _unit(text)
    if node.children:
        end = node.children[-1].end
        lead = text[node.open + 1 : node.children[0].start]
        gap = "\n" + lead.rsplit("\n", 1)[1] if "\n" in lead else " "
        return f"{text[:end]},{gap}{written}{text[end:]}"
    if unit is None:
        return text[: node.open + 1] + written + text[node.close :]
    inner, outer = "\n" + unit * depth, "\n" + unit * (depth - 1)
    return text[: node.open + 1] + inner + written + outer + text[node.close :]


def _cut(text: str, node: _Node, index: int) -> str:
    """Take the child at ``index`` out, with the comma that it no longer needs."""
    child = node.children[index]
    if len(node.children) == 1:
        return text[: node.open + 1] + text[node.close :]
    if index == 0:
        return text[: child.start] + text[node.children[1].start :]
    return text[: node.children[index - 1].end] + text[child.end :]
