"""The order of a conversation from its uuid graph.

A client appends lines as they come to hand, so their place in the file means little; each names its
parent. A rewind leaves the old branch in the file beside the new one, parallel tool calls put their results
beside the chain, and a torn line makes orphans. :func:`order` finds what the session really was: the path
from each root to its newest message, with everything that belongs to a message on that path (the other
blocks of the same reply, the results of its tool calls, the notes that hang on it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, Literal, TypeVar

import msgspec

Kind = Literal["prompt", "assistant", "result", "note"]
Key = tuple[tuple[float, ...], ...]
JUMP_SECONDS = 60.0
"""Lines written side by side are out of step by milliseconds; NTP corrects in steps of less than this."""


class Node(msgspec.Struct, eq=False, gc=False):
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


N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class Ordered(Generic[N]):
    """``units`` in conversation order: an assistant reply (all its lines), or one other line alone."""

    units: list[list[N]]
    branches: int = 0
    """Abandoned branches."""
    abandoned: int = 0
    """Lines on them."""
    set_back: int = 0
    """Lines that are much older than the one they follow: the clock jumped."""


@dataclass(frozen=True, slots=True)
class _Graph(Generic[N]):
    """Nodes by their position in a list, and for each position what follows from the links."""

    nodes: Sequence[N]
    above: list[int]
    """The parent's position, -1 where there is none; without cycles."""
    depth: list[int]
    root: list[str]
    """The name of the tree: nodes that hang together have the same."""
    age: list[tuple[float, int]]
    """What tells the elder of two nodes: the time, then the place in the file."""


def order(nodes: Sequence[N]) -> Ordered[N]:
    """The live conversation of ``nodes`` (unique uuids), with what was left out counted."""
    graph = _linked(nodes)
    units: list[list[N]] = []
    branches = abandoned = 0
    for tree in _trees(graph):
        chain = _chain(graph, tree)
        live = _closure(graph, tree, chain)
        units.extend(_units(graph, tree, chain, live))
        lost = [n for n in tree if n not in live] if len(live) < len(tree) else []
        abandoned += len(lost)
        branches += sum(1 for n in lost if graph.above[n] < 0 or graph.above[n] in live)
    return Ordered(units, branches, abandoned, _set_back(graph))


def _set_back(graph: _Graph[N]) -> int:
    times = [node.time for node in graph.nodes]
    pairs = [(time, times[up]) for time, up in zip(times, graph.above, strict=True) if up >= 0]
    return sum(1 for time, before in pairs if time and before and before - time > JUMP_SECONDS)


def _age(node: Node) -> tuple[float, int]:
    return (node.time if node.time is not None else float("inf"), node.index)


def _linked(nodes: Sequence[N]) -> _Graph[N]:
    """Links, depths and roots. Children of one missing parent share a root; a cycle is cut at its eldest."""
    place = {node.uuid: at for at, node in enumerate(nodes)}
    above = [place.get(node.parent, -1) for node in nodes]
    depth, root, age = [-1] * len(nodes), [""] * len(nodes), [_age(node) for node in nodes]
    for start, up in enumerate(above):
        if up >= 0 and depth[up] >= 0:
            depth[start], root[start] = depth[up] + 1, root[up]
            continue
        path, walk = _path_up(age, above, depth, start)
        for at in reversed(path):
            if walk >= 0:
                depth[at], root[at] = depth[walk] + 1, root[walk]
            else:
                node = nodes[at]
                depth[at] = 0
                root[at] = f"?{node.parent}" if node.parent and node.parent not in place else node.uuid
            walk = at
    return _Graph(nodes, above, depth, root, age)


def _path_up(
    age: list[tuple[float, int]], above: list[int], depth: list[int], start: int
) -> tuple[list[int], int]:
    """From ``start`` up to a node without a parent, and -1; or to below one of known depth, and that one."""
    path: dict[int, None] = {}
    walk = start
    while walk >= 0 and depth[walk] < 0 and walk not in path:
        path[walk] = None
        walk = above[walk]
    found = list(path)
    if walk not in path:
        return found, walk
    top = min(found[found.index(walk) :], key=age.__getitem__)
    above[top] = -1
    return found[: found.index(top) + 1], -1


