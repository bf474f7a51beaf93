"""``gt-plugins list``: every plugin with the hooks that it implements."""

from __future__ import annotations

import json
import subprocess
import sys


def plugins(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt_plugins.cli.plugins", *args]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_list_shows_every_plugin_and_its_hooks():
    done = plugins("list", "--json")
    assert done.returncode == 0, done.stderr
    found = {p["name"]: p for p in json.loads(done.stdout)}
    assert all(p["origin"] == "built-in" and p["version"] for p in found.values())
    assert "gt_transcript_sources" in found["gt_plugins.transcripts.claude"]["hooks"]
    assert "gt_plugins.evaluation.gate" in plugins("list").stdout
