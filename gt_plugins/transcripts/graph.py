"""The order of a conversation from its uuid graph.

A client appends lines as they come to hand, so their place in the file means little; each names its
parent. A rewind leaves the old branch in the file beside the new one, parallel tool calls put their results
beside the chain, and a torn line makes orphans. :func:`order` finds what the session really was: the path
from each root to its newest message, with everything that belongs to a message on that path (the other
blocks of the same reply, the results of its tool calls, the notes that hang on it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["prompt", "assistant", "result", "note"]
Key = tuple[tuple[float, ...], ...]


@dataclass(eq=False, slots=True)
class Node:
    """One line with a uuid. ``note`` is whatever is no message: hook output, system lines, unknown types."""

    uuid: str
    parent: str
    kind: Kind
    index: int
    time: float | None = None
    message_id: str = ""
    uses: tuple[str, ...] = ()
    """Ids of the tool calls in this line (assistant)."""
    answers: tuple[str, ...] = ()
    """Ids of the tool calls whose results this line carries (result)."""
    answers_line: str = ""
    """uuid of the assistant line that called the tool, where the client says so."""
    value: Any = None


@dataclass(frozen=True)
class Ordered:
    """``units`` in conversation order: an assistant reply (all its lines), or one other line alone."""

    units: list[list[Node]]
    branches: int = 0
    """Abandoned branches."""
    abandoned: int = 0
    """Lines on them."""


@dataclass
class _Tree:
    """Nodes that hang together; ``parents`` holds only links that can be followed without a cycle."""

    nodes: list[Node]
    parents: dict[str, Node]
    children: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    depth: dict[str, int] = field(default_factory=dict)


def order(nodes: Sequence[Node]) -> Ordered:
    """The live conversation of ``nodes`` (unique uuids), with what was left out counted."""
    trees = sorted((_linked(t) for t in _trees(nodes)), key=lambda t: min(_age(n) for n in t.nodes))
    units: list[list[Node]] = []
    branches = abandoned = 0
    for tree in trees:
        chain = _chain(tree)
        live = _closure(tree, chain)
        units.extend(_units(tree, chain, live))
        lost = [n for n in tree.nodes if n.uuid not in live]
        abandoned += len(lost)
        branches += sum(1 for n in lost if _is_top(tree, n, live))
    return Ordered(units, branches, abandoned)


def _age(node: Node) -> tuple[float, int]:
    return (node.time if node.time is not None else float("inf"), node.index)


def _trees(nodes: Sequence[Node]) -> list[_Tree]:
    """Nodes grouped by root. Children of one missing parent share a tree; a cycle is cut at its eldest."""
    by_id = {n.uuid: n for n in nodes}
    parents = {n.uuid: by_id[n.parent] for n in nodes if n.parent in by_id}
    root_of: dict[str, str] = {}
    for node in nodes:
        above = parents.get(node.uuid)
        if above is not None and above.uuid in root_of and node.uuid not in root_of:
            root_of[node.uuid] = root_of[above.uuid]
            continue
        path: list[Node] = []
        walk: Node | None = node
        on_path: set[str] = set()
        while walk is not None and walk.uuid not in root_of and walk.uuid not in on_path:
            path.append(walk)
            on_path.add(walk.uuid)
            walk = parents.get(walk.uuid)
        if walk is None:
            top = path[-1]
            root = f"?{top.parent}" if top.parent else top.uuid
        elif walk.uuid in root_of:
            root = root_of[walk.uuid]
        else:
            cycle = path[path.index(walk) :]
            top = min(cycle, key=_age)
            del parents[top.uuid]
            root = top.uuid
        root_of.update((n.uuid, root) for n in path)
    groups: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[root_of[node.uuid]].append(node)
    return [_Tree(group, parents) for group in groups.values()]


def _linked(tree: _Tree) -> _Tree:
    """Fill in children and depths."""
    for node in tree.nodes:
        parent = tree.parents.get(node.uuid)
        if parent is not None:
            tree.children[parent.uuid].append(node)
    stack = [(n, 0) for n in tree.nodes if n.uuid not in tree.parents]
    while stack:
        node, depth = stack.pop()
        tree.depth[node.uuid] = depth
        stack.extend((child, depth + 1) for child in tree.children.get(node.uuid, ()))
    return tree


def _chain(tree: _Tree) -> list[Node]:
    """From the root to the newest message (the newest line where there is no message)."""
    messages = [n for n in tree.nodes if n.kind in ("prompt", "assistant")] or tree.nodes

    def newest(node: Node) -> tuple[float, int, int]:
        time = node.time if node.time is not None else float("-inf")
        return (time, tree.depth[node.uuid], node.index)

    walk: Node | None = max(messages, key=newest)
    chain: list[Node] = []
    while walk is not None:
        chain.append(walk)
        walk = tree.parents.get(walk.uuid)
    return chain[::-1]


def _closure(tree: _Tree, chain: Iterable[Node]) -> set[str]:
    """uuids of the chain and of all that belongs to it."""
    replies: dict[str, list[Node]] = defaultdict(list)
    results: dict[str, list[Node]] = defaultdict(list)
    for node in tree.nodes:
        if node.kind == "assistant" and node.message_id:
            replies[node.message_id].append(node)
        for key in {*node.answers, node.answers_line} - {""}:
            results[key].append(node)
    live: set[str] = set()
    todo = list(chain)
    while todo:
        node = todo.pop()
        if node.uuid in live:
            continue
        live.add(node.uuid)
        if node.kind == "assistant":
            todo.extend(replies.get(node.message_id, ()))
            for key in (*node.uses, node.uuid):
                todo.extend(results.get(key, ()))
    return live | _notes_beside(tree, live)


def _notes_beside(tree: _Tree, live: set[str]) -> set[str]:
    """Notes that hang on a live line and lead to no message of an abandoned branch."""
    if len(live) == len(tree.nodes):
        return set()
    dead_below: set[str] = set()
    for node in sorted(tree.nodes, key=lambda n: -tree.depth[n.uuid]):
        dead = node.kind != "note" and node.uuid not in live
        if dead or any(c.uuid in dead_below for c in tree.children.get(node.uuid, ())):
            dead_below.add(node.uuid)
    found: set[str] = set()
    for node in sorted(tree.nodes, key=lambda n: tree.depth[n.uuid]):
        if node.uuid in live or node.uuid in dead_below:
            continue
        parent = tree.parents.get(node.uuid)
        if parent is None or parent.uuid in live or parent.uuid in found:
            found.add(node.uuid)
    return found


def _units(tree: _Tree, chain: list[Node], live: set[str]) -> list[list[Node]]:
    """Live lines as units in order: chain position first; results right behind the reply that asked."""
    place = {n.uuid: i for i, n in enumerate(chain)}
    replies: dict[str, list[Node]] = defaultdict(list)
    singles: list[Node] = []
    for node in tree.nodes:
        if node.uuid not in live:
            continue
        if node.kind == "assistant":
            replies[node.message_id or node.uuid].append(node)
        else:
            singles.append(node)
    keys: dict[str, Key] = {}
    asked: dict[str, tuple[Key, int]] = {}
    keyed: list[tuple[Key, list[Node]]] = []
    for lines in replies.values():
        lines.sort(key=lambda n: (tree.depth[n.uuid], *_age(n)))
        first = min(place.get(n.uuid, len(chain)) for n in lines)
        key: Key = ((float(first), 0.0, *_age(lines[0])),)
        keyed.append((key, lines))
        calls = [use for line in lines for use in line.uses]
        asked.update({use: (key, i) for i, use in enumerate(calls)})
        for line in lines:
            keys[line.uuid] = key
            asked.setdefault(line.uuid, (key, len(calls)))
    for node in sorted(singles, key=lambda n: tree.depth[n.uuid]):
        keys[node.uuid] = key = _single_key(tree, node, place, keys, asked)
        keyed.append((key, [node]))
    return [unit for _, unit in sorted(keyed, key=lambda pair: pair[0])]


def _single_key(
    tree: _Tree, node: Node, place: dict[str, int], keys: dict[str, Key], asked: dict[str, tuple[Key, int]]
) -> Key:
    calls = [asked[a] for a in node.answers if a in asked]
    if not calls and node.answers_line in asked:
        calls = [asked[node.answers_line]]
    if calls:
        key, ordinal = max(calls)
        return (*key, (0.0, 1.0, float(ordinal), *_age(node)))
    if node.uuid in place:
        return ((float(place[node.uuid]), 0.0, *_age(node)),)
    parent = tree.parents.get(node.uuid)
    above = keys.get(parent.uuid, ()) if parent is not None else ()
    return (*above, (0.0, 2.0, 0.0, *_age(node)))


def _is_top(tree: _Tree, node: Node, live: set[str]) -> bool:
    parent = tree.parents.get(node.uuid)
    return parent is None or parent.uuid in live
