"""A base, with a LoRA merged into it or beside it, as GGUF files that llama.cpp serves.

Weights are read, merged, converted and written one tensor at a time. Each file appears by one rename, so a
full disk or a kill leaves none that is half written. Llama and Mistral (which are one architecture to
llama.cpp, with the rows of q and k in another order), Qwen2 and Qwen3 are known; the rest is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import PRIVATE_FILE, fsync_dir, private_dir
from ..errors import FinetuneError, NonRetriableError, UserError, in_file
from ..training.tokenizer_check import BaseFacts, validate_base
from .quantize import Q4_K_M, need_quantizer, quantize
from .vocabulary import Vocabulary, read_vocabulary
from .weights import Lora, Weights, load_lora, settled

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

KINDS = ("f16", "q8_0", "q4_k_m", "lora")
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)")
_F16_MAX = 65504.0
_Q8_BLOCK, _Q8_BYTES = 32, 34


@dataclass(frozen=True)
class Shape:
    """A network's figures, as both sides need them."""

    architecture: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rows: int
    epsilon: float
    rope_base: float
    rope: Mapping[str, Any]
    tied: bool


def export(
    base: Path,
    adapter: Path | None,
    out: Path,
    kinds: Sequence[str] = ("f16",),
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Path]:
    """Write the kinds that are asked for into ``out`` and return kind → file.

    ``f16``, ``q8_0`` and ``q4_k_m`` are the whole model (``model-f16.gguf``, or ``base-f16.gguf`` without
    adapter); the last is made from the first by llama.cpp itself, so it has to be installed.
    ``lora`` is the adapter alone (``lora.gguf``), to be put on a base's file.
    Raises UserError for a kind or folder that does not exist, NonRetriableError for a tokenizer or network
    that llama.cpp would run wrongly, FinetuneError where the disk is full.
    """
    unknown = [k for k in kinds if k not in KINDS]
    if unknown:
        raise UserError(f"no GGUF kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    if "lora" in kinds and adapter is None:
        raise UserError("kind 'lora' needs an adapter")
    if Q4_K_M in kinds:
        need_quantizer()
    facts = validate_base(base)
    shape = read_shape(base, facts)
    vocabulary = read_vocabulary(base, facts.rows, facts.end_id)
    weights = settled(lambda: Weights.of_base(base), sleep)
    lora = settled(lambda: load_lora(adapter, weights), sleep) if adapter is not None else None
    plan = _plan(base, weights, shape)
    stem = "model" if lora else "base"
    files = {}
    for kind in dict.fromkeys(kinds):
        target = private_dir(out) / ("lora.gguf" if kind == "lora" else f"{stem}-{kind}.gguf")
        if kind == "lora":
            assert lora is not None
            _write_lora(target, lora, shape, plan)
        elif kind == Q4_K_M:
            with tempfile.TemporaryDirectory(dir=out, prefix=".f16.") as name:
                whole = Path(name) / target.name
                _write_model(whole, "f16", weights, lora, shape, vocabulary, plan)
                quantize(whole, target)
        else:
            _write_model(target, kind, weights, lora, shape, vocabulary, plan)
        files[kind] = target
    return files


# -- the network ------------------------------------------------------------------------------------


def read_shape(base: Path, facts: BaseFacts) -> Shape:
    """The figures of config.json. Raises NonRetriableError for what llama.cpp would run differently."""
    path = base / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))

    def refuse(key: str, problem: str) -> NonRetriableError:
        return NonRetriableError(in_file(path, key, problem, "serve it with the transformers engine"))

    architecture = _ARCHITECTURES.get(facts.architecture)
    if architecture is None:
        raise refuse("architectures", f"{facts.architecture} is not one of {', '.join(_ARCHITECTURES)}")
    if config.get("hidden_act", "silu") != "silu":
        raise refuse("hidden_act", f"{config['hidden_act']} is not silu")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window and window < config.get("max_position_embeddings", 0):
        raise refuse("sliding_window", "a sliding window is not known here")
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise refuse("rope_scaling", f"{kind} is not known here")
    if config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) not in (1, None):
        raise refuse("partial_rotary_factor", "is not 1")
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            architecture,
            int(config["num_hidden_layers"]),
            width,
            int(config["intermediate_size"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or width // heads),
            facts.context,
            facts.rows,
            float(config["rms_norm_eps"]),
            float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            rope | {"kind": kind},
            bool(config.get("tie_word_embeddings")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise refuse(str(error).strip("'"), "not there, or no number") from None


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a tensor or module; None for one that it does not know."""
    stem, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
    inside = _NAME.fullmatch(stem)
    ours = f"blk.{inside[1]}.{_LAYER[inside[2]]}" if inside and inside[2] in _LAYER else _TOP.get(stem)
    return None if ours is None else f"{ours}.{kind}" if kind else ours


def _plan(base: Path, weights: Weights, shape: Shape) -> dict[str, str]:
    """Tensor of the base → tensor of the file, for every one that the file has, in a fixed order."""
    plan = {}
    for name in sorted(weights.names(), key=_order):
        if name.endswith("rotary_emb.inv_freq") or (shape.tied and name == "lm_head.weight"):
            continue
        ours = gguf_name(name)
        if ours is None:
            raise NonRetriableError(in_file(base, name, "a tensor that llama.cpp would not know", ""))
        plan[name] = ours
    needed = ["token_embd.weight", "output_norm.weight", *([] if shape.tied else ["output.weight"])]
    parts = [p for p in _LAYER.values() if "q_norm" not in p and "k_norm" not in p]
    needed += [f"blk.{i}.{part}.weight" for i in range(shape.layers) for part in parts]
    missing = sorted(set(needed) - set(plan.values()))
    if missing:
        raise NonRetriableError(in_file(base, missing[0], "not in the weights", "get the base again"))
    return plan


def _order(name: str) -> tuple[int, str]:
    inside = _NAME.fullmatch(name)
    return (int(inside[1]) if inside else -1, name)


def _reordered(name: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Rows of q and k as llama.cpp's rotation wants them: it turns neighbours, Hugging Face turns halves."""
    heads = {"self_attn.q_proj": shape.heads, "self_attn.k_proj": shape.kv_heads}
    found = [count for part, count in heads.items() if part in name]
    if shape.architecture != "llama" or not found:
        return array
    split = array.reshape(found[0], 2, array.shape[0] // found[0] // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def _merged(name: str, weights: Weights, lora: Lora | None, shape: Shape) -> np.ndarray:
    """A tensor of the file, in float32: the base's, with the adapter's part, in llama.cpp's order."""
    import numpy as np

    array = weights.array(name)
    module = name.removesuffix(".weight")
    if lora is not None and module in lora.scales:
        array += lora.delta(module)
    if not np.isfinite(array).all():
        raise NonRetriableError(f"{name}: NaN or infinity in it; train the adapter again")
    return _reordered(name, array, shape)


# -- files ------------------------------------------------------------------------------------------


@contextmanager
def _written(target: Path, need: int) -> Iterator[Path]:
    """A path to write to that becomes ``target`` at the end. Raises FinetuneError for a full disk."""
    free = shutil.disk_usage(target.parent).free
    if free < need:
        problem = f"no space: {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        raise FinetuneError(in_file(target, "", problem, "free some and export again"))
    stage = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield stage
        os.chmod(stage, PRIVATE_FILE)
        with stage.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(stage, target)
    except OSError as error:
        problem = f"not written: {error.strerror or error}"
        raise FinetuneError(in_file(target, "", problem, "free space and export again")) from None
    finally:
        stage.unlink(missing_ok=True)
    fsync_dir(target.parent)


@contextmanager
def _writer(path: Path, architecture: str) -> Iterator[GGUFWriter]:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    try:
        yield writer
    finally:
        writer.close()


def _write_header(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _write_model(
    target: Path,
    kind: str,
    weights: Weights,
    lora: Lora | None,
    shape: Shape,
    vocabulary: Vocabulary,
    plan: Mapping[str, str],
) -> None:
    types = {name: _type_of(weights.shape(name), kind) for name in plan}
    need = sum(_size(weights.shape(name), types[name]) for name in plan) + 200 * shape.rows
    with _written(target, need) as path, _writer(path, shape.architecture) as writer:
        _describe(writer, target.stem, kind, shape)
        _describe_vocabulary(writer, vocabulary)
        factors = _rope_factors(shape)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for name, ours in plan.items():
            _announce(writer, ours, weights.shape(name), types[name])
        _write_header(writer)
        if factors is not None:
            writer.write_tensor_data(factors)
        for name in plan:
            writer.write_tensor_data(_converted(name, _merged(name, weights, lora, shape), types[name]))


def _type_of(shape: tuple[int, ...], kind: str) -> str:
    """Norms and biases stay in float32; a row that no block divides stays in float16."""
    if len(shape) < 2:
        return "f32"
    return "q8_0" if kind == "q8_0" and shape[-1] % _Q8_BLOCK == 0 else "f16"


def _size(shape: tuple[int, ...], type: str) -> int:
    numbers = math.prod(shape)
    return numbers // _Q8_BLOCK * _Q8_BYTES if type == "q8_0" else numbers * (4 if type == "f32" else 2)


def _announce(writer: GGUFWriter, name: str, shape: tuple[int, ...], type: str) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType

    if type == "q8_0":
        as_bytes = (*shape[:-1], shape[-1] // _Q8_BLOCK * _Q8_BYTES)
        size = _size(shape, type)
        writer.add_tensor_info(name, as_bytes, np.dtype(np.uint8), size, GGMLQuantizationType.Q8_0)
    else:
        dtype = np.dtype(np.float32 if type == "f32" else np.float16)
        writer.add_tensor_info(name, shape, dtype, _size(shape, type))


def _converted(name: str, array: np.ndarray, type: str) -> np.ndarray:
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    if type == "f32":
        return array
    if type == "f16":
        largest = float(np.abs(array).max(initial=0.0))
        if largest > _F16_MAX:
            raise NonRetriableError(f"{name}: {largest:.0f} is too large for float16; export q8_0 instead")
        return array.astype(np.float16)
    return quants.quantize(array, GGMLQuantizationType.Q8_0)


def _describe(writer: GGUFWriter, name: str, kind: str, shape: Shape) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.rows)
    if shape.rope["kind"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(shape.rope["factor"]))


def _describe_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_eos_token_id(vocabulary.ids["eos"])
    writer.add_eot_token_id(vocabulary.ids["eot"])
    if "bos" in vocabulary.ids:
        writer.add_bos_token_id(vocabulary.ids["bos"])
    if "pad" in vocabulary.ids:
        writer.add_pad_token_id(vocabulary.ids["pad"])
    writer.add_add_bos_token(False)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _rope_factors(shape: Shape) -> np.ndarray | None:
    """Llama 3.1's stretching of long wavelengths, which llama.cpp reads as divisors per pair of rows."""
    import numpy as np

    if shape.rope["kind"] != "llama3":
        return None
    factor = float(shape.rope["factor"])
    low, high = float(shape.rope["low_freq_factor"]), float(shape.rope["high_freq_factor"])
    old = float(shape.rope["original_max_position_embeddings"])
    divisors = []
    for i in range(0, shape.head_dim, 2):
        wavelength = 2 * math.pi * shape.rope_base ** (i / shape.head_dim)
        share = min(1.0, max(0.0, (old / wavelength - low) / (high - low)))
        divisors.append(1.0 / ((1.0 - share) / factor + share))
    return np.array(divisors, dtype=np.float32)


def _write_lora(target: Path, lora: Lora, shape: Shape, plan: Mapping[str, str]) -> None:
    """The adapter alone. llama.cpp scales by alpha / rank; what a pair has other than that goes into B."""
    import numpy as np
    from gguf import GGUFType

    pairs = {}
    for module in sorted(lora.scales, key=_order):
        if f"{module}.weight" not in plan:
            problem = "is tied to the embedding, which llama.cpp cannot adapt"
            raise NonRetriableError(in_file(lora.folder, module, problem, "export the merged model"))
        down, up = lora.pair(module)
        up = up * (lora.scales[module] / (lora.alpha / down.shape[0]))
        ours = f"{plan[f'{module}.weight']}.lora_"
        pairs[ours + "a"] = np.ascontiguousarray(down, np.float32)
        pairs[ours + "b"] = np.ascontiguousarray(_reordered(module, up, shape), np.float32)
    need = sum(array.nbytes for array in pairs.values()) + 100_000
    with _written(target, need) as path, _writer(path, shape.architecture) as writer:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_name(target.stem)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", lora.alpha)
        for name, array in pairs.items():
            writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
        _write_header(writer)
        for array in pairs.values():
            writer.write_tensor_data(array)
