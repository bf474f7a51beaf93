"""The tiny base: its shape, its tokenizer, its chat template, and how it is saved.

A Llama of 3.2 M parameters with a byte-level BPE of its own. The tokenizer is of a form that llama.cpp
reproduces id for id (Qwen2's split, then bytes; digits one by one), so that the GGUF is the same model.
``gt model base build`` makes it again from its seed: see :mod:`gt_plugins.training.pretrain`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

TINY = "tiny"
SHIPPED = Path(__file__).parent / "tiny_base"
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END, START, STOP, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer, from the ``tokenizer.json`` of that family; llama.cpp knows it as ``qwen2``."""
CHAT_TEMPLATE = (
    "{%- for message in messages %}{%- if message.content %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class TinyShape:
    """The network's size. 192 × 6 with tied embeddings over 1,536 tokens has 3.2 M parameters."""

    vocab: int = 1536
    width: int = 192
    layers: int = 6
    heads: int = 6
    ffn: int = 576
    context: int = 4096


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A byte-level BPE of ``vocab`` tokens in all, specials included."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def new_model(shape: TinyShape, tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """The network with fresh weights drawn from ``seed``, fp32, on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(STOP),
        pad_token_id=tokenizer.token_to_id(END),
    )
    return LlamaForCausalLM(config)


def save_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """tokenizer.json, its configuration and the chat template, as transformers and our renderer read them."""
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": STOP,
            "pad_token": END,
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        },
    )


def save_base(folder: Path, model: Any, tokenizer: Tokenizer, shape: TinyShape, card: dict[str, Any]) -> None:
    """The whole base as a Hugging Face folder: F16 safetensors, configuration, tokenizer, data card."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tied = "lm_head.weight"
    state = {
        k: v.detach().to("cpu", torch.float16).contiguous()
        for k, v in model.state_dict().items()
        if k != tied
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string())
    config["torch_dtype"] = "float16"
    config["architectures"] = ["LlamaForCausalLM"]
    write_json(folder / "config.json", config)
    save_tokenizer(folder, tokenizer, shape.context)
    write_json(folder / "base.json", {"shape": asdict(shape), **card, "sha256": hashes(folder)})


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make the model what it is, as its data card holds them."""
    names = ("model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def base_path(base: str) -> Path:
    """The folder of a base: ``tiny`` is the one that is shipped."""
    return SHIPPED if base == TINY else Path(base).expanduser().absolute()
