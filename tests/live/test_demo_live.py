"""``make demo-live`` from end to end: what the issue of the whole thread asks to be shown in a real town."""

from __future__ import annotations

from pathlib import Path

import pytest

from gt_plugins.sim import demo_live

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_whole_thread_in_a_real_town(tools: None, tmp_path: Path) -> None:
    said: list[str] = []
    found = demo_live.play(tmp_path / "live", said.append, patrols=1, reports=3, decisions=720)
    assert found["live_sessions"] >= 1, "SessionEnd of the real client fires and the session is captured"
    assert len(found["job_beads"]) == 1 and found["job_beads"][0].endswith("closed")
    assert found["prime_whole"] and found["prime_characters"] <= 10_000
    assert found["reports_read"] == 3 and found["decisions_right"] >= 2
    assert any(turn.startswith("gt ") for turn in found["tuned_turns"]), "it acts by real commands"
    assert found["leaked"] == []
    assert found["stock_after_kill"]
    assert found["left_behind"] == []
    assert any("never evaluated" in line for line in said), "before it is evaluated the gate refuses"
