"""llama.cpp itself on exported files: the same token ids, the same best next tokens as Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from base_helpers import LLAMA3, tokenizer_json, write_adapter, write_bare_base, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.export import parity
from gt_plugins.export.gguf import export
from gt_plugins.export.parity import Parity, odd_strings, sample_chats, token_parity, top1_parity, verify
from gt_plugins.rendering.render import Renderer

for module in ("llama_cpp", "gguf", "torch", "transformers", "peft"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    return write_model(folder / "llama")


@pytest.fixture(scope="module")
def plain(folder: Path, llama: Path) -> Path:
    """The base alone, as F16."""
    return export(llama, None, folder / "plain")["f16"]


def prompts(base: Path, count: int = 40) -> list[list[int]]:
    renderer = Renderer.from_folder(base)
    return [renderer.encode(chat)[-100:] for chat in sample_chats(renderer, count, seed=1)]


# -- token ids --------------------------------------------------------------------------------------


def test_odd_strings_are_odd_and_the_same_each_time() -> None:
    found = odd_strings(200)
    assert len(found) == 200 and found == odd_strings(200) and found != odd_strings(200, seed=1)
    assert len({c for s in found for c in s}) > 1000
    assert any("\u3000" in s for s in found) and any("🦊" in s for s in found)


def test_every_one_of_400_texts_gets_the_same_ids(llama: Path, plain: Path) -> None:
    assert token_parity(llama, plain) == Parity(400, 400)
    texts = odd_strings(200, seed=9)
    assert token_parity(llama, plain, texts) == Parity(200, 200)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), max_size=25))
def test_any_text_gets_the_same_ids(llama: Path, plain: Path, texts: list[str]) -> None:
    found = token_parity(llama, plain, texts)
    assert found.same == found.total, found.first_difference


def test_a_llama_3_tokenizer_gets_the_same_ids(tmp_path: Path, llama: Path) -> None:
    base = write_model(tmp_path / "base")
    value = json.loads(tokenizer_json(LLAMA3))
    value["model"]["ignore_merges"] = True
    (base / "tokenizer.json").write_text(json.dumps(value))
    found = token_parity(base, export(base, None, tmp_path / "out")["f16"])
    assert found == Parity(400, 400)


def test_a_composing_tokenizer_is_asked_with_composed_text(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    value = json.loads((base / "tokenizer.json").read_text())
    value["normalizer"] = {"type": "NFC"}
    (base / "tokenizer.json").write_text(json.dumps(value))
    path = export(base, None, tmp_path / "out")["f16"]
    assert token_parity(base, path, [*odd_strings(50), "e\u0301le\u0300ve A\u030a"]) == Parity(51, 51)


def test_another_tokenizer_is_seen_and_not_verified(llama: Path, plain: Path, tmp_path: Path) -> None:
    other = write_bare_base(tmp_path / "other")
    (other / "tokenizer.json").write_text(tokenizer_json(LLAMA3, 360))
    found = token_parity(other, plain)
    assert found.same < found.total and "in llama.cpp" in found.first_difference
    with pytest.raises(NonRetriableError, match="get other token ids"):
        verify(other, None, {"f16": plain}, [[1, 2, 3]])


# -- next tokens ------------------------------------------------------------------------------------


def test_merged_quantized_and_beside_answer_as_the_original(folder: Path, llama: Path, plain: Path) -> None:
    adapter = write_adapter(llama, folder / "adapter")
    files = export(llama, adapter, folder / "tuned", ("f16", "q8_0", "lora"))
    asked = prompts(llama)
    checked = verify(llama, adapter, {"f16": files["f16"], "lora": files["lora"], "base": plain}, asked)
    assert set(checked) == {"f16", "lora"} and all(p.share >= 0.95 for p in checked.values())
    # Random weights have far more near-ties than trained ones, on which Q8_0 keeps 98 of 100.
    assert top1_parity(llama, adapter, files["q8_0"], asked).share >= 0.75
    # Without the adapter the original says something else: the agreement above means something.
    with pytest.raises(NonRetriableError, match="best next tokens agree"):
        verify(llama, None, {"f16": files["f16"]}, asked)


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("qwen3", {}),
        ("mistral", {"head_dim": 24}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": False, "rope_scaling": LLAMA3_ROPE}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ],
)
def test_each_family_answers_as_the_original(tmp_path: Path, family: str, changes: dict) -> None:
    base = write_model(tmp_path / "base", family, **changes)
    adapter = write_adapter(base, tmp_path / "adapter", use_rslora=True)
    files = export(base, adapter, tmp_path / "out", ("f16", "lora"))
    alone = export(base, None, tmp_path / "out")["f16"]
    asked = prompts(base)
    assert top1_parity(base, adapter, files["f16"], asked).share >= 0.95
    assert top1_parity(base, adapter, alone, asked, files["lora"]).share >= 0.95


# -- without llama.cpp, and with bad files ----------------------------------------------------------


def test_no_llama_cpp_is_said(llama: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "available", lambda: False)
    with pytest.raises(UserError, match="install the extra 'serve'"):
        token_parity(llama, plain)


def test_a_file_that_llama_cpp_cannot_load(llama: Path, plain: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(plain.read_bytes()[:5000])
    with pytest.raises(NonRetriableError, match="torn"):
        token_parity(llama, torn)
    with pytest.raises(NonRetriableError, match="cannot load it"):
        top1_parity(llama, None, torn, [[1, 2]])
