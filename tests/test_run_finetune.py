"""``node0-finetune``: where it works, and that it trains as ``gt model train`` does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gt_plugins.errors import UserError
from gt_plugins.run_finetune import Workplace, workplace
from gt_plugins.town.root import Town


def finetune(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt_plugins.run_finetune", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def with_corpus(town: Town) -> Town:
    town.corpus_dir.mkdir()
    town.corpus_db.touch()
    return town


@pytest.mark.parametrize("part", ["", ".corpus", ".corpus/corpus.db"])
def test_a_corpus_names_its_town(town: Town, part: str):
    place = workplace(with_corpus(town).root / part, None, None, None)
    assert place.root == town.root
    assert place.checkpoints_dir == town.checkpoints_dir


def test_jobs_can_live_elsewhere(town: Town, tmp_path: Path):
    jobs = tmp_path / "jobs"
    place = workplace(None, town.root, None, jobs)
    assert place.root == town.root and place.checkpoints_dir == jobs
    assert place.own_dir(place.checkpoints_dir) == jobs
    assert jobs.stat().st_mode & 0o777 == 0o700 and not list(jobs.iterdir())
    place.own_dir(place.corpus_dir)
    assert (town.corpus_dir / ".gitignore").read_text() == "*\n"


def test_a_dataset_and_a_folder_for_jobs_need_no_town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    place = workplace(None, None, tmp_path / "data", tmp_path / "jobs")
    assert place == Workplace(tmp_path / "jobs", tmp_path / "jobs")
    with pytest.raises(UserError, match="not inside a Gas Town"):
        workplace(None, None, tmp_path / "data", None)


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no corpus in it"):
        workplace(tmp_path, None, None, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--role", "mayo"), "unknown role 'mayo'"),
        (("--role", "deacon", "--corpus", "a", "--dataset", "b"), "--corpus or --dataset, not both"),
        (("--role", "deacon", "--corpus", "a", "--town", "b"), "--corpus or --town, not both"),
        (("--role", "deacon", "--rank", "0"), "rank: must be more than zero"),
        (("--role", "deacon", "--corpus", "nowhere"), "no corpus in it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(args: tuple[str, ...], said: str):
    done = finetune(*args)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_it_trains_a_version_without_a_town(tmp_path: Path):
    from dataset_helpers import write

    from gt_plugins.corpus.dataset import Example
    from gt_plugins.rendering.conversation import Conversation, Message

    asked = Message("user", ({"type": "text", "text": "session alive, task none"},))
    answer = Message("assistant", ({"type": "text", "text": '{"reason": "task none", "action": "no-op"}'},))
    talk = Conversation("You are the deacon.", (), "", (asked, answer))
    examples = [
        Example(f"s{i}/0", "decision", "deacon", f"s{i}", (), "unknown", False, ("m",), talk, (), ("no-op",))
        for i in range(4)
    ]
    write(tmp_path / "data", examples, prime="")
    done = finetune(
        *("--role", "deacon", "--dataset", tmp_path / "data", "--checkpoints", tmp_path / "jobs"),
        *("--models", tmp_path / "models", "--epochs", "1", "--rank", "2", "--threads", "1", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == "gt-ft-deacon:v1" and report["steps"] == 1
    assert (tmp_path / "models/gt-ft-deacon/v1/adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "jobs" / report["job"] / "job.json").is_file()
