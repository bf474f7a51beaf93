"""Small bases for tests: a real byte-level tokenizer, a chat template, random weights of a chosen family."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END, START, STOP, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = (
    "The deacon checks the town: polecats nux, slit and ace run in rig demo; one of them is stuck.",
    "It's the witness who'll say they're done, I'd think; we've 12,345 beads and 3.5 hours of work left.",
    "gt nudge demo/polecats/nux 'please go on'\n\tbd show dm-1a2  # it hangs\n\n" * 2,
    '{"action": "restart", "reason": "no output for 45 minutes", "target": "demo/polecats/slit"}',
    "Größe naïve Łódź 東京 мир",
)


@lru_cache(maxsize=8)
def tokenizer_json(pattern: str = QWEN2, vocab: int = 384) -> str:
    """A BPE of ``vocab`` tokens, specials included, after Split(pattern) and ByteLevel."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
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
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.to_str()


def write_tokenizer(folder: Path, pattern: str = QWEN2, vocab: int = 384) -> None:
    """tokenizer.json, its configuration and the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json(pattern, vocab))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": STOP, "pad_token": END, "tokenizer_class": "PreTrainedTokenizerFast"})
    )


def write_bare_base(folder: Path, vocab: int = 384, rows: int | None = None, **config: Any) -> Path:
    """A base with an embedding and nothing else: enough for every check before training."""
    import torch
    from safetensors.torch import save_file

    write_tokenizer(folder, vocab=vocab)
    rows = vocab if rows is None else rows
    known = {"architectures": ["LlamaForCausalLM"], "vocab_size": rows, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(known | config))
    save_file({"model.embed_tokens.weight": torch.zeros(rows, 4)}, folder / "model.safetensors")
    return folder


def write_model(folder: Path, family: str = "llama", vocab: int = 384, **changes: Any) -> Path:
    """A random model of a family (llama, mistral, qwen2, qwen3) with its tokenizer, saved by transformers."""
    import torch
    import transformers

    write_tokenizer(folder, vocab=vocab)
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    options = {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    if family == "mistral":
        options["sliding_window"] = None
    if family == "qwen3":
        options["head_dim"] = 16
    torch.manual_seed(11)
    config = getattr(transformers, f"{names[family]}Config")(**(options | changes))
    model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            # Random logits are nearly equal; larger weights make the best token a clear one.
            parameter.copy_(1.0 + 0.1 * noise if parameter.dim() == 1 else noise * 0.25)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def write_adapter(base: Path, folder: Path, **lora: Any) -> Path:
    """A peft LoRA for a base whose B is not zero, so that it changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(13)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder
