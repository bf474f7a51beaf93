"""What a run will need, said before it starts: memory, disk, steps and time.

Memory is summed from what there is to hold (weights, adapter with its optimizer, activations of one piece
of a step, logits), by what the engine keeps where it runs the model, else by what the model's own forward
does; time is operations over a speed. The speed is a known GPU's peak
times the share that training reaches there, or what a product of matrices reaches here, times the like.
docs/bench-training.md compares it with what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durable import parse_json
from ..errors import NonRetriableError, in_file
from .engine.head import LOGITS
from .engine.layer import STRETCH
from .recipe import Recipe

GIB = 2**30
NF4_BYTES = 0.5 + 4 / 64
"""Bytes per weight: four bits, and an fp32 constant for each block of 64 (bitsandbytes, no double quant)."""
CUDA_CONTEXT_GIB = 0.6
ALLOCATOR_SHARE = 0.15
"""Of all that is held on a GPU: what the allocator holds back besides. At most so much was measured."""
CPU_PROCESS_GIB = 0.55
"""What torch, transformers and peft take before the first weight; measured."""
GPU_SHARE, CPU_SHARE = 0.35, 0.45
"""Share of the peak that a step reaches, and of a product of matrices on a CPU."""


@dataclass(frozen=True)
class Network:
    """A decoder's figures (Llama, Qwen, Mistral), as far as they cost memory and time."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    family: str = ""
    """As ``model_type`` in a config.json calls it; nothing where nobody said."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.width, q),
            "k_proj": (self.width, kv),
            "v_proj": (self.width, kv),
            "o_proj": (q, self.width),
            "gate_proj": (self.width, self.ffn),
            "up_proj": (self.width, self.ffn),
            "down_proj": (self.ffn, self.width),
        }

    @property
    def linear(self) -> int:
        """Parameters of the linear layers of all blocks."""
        return self.layers * sum(i * o for i, o in self.shapes.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embedding and, where it is another, of the output layer."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them, norms and biases aside."""
        return self.linear + self.embedding

    def adapter(self, recipe: Recipe) -> int:
        """Parameters that the recipe trains."""
        pairs = [self.shapes[name] for name in recipe.layers]
        rows = sum(o for _, o in pairs) if recipe.dora else 0
        return self.layers * (sum(recipe.rank * (i + o) for i, o in pairs) + rows)


@dataclass(frozen=True)
class Estimate:
    """What a run will need. Memory and disk in GiB, time in seconds."""

    device: str
    parameters: int
    trained: int
    rows: int
    tokens: int
    steps: int
    parts: Mapping[str, float]
    """Memory by what it is for."""
    free: float | None
    disk: float
    seconds: float

    @property
    def memory(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the memory that is free is enough; where nobody knows, it is."""
        return self.free is None or self.memory <= self.free

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "parameters": self.parameters,
            "trained": self.trained,
            "rows": self.rows,
            "tokens": self.tokens,
            "steps": self.steps,
            "memory_gib": round(self.memory, 2),
            "memory": {k: round(v, 3) for k, v in self.parts.items()},
            "free_gib": None if self.free is None else round(self.free, 2),
            "fits": self.fits,
            "disk_gib": round(self.disk, 3),
            "seconds": round(self.seconds, 1),
        }


def network_of(config: Mapping[str, Any]) -> Network:
    """The figures of a ``config.json``. Raises ValueError naming one that is not there or no such number."""
    heads, width = _figure(config, "num_attention_heads"), _figure(config, "hidden_size")
    return Network(
        _figure(config, "num_hidden_layers"),
        width,
        _figure(config, "intermediate_size"),
        heads,
        _figure(config, "num_key_value_heads", heads),
        _figure(config, "head_dim", width // heads),
        _figure(config, "vocab_size"),
        bool(config.get("tie_word_embeddings", False)),
        str(config.get("model_type", "")),
    )


def _figure(config: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = config.get(key) or default
    if type(value) is not int or value < 1:
        raise ValueError(f"{key}: {value!r} is no whole number above zero" if value else f"{key}: not there")
    return value


def read_network(base: Path) -> Network:
    """The network of a base folder. Raises NonRetriableError naming the file and the key."""
    path = base / "config.json"
    try:
        return network_of(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise NonRetriableError(in_file(path, "", str(error), "get the base again")) from None


def memory_parts(
    net: Network, recipe: Recipe, device: str, longest: int, supervised: float = 1.0
) -> dict[str, float]:
    """GiB by what they are for, at the highest moment of a step.

    ``longest`` is the longest row in tokens (a piece is never smaller), ``supervised`` the share of tokens
    with loss, for which alone logits are made."""
    gpu = device.startswith("cuda")
    wide = 2 if recipe.half(device) else 4
    dense = float(net.parameters * wide)
    if recipe.quantize == "nf4":
        dense = net.linear * NF4_BYTES + net.embedding * wide
    trained = net.adapter(recipe) * (4 + 4 + 8)  # weights, gradients and AdamW's two moments, fp32
    tokens = max(math.ceil(recipe.batch_tokens / recipe.accumulation), longest)
    most_logits = tokens * min(1.0, supervised) * net.vocabulary
    if by_engine(net, recipe, device):
        activations = _engine_bytes(net, recipe, wide, tokens, gpu)
        logits = min(most_logits * wide, LOGITS) * (1 if gpu else 3)
        if recipe.quantize == "nf4":
            dense += 2 * net.ffn * net.width * wide  # the room in which one product's weights are made whole
    else:
        activations, logits = tokens * _activation_bytes(net, recipe, wide), most_logits * (wide + 4 + 4)
    parts = {
        "weights": dense / GIB,
        "adapter and optimizer": trained / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
    }
    if gpu:
        return {"CUDA": CUDA_CONTEXT_GIB, "allocator": ALLOCATOR_SHARE * sum(parts.values())} | parts
    return {"process": CPU_PROCESS_GIB} | parts


def by_engine(net: Network, recipe: Recipe, device: str) -> bool:
    """Whether the engine runs the model, as far as family, recipe and device tell (``engine.why_not``)."""
    from .engine.network import FAMILIES

    plain = recipe.dropout or recipe.dora or recipe.shard or not recipe.packing
    precise = recipe.half(device) == device.startswith("cuda")
    return net.family in FAMILIES and not plain and precise and device.startswith(("cuda", "cpu"))


def _engine_bytes(net: Network, recipe: Recipe, wide: int, tokens: int, gpu: bool) -> float:
    """Bytes at the highest moment of the engine's backward: what all layers keep (``engine.layer.Kept``), and
    what one layer works with. With checkpointing a GPU has three layers' inputs, the shelf the others."""
    q, kv = net.heads * net.head_dim, net.kv_heads * net.head_dim
    turned, stream = q + 2 * kv, net.width
    if recipe.grad_checkpointing:
        kept = q if gpu else stream + q
        stretch = min(1.0, 2 * STRETCH / tokens)
        works = 3 * turned + (7 if gpu else 4) * stream + stretch * (3 * net.ffn + 2 * stream)
    else:
        kept = 2 * stream + turned + q + 2 * net.ffn
        works = net.ffn + 6 * stream
    return float(tokens * wide * (net.layers * kept + works))


def _activation_bytes(net: Network, recipe: Recipe, wide: int) -> float:
    """Bytes per token that the forward of transformers leaves for its backward.

    In a block: the two norms' inputs and outputs, q, k, v and attention's output, gate, up, their product;
    and what an adapter keeps. With checkpointing only each block's input, and one block whole."""
    q, kv = net.heads * net.head_dim, net.kv_heads * net.head_dim
    block = wide * (5 * net.width + 2 * q + 2 * kv + 4 * net.ffn) + 8 * net.width
    block += wide * recipe.rank * len(recipe.layers)
    if recipe.grad_checkpointing:
        return net.layers * wide * net.width + 2 * block
    return net.layers * block


def time_seconds(net: Network, recipe: Recipe, tokens: int, mean_row: float, flops: float) -> float:
    """Seconds for ``tokens`` tokens at ``flops`` operations a second.

    Four operations per parameter and token (see ``metrics``), two more with checkpointing, and attention's
    own, which grow with the row."""
    per_token = float((6 if recipe.grad_checkpointing else 4) * net.parameters)
    per_token += 6 * net.layers * net.heads * net.head_dim * mean_row
    return tokens * per_token / flops


def estimate(
    base: Path, recipe: Recipe, lengths: Sequence[int], supervised: int, steps: int, device: str = ""
) -> Estimate:
    """What training rows of these lengths with ``supervised`` tokens of loss in all will need."""
    from .adapter import pick_device
    from .metrics import free_gpu_gib, free_ram_gib, peak_flops

    device = device or pick_device()
    gpu = device.startswith("cuda")
    net, total = read_network(base), sum(lengths)
    tokens = round(total * recipe.epochs)
    flops = peak_flops(device) * (GPU_SHARE if gpu else CPU_SHARE)
    trained = net.adapter(recipe)
    return Estimate(
        device,
        net.parameters,
        trained,
        len(lengths),
        tokens,
        steps,
        memory_parts(net, recipe, device, max(lengths), supervised / max(1, total)),
        free_gpu_gib() if gpu else free_ram_gib(),
        disk_gib(trained, recipe.keep),
        time_seconds(net, recipe, tokens, total / len(lengths), flops),
    )


def disk_gib(trained: int, keep: int) -> float:
    """What a job's folder and its version take at most: kept checkpoints, one being written, the best, the
    adapter."""
    return trained * 4 * ((keep + 1) * 3 + 2) / GIB
