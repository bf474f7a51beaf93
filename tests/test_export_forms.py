"""Merged safetensors, four bits, and the rule that nothing unchecked is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from base_helpers import write_adapter, write_model

from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.export import checked, parity
from gt_plugins.export.checked import check_kinds, export_checked
from gt_plugins.export.gguf import export
from gt_plugins.export.kinds import export_version
from gt_plugins.export.merged import write_merged
from gt_plugins.export.parity import Parity

for module in ("llama_cpp", "gguf", "torch", "transformers", "peft"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("forms") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("forms") / "adapter")


def logits(folder: Path, adapter: Path | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([[5, 9, 2, 40, 7]])).logits


# -- merged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [2**31, 40_000])
def test_merged_weights_say_what_base_and_adapter_say(
    base: Path, adapter: Path, tmp_path: Path, shard_bytes: int
) -> None:
    import torch

    merged = write_merged(base, adapter, tmp_path / "merged", shard_bytes)
    wanted = logits(base, adapter)
    assert torch.allclose(logits(merged), wanted, atol=2e-2, rtol=2e-2)
    assert not torch.allclose(logits(base), wanted, atol=2e-2, rtol=2e-2), "the adapter changes something"
    shards = list(merged.glob("model-*.safetensors"))
    assert bool(shards) is (shard_bytes < 2**31) and (merged / "tokenizer.json").is_file()
    with pytest.raises(UserError, match="is there already"):
        write_merged(base, adapter, tmp_path / "merged")


def test_bfloat16_is_rounded_to_the_nearest(tmp_path: Path, base: Path, adapter: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from gt_plugins.training.safefile import load_tensors

    half = tmp_path / "bf16"
    half.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (half / path.name).write_bytes(path.read_bytes())
    weights = {k: v.to(torch.bfloat16) for k, v in load_tensors(base / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors")
    merged = load_file(write_merged(half, adapter, tmp_path / "merged") / "model.safetensors")
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}
    embedding = "model.embed_tokens.weight"
    assert torch.equal(merged[embedding], weights[embedding]), "what is not adapted is untouched"
    pairs = load_tensors(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    name = "model.layers.0.self_attn.q_proj"
    down, up = (pairs[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
    scale = config["lora_alpha"] / config["r"]
    wanted = (weights[f"{name}.weight"].float() + scale * (up @ down)).to(torch.bfloat16)
    assert (merged[f"{name}.weight"] != wanted).float().mean() < 0.01


# -- four bits --------------------------------------------------------------------------------------


def test_four_bits_are_smaller_known_to_llama_and_near_the_original(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    files = export(base, adapter, tmp_path, ("f16", "q4_k_m"))
    assert files["q4_k_m"].name == "model-q4_k_m.gguf" and files["q4_k_m"].stat().st_mode & 0o777 == 0o600
    assert files["q4_k_m"].stat().st_size < files["f16"].stat().st_size
    kinds = {t.tensor_type.name for t in GGUFReader(files["q4_k_m"]).tensors}
    assert kinds & {"Q4_K", "Q5_0", "Q5_K", "Q4_0"}, kinds
    assert parity.token_parity(base, files["q4_k_m"]) == Parity(400, 400)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model-f16.gguf", "model-q4_k_m.gguf"]


# -- checked ----------------------------------------------------------------------------------------


def test_every_kind_is_asked_and_the_adapter_on_its_own_base(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOP1_THRESHOLD, "q4_k_m", 0.3)  # random weights are all near-ties
    monkeypatch.setitem(parity.TOP1_THRESHOLD, "q8_0", 0.6)
    found = export_checked(base, adapter, tmp_path, ("f16", "q8_0", "q4_k_m", "lora"))
    assert set(found.files) == set(found.parity) == {"f16", "q8_0", "q4_k_m", "lora"}
    assert found.parity["f16"].share >= 0.95 and found.parity["lora"].share >= 0.95
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in found.files.values()}
    assert found.to_json()["lora"]["token_ids"] == "same"


def test_what_answers_otherwise_is_taken_away(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "top1_parity", lambda *_a, **_k: Parity(50, 20, "prompt 3"))
    with pytest.raises(NonRetriableError, match="only 20 of 50 best next tokens agree"):
        export_checked(base, adapter, tmp_path, ("f16",))
    assert list(tmp_path.iterdir()) == []


def test_without_llama_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked.parity, "available", lambda: False)
    check_kinds(())
    with pytest.raises(UserError, match=r"checked by llama\.cpp before they are kept; install the extra"):
        check_kinds(("f16",))
    with pytest.raises(UserError, match="no GGUF kind 'q3'"):
        check_kinds(("q3",))


def test_a_version_is_exported_in_each_form(base: Path, adapter: Path, tmp_path: Path) -> None:
    import shutil

    from gt_plugins.registry.versions import register

    stage = tmp_path / "stage"
    shutil.copytree(adapter, stage / "adapter")
    version = register(tmp_path / "models", "mine", "deacon", stage, str(base))
    found = export_version(version, tmp_path / "out", ("adapter", "merged", "f16"))
    assert found["version"] == "mine:v1" and set(found["files"]) == {"adapter", "merged", "f16"}
    assert found["parity"]["f16"]["same"] >= 0.95 * found["parity"]["f16"]["total"]
    copied = Path(found["files"]["adapter"]) / "adapter_model.safetensors"
    assert copied.read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UserError, match="no kind 'onnx'; there are adapter, merged, f16"):
        export_version(version, tmp_path / "out", ("onnx",))
