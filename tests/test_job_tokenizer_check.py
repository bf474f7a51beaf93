"""A base is refused for what would go wrong silently, by file and in one line; a good one passes."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from base_helpers import END, LLAMA3, QWEN2, STOP, TEMPLATE, tokenizer_json, write_bare_base, write_model

from gt_plugins.errors import FinetuneError, NonRetriableError, UserError
from gt_plugins.training.tokenizer_check import SAMPLES, validate_base, weight_headers

torch = pytest.importorskip("torch")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_bare_base(tmp_path / "base")


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    there = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in there.items() if v is not None}))


def refused(base: Path, *told: str, kind: type[FinetuneError] = NonRetriableError) -> str:
    with pytest.raises(kind) as error:
        validate_base(base)
    text = str(error.value)
    assert "\n" not in text and all(t in text for t in told), text
    return text


def test_a_good_base_is_described(base: Path) -> None:
    facts = validate_base(base)
    assert (facts.architecture, facts.vocabulary, facts.rows) == ("LlamaForCausalLM", 384, 384)
    assert (facts.end_token, facts.end_id, facts.context) == (STOP, 2, 512)
    assert facts.weights == (base / "model.safetensors",)


def test_the_shipped_base_passes_its_own_check() -> None:
    from gt_plugins.training.base import SHIPPED

    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("the tiny base is not built yet")
    assert validate_base(SHIPPED).end_token == STOP


def test_padding_is_allowed_and_a_foreign_embedding_is_not(tmp_path: Path) -> None:
    assert validate_base(write_bare_base(tmp_path / "padded", rows=384 + 399)).rows == 783
    refused(write_bare_base(tmp_path / "short", rows=383), "tokenizer.json", "384 tokens", "383 rows")
    refused(write_bare_base(tmp_path / "wide", rows=5000), "tokenizer.json", "5000 rows", "belongs to")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.weight: not there"),
        (
            {"intermediate_size": 8},
            "mlp.gate_proj.weight: [96, 64], but config.json says [8, 64]",
        ),
        ({"tie_word_embeddings": False}, "lm_head.weight: not there"),
        ({"hidden_size": "x"}, "hidden_size: 'x' is no whole number"),
        ({"num_attention_heads": None}, "num_attention_heads: not there"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings: 'x' is no number of tokens"),
    ],
)
def test_weights_are_those_that_the_configuration_tells_of(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    base = write_model(tmp_path / "base", "qwen2")
    assert validate_base(base).architecture == "Qwen2ForCausalLM"
    change(base / "config.json", **changes)
    refused(base, told)


def test_brackets_without_end_are_no_crash(base: Path) -> None:
    (base / "config.json").write_text("[" * 100_000)
    refused(base, "config.json", "nested too deeply")


# -- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", "config.json: not there"),
        ("tokenizer.json", "tokenizer.json: not there: a base needs its tokenizer"),
        ("model.safetensors", "model.safetensors: not there: a base needs weights"),
    ],
)
def test_a_missing_file_is_named(base: Path, name: str, told: str) -> None:
    (base / name).unlink()
    refused(base, told, kind=UserError)


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder", kind=UserError)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b""])
def test_a_broken_file_is_named(base: Path, name: str, content: bytes) -> None:
    (base / name).write_bytes(content)
    refused(base, name, kind=FinetuneError)


def test_pickles_are_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(base, "pytorch_model.bin", "run code", "convert to safetensors")


def test_weights_that_are_cut_off(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    refused(base, "model.safetensors", "7 bytes are missing")
    path.write_bytes(b"version https://git-lfs.example/spec/v1\noid sha256:1\n")
    refused(base, "model.safetensors", "not a safetensors file")


def test_shards_are_read_and_a_missing_one_is_named(base: Path) -> None:
    from safetensors.torch import save_file

    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    save_file({"lm_head.weight": torch.zeros(384, 4)}, base / "model-00002-of-00002.safetensors")
    names = {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert len(validate_base(base).weights) == len(weight_headers(base)) == 2
    save_file({"lm_head.weight": torch.zeros(380, 4)}, base / "model-00002-of-00002.safetensors")
    refused(base, "lm_head.weight", "380 rows")
    (base / "model-00002-of-00002.safetensors").unlink()
    refused(base, "model-00002-of-00002.safetensors", "shard is not there")
    (base / "model.safetensors.index.json").write_text("{}")
    refused(base, "index.json", "weight_map")


def test_a_config_of_other_weights(base: Path) -> None:
    change(base / "config.json", vocab_size=32000)
    refused(base, "config.json: vocab_size", "32000", "384 rows")


def test_weights_without_an_embedding(base: Path) -> None:
    from safetensors.torch import save_file

    save_file({"transformer.wte.weight": torch.zeros(384, 4)}, base / "model.safetensors")
    refused(base, "model.embed_tokens.weight: not there")


# -- tokenizer --------------------------------------------------------------------------------------


def test_samples_are_normal_text() -> None:
    assert all(unicodedata.normalize("NFC", s) == s for s in SAMPLES)


@pytest.mark.parametrize("pattern", [QWEN2, LLAMA3])
def test_byte_level_tokenizers_pass(tmp_path: Path, pattern: str) -> None:
    base = write_bare_base(tmp_path / "base")
    (base / "tokenizer.json").write_text(tokenizer_json(pattern))
    assert validate_base(base).end_id == 2


def test_a_tokenizer_that_changes_text_is_refused(base: Path) -> None:
    value = json.loads((base / "tokenizer.json").read_text())
    value["normalizer"] = {"type": "Lowercase"}
    (base / "tokenizer.json").write_text(json.dumps(value))
    refused(base, "tokenizer.json", "comes back as", "byte-level")


def test_an_end_token_that_nobody_knows(base: Path) -> None:
    change(base / "tokenizer_config.json", eos_token="</s>")
    refused(base, "tokenizer_config.json: eos_token")
    change(base / "tokenizer_config.json", eos_token=None)
    refused(base, "tokenizer_config.json: eos_token")


def test_an_end_token_that_is_not_the_templates(base: Path) -> None:
    change(base / "tokenizer_config.json", eos_token=END)
    refused(base, "chat_template", "a reply ends with '<|im_end|>", END)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert validate_base(base).end_token == STOP


def test_an_end_of_turn_of_several_tokens(base: Path) -> None:
    value = json.loads((base / "tokenizer.json").read_text())
    value["added_tokens"] = [t for t in value["added_tokens"] if t["content"] != STOP]
    (base / "tokenizer.json").write_text(json.dumps(value))
    refused(base, "tokenizer.json", STOP, "tokens, not one")


# -- template ---------------------------------------------------------------------------------------


def test_no_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    refused(base, "chat_template.jinja", "not there")
    change(base / "tokenizer_config.json", chat_template=TEMPLATE)
    assert validate_base(base).end_token == STOP


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{% if", "chat_template"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        (TEMPLATE.replace("message.role +", "message.rolle +"), "cannot render"),
        (
            TEMPLATE.replace("message.content +", "(message.content | upper) +"),
            "changes what the system says",
        ),
        (TEMPLATE.replace("in messages", "in messages if message.role != 'system'"), "what the system says"),
        ("{{ '# ' ~ messages | length ~ '\n' }}" + TEMPLATE, "as its opening says"),
        (
            TEMPLATE.replace(
                "message.content +",
                "('<think>' if loop.last and message.role == 'assistant' else '') + message.content +",
            ),
            "changes earlier turns",
        ),
        (
            TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>"),
            "as its opening says",
        ),
        (TEMPLATE.replace("<|im_end|>\n", "\n"), "a reply ends with"),
        (TEMPLATE.replace("<|im_end|>\n", " END<|im_end|>\n"), "a reply ends with 'END"),
    ],
)
def test_templates_that_would_teach_something_else(base: Path, template: str, told: str) -> None:
    assert template != TEMPLATE
    (base / "chat_template.jinja").write_text(template)
    refused(base, "chat_template", told)


def test_a_template_cannot_run_code(base: Path) -> None:
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + TEMPLATE
    (base / "chat_template.jinja").write_text(hostile)
    refused(base, "chat_template", "cannot render")


def test_the_default_system_prompt_of_qwen_is_no_hindrance(base: Path) -> None:
    lead = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    (base / "chat_template.jinja").write_text(lead + TEMPLATE)
    assert validate_base(base).end_token == STOP
