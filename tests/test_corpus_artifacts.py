"""Artifacts of a town: what is found, whose it is, and what stays out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import git
import pytest
from claude_lines import SESSION, Transcript, patrol
from codex_lines import THREAD, Rollout
from corpus_helpers import PlainScrubber, capture, consented, raw_bytes

from gt_plugins.corpus import artifacts, formulas, primes
from gt_plugins.corpus.collect import CollectReport, collect
from gt_plugins.corpus.purge import purge
from gt_plugins.corpus.sources import Document, Trouble
from gt_plugins.corpus.store import Store
from gt_plugins.errors import UserError
from gt_plugins.town.root import Town
from gt_plugins.transcripts import codex

PRIME = "[GAS TOWN] role:demo/witness pid:1 session:x\n# Witness Context\nWatch over polecats.\n"


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(documents: object) -> dict[str, Document]:
    return {d.key: d for d in documents if isinstance(d, Document)}  # type: ignore[attr-defined]


def gather(town: Town, source: str | None = None) -> CollectReport:
    return collect(town, source, sources=artifacts.gt_corpus_sources(town), scrubber=PlainScrubber())


def test_every_convention_of_every_working_folder(town: Town) -> None:
    root = town.root
    places = ["", "mayor", "demo", "demo/mayor/rig", "demo/refinery/rig", "demo/crew/alice"]
    places += ["demo/polecats/toast/demo", "deacon", "demo/witness"]
    for place in places:
        put(root / place / "CLAUDE.md", f"Rules of {place}\n")
    (root / "AGENTS.md").symlink_to("CLAUDE.md")
    put(root / "demo/crew/alice/AGENTS.md", "For agents.\n")
    put(root / "demo/polecats/toast/demo/CLAUDE.local.md", "Here alone.\n")
    documents = found(artifacts.conventions(town))
    wanted = {f"{place}/CLAUDE.md".lstrip("/") for place in places}
    assert set(documents) == wanted | {
        "demo/crew/alice/AGENTS.md",
        "demo/polecats/toast/demo/CLAUDE.local.md",
    }
    assert {(d.corpus_type, d.role) for d in documents.values()} == {("convention_doc", "all")}
    assert documents["demo/mayor/rig/CLAUDE.md"].rig == "demo" and documents["CLAUDE.md"].rig == ""


def test_conventions_deeper_in_a_clone_if_git_tracks_them(town: Town) -> None:
    clone = town.root / "demo/crew/alice"
    repo = git.Repo.init(clone)
    put(clone / "api/CLAUDE.md", "Mind the API.\n")
    put(clone / "vendor/CLAUDE.md", "Somebody else's.\n")
    repo.index.add(["api/CLAUDE.md"])
    assert set(found(artifacts.conventions(town))) == {"demo/crew/alice/api/CLAUDE.md"}


def test_specs_by_default_and_by_setting(town: Town) -> None:
    clone = town.root / "demo/mayor/rig"
    put(town.root / "docs/plan.md", "town's plan")
    put(clone / "docs/deep/spec.md", "spec")
    put(clone / "docs/node_modules/x/readme.md", "not ours")
    put(clone / "docs/notes.txt", "no Markdown")
    put(clone / "PLAN.md", "plan")
    assert set(found(artifacts.specs(town))) == {"docs/plan.md", "demo/mayor/rig/docs/deep/spec.md"}
    put(town.root / "demo/settings/finetune.toml", '[collect]\nspecs = ["*.md"]\n')
    documents = found(artifacts.specs(town))
    assert set(documents) == {"docs/plan.md", "demo/mayor/rig/PLAN.md"}
    assert documents["demo/mayor/rig/PLAN.md"].corpus_type == "spec"


@pytest.mark.parametrize("wrong", ['["../*.md"]', '["docs/**x"]', '["/etc/*.md"]', '"docs"', "[1]", '[""]'])
def test_globs_that_lead_out_are_refused_by_name(town: Town, wrong: str) -> None:
    put(town.root / "demo/settings/finetune.toml", f"[collect]\nspecs = {wrong}\n")
    with pytest.raises(UserError, match=r"finetune.toml.*collect.specs"):
        list(artifacts.specs(town))
    put(town.root / "CLAUDE.md", "x\n")
    with pytest.raises(UserError):
        gather(consented(town))
    assert not town.corpus_db.exists(), "found before any work"


def test_a_link_out_of_the_town_is_not_followed(town: Town, tmp_path: Path) -> None:
    put(tmp_path / "home/secret.md", "private")
    (town.root / "docs").symlink_to(tmp_path / "home")
    results = list(artifacts.specs(town))
    assert all(isinstance(r, Trouble) and r.reason == "outside" for r in results)


def test_settings_without_what_is_secret(town: Town) -> None:
    agents = {
        "x": {"command": "claude", "args": ["--model", "m"], "env": {"ANTHROPIC_AUTH_TOKEN": "PLANT-raw"}}
    }
    put(town.root / "settings/config.json", json.dumps({"default_agent": "x", "agents": agents}))
    put(town.root / "demo/settings/config.json", '{"agent": "x"}')
    put(town.root / "mayor/accounts.json", '{"accounts": {"a": {"token": "t"}}}')
    put(town.root / "mayor/overseer.json", '{"name": "Ann"}')
    put(town.root / "settings/escalation.json", "{torn")
    results = list(artifacts.settings(town))
    documents = found(results)
    assert set(documents) == {
        "settings/config.json",
        "demo/settings/config.json",
        "mayor/town.json",
        "mayor/rigs.json",
    }
    kept = json.loads(documents["settings/config.json"].content)
    assert kept["agents"]["x"]["env"] == {"ANTHROPIC_AUTH_TOKEN": "(left out)"}
    assert kept["agents"]["x"]["args"] == ["--model", "m"]
    assert [(r.key, r.reason) for r in results if isinstance(r, Trouble)] == [
        ("settings/escalation.json", "broken")
    ]


def test_role_files_know_their_role(town: Town) -> None:
    put(town.root / "roles/witness.toml", "[session]\n")
    put(town.root / "directives/deacon.md", "Be quiet.\n")
    put(town.root / "demo/directives/polecat.md", "Be quick.\n")
    put(town.root / "demo/formula-overlays/mol-polecat-work.toml", "[[step-overrides]]\n")
    put(town.root / "CONTEXT.md", "All of you: hello.\n")
    documents = found(artifacts.role_files(town))
    assert {k: (d.corpus_type, d.role, d.rig) for k, d in documents.items()} == {
        "roles/witness.toml": ("role", "witness", ""),
        "directives/deacon.md": ("directive", "deacon", ""),
        "demo/directives/polecat.md": ("directive", "polecat", "demo"),
        "demo/formula-overlays/mol-polecat-work.toml": ("overlay", "polecat", "demo"),
        "CONTEXT.md": ("directive", "all", ""),
    }


def test_formulas_of_the_folders(town: Town) -> None:
    put(town.formulas_dir / "mol-deacon-patrol.formula.toml", 'formula = "mol-deacon-patrol"\n')
    put(town.formulas_dir / "notes.txt", "no formula")
    put(town.root / "demo/.beads/formulas/x.formula.json", "{}")
    documents = found(formulas.formulas(town))
    assert {k: (d.role, d.rig) for k, d in documents.items()} == {
        ".beads/formulas/mol-deacon-patrol.formula.toml": ("deacon", ""),
        "demo/.beads/formulas/x.formula.json": ("all", "demo"),
    }


class FakeFolderBd:
    """Stands for a bd that knows a formula that no file of the town has: no released one has any."""

    def __init__(self, listed: list[dict[str, str]]) -> None:
        self.listed = listed

    def available(self) -> bool:
        return True

    def formulas(self) -> list[dict[str, str]]:
        return self.listed

    def formula(self, name: str) -> dict[str, object]:
        return {"formula": name, "source": "here", "steps": [{"id": "one"}]}


def test_what_else_bd_knows(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(town.formulas_dir / "a.formula.toml", 'formula = "a"\n')
    outside = put(tmp_path / "home/mine.formula.toml", 'formula = "mine"\n')
    listed = [
        {"name": "a", "source": str(file)},
        {"name": "witness-built-in", "source": "embedded"},
        {"name": "mine", "source": str(outside)},
    ]
    put(town.root / ".beads/metadata.json", "{}")
    monkeypatch.setattr(formulas, "Bd", lambda folder: FakeFolderBd(listed))
    results = list(formulas.formulas(town))
    assert set(found(results)) == {".beads/formulas/a.formula.toml", "bd:witness-built-in"}
    built_in = found(results)["bd:witness-built-in"]
    assert built_in.role == "witness" and json.loads(built_in.content)["steps"] == [{"id": "one"}]
    assert [(r.key, r.reason) for r in results if isinstance(r, Trouble)] == [("bd:mine", "outside")]


def test_primes_as_they_were_seen(town: Town, isolated: Path) -> None:
    script = Transcript(town.root / "demo/witness")
    script.hook("SessionStart:startup", PRIME)
    script.hook("UserPromptSubmit", "no prime, just mail")
    script.call("c1", "cd x && gt prime --hook")
    script.result("c1", PRIME.replace("Watch", "Look"))
    script.call("c2", "gt hook")
    script.result("c2", PRIME.replace("Watch", "Never a prime, only quoted"))
    script.hook("SessionStart:compact", '<gt-prime role="witness">\nslim\n</gt-prime>')
    script.write(isolated / ".claude/projects/p")
    patrol(town.root / "deacon", "22222222-2222-4333-8444-555555555555").write(
        isolated / ".claude/projects/p"
    )
    capture(consented(town))
    report = gather(town, "primes")
    assert (report.captured, gather(town, "primes").unchanged) == (3, 3)
    with Store(town) as store:
        rows = [d.document for _, d in store.documents("primes")]
    assert [(d.corpus_type, d.role, d.rig) for d in rows] == [
        ("prime", "witness", "demo"),
        ("prime", "witness", "demo"),
        ("slim_prime", "witness", "demo"),
    ]
    assert {(d.session_id, d.model, d.client_version) for d in rows} == {(SESSION, "claude-x", "2.1.197")}
    assert rows[0].at == "2026-03-01T08:00:01Z" and rows[0].content == PRIME
    purge(town, session=SESSION)
    with Store(town) as store:
        assert list(store.documents("primes")) == []


def test_a_prime_in_another_clients_session(tmp_path: Path) -> None:
    script = Rollout("/town/demo/witness")
    script.call("c", "gt prime")
    script.result("c", "Exit code: 0\nOutput:\n" + PRIME)
    path = tmp_path / f"rollout-x-{THREAD}.jsonl"
    path.write_text(script.text())
    assert [p.text.endswith(PRIME) for p in primes.primes_in(codex.read(path))] == [True]


def test_collecting_is_incremental_and_scrubs(town: Town) -> None:
    put(town.root / "CLAUDE.md", "PLANT-rule\n")
    put(town.root / "directives/deacon.md", "PLANT-directive\n")
    put(town.formulas_dir / "x.formula.toml", 'formula = "x"\n')
    first = gather(consented(town))
    assert (first.captured, first.skipped, first.redactions) == (5, {}, {"plant": 2})

    class Once(PlainScrubber):
        def text(self, text):  # type: ignore[no-untyped-def]
            assert "PLANT" not in text, "what is unchanged is not scrubbed again"
            return super().text(text)

    again = collect(town, sources=artifacts.gt_corpus_sources(town), scrubber=Once())
    assert (again.captured, again.updated, again.unchanged) == (0, 0, 5)
    stricter = collect(town, sources=artifacts.gt_corpus_sources(town), scrubber=PlainScrubber("p2"))
    assert stricter.updated == 5
    assert b"PLANT" not in raw_bytes(town.corpus_dir)
    with Store(town) as store:
        for _, row in store.documents():
            assert row.policy == "p2" and row.consent.startswith("Ann at") and row.document.at


def test_a_folder_without_permission(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    put(town.root / "demo/crew/alice/CLAUDE.md", "x\n")
    put(town.root / "CLAUDE.md", "y\n")
    real = os.stat

    def closed(path, *args, **kwargs):  # type: ignore[no-untyped-def]
        if str(path).endswith("alice/CLAUDE.md"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(artifacts.os, "stat", closed)
    results = list(artifacts.conventions(town))
    assert set(found(results)) == {"CLAUDE.md"}
    assert [r.reason for r in results if isinstance(r, Trouble)] == ["unreadable"]


def test_what_is_stored_of_a_file_that_is_closed_stays_current(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    consented(town)
    put(town.root / "CLAUDE.md", "x\n")
    assert collect(town, "conventions", scrubber=PlainScrubber()).captured == 1
    real = os.stat

    def closed(path, *args, **kwargs):  # type: ignore[no-untyped-def]
        if str(path).endswith("CLAUDE.md"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(artifacts.os, "stat", closed)
    report = collect(town, "conventions", scrubber=PlainScrubber())
    assert (report.retired, report.skipped["unreadable"]) == (0, 1)
    monkeypatch.undo()
    (town.root / "CLAUDE.md").unlink()
    assert collect(town, "conventions", scrubber=PlainScrubber()).retired == 1
