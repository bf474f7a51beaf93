"""Does llama.cpp do the same with an exported file as the original does? Asked of llama.cpp itself.

Two questions, before a file is registered: the same token ids for many chats and odd strings (all of them,
or it is another tokenizer), and the same best next token after many prompts (nearly all; rounding moves
near-ties).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NonRetriableError, UserError, in_file
from ..rendering.render import Renderer

TOP1_THRESHOLD = {"f16": 0.95, "q8_0": 0.90, "q4_k_m": 0.80, "lora": 0.95}

_WORDS = (
    "gt nudge demo/polecats/nux",
    "bd show dm-1a2 --json",
    "The deacon's round: 3 polecats, 1 stuck.",
    "It's they're we'll I'd don't CAN'T",
    '{"action":"restart","why":"no output for 45 min"}',
    "1234567890 3.14159 0xFF 1e-9 12,345",
    "Größe naïve Łódź façade",
    "東京 大阪 日本語のテキスト。",
    "Привет, мир!",
    "שלום עולם مرحبا",
    "🦊👩‍👩‍👧🏳️‍🌈 ✓ → ∑",
    "<tool_call>\n{}\n</tool_call>",
    "def f(x):\n\treturn x**2  # ok\n",
    "    indented\n\n\n\tand tabs\r\n",
    "=====>>> ... !!! ??? ---",
    "https://example.org/a?b=c&d=%20",
    "ＡＢＣ１２３ ½ ² Ⅳ",
    "\u00a0\u2003\u3000\u200b\ufeff",
    "<|im_start|>system",
    "a" * 60,
)
_PIECES = ("", " ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "'", '"', "-", "_", ".", "'s ", "\u00a0")
_RANGES = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x370, 0x5FF),
    (0x900, 0x97F),
    (0x2000, 0x2BFF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F6FF),
)


@dataclass(frozen=True)
class Parity:
    """How many of ``total`` came out the same, and the first that did not."""

    total: int
    same: int
    first_difference: str = ""

    @property
    def share(self) -> float:
        return self.same / self.total if self.total else 0.0


def available() -> bool:
    """True where llama.cpp is installed, so that parity can be asked."""
    return importlib.util.find_spec("llama_cpp") is not None


def odd_strings(count: int = 200, seed: int = 0) -> list[str]:
    """Strings on which tokenizers differ: joins of words, scripts, digits, blanks, contractions, markers."""
    dice = random.Random(seed)
    found = list(_WORDS)
    while len(found) < count:
        parts = []
        for _ in range(dice.randint(1, 6)):
            parts.append(dice.choice(_WORDS) if dice.random() < 0.5 else _random_text(dice))
            parts.append(dice.choice(_PIECES))
        found.append("".join(parts))
    return found[:count]


def _random_text(dice: random.Random) -> str:
    low, high = dice.choice(_RANGES)
    return "".join(chr(dice.randint(low, high)) for _ in range(dice.randint(1, 12)))


def sample_chats(renderer: Renderer, count: int = 200, seed: int = 0) -> list[str]:
    """Rendered chats of one to three turns, made of odd strings."""
    dice = random.Random(seed)
    words = [renderer.plain(s) for s in odd_strings(count, seed)]
    chats = []
    for _ in range(count):
        turns = [{"role": "system", "content": dice.choice(words)}]
        for _ in range(dice.randint(0, 2)):
            turns += [{"role": r, "content": f"{dice.choice(words)}."} for r in ("user", "assistant")]
        turns.append({"role": "user", "content": f"{dice.choice(words)}."})
        chats.append(renderer.chat(turns, True))
    return chats


def token_parity(base: Path, gguf: Path, texts: Iterable[str] | None = None) -> Parity:
    """Token ids of ``texts`` (else 200 rendered chats and 200 odd strings) on both sides.

    A tokenizer that composes characters (NFC) first is asked with composed text, as it is rendered for
    llama.cpp too.
    """
    renderer = Renderer.from_folder(base)
    if texts is None:
        texts = sample_chats(renderer) + odd_strings()
    if renderer.tokenizer.normalizer is not None:
        texts = [unicodedata.normalize("NFC", t) for t in texts]
    total = same = 0
    first = ""
    with _vocabulary(gguf) as tokenize:
        for text in texts:
            ours, theirs = renderer.encode(text), tokenize(text)
            total += 1
            same += ours == theirs
            if ours != theirs and not first:
                first = f"{text[:60]!r}: {ours[:12]} here, {theirs[:12]} in llama.cpp"
    return Parity(total, same, first)


@contextmanager
def _vocabulary(gguf: Path) -> Iterator[Callable[[str], list[int]]]:
    """llama.cpp's own tokenizer of a file, loaded without its weights."""
    _need_llama()
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), parameters)
    if model is None:
        raise NonRetriableError(in_file(gguf, "", "llama.cpp cannot read its tokenizer", "export it again"))
    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def tokenize(text: str) -> list[int]:
        raw = text.encode("utf-8")
        room = len(raw) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, room, False, True)
        return list(ids[: max(0, count)])

    try:
        yield tokenize
    finally:
        llama_cpp.llama_model_free(model)


