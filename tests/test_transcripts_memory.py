"""What the Claude Code reader holds in memory while it reads a file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from claude_lines import Transcript

from gt_plugins.transcripts import claude

CWD = "/town/deacon"


def test_what_is_not_kept_of_a_line_takes_no_memory(tmp_path: Path) -> None:
    script = Transcript(CWD)
    for number in range(40):
        image = {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "A" * 500_000},
        }
        script.line(type="user", message={"role": "user", "content": [image]})
        script.line(type="attachment", attachment={"type": "unknown", "data": f"{number}" * 500_000})
    path = script.write(tmp_path)
    tracemalloc.start()
    try:
        claude.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_notes_that_hang_on_one_another_take_memory_in_proportion(tmp_path: Path) -> None:
    script = Transcript(CWD)
    script.prompt("begin")
    for number in range(3000):
        script.line(type="new-kind", number=number)
    path = script.write(tmp_path)
    tracemalloc.start()
    try:
        session = claude.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [turn.blocks[0]["line"]["number"] for turn in session.turns[1:]] == list(range(3000))
    assert peak < 20_000_000
