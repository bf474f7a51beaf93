"""`gt corpus collect` in a real town: its formulas as bd knows them, settings, conventions, a reversion."""

from __future__ import annotations

import json
import sys

import pytest

from gt_plugins.corpus import consent
from gt_plugins.corpus.reversion import MESSAGE
from gt_plugins.corpus.store import Store
from gt_plugins.sim.live_town import LiveTown
from gt_plugins.town.bd import Bd

pytestmark = pytest.mark.live


def corpus(live: LiveTown, *words: str) -> str:
    return live.run(sys.executable, "-m", "gt_plugins.cli.corpus", *words).checked().out


def test_artifacts_of_a_real_town(in_town: LiveTown) -> None:
    town = in_town.town
    consent.grant(town, "Ann")
    first = json.loads(corpus(in_town, "collect", "--json"))
    assert first["captured"] > 50 and first["skipped"] == {}, first["problems"]
    again = json.loads(corpus(in_town, "collect", "--json"))
    assert (again["captured"], again["updated"], again["unchanged"]) == (0, 0, first["captured"])
    with Store(town) as store:
        rows = [row.document for _, row in store.documents(current=True)]
    formulas = {
        d.key.rsplit("/", 1)[-1].removesuffix(".formula.toml") for d in rows if d.source == "formulas"
    }
    assert {str(f["name"]) for f in Bd(town.root).formulas()} <= formulas and len(formulas) >= 40
    assert {d.role for d in rows if d.key.endswith("mol-deacon-patrol.formula.toml")} == {"deacon"}
    kinds = {(d.source, d.key) for d in rows}
    assert ("conventions", "CLAUDE.md") in kinds and ("settings", "mayor/town.json") in kinds
    assert not any("ann@example.org" in d.content for d in rows), "the owner's address stays out"


def test_a_reverted_convention_of_a_real_rig(in_town: LiveTown) -> None:
    town = in_town.town
    consent.grant(town, "Ann")
    clone = town.root / "demo/mayor/rig"
    texts = (
        "# Rules\nAlways run the tests.\n",
        "# Rules\nTests may wait.\n",
        "# Rules\nAlways run the tests.\n",
    )
    for text in texts:
        (clone / "CLAUDE.md").write_text(text)
        in_town.run("git", "add", "-f", "CLAUDE.md", cwd=clone).checked()
        in_town.run("git", "commit", "-q", "--no-verify", "-m", "rules", cwd=clone).checked()
    report = json.loads(corpus(in_town, "collect", "--source", "conventions", "--json"))
    assert [r["message"] for r in report["reversions"]] == [MESSAGE.format(days=0)]
    (listed,) = json.loads(corpus(in_town, "reversions", "list", "--json"))
    assert (listed["key"], listed["rig"], listed["state"]) == ("demo/mayor/rig/CLAUDE.md", "demo", "open")
    corpus(in_town, "reversions", "confirm", listed["id"], "--by", "Ann", "--reason", "tests first")
    assert json.loads(corpus(in_town, "reversions", "list", "--json")) == []
