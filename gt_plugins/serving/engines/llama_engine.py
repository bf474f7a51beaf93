"""llama.cpp behind the endpoint: a GGUF file, with a LoRA as GGUF if there is one.

It is fed the base tokenizer's own ids, never text, so nothing depends on how llama.cpp would split a
prompt. Its key-value memory keeps the last request; the part that the next one shares is not read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NonRetriableError, in_file
from . import EngineSource
from .loop import common_prefix, decode, threads_for

if TYPE_CHECKING:
    import numpy as np

    from ...rendering.render import Renderer
    from ..grammar import Matcher

MAX_CONTEXT = 16_384
_BATCH = 512
_MAGIC = b"GGUF"


class LlamaEngine:
    """A llama.cpp context with the renderer of its base."""

    name = "llama.cpp"

    def __init__(self, llama: Any, renderer: Renderer) -> None:
        self.llama = llama
        self.renderer = renderer
        self.context = int(llama.n_ctx())
        self._vocabulary = int(llama.n_vocab())
        self._fed: list[int] = []
        self._parameters = _parameters(llama)

    @classmethod
    def load(cls, source: EngineSource) -> LlamaEngine:
        """Raises NonRetriableError where a file is no GGUF file, or is one of another tokenizer's."""
        from llama_cpp import Llama

        from ...rendering.render import Renderer

        renderer = Renderer.from_folder(source.base)
        gguf = _checked(source.gguf)
        lora = _checked(source.lora_gguf) if source.lora_gguf is not None else None
        try:
            llama = Llama(
                str(gguf),
                n_ctx=min(renderer.context, MAX_CONTEXT),
                n_batch=_BATCH,
                lora_path=str(lora) if lora else None,
                verbose=False,
            )
        except (ValueError, RuntimeError) as error:
            raise NonRetriableError(in_file(gguf, "", f"llama.cpp cannot load it ({error})", "")) from None
        known = renderer.tokenizer.get_vocab_size()
        if llama.n_vocab() < known:
            problem = f"{llama.n_vocab()} tokens, the tokenizer of {source.base} has {known}"
            raise NonRetriableError(in_file(gguf, "", problem, "export it from that base"))
        return cls(llama, renderer)

    def generate(self, ids: Sequence[int], *, matcher: Matcher | None, max_tokens: int) -> Iterator[int]:
        """See ``Engine.generate``."""
        first = self._rewind(ids)
        return decode(self._step, ids[first:], matcher, max_tokens, self.renderer.end_ids)

    def score(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """See ``Engine.score``; the prompt is read once, each continuation in one batch of its own."""
        first = self._rewind(ids)
        lead = _log_softmax(self._step(list(ids[first:])))
        scores = []
        for continuation in continuations:
            total = float(lead[continuation[0]])
            if len(continuation) > 1:
                logs = _log_softmax(self._all_logits(list(continuation[:-1])))
                total += float(sum(logs[i, token] for i, token in enumerate(continuation[1:])))
            scores.append(total)
        return scores

    def _rewind(self, ids: Sequence[int]) -> int:
        """How many leading ids are in memory already; what stands behind them there is forgotten."""
        shared = max(0, min(common_prefix(self._fed, ids), len(ids) - 1))
        del self._fed[shared:]
        return shared

    def _step(self, tokens: list[int]) -> np.ndarray:
        """Read tokens; logits [vocabulary] after the last."""
        import llama_cpp
        import numpy as np

        self._room(tokens)
        self._set_threads(len(tokens))
        self.llama.n_tokens = len(self._fed)  # eval() drops what lies behind
        self.llama.eval(tokens)
        self._fed += tokens
        pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary,)).copy()

    def _all_logits(self, tokens: list[int]) -> np.ndarray:
        """Logits [tokens, vocabulary] after each of the tokens, which are then forgotten again."""
        import llama_cpp
        import numpy as np

        self._room(tokens)
        self._set_threads(len(tokens))
        rows = []
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            _decode_all(self.llama.ctx, part, len(self._fed) + start)
            for i in range(len(part)):
                pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, i)
                rows.append(np.ctypeslib.as_array(pointer, shape=(self._vocabulary,)).copy())
        memory = llama_cpp.llama_get_memory(self.llama.ctx)
        llama_cpp.llama_memory_seq_rm(memory, 0, len(self._fed), -1)
        return np.stack(rows)

    def _set_threads(self, tokens: int) -> None:
        import llama_cpp

        threads = threads_for(tokens, self._parameters)
        llama_cpp.llama_set_n_threads(self.llama.ctx, threads, threads)

    def _room(self, tokens: Sequence[int]) -> None:
        if len(self._fed) + len(tokens) > self.context:
            raise NonRetriableError(f"the context of {self.context} tokens is full")


def _parameters(llama: Any) -> int:
    import llama_cpp

    return int(llama_cpp.llama_model_n_params(llama.model))


def _decode_all(context: Any, tokens: Sequence[int], past: int) -> None:
    """One llama.cpp batch that keeps the logits of every token."""
    import llama_cpp

    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, past + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        if llama_cpp.llama_decode(context, batch):
            raise NonRetriableError("llama.cpp could not decode a batch")
    finally:
        llama_cpp.llama_batch_free(batch)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _checked(path: Path | None) -> Path:
    """Raises NonRetriableError where the file is not there or does not begin as a GGUF file does."""
    if path is None or not path.is_file():
        raise NonRetriableError(in_file(path or "GGUF", "", "not there", "export the model first"))
    with path.open("rb") as handle:
        if handle.read(4) != _MAGIC:
            raise NonRetriableError(in_file(path, "", "not a GGUF file", "export the model again"))
    return path
