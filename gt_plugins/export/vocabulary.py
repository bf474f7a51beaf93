"""A Hugging Face tokenizer as the facts of a GGUF file, or the reason why it cannot be one.

llama.cpp knows a pre-tokenizer only by name, and a wrong name gives other token ids without a word. So only
tokenizers are exported whose parts are recognised exactly: the regular expression, what stands around it,
and no option that llama.cpp does not have. All others are refused with the part that was not recognised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NonRetriableError, in_file

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PRE_TOKENIZERS = {
    _LETTERS + r"\p{N}" + _REST: "qwen2",
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
}
"""Regular expression of the split → llama.cpp's name. Both were checked id for id against the original."""

_IGNORES_MERGES = {"qwen2": False, "llama-bpe": True}
"""Whether llama.cpp takes a word that is a token whole before it looks at merges; it goes by the name."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    ids: Mapping[str, int]
    """``eos``, ``eot``, ``bos``, ``pad`` → id, as far as the base names them."""
    template: str
    composes: bool
    """The tokenizer normalizes to NFC first, which llama.cpp does not: text must come to it composed."""


def read_vocabulary(folder: Path, rows: int, end_id: int) -> Vocabulary:
    """The vocabulary of a base whose embedding has ``rows`` rows and whose turns end with ``end_id``.

    Raises NonRetriableError naming the part of tokenizer.json that llama.cpp would get wrong.
    """
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    refuse = _Refusal(path)
    composes = _normalizer(value.get("normalizer"), refuse)
    pre = _pre_tokenizer(value.get("pre_tokenizer"), refuse)
    merges = _bpe(value.get("model") or {}, pre, refuse)
    tokens, types = _tokens(value, rows, refuse)
    config = _config(folder)
    ids = {"eos": end_id, "eot": end_id}
    for name in ("eos", "bos", "pad"):
        text = config.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if text in tokens:
            ids[name] = tokens.index(text)
    return Vocabulary(pre, tuple(tokens), tuple(types), merges, ids, _template(folder, config), composes)


class _Refusal:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, part: str, problem: str) -> NonRetriableError:
        mend = "serve this base with the transformers engine, which needs no GGUF"
        return NonRetriableError(
            in_file(self._path, part, f"{problem}: llama.cpp would split text apart from it", mend)
        )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else ""


def _normalizer(value: Any, refuse: _Refusal) -> bool:
    if value is None:
        return False
    if isinstance(value, dict) and value.get("type") == "NFC":
        return True
    kind = value.get("type") if isinstance(value, dict) else value
    raise refuse("normalizer", f"{kind} is not known here")


def _pre_tokenizer(value: Any, refuse: _Refusal) -> str:
    """The name of Split(a known expression, isolated) + ByteLevel without its own; nothing else is known."""
    parts = (value or {}).get("pretokenizers") if (value or {}).get("type") == "Sequence" else None
    if not parts or [p.get("type") for p in parts] != ["Split", "ByteLevel"]:
        kinds = [p.get("type") for p in parts] if parts else [(value or {}).get("type")]
        raise refuse("pre_tokenizer", f"{kinds} is not Split and ByteLevel")
    split, bytes_ = parts
    if split.get("behavior") != "Isolated" or split.get("invert"):
        raise refuse("pre_tokenizer", f"a split that is {split.get('behavior')} is not known here")
    if bytes_.get("add_prefix_space") or bytes_.get("use_regex", True):
        raise refuse(
            "pre_tokenizer", "a ByteLevel with a prefix space or its own expression is not known here"
        )
    pattern = split.get("pattern") or {}
    name = PRE_TOKENIZERS.get(pattern.get("Regex", ""))
    if name is None:
        raise refuse("pre_tokenizer", f"its expression {json.dumps(pattern)[:80]} is not recognised")
    return name


def _bpe(model: Mapping[str, Any], pre: str, refuse: _Refusal) -> tuple[str, ...]:
    """The merges of a plain BPE, as llama.cpp writes them."""
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise refuse("model", f"{model.get('type')} is not a BPE")
    for option in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise refuse("model", f"{option} is set")
    if bool(model.get("ignore_merges")) != _IGNORES_MERGES[pre]:
        raise refuse("model", f"ignore_merges is not what {pre} means to llama.cpp")
    return tuple(m if isinstance(m, str) else " ".join(m) for m in model["merges"])


def _tokens(value: Mapping[str, Any], rows: int, refuse: _Refusal) -> tuple[list[str], list[int]]:
    """Text and type of every row; rows that no token has are unused ones."""
    found: dict[int, tuple[str, int]] = {
        int(identity): (text, NORMAL) for text, identity in value["model"]["vocab"].items()
    }
    for token in value.get("added_tokens") or []:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise refuse("added_tokens", f"{token['content']!r} takes the space beside it")
        found[int(token["id"])] = (token["content"], CONTROL if token.get("special") else USER_DEFINED)
    if max(found, default=0) >= rows:
        raise refuse("model", f"token {max(found)} has no row in the embedding")
    taken = {text for text, _ in found.values()}
    tokens, types = [], []
    for row in range(rows):
        text, kind = found.get(row, (f"[PAD{row}]", UNUSED))
        while kind == UNUSED and text in taken:
            text += "_"
        tokens.append(text)
        types.append(kind)
    return tokens, types
