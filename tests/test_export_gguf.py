"""GGUF files: what stands in them, what is refused and why, and that none is ever half written."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_helpers import LLAMA3, SPECIALS, tokenizer_json, write_tokenizer

from gt_plugins.errors import FinetuneError, NonRetriableError, RetriableError, UserError
from gt_plugins.export import gguf as exporter
from gt_plugins.export.gguf import export, gguf_name
from gt_plugins.export.vocabulary import CONTROL, NORMAL, UNUSED

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

WIDTH, FFN, HEADS, KV, LAYERS, ROWS = 32, 48, 4, 2, 1, 390
PER_HEAD = WIDTH // HEADS
ORDER = [
    h * PER_HEAD + half * PER_HEAD // 2 + i
    for h in range(HEADS)
    for i in range(PER_HEAD // 2)
    for half in (0, 1)
]
"""Rows of q in a Llama's file: Hugging Face keeps the halves of a head apart, llama.cpp pairs them."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


def network(dtype: torch.dtype = torch.float32, biases: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    narrow = WIDTH // HEADS * KV
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (narrow, WIDTH),
        "self_attn.v_proj": (narrow, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (FFN, WIDTH),
        "mlp.up_proj": (FFN, WIDTH),
        "mlp.down_proj": (WIDTH, FFN),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    tensors = {f"model.layers.0.{k}.weight": torch.randn(*v) for k, v in shapes.items()}
    if biases:
        for part in ("q", "k", "v"):
            size = shapes[f"self_attn.{part}_proj"][0]
            tensors[f"model.layers.0.self_attn.{part}_proj.bias"] = torch.randn(size)
    tensors["model.embed_tokens.weight"] = torch.randn(ROWS, WIDTH)
    tensors["model.norm.weight"] = torch.randn(WIDTH)
    return {k: v.to(dtype) for k, v in tensors.items()}


def write(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors or network(), folder / "model.safetensors")
    return folder


def write_lora(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    folder.mkdir()
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    torch.manual_seed(2)
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    found = tensors or {
        f"{q}.lora_A.weight": torch.randn(2, WIDTH),
        f"{q}.lora_B.weight": torch.randn(WIDTH, 2),
    }
    save_file(found, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base")


def fields(path: Path) -> dict[str, Any]:
    return {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith("GGUF.")}


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        for t in gguf.GGUFReader(path).tensors
    }


def refused(call: Callable[[], Any], *told: str, kind: type[FinetuneError] = NonRetriableError) -> None:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(t in text for t in told), text


# -- what is written --------------------------------------------------------------------------------


def test_the_facts_of_the_tokenizer_and_the_network(base: Path, tmp_path: Path) -> None:
    path = export(base, None, tmp_path / "out")["f16"]
    assert path == tmp_path / "out/base-f16.gguf"
    told = fields(path)
    assert told["general.architecture"] == "llama" and told["general.file_type"] == 1
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    assert told["tokenizer.ggml.add_bos_token"] is False and "tokenizer.ggml.bos_token_id" not in told
    assert (told["tokenizer.ggml.eos_token_id"], told["tokenizer.ggml.padding_token_id"]) == (2, 0)
    assert told["tokenizer.ggml.tokens"][:7] == list(SPECIALS)
    types = told["tokenizer.ggml.token_type"]
    assert types[:7] == [CONTROL] * 7 and set(types[7:384]) == {NORMAL} and types[384:] == [UNUSED] * 6
    assert told["tokenizer.ggml.tokens"][384:] == [f"[PAD{i}]" for i in range(384, 390)]
    merges = json.loads(tokenizer_json())["model"]["merges"]
    assert told["tokenizer.ggml.merges"] == [m if isinstance(m, str) else " ".join(m) for m in merges]
    assert told["tokenizer.chat_template"] == (base / "chat_template.jinja").read_text()
    assert told["llama.rope.freq_base"] == 50000.0 and told["llama.attention.head_count_kv"] == KV
    assert (told["llama.context_length"], told["llama.vocab_size"]) == (128, ROWS)


def test_files_and_folder_are_private(base: Path, tmp_path: Path) -> None:
    path = export(base, None, tmp_path / "deep/out")["f16"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (
        stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
    )
    assert [p.name for p in path.parent.iterdir()] == ["base-f16.gguf"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_come_through_each_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = network(dtype)
    found = tensors_of(export(write(tmp_path / "base", tensors), None, tmp_path / "out")["f16"])
    for name, ours in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_allclose(found[ours], tensors[name].float().numpy(), rtol=2e-3, atol=1e-6)
    down = found["blk.0.ffn_down.weight"]
    np.testing.assert_allclose(
        down, tensors["model.layers.0.mlp.down_proj.weight"].float().numpy(), rtol=2e-3, atol=1e-6
    )


def test_rows_of_q_and_k_are_reordered_for_llama_alone(tmp_path: Path) -> None:
    tensors = network(biases=True)
    q, bias = (tensors[f"model.layers.0.self_attn.q_proj.{k}"].numpy() for k in ("weight", "bias"))
    k = tensors["model.layers.0.self_attn.k_proj.weight"].numpy()
    llama = tensors_of(export(write(tmp_path / "l", tensors), None, tmp_path / "lo")["f16"])
    np.testing.assert_allclose(llama["blk.0.attn_q.weight"], q[ORDER], rtol=2e-3, atol=1e-6)
    np.testing.assert_array_equal(llama["blk.0.attn_q.bias"], bias[ORDER])
    np.testing.assert_allclose(llama["blk.0.attn_k.weight"], k[ORDER[: len(k)]], rtol=2e-3, atol=1e-6)
    qwen_base = write(tmp_path / "q", tensors, architectures=["Qwen2ForCausalLM"])
    path = export(qwen_base, None, tmp_path / "qo")["f16"]
    np.testing.assert_allclose(tensors_of(path)["blk.0.attn_q.weight"], q, rtol=2e-3, atol=1e-6)
    assert fields(path)["general.architecture"] == "qwen2"


def test_q8_0_is_near_and_small(base: Path, tmp_path: Path) -> None:
    files = export(base, None, tmp_path / "out", ("f16", "q8_0"))
    exact, near = tensors_of(files["f16"]), tensors_of(files["q8_0"])
    up = "blk.0.ffn_up.weight"
    assert np.abs(exact[up] - near[up]).max() <= np.abs(exact[up]).max() / 127 + 1e-3
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(files["q8_0"]).tensors}
    assert kinds[up] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16", "a row of 48 is not divided by blocks of 32"
    assert fields(files["q8_0"])["general.file_type"] == 7


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merge_adds_the_scaled_product(base: Path, tmp_path: Path, rslora: bool) -> None:
    adapter = write_lora(tmp_path / "lora", use_rslora=rslora)
    lora = {k.rpartition(".lora_")[2][0]: v.numpy() for k, v in _load(adapter).items()}
    scale = 6 / 2**0.5 if rslora else 3.0
    files = export(base, adapter, tmp_path / "out", ("f16", "lora"))
    assert sorted(p.name for p in files.values()) == ["lora.gguf", "model-f16.gguf"]
    plain = tensors_of(export(base, None, tmp_path / "out")["f16"])
    merged = tensors_of(files["f16"])
    q = _load(base)["model.layers.0.self_attn.q_proj.weight"].numpy() + scale * lora["B"] @ lora["A"]
    np.testing.assert_allclose(merged["blk.0.attn_q.weight"], q[ORDER], rtol=2e-3, atol=1e-4)
    changed = [n for n in plain if not np.array_equal(plain[n], merged[n])]
    assert changed == ["blk.0.attn_q.weight"]
    told, pair = fields(files["lora"]), tensors_of(files["lora"])
    assert (told["general.type"], told["adapter.type"]) == ("adapter", "lora")
    beside = (
        told["adapter.lora.alpha"]
        / 2
        * pair["blk.0.attn_q.weight.lora_b"]
        @ pair["blk.0.attn_q.weight.lora_a"]
    )
    np.testing.assert_allclose(
        plain["blk.0.attn_q.weight"] + beside, merged["blk.0.attn_q.weight"], rtol=2e-2, atol=3e-2
    )


def _load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def test_patterns_of_rank_and_alpha_go_into_b(base: Path, tmp_path: Path) -> None:
    stem = "base_model.model.model.layers.0.{}_proj.lora_{}.weight"
    tensors = {
        stem.format("self_attn.q", "A"): torch.ones(2, WIDTH),
        stem.format("self_attn.q", "B"): torch.ones(WIDTH, 2),
        stem.format("mlp.up", "A"): torch.ones(4, WIDTH),
        stem.format("mlp.up", "B"): torch.ones(FFN, 4),
    }
    adapter = write_lora(
        tmp_path / "lora", tensors, rank_pattern={"up_proj": 4}, alpha_pattern={"mlp.up_proj": 20}
    )
    found = tensors_of(export(base, adapter, tmp_path / "out", ["lora"])["lora"])
    scale = {
        name: 6 / found[f"{name}.lora_a"].shape[0] for name in ("blk.0.attn_q.weight", "blk.0.ffn_up.weight")
    }
    assert found["blk.0.attn_q.weight.lora_b"][0, 0] * scale["blk.0.attn_q.weight"] == 6 / 2
    assert found["blk.0.ffn_up.weight.lora_b"][0, 0] * scale["blk.0.ffn_up.weight"] == 20 / 4


def test_an_untied_head_is_there_and_a_tied_one_is_not(tmp_path: Path) -> None:
    tensors = network() | {"lm_head.weight": torch.randn(ROWS, WIDTH)}
    untied = export(write(tmp_path / "u", tensors, tie_word_embeddings=False), None, tmp_path / "uo")["f16"]
    tied = export(write(tmp_path / "t", tensors), None, tmp_path / "to")["f16"]
    assert "output.weight" in tensors_of(untied) and "output.weight" not in tensors_of(tied)
    refused(
        lambda: export(write(tmp_path / "x", tie_word_embeddings=False), None, tmp_path / "xo"),
        "output.weight",
        "not in the weights",
    )


def test_stretched_rotation(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    found = tensors_of(export(write(tmp_path / "b", rope_parameters=rope), None, tmp_path / "o")["f16"])
    factors = found["rope_freqs.weight"]
    assert factors.shape == (WIDTH // HEADS // 2,)
    assert factors[0] == 1.0 and factors[-1] == 8.0 and (np.diff(factors) >= 0).all()
    old = {"rope_theta": 7.0, "rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4.0}}
    told = fields(export(write(tmp_path / "c", **old), None, tmp_path / "p")["f16"])
    assert (told["llama.rope.scaling.type"], told["llama.rope.scaling.factor"]) == ("linear", 4.0)
    assert told["llama.rope.freq_base"] == 7.0


def test_names() -> None:
    assert gguf_name("model.layers.11.mlp.up_proj.weight") == "blk.11.ffn_up.weight"
    assert gguf_name("model.layers.0.self_attn.q_proj.bias") == "blk.0.attn_q.bias"
    assert gguf_name("model.layers.0.self_attn.q_proj") == "blk.0.attn_q"
    assert gguf_name("lm_head.weight") == "output.weight"
    assert gguf_name("model.layers.0.mlp.experts.3.up_proj.weight") is None


# -- tokenizers that llama.cpp would get wrong ------------------------------------------------------


def _set(path: tuple[Any, ...], value: Any) -> Callable[[dict], None]:
    def change(whole: dict) -> None:
        spot = whole
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set(("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": r"\w+|\W+"}), "not recognised"),
        (_set(("pre_tokenizer", "pretokenizers", 0, "pattern"), {"String": " "}), "not recognised"),
        (_set(("pre_tokenizer", "pretokenizers", 0, "behavior"), "MergedWithNext"), "split that is Merged"),
        (_set(("pre_tokenizer", "pretokenizers", 1, "use_regex"), True), "its own expression"),
        (
            _set(
                ("pre_tokenizer",),
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ),
            "is not Split and ByteLevel",
        ),
        (_set(("normalizer",), {"type": "NFKC"}), "normalizer: NFKC"),
        (_set(("model", "ignore_merges"), True), "ignore_merges"),
        (_set(("added_tokens", 3, "lstrip"), True), "takes the space beside it"),
    ],
)
def test_unknown_tokenizers_are_refused_with_the_part(
    base: Path, tmp_path: Path, change: Any, told: str
) -> None:
    path = base / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(NonRetriableError) as error:
        export(base, None, tmp_path / "out")
    assert told in str(error.value) or "comes back as" in str(error.value)
    assert "tokenizer.json" in str(error.value)
    assert not (tmp_path / "out").exists(), "nothing is written for a base that is refused"


def test_llama_3_is_known_by_its_expression_and_its_merges(base: Path, tmp_path: Path) -> None:
    value = json.loads(tokenizer_json(LLAMA3))
    (base / "tokenizer.json").write_text(json.dumps(value))
    refused(lambda: export(base, None, tmp_path / "out"), "ignore_merges is not what llama-bpe means")
    value["model"]["ignore_merges"] = True
    (base / "tokenizer.json").write_text(json.dumps(value))
    assert fields(export(base, None, tmp_path / "out")["f16"])["tokenizer.ggml.pre"] == "llama-bpe"


# -- networks, adapters, disks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architectures: GemmaForCausalLM is not one of"),
        ({"architectures": []}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act: gelu is not silu"),
        ({"sliding_window": 64}, "sliding_window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling: yarn is not known"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_hidden_layers": "two"}, "config.json"),
        ({"num_hidden_layers": 2}, "blk.1.attn_k.weight"),
    ],
)
def test_networks_that_llama_cpp_would_run_wrongly(tmp_path: Path, config: dict, told: str) -> None:
    refused(lambda: export(write(tmp_path / "b", **config), None, tmp_path / "o"), told)


def test_a_window_that_is_off_is_no_window(tmp_path: Path) -> None:
    assert export(write(tmp_path / "b", sliding_window=64, use_sliding_window=False), None, tmp_path / "o")


def test_a_tensor_that_nobody_knows(tmp_path: Path) -> None:
    tensors = network() | {"model.layers.0.mlp.router.weight": torch.ones(2, 2)}
    refused(lambda: export(write(tmp_path / "b", tensors), None, tmp_path / "o"), "mlp.router.weight")
    tensors = network() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    assert export(write(tmp_path / "c", tensors), None, tmp_path / "o")


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    tensors = network()
    tensors["model.embed_tokens.weight"][3, 3] = 70000.0
    base = write(tmp_path / "b", tensors)
    refused(lambda: export(base, None, tmp_path / "o"), "70000 is too large for float16", "q8_0")
    assert list((tmp_path / "o").iterdir()) == []
    assert export(base, None, tmp_path / "o", ["q8_0"])
    tensors = network()
    tensors["model.norm.weight"][0] = float("nan")
    refused(lambda: export(write(tmp_path / "c", tensors), None, tmp_path / "o"), "model.norm.weight: NaN")


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "config", "told"),
    [
        (None, {"use_dora": True}, "use_dora: cannot be exported"),
        (None, {"bias": "all"}, "bias: cannot be exported"),
        (None, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (None, {"peft_type": "IA3"}, "peft_type: not a LoRA"),
        ({"x": torch.ones(1)}, {}, "x: not a plain LoRA's"),
        ({f"{Q}.lora_A.weight": torch.ones(2, WIDTH)}, {}, "lora_B.weight: not a plain LoRA's"),
        (
            {f"{Q}.lora_A.weight": torch.ones(2, 7), f"{Q}.lora_B.weight": torch.ones(WIDTH, 2)},
            {},
            "does not fit (32, 32)",
        ),
        (
            {f"{Q}x.lora_A.weight": torch.ones(2, WIDTH), f"{Q}x.lora_B.weight": torch.ones(WIDTH, 2)},
            {},
            "the base has no such layer",
        ),
        (
            {
                f"{Q}.lora_A.weight": torch.full((2, WIDTH), float("inf")),
                f"{Q}.lora_B.weight": torch.ones(WIDTH, 2),
            },
            {},
            "NaN or infinity",
        ),
    ],
)
def test_adapters_that_are_no_plain_lora_of_this_base(
    base: Path, tmp_path: Path, tensors: Any, config: dict, told: str
) -> None:
    adapter = write_lora(tmp_path / "lora", tensors, **config)
    refused(lambda: export(base, adapter, tmp_path / "out"), told)


def test_an_adapter_on_a_tied_head_can_only_not_stand_alone(tmp_path: Path) -> None:
    stem = "base_model.model.lm_head.lora_{}.weight"
    lora = {stem.format("A"): torch.ones(2, WIDTH), stem.format("B"): torch.ones(ROWS, 2)}
    base = write(tmp_path / "b", network() | {"lm_head.weight": torch.randn(ROWS, WIDTH)})
    adapter = write_lora(tmp_path / "lora", lora)
    refused(lambda: export(base, adapter, tmp_path / "o", ["lora"]), "lm_head", "tied to the embedding")


def test_no_adapter_where_one_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    waits: list[float] = []
    refused(
        lambda: export(base, tmp_path / "empty", tmp_path / "o", sleep=waits.append), "adapter_config.json"
    )
    adapter = write_lora(tmp_path / "lora")
    (adapter / "adapter_config.json").write_text("{")
    refused(
        lambda: export(base, adapter, tmp_path / "o", sleep=waits.append), "adapter_config.json: not JSON"
    )
    assert waits == []


def test_an_adapter_that_is_still_being_written_is_waited_for(base: Path, tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "lora")
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    waits: list[float] = []

    def writer(seconds: float) -> None:
        waits.append(seconds)
        path.write_bytes(whole)

    assert export(base, adapter, tmp_path / "out", sleep=writer)["f16"].exists()
    assert len(waits) == 1
    path.write_bytes(whole[:-9])
    refused(
        lambda: export(base, adapter, tmp_path / "out", sleep=lambda _s: None),
        "9 bytes are missing",
        kind=RetriableError,
    )


@pytest.mark.parametrize(
    ("kinds", "told"), [(("f32",), "no GGUF kind 'f32'"), (("lora",), "needs an adapter")]
)
def test_kinds_that_do_not_exist(base: Path, tmp_path: Path, kinds: tuple[str, ...], told: str) -> None:
    refused(lambda: export(base, None, tmp_path / "out", kinds), told, kind=UserError)


def test_a_base_without_tokenizer_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    (base / "tokenizer.json").unlink()
    refused(lambda: export(base, None, tmp_path / "out"), "tokenizer.json: not there", kind=UserError)


def test_a_full_disk_leaves_the_old_file(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(base, None, tmp_path / "out")["f16"]
    before = path.read_bytes()

    def full(*_: Any) -> np.ndarray:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "_merged", full)
        refused(
            lambda: export(base, None, tmp_path / "out"), "No space left", "export again", kind=FinetuneError
        )
    monkeypatch.setattr(exporter.shutil, "disk_usage", lambda _p: type("U", (), {"free": 100})())
    refused(lambda: export(base, None, tmp_path / "out"), "no space: ", "0 MB free", kind=FinetuneError)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