def top1_parity(
    base: Path,
    adapter: Path | None,
    gguf: Path,
    prompts: Sequence[Sequence[int]],
    lora_gguf: Path | None = None,
) -> Parity:
    """The best next token after each prompt (token ids), by transformers and peft and by llama.cpp."""
    longest = max(len(p) for p in prompts)
    llama = _load(
        gguf,
        n_ctx=longest + 8,
        n_batch=64,
        n_threads_batch=max(1, (os.cpu_count() or 2) - 1),  # its threads spin: leave a core to the others
        lora_path=str(lora_gguf) if lora_gguf else None,
    )
    theirs = [_best(llama, list(prompt)) for prompt in prompts]
    ours = _original(base, adapter, prompts)
    pairs = list(zip(ours, theirs, strict=True))
    wrong = [i for i, (a, b) in enumerate(pairs) if a != b]
    first = (
        f"prompt {wrong[0]}: {pairs[wrong[0]][0]} here, {pairs[wrong[0]][1]} in llama.cpp" if wrong else ""
    )
    return Parity(len(pairs), len(pairs) - len(wrong), first)


def _original(base: Path, adapter: Path | None, prompts: Sequence[Sequence[int]]) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    best = []
    with torch.inference_mode():
        for prompt in prompts:
            logits = model(input_ids=torch.tensor([list(prompt)])).logits
            best.append(int(logits[0, -1].argmax()))
    return best


def _best(llama: Any, prompt: list[int]) -> int:
    import llama_cpp
    import numpy as np

    llama.reset()
    llama.eval(prompt)
    pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
    return int(np.ctypeslib.as_array(pointer, shape=(llama.n_vocab(),)).argmax())


def _load(gguf: Path, **options: Any) -> Any:
    """llama.cpp's model. Raises UserError where llama.cpp is not here, NonRetriableError for a bad file."""
    _need_llama()
    from llama_cpp import Llama

    try:
        return Llama(str(gguf), verbose=False, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise NonRetriableError(in_file(gguf, "", f"llama.cpp cannot load it ({error})", "")) from None


def _need_llama() -> None:
    if not available():
        raise UserError("llama.cpp is not installed here; install the extra 'serve'")


def verify(
    base: Path,
    adapter: Path | None,
    files: dict[str, Path],
    prompts: Sequence[Sequence[int]] | None = None,
) -> dict[str, Parity]:
    """Ask both questions of every file of an export; what may be registered has passed here.

    ``lora`` is asked on the base's own file, if ``files`` names one as ``base``. Raises NonRetriableError
    naming the file and the first difference.
    """
    renderer = Renderer.from_folder(base)
    if prompts is None:
        prompts = [renderer.encode(chat)[-512:] for chat in sample_chats(renderer, 50, seed=1)]
    found = {}
    for kind, path in files.items():
        if kind == "base" or (kind == "lora" and "base" not in files):
            continue
        model = files["base"] if kind == "lora" else path
        tokens = token_parity(base, model)
        if tokens.same < tokens.total:
            problem = f"{tokens.total - tokens.same} of {tokens.total} texts get other token ids"
            raise NonRetriableError(in_file(model, "", problem, tokens.first_difference))
        found[kind] = top1_parity(base, adapter, model, prompts, path if kind == "lora" else None)
        if found[kind].share < TOP1_THRESHOLD.get(kind, 0.95):
            problem = f"only {found[kind].same} of {found[kind].total} best next tokens agree"
            raise NonRetriableError(in_file(path, "", problem, found[kind].first_difference))
    return found
