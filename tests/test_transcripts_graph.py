"""The order of a conversation, whatever its lines say of each other: nothing lost, nothing twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.transcripts.graph import Node, order

NAMES = [f"u{number}" for number in range(8)]


@st.composite
def lines(draw: st.DrawFn) -> list[Node]:
    """Lines whose parents may be missing, later in the file, or their own descendants."""
    nodes = []
    for index, uuid in enumerate(NAMES[: draw(st.integers(0, len(NAMES)))]):
        kind = draw(st.sampled_from(("prompt", "assistant", "result", "note")))
        parent = draw(st.sampled_from((*NAMES, "", "gone")))
        time = draw(st.none() | st.integers(0, 5).map(float))
        calls = tuple(draw(st.lists(st.sampled_from(("c1", "c2", "c3")), max_size=2)))
        node = Node(uuid, parent, kind, index, time)
        if kind == "assistant":
            node.message_id, node.uses = draw(st.sampled_from(("", "m1", "m2"))), calls
        elif kind == "result":
            node.answers, node.answers_line = calls, draw(st.sampled_from(("", *NAMES)))
        nodes.append(node)
    return nodes


@given(nodes=lines())
@settings(max_examples=300, deadline=None)
def test_every_line_is_in_one_unit_or_counted_as_abandoned(nodes: list[Node]) -> None:
    found = order(nodes)
    kept = [node.uuid for unit in found.units for node in unit]
    assert len(kept) == len(set(kept))
    assert len(kept) + found.abandoned == len(nodes)
    assert (found.branches > 0) == (found.abandoned > 0)
    assert all(len(unit) == 1 or {node.kind for node in unit} == {"assistant"} for unit in found.units)
