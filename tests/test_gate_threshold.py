"""The gate: what it lets through, what it refuses and in which words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_helpers import make_version, score

from gt_plugins import hookimpl, hookspecs, plugins
from gt_plugins.errors import GateRefused, UserError
from gt_plugins.evaluation import gate
from gt_plugins.evaluation.gate_text import ceil2, floor2
from gt_plugins.settings import load_settings
from gt_plugins.town.root import Town


@dataclass(frozen=True)
class FakeSuite:
    name: str
    roles: tuple[str, ...] = ("deacon",)
    required: bool = True


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[pluggy.PluginManager]:
    """A plugin manager with the real gate and one required suite."""
    made = pluggy.PluginManager("gt_plugins")
    made.add_hookspecs(hookspecs)
    made.register(gate, name="gt_plugins.evaluation.gate")

    class Suites:
        @hookimpl
        def gt_eval_suites(self) -> list[FakeSuite]:
            return [
                FakeSuite("decisions"),
                FakeSuite("other", ("witness",)),
                FakeSuite("extra", required=False),
            ]

    made.register(Suites(), name="suites")
    monkeypatch.setattr(plugins, "plugin_manager", lambda hook="": made)
    yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


def judge(home: Path, version: object, town: Town) -> list[gate.Verdict]:
    candidate = gate.candidate_for(home, version, "deacon", town, load_settings(town))  # type: ignore[arg-type]
    return gate.run_gates(candidate)


def refusal(home: Path, version: object, town: Town) -> str:
    with pytest.raises(GateRefused) as error:
        gate.check(judge(home, version, town))
    assert error.value.exit_code == 3
    return str(error.value)


def test_the_message_is_exactly_this(home: Path, tmp_path: Path, town: Town, manager: object) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 85)
    assert refusal(home, version, town) == (
        "Model score 0.85 below threshold 0.90. Run eval suite again or override with --force-deploy."
    )


def test_a_score_just_below_never_prints_as_the_threshold(
    home: Path, tmp_path: Path, town: Town, manager: object
) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 899, 1000)
    assert "Model score 0.89 below threshold 0.90." in refusal(home, version, town)
    score(home, version, 900, 1000)
    assert all(v.allow for v in judge(home, version, town))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_refused_score_is_always_printed_below_its_threshold(score: float, threshold: float) -> None:
    if score < threshold:
        assert float(floor2(score)) < float(ceil2(threshold))
    assert float(floor2(score)) <= score
    assert float(ceil2(threshold)) >= threshold


def test_two_decimals() -> None:
    assert [floor2(x) for x in (0.29, 1.0, 0.0, 0.999, float("nan"))] == [
        "0.29",
        "1.00",
        "0.00",
        "0.99",
        "nan",
    ]
    assert [ceil2(x) for x in (0.9, 0.905, 1)] == ["0.90", "0.91", "1.00"]


def test_never_evaluated_or_not_as_served_is_refused(
    home: Path, tmp_path: Path, town: Town, manager: object
) -> None:
    version = make_version(home, tmp_path)
    assert "has no score on suite decisions: it was never evaluated as served" in refusal(home, version, town)
    score(home, version, 100, served=False)
    assert "it was evaluated, but not as it is served" in refusal(home, version, town)
    score(home, version, 100, suite="other")
    assert "decisions" in refusal(home, version, town)


def test_the_newest_result_counts_and_a_changed_one_does_not(
    home: Path, tmp_path: Path, town: Town, manager: object
) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 99)
    newest = score(home, version, 12)
    assert "Model score 0.12" in refusal(home, version, town)
    value = json.loads(newest.read_text())
    newest.write_text(json.dumps(value | {"score": 0.99}))
    assert f"{newest}: is not what the journal says was measured" in refusal(home, version, town)


def test_the_worst_required_suite_is_the_score(
    home: Path, tmp_path: Path, town: Town, manager: pluggy.PluginManager
) -> None:
    class More:
        @hookimpl
        def gt_eval_suites(self) -> list[FakeSuite]:
            return [FakeSuite("safety")]

    manager.register(More(), name="more")
    version = make_version(home, tmp_path)
    score(home, version, 97)
    assert "no score on suite safety" in refusal(home, version, town)
    score(home, version, 40, suite="safety")
    score(home, version, 3, suite="extra")
    assert "Model score 0.40" in refusal(home, version, town)


def test_not_a_number_is_refused(home: Path, tmp_path: Path, town: Town, manager: object) -> None:
    from dataclasses import replace

    from registry_helpers import make_result

    from gt_plugins.registry.evals import store

    version = make_version(home, tmp_path)
    store(home, version, replace(make_result(version, 100), score=float("nan")))
    assert "Model score nan below threshold 0.90." in refusal(home, version, town)


def test_thresholds_per_town_and_per_role(home: Path, tmp_path: Path, town: Town, manager: object) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 92)
    town.settings_file.write_text("[gate]\nthreshold = 0.93\n")
    assert "0.92 below threshold 0.93" in refusal(home, version, town)
    town.settings_file.write_text("[gate]\nthreshold = 0.95\n[gate.roles]\ndeacon = 0.91\n")
    assert all(v.allow for v in judge(home, version, town))
    for text, where in (
        ("[gate]\nroles = 3\n", "gate.roles"),
        ("[gate.roles]\ndeacon = 90\n", "gate.roles.deacon"),
        ('[gate.roles]\ndeacon = "x"\n', "gate.roles.deacon"),
        ("[gate.roles]\ndeacon = nan\n", "gate.roles.deacon"),
    ):
        town.settings_file.write_text(text)
        with pytest.raises(UserError, match=where):
            judge(home, version, town)


def test_a_role_without_a_required_suite_is_refused(
    home: Path, tmp_path: Path, town: Town, manager: pluggy.PluginManager
) -> None:
    manager.unregister(name="suites")
    assert "No suite is required for deacon" in refusal(home, make_version(home, tmp_path), town)


def test_a_third_partys_gate_refuses_and_a_broken_one_does_too(
    home: Path, tmp_path: Path, town: Town, manager: pluggy.PluginManager
) -> None:
    version = make_version(home, tmp_path)
    score(home, version, 99)

    class Lunch:
        verdict: object = gate.Verdict(False, "lunch", "Not before lunch.")

        @hookimpl
        def gt_deploy_gates(self, candidate: gate.Candidate) -> object:
            assert candidate.score == 0.99 and candidate.town == town
            if isinstance(self.verdict, Exception):
                raise self.verdict
            return self.verdict

    plugin = Lunch()
    manager.register(plugin, name="lunch")
    assert refusal(home, version, town) == "Not before lunch."
    plugin.verdict = RuntimeError("boom")
    assert refusal(home, version, town) == "Gate lunch failed (RuntimeError: boom)."
    plugin.verdict = SimpleNamespace(allow=True)
    assert refusal(home, version, town) == "Gate lunch gave no verdict."
    plugin.verdict = gate.Verdict(True, "lunch")
    gate.check(judge(home, version, town))
