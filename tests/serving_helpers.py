"""A tiny random base with a tokenizer of its own, and a scripted responder; no download needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gt_plugins.serving.responder import Body, Prepared, Reply

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = [
    "gt deacon heartbeat 'patrol ok'",
    "gt mail inbox",
    "gt escalate 'the witness of demo is stuck' -s high",
    '{"name": "Bash", "arguments": {"command": "gt hook"}}',
    "The polecat was idle for 12 minutes and holds work, so it is nudged.",
    '{"title": "Patrol of the town"}',
]


def make_tokenizer(specials: list[str] = SPECIALS) -> Any:
    """A byte-level BPE tokenizer of about 500 tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    return tokenizer


def make_base(folder: Path, seed: int = 0, *, context: int = 2048, weights: bool = True) -> Path:
    """A Hugging Face folder: tokenizer, template and a random Llama of two layers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    config = {"max_position_embeddings": context}
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        make_model(tokenizer.get_vocab_size(), seed, context).save_pretrained(folder)
    return folder


def make_model(vocabulary: int, seed: int = 0, context: int = 2048, width: int = 64, layers: int = 2) -> Any:
    """A random Llama in fp32; its logits are spread out so that greedy decoding is not a tie."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def request(**more: Any) -> dict[str, Any]:
    """A small Messages body."""
    body = {
        "model": "gt-ft-deacon",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "patrol"}],
    }
    return {**body, **more}


BASH = {
    "name": "Bash",
    "description": "Run a command.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
        "required": ["command"],
    },
}


class Scripted:
    """Answers with what ``script`` returns, and keeps the bodies that it saw."""

    name = "scripted"

    def __init__(self, script: Callable[[Body], Reply]) -> None:
        self.script = script
        self.bodies: list[Body] = []

    def respond(self, body: Body) -> Reply:
        self.bodies.append(body)
        return self.script(body)


class Slow(Scripted):
    """Streams words with a pause between them; remembers how many it gave out."""

    def __init__(self, words: int, pause: float) -> None:
        super().__init__(lambda _body: text_reply("unused"))
        self.words, self.pause, self.given = words, pause, 0
        self.running = threading.Event()

    def prepare(self, body: Body) -> Prepared:
        return Prepared((1, 2, 3), 10, frozenset(), lambda: None)  # type: ignore[arg-type, return-value]

    def stream(self, prepared: Prepared, stopped: Callable[[], bool]) -> Iterator[str | Reply]:
        text = ""
        self.running.set()
        for index in range(self.words):
            if stopped():
                return
            piece = f"w{index} " if index < self.words - 1 else f"w{index}"
            text += piece
            self.given += 1
            yield piece
            time.sleep(self.pause)
        yield text_reply(text)


def text_reply(text: str) -> Reply:
    return Reply(({"type": "text", "text": text},), "end_turn", 7, 3)


def call_reply(command: str, text: str = "") -> Reply:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": command}}
    blocks = ({"type": "text", "text": text}, call) if text else (call,)
    return Reply(blocks, "tool_use", 7, 3)


def write_gguf(base: Path, path: Path) -> Path:
    """The base above as an F32 GGUF file; q and k are permuted as llama.cpp wants them."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((base / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = [t for t, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    tokens += [f"[unused{i}]" for i in range(len(tokens), config["vocab_size"])]
    merges = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIALS else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(str(base / "model.safetensors")).items():
        value = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value = value.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), value.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A LoRA of rank 4 on two layers of the base above, as peft names its tensors."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tensors = {}
    for module, out, inner in (("self_attn.q_proj", 64, 64), ("mlp.down_proj", 64, 192)):
        stem = f"base_model.model.model.layers.1.{module}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(4, inner) * 0.3
        tensors[f"{stem}.lora_B.weight"] = torch.randn(out, 4) * 0.3
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **config}))
    return folder
