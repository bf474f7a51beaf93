"""Suites, their files, and what a runner counts as right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gt_plugins.errors import UserError
from gt_plugins.evaluation.runner import NOTHING, action_in, run_served
from gt_plugins.evaluation.suites import Case, Suite, find_suite, suite_from_file
from gt_plugins.roles.profile import load_profile
from gt_plugins.serving.app import make_app
from gt_plugins.serving.client import EndpointClient
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import ScriptResponder

CASES = [Case(str(i), "g", f"report {i}", ("a", "b"), ("a",)) for i in range(4)]
ANSWERS = [
    '{"reason": "r", "action": "a"}',
    '{"reason": "r", "action": "b"}',
    "no json",
    '```json\n{"action": "a"}\n```',
]


def test_right_wrong_and_no_json():
    def script(body: Any) -> list[dict[str, Any]]:
        text = str(body["messages"][-1]["content"])
        return [{"type": "text", "text": ANSWERS[int(text.split("report ")[1][0])]}]

    app = make_app(ScriptResponder("script", script), "a-token", ["m"])
    with served_locally(app) as url, EndpointClient(url, "a-token") as client:
        results = run_served(
            Suite("s", ("deacon",), True, lambda: CASES), client, "m", load_profile("deacon"), "p"
        )
    assert [r.correct for r in results] == [True, False, False, True]
    assert results[2].got == NOTHING


def test_action_in_odd_replies():
    assert action_in({}) == NOTHING
    assert action_in({"content": [{"type": "text", "text": '{"action": 3}'}]}) == NOTHING


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ('{"allowed": ["a"], "expected": "a"}', "line 2: evidence"),
        ('{"evidence": "x", "expected": "a"}', "line 2: allowed"),
        ('{"evidence": "x", "allowed": ["a"], "expected": []}', "line 2: expected"),
        ('{"evidence": "x", "allowed": ["a"], "expected": "b"}', "not among the allowed"),
    ],
)
def test_a_broken_suite_file_names_line_and_key(tmp_path: Path, line: str, said: str):
    path = tmp_path / "s.jsonl"
    good = json.dumps({"evidence": "x", "allowed": ["a"], "expected": "a"})
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=said):
        suite_from_file(path, "deacon")


def test_suites_by_name_and_file(tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"evidence": "x", "allowed": ["a", "b"], "expected": ["a", "b"]}) + "\n")
    assert find_suite(str(path), "deacon").cases()[0].expected == ("a", "b")
    assert find_suite("deacon-decisions", "deacon").required
    with pytest.raises(UserError, match="no suite named"):
        find_suite("nothing", "deacon")
    with pytest.raises(UserError, match="no such suite file"):
        find_suite(str(tmp_path / "missing.jsonl"), "deacon")
