"""A dataset's folder: whole or refused, private, the same as it was written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from corpus_helpers import modes
from dataset_helpers import PATROL, build, every, renamed, rewrite, session, stored, write
from typer.testing import CliRunner

from gt_plugins.corpus import dataset
from gt_plugins.corpus.dataset import Example, held_out, to_row
from gt_plugins.errors import FinetuneError, NonRetriableError, UserError
from gt_plugins.town.root import Town


def examples(count: int = 30) -> list[Example]:
    """Examples of as many sessions, some of them held out."""
    one = every(build(stored(session(*PATROL))))
    return [renamed(e, f"s{n}") for n in range(count) for e in one]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "data", examples(), drops=Counter({"chat: same as another": 2}))
    return tmp_path / "data"


def test_it_is_read_back_as_it_was_written(folder: Path) -> None:
    made = dataset.read(folder)
    assert made.role == "deacon" and made.prime == "You watch."
    by_id = {e.id: to_row(e) for e in (*made.train, *made.heldout)}
    assert by_id == {e.id: to_row(e) for e in examples()}
    assert made.heldout and all(held_out(e.session) for e in made.heldout)
    assert not any(held_out(e.session) for e in made.train)
    assert made.card["drops"] == {"chat: same as another": 2} and made.card["budget"] == "tiny"
    assert made.card["decisions"]["train"] == sum(len(e.actions) for e in made.train)
    assert made.card["actions"]["nudge"] == sum(e.kind == "decision" for e in made.train)


def test_its_name_is_what_stands_in_it(tmp_path: Path) -> None:
    first = write(tmp_path / "a", examples())
    assert write(tmp_path / "b", examples()).hash == first.hash
    assert write(tmp_path / "c", examples(29)).hash != first.hash
    assert write(tmp_path / "d", examples(), prime="Other.").hash != first.hash


def test_it_is_private(folder: Path) -> None:
    assert set(modes(folder).values()) == {"0o600"} and folder.stat().st_mode & 0o777 == 0o700


def refused(folder: Path, kind: type[FinetuneError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        dataset.read(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl", "prime.txt"])
def test_a_file_that_was_changed_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("a") as handle:
        handle.write(" ")
    refused(folder, NonRetriableError, str(folder), "not those of the card")


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl", "prime.txt"])
def test_a_file_that_is_gone_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, UserError, str(folder / name), "No such file")


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"hash": dataset.files_hash(folder)}))
    refused(folder, UserError, "train.jsonl", "not UTF-8")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "7", '"card"'])
def test_a_card_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "card.json").write_text(text)
    with pytest.raises(FinetuneError, match=r"not a whole dataset|not those of the card"):
        dataset.read(folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, UserError, "card.json", "gt corpus dataset --role R --out DIR")


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "x"}', "", '{"id": "x", "messages": 7}'])
def test_a_line_that_is_no_example_is_named(folder: Path, line: str) -> None:
    lines = (folder / "train.jsonl").read_text().split("\n")
    (folder / "train.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    rewrite(folder / "card.json", lambda card: card.update(hash=dataset.files_hash(folder)))
    refused(folder, UserError, "train.jsonl: line 2: not an example")


def test_it_is_built_anew_over_an_old_one(folder: Path) -> None:
    made = write(folder, examples(5))
    assert dataset.read(folder).hash == made.hash and sorted(p.name for p in folder.iterdir()) == sorted(
        dataset.FILES
    )


def test_what_a_kill_left_is_written_over(folder: Path) -> None:
    (folder / "card.json").unlink()
    (folder / ".train.jsonl.abc.tmp").write_text("half")
    refused(folder, UserError, "card.json")
    assert write(folder, examples(5)).train
    assert dataset.read(folder).train


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and no dataset; choose a new folder"):
        write(tmp_path, examples(1))
    assert [p.name for p in tmp_path.iterdir()] == ["novel.txt"]


# -- the command ------------------------------------------------------------------------------------


def run(*words: str) -> tuple[int, str, str]:
    from gt_plugins.cli.common import new_app
    from gt_plugins.cli.corpus_dataset import register

    app = new_app("corpus", "")
    register(app)
    app.callback()(lambda: None)
    done = CliRunner().invoke(app, ["dataset", *words])
    return done.exit_code, done.output, f"{type(done.exception).__name__}: {done.exception}"


def test_the_command_tells_counts_and_drops(town: Town, tmp_path: Path) -> None:
    from dataset_helpers import played

    played(town, tmp_path / "projects")
    out = tmp_path / "data"
    code, text, told = run("--role", "deacon", "--out", str(out), "--town", str(town.root), "--json")
    assert code == 0, told
    card = json.loads(text)
    assert card["folder"] == str(out) and card["hash"] == dataset.read(out).hash
    code, text, _ = run("--role", "deacon", "--out", str(out), "--town", str(town.root))
    assert code == 0 and "decisions asked" in text and f"dataset {card['hash'][:12]}  from 3 sessions" in text


def test_a_role_without_sessions_is_said(town: Town, tmp_path: Path) -> None:
    from dataset_helpers import played

    played(town, tmp_path / "projects")
    words = ("--out", str(tmp_path / "data"), "--town", str(town.root))
    town.events_file.unlink()
    code, _, told = run("--role", "deacon", *words)
    assert code == 1 and "try `gt corpus collect`" in told and "--outcomes good,unknown" in told
    code, _, told = run("--role", "boot", *words)
    assert code == 1 and told.startswith("UserError: the corpus has no session of boot")
    code, _, told = run("--role", "king", *words)
    assert told.startswith("UserError: unknown role 'king'")
    code, _, told = run("--role", "refinery", *words)
    assert told.startswith("UserError: no profile for role 'refinery'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "json"), "--format 'json': there are chat, decision and both"),
        (("--length", "cut"), "--length 'cut': there are window, drop, trim, error"),
        (("--near", "0.2"), "--near 0.2: a similarity from 0.5 to 1.0"),
        (("--outcomes", "good,great"), "--outcomes: no outcome 'great'"),
        (("--outcomes", ","), "--outcomes: name at least one, or all"),
        (
            ("--base", "/no/such/base", "--length", "drop"),
            "--base /no/such/base: no base: it has no config.json",
        ),
        (
            ("--base", str(Path(__file__).parent)),
            "no base: it has no config.json; name a model's folder, or tiny",
        ),
    ],
)
def test_what_cannot_be_wanted_is_said_before_any_work(
    town: Town, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    from dataset_helpers import played

    played(town, tmp_path / "projects", decisions=4)
    out = ("--out", str(tmp_path / "data"), "--town", str(town.root))
    code, _, told = run("--role", "deacon", *out, *words)
    assert code == 1 and told.startswith("UserError") and said in told and not (tmp_path / "data").exists()


def test_what_is_wanted_is_what_is_made(town: Town, tmp_path: Path) -> None:
    from dataset_helpers import played

    played(town, tmp_path / "projects", decisions=40)
    words = ("--role", "deacon", "--out", str(tmp_path / "data"), "--town", str(town.root), "--json")
    card = json.loads(run(*words)[1])
    assert card["split"]["by"] == "time" and card["outcomes_wanted"] == ["closed", "good", "merged"]
    only = json.loads(run(*words, "--format", "decision", "--outcomes", "all")[1])
    assert set(only["examples"]["train"]) == {"decision"} and only["outcomes_wanted"] == ["all"]
    assert only["drops"]["chat: not a format asked for"] == 10
    short = json.loads(run(*words, "--length", "trim", "--max-tokens", "700")[1])
    assert short["lengths"]["longest"] <= 700 and short["drops"]["chat: trimmed to 700 tokens"] == 10
    page = (tmp_path / "data/README.md").read_text()
    sources, examples = card["sources"], sum(sum(k.values()) for k in card["examples"].values())
    assert sum(sources["examples_by_outcome"].values()) == examples
    assert all(
        sum(sources[n].values()) == len(card["sessions"]) for n in sources if n != "examples_by_outcome"
    )
    assert "| examples by outcome | examples |" in page and "| rigs | sessions |" in page
    assert short["hash"][:12] in page and "sim-teacher-1" in page and "between you and the provider" in page


def test_a_kill_while_it_is_written_leaves_nothing_that_a_purge_does_not_find(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataset_helpers import played

    from gt_plugins.corpus import assemble
    from gt_plugins.corpus.purge import purge

    found = played(town, tmp_path / "projects", decisions=8)
    whole = dataset.write

    def killed(*args: Any, **more: Any) -> Any:
        whole(*args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        assemble.build_dataset(town, "deacon", tmp_path / "data")
    assert (tmp_path / "data/train.jsonl").exists()
    assert purge(town, found[0].session_id).datasets == (str(tmp_path / "data"),)
    assert not (tmp_path / "data").exists()
