"""Other people's tools read our files: ``datasets.load_dataset`` and TRL's SFTTrainer, for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_helpers import PATROL, build, session, stored, write
from rendering_helpers import answered, called, said

from gt_plugins.corpus.dataset import to_row
from gt_plugins.training.base import SHIPPED

pytest.importorskip("datasets")
pytest.importorskip("trl")

TEMPLATE = """
{%- if tools %}{{ '<|im_start|>system\n' + messages[0].content }}
{%- for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}
{%- for m in messages[1:] %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and m.weight != 0 %}{% generation %}{{ m.content }}
{%- for c in m.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
{{- c.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}
{%- else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
"""
"""As a Qwen2.5's for training, but that it leaves out replies of weight 0."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sessions whose tools are given different things, one with a turn that is not taught."""
    steps = (*PATROL[:-1], ("", "rm -rf build", "no"), PATROL[-1])
    odd = session(*PATROL, name="s9")
    more = {"type": "tool_use", "id": "e1", "name": "Edit", "input": {"edits": [{"old": 1}], "all": True}}
    turn = odd.turns[2]
    turns = (*odd.turns[:2], type(turn)("x", "assistant", (said("Edit."), more)))
    turns += (type(turn)("y", "user", (answered("done", "e1"),)), *odd.turns[2:])
    looks = [("", f"cat reports/{n}.txt", f"{n} idles") for n in range(4)]
    found = [session(look, *steps, name=f"s{n}") for n, look in enumerate(looks)]
    odd = type(odd)(**{**vars(odd), "turns": turns})
    write(tmp_path / "data", [*build(*map(stored, [*found, odd]), near=1.0).train])
    assert called("x")["name"] == "Bash"
    return tmp_path / "data"


def loaded(folder: Path, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("json", data_files=str(folder / "train.jsonl"), split="train", cache_dir=str(cache))


def test_datasets_reads_every_row_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    found = loaded(folder, tmp_path / "cache")
    written = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert len(found) == len(written) > 4
    for row, line in zip(found, written, strict=True):
        assert row["messages"] == line["messages"] and row["supervision"] == line["supervision"]
        assert json.loads(json.dumps(row["tools"])) == line["tools"]


def test_datasets_reads_the_folder_by_its_card(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    found = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    lines = (folder / "train.jsonl").read_text().splitlines()
    assert len(found["train"]) == len(lines)


@pytest.mark.slow
def test_trl_trains_on_it_with_loss_on_what_is_taught(folder: Path, tmp_path: Path) -> None:
    """One step of SFTTrainer on the shipped base; what carries loss is what the spans say."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.chat_template = TEMPLATE
    data = loaded(folder, tmp_path / "cache")
    config = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=None,
        assistant_only_loss=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    made = trainer.train()
    assert made.training_loss > 0
    for row, tokens in zip(data, trainer.train_dataset, strict=True):
        taught = tokenizer.decode(
            [i for i, t in zip(tokens["input_ids"], tokens["labels"], strict=True) if t >= 0]
        )
        for span in row["supervision"]:
            message = row["messages"][span["message"]]
            if span["part"] == "content":
                assert message["content"][span["start"] : span["end"]] in taught
            else:
                assert json.dumps(message["tool_calls"][span["index"]]["function"]["arguments"]) in taught
        silent = [m for m in row["messages"] if m.get("weight") == 0]
        assert all(str(m["tool_calls"]) not in taught and "rm -rf" not in taught for m in silent)


def test_a_row_without_calls_has_no_tools() -> None:
    asked = to_row(build(stored(session(*PATROL))).train[-1])
    assert asked["tools"] == [] and asked["kind"] == "decision"