def _trees(graph: _Graph[N]) -> list[list[int]]:
    """Nodes grouped by root, the tree with the eldest first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for at, root in enumerate(graph.root):
        groups[root].append(at)
    trees = list(groups.values())
    if len(trees) > 1:
        trees.sort(key=lambda tree: min(graph.age[at] for at in tree))
    return trees


def _chain(graph: _Graph[N], tree: list[int]) -> list[int]:
    """From the root to the newest of the last messages (the newest line where there is no message)."""
    nodes, depth = graph.nodes, graph.depth

    def newest(at: int) -> tuple[float, int, int]:
        node = nodes[at]
        return (node.time if node.time is not None else float("-inf"), depth[at], node.index)

    messages = [at for at in tree if nodes[at].kind in ("prompt", "assistant")]
    walk = max(_ends(graph, messages) or tree, key=newest)
    chain: list[int] = []
    while walk >= 0:
        chain.append(walk)
        walk = graph.above[walk]
    return chain[::-1]


def _ends(graph: _Graph[N], messages: list[int]) -> list[int]:
    """Messages that no other follows: what comes later hangs below, whatever a clock said that jumped."""
    followed: set[int] = set()
    for at in messages:
        up = graph.above[at]
        while up >= 0 and up not in followed:
            followed.add(up)
            up = graph.above[up]
    return [at for at in messages if at not in followed]


def _closure(graph: _Graph[N], tree: list[int], chain: list[int]) -> set[int]:
    """The chain and all that belongs to it: other lines of its replies, and the results of their calls."""
    live = set(chain)
    if len(live) == len(tree):
        return live
    nodes = graph.nodes
    beside = [at for at in tree if at not in live]
    replies = [at for at in chain if nodes[at].kind == "assistant"]
    messages = {nodes[at].message_id for at in replies} - {""}
    replies += [at for at in beside if nodes[at].kind == "assistant" and nodes[at].message_id in messages]
    asked = {call for at in replies for call in (nodes[at].uuid, *nodes[at].uses)}
    live.update(replies)
    live.update(
        at for at in beside if nodes[at].answers_line in asked or not asked.isdisjoint(nodes[at].answers)
    )
    return live | _notes_beside(graph, tree, live) if len(live) < len(tree) else live


def _notes_beside(graph: _Graph[N], tree: list[int], live: set[int]) -> set[int]:
    """Notes that hang on a live line and lead to no message of an abandoned branch."""
    above = graph.above
    outwards = sorted(tree, key=graph.depth.__getitem__)
    dead_below: set[int] = set()
    for at in reversed(outwards):
        if at in dead_below or (at not in live and graph.nodes[at].kind != "note"):
            dead_below.update((at, above[at]))
    found: set[int] = set()
    for at in outwards:
        if at in live or at in dead_below:
            continue
        if above[at] < 0 or above[at] in live or above[at] in found:
            found.add(at)
    return found


def _units(graph: _Graph[N], tree: list[int], chain: list[int], live: set[int]) -> list[list[N]]:
    """Live lines as units in order: chain position first; results right behind the reply that asked."""
    nodes, depth, age = graph.nodes, graph.depth, graph.age
    place = {at: i for i, at in enumerate(chain)}
    replies: dict[str, list[int]] = defaultdict(list)
    singles: list[int] = []
    for at in tree if len(live) == len(tree) else [at for at in tree if at in live]:
        node = nodes[at]
        if node.kind == "assistant":
            replies[node.message_id or node.uuid].append(at)
        else:
            singles.append(at)
    keys: dict[int, Key] = {}
    asked: dict[str, tuple[Key, int]] = {}
    hung: dict[int, tuple[Key, tuple[float, int]]] = {}
    keyed: list[tuple[Key, list[N]]] = []
    for lines in replies.values():
        if len(lines) > 1:
            lines.sort(key=lambda at: (depth[at], age[at]))
        first = min([place.get(at, len(chain)) for at in lines])
        unit = [nodes[at] for at in lines]
        key: Key = ((float(first), 0.0, *age[lines[0]]),)
        keyed.append((key, unit))
        calls = [use for line in unit for use in line.uses]
        for i, use in enumerate(calls):
            asked[use] = (key, i)
        for at in lines:
            keys[at] = key
            asked.setdefault(nodes[at].uuid, (key, len(calls)))
    singles.sort(key=depth.__getitem__)
    for at in singles:
        keys[at] = key = _single_key(graph, at, place, keys, asked, hung)
        keyed.append((key, [nodes[at]]))
    keyed.sort(key=itemgetter(0))
    return [unit for _, unit in keyed]


def _single_key(
    graph: _Graph[N],
    at: int,
    place: dict[int, int],
    keys: dict[int, Key],
    asked: dict[str, tuple[Key, int]],
    hung: dict[int, tuple[Key, tuple[float, int]]],
) -> Key:
    """``hung`` are the lines beside the chain so far: what they hang on at last, and how old they count."""
    node, age = graph.nodes[at], graph.age[at]
    calls = [asked[a] for a in node.answers if a in asked]
    if not calls and node.answers_line in asked:
        calls = [asked[node.answers_line]]
    if calls:
        key, ordinal = max(calls)
        return (*key, (0.0, 1.0, float(ordinal), *age))
    if at in place:
        return ((float(place[at]), 0.0, *age),)
    above = graph.above[at]
    base, before = hung.get(above, (keys.get(above, ()), age))
    hung[at] = base, max(before, age)
    return (*base, (0.0, 2.0, 0.0, *hung[at][1], float(graph.depth[at])))
