"""From the teacher's sessions to a dataset folder, and a short training on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gt_plugins.corpus import dataset as datasets
from gt_plugins.corpus.assemble import build_dataset, suite_texts
from gt_plugins.corpus.consent import grant
from gt_plugins.corpus.dataset import Example, Verdict, decisions, held_out, shingles, stated_reason
from gt_plugins.corpus.store import Store
from gt_plugins.corpus.sweep import sweep
from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.rendering.conversation import from_session
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.sessions import write_sessions
from gt_plugins.town.root import Town
from gt_plugins.training.recipe import load_recipe
from gt_plugins.training.run import Request, shuffled, train


@pytest.fixture
def captured(town: Town, isolated: Path) -> Town:
    grant(town, "Ann")
    projects = isolated / ".claude" / "projects"
    write_sessions(town, projects, "deacon", 40)
    report = sweep(town, projects)
    assert report.captured == 10
    return town


@pytest.fixture
def made(captured: Town, tmp_path: Path) -> datasets.Dataset:
    return build_dataset(captured, "deacon", tmp_path / "set")


def test_every_decision_is_asked_with_its_evidence(made: datasets.Dataset):
    asked = [e for e in (*made.train, *made.heldout) if e.kind == "decision"]
    assert sum(len(e.actions) for e in asked) == 40
    for example in asked:
        questions = [m for m in example.conversation.messages if m.role == "user"]
        answers = [json.loads(m.blocks[0]["text"]) for m in example.conversation.messages if m.role != "user"]
        assert [a["action"] for a in answers] == list(example.actions)
        assert len(questions) == len(answers) and all(a["reason"] for a in answers)
    assert made.prime.startswith("[GAS TOWN] role:deacon")
    assert not {e.unit for e in made.train} & {e.unit for e in made.heldout}
    assert all(held_out(e.unit) for e in made.heldout)


def test_the_answer_to_a_decision_is_no_evidence_for_the_next(captured: Town):
    profile = load_profile("deacon")
    with Store(captured) as store:
        session = next(iter(store.sessions("deacon"))).session
    for taken in list(decisions(from_session(session, profile, ""), profile))[1:]:
        assert taken.evidence.count("Report on") + taken.evidence.count("==") // 2 == 1
        assert "Nudged" not in taken.evidence and "Escalation created" not in taken.evidence


def test_labels_and_suites_keep_sessions_out(captured: Town, tmp_path: Path):
    with Store(captured) as store:
        first = next(iter(store.sessions("deacon"))).session.id
        store.label(first, "bad", "it was wrong")
    made = build_dataset(captured, "deacon", tmp_path / "other")
    assert made.card["drops"]["chat: outcome bad"] == 1
    assert first not in made.card["sessions"]
    with Store(captured) as store:
        rows = list(store.sessions("deacon"))
    chosen = next(
        d
        for d in decisions(from_session(rows[1].session, load_profile("deacon"), ""), load_profile("deacon"))
    )
    kept, drops, _ = datasets.build(
        rows, load_profile("deacon"), lambda text: text, [chosen.evidence], lambda e: None
    )
    assert any("shares 13 words" in reason for reason in drops) and kept


def test_held_out_cases_share_nothing_with_training(made: datasets.Dataset):
    forbidden = set().union(*(shingles(t) for t in suite_texts("deacon")))
    assert all(forbidden.isdisjoint(shingles(e.text())) for e in made.train)
    assert not [d for d in made.card["drops"] if "shares" in d and "decision" not in d]


def test_a_filter_of_a_third_party_is_counted(captured: Town):
    def judge(example: Example) -> Verdict | None:
        return Verdict(False, "not today") if example.kind == "chat" else None

    with Store(captured) as store:
        _, drops, _ = datasets.build(store.sessions("deacon"), load_profile("deacon"), lambda t: t, [], judge)
    assert drops["chat: not today"] == 10


def test_a_changed_dataset_is_refused(made: datasets.Dataset):
    path = made.folder / "train.jsonl"
    path.write_text(path.read_text().replace("nudge", "nudgd", 1))
    with pytest.raises(NonRetriableError, match="not those of the card"):
        datasets.read(made.folder)


def test_a_folder_of_something_else_is_left_alone(captured: Town, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no dataset"):
        build_dataset(captured, "deacon", tmp_path / "mine")


def test_what_a_reason_is():
    assert stated_reason('{"reason": "dead", "action": "x"}') == "dead"
    assert stated_reason("It is dead. So I act.") == "It is dead."
    assert len(stated_reason("a" * 500)) == 160


def test_the_control_has_the_same_answers_dealt_out(made: datasets.Dataset):
    before = sorted(a for e in made.train for a in e.actions)
    mixed = shuffled(made.train, 3)
    after = [m.blocks[0]["text"] for e in mixed for m in e.conversation.messages if m.role == "assistant"]
    assert sorted(json.loads(a)["action"] for a in after) == before
    plain = [
        m.blocks[0]["text"]
        for e in made.train
        if e.kind == "decision"
        for m in e.conversation.messages
        if m.role == "assistant"
    ]
    assert after != plain and sorted(after) == sorted(plain)


@pytest.mark.slow
def test_training_goes_on_after_a_kill_as_if_nothing_had_been(
    captured: Town, made: datasets.Dataset, isolated: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    recipe = load_recipe("tiny", epochs=1.0, checkpoint_steps=2, batch_tokens=3000)
    home = isolated / ".models"
    whole = train(Request(captured, home, "deacon", "tiny", made.folder, recipe, threads=1), print)
    words = [sys.executable, "-m", "gt_plugins.cli.model", "train", "deacon", "--town", str(captured.root)]
    config = isolated / "recipe.toml"
    config.write_text("epochs = 1.0\ncheckpoint_steps = 2\nbatch_tokens = 3000\n")
    words += ["--dataset", str(made.folder), "--threads", "1", "--model", "gt-ft-killed"]
    words += ["--models", str(home), "--config", str(config)]
    child = subprocess.Popen(words, env=os.environ.copy(), stderr=subprocess.DEVNULL)
    jobs = captured.checkpoints_dir
    deadline = time.monotonic() + 120
    while not [p for p in jobs.glob("*/checkpoints/step-*") if whole.job.id not in str(p)]:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = subprocess.run([*words, "--resume", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    version = json.loads(done.stdout)["version"]
    curve = home / version.replace(":", "/") / "training" / "curve.json"
    assert json.loads(curve.read_text()) == list(whole.trained.losses)


def test_a_dataset_for_another_role_is_refused(captured: Town, made: datasets.Dataset, isolated: Path):
    request = Request(captured, isolated, "witness", "tiny", made.folder, load_recipe("tiny"))
    with pytest.raises(UserError, match="for deacon, not for witness"):
        train(request, print)
