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
from .drafts import Drafts
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
        self._drafts = Drafts()
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
        self._drafts.begin(ids, min(max_tokens, self.context - len(ids)))
        return decode(self, ids[first:], matcher, max_tokens, self.renderer.end_ids, self._drafts)

    def score(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """See ``Engine.score``; the prompt is read once, each continuation in one batch of its own."""
        first = self._rewind(ids)
        lead = _log_softmax(self.read(ids[first:], 1)[0])
        scores = []
        for continuation in continuations:
            total = float(lead[continuation[0]])
            if len(continuation) > 1:
                logs = _log_softmax(self.read(continuation[:-1], len(continuation) - 1))
                total += float(sum(logs[i, token] for i, token in enumerate(continuation[1:])))
                self.unread(len(continuation) - 1)
            scores.append(total)
        return scores

    def _rewind(self, ids: Sequence[int]) -> int:
        """How many leading ids are in memory already; what stands behind them there is forgotten."""
        shared = max(0, min(common_prefix(self._fed, ids), len(ids) - 1))
        self.unread(len(self._fed) - shared)
        return shared

    def read(self, tokens: Sequence[int], wanted: int) -> np.ndarray:
        """See ``Reader.read``."""
        import numpy as np

        if len(self._fed) + len(tokens) > self.context:
            raise NonRetriableError(f"the context of {self.context} tokens is full")
        self._set_threads(len(tokens))
        rows: list[np.ndarray] = []
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            unwanted = max(0, len(tokens) - wanted - start)
            rows += _logits(self.llama.ctx, part, len(self._fed), unwanted, self._vocabulary)
            self._fed += part
        return np.stack(rows)

    def unread(self, count: int) -> None:
        """See ``Reader.unread``."""
        import llama_cpp

        del self._fed[len(self._fed) - count :]
        memory = llama_cpp.llama_get_memory(self.llama.ctx)
        llama_cpp.llama_memory_seq_rm(memory, 0, len(self._fed), -1)

    def _set_threads(self, tokens: int) -> None:
        import llama_cpp

        threads = threads_for(tokens, self._parameters)
        llama_cpp.llama_set_n_threads(self.llama.ctx, threads, threads)


def _parameters(llama: Any) -> int:
    import llama_cpp

    return int(llama_cpp.llama_model_n_params(llama.model))


def _logits(
    context: Any, tokens: Sequence[int], past: int, unwanted: int, vocabulary: int
) -> list[np.ndarray]:
    """One llama.cpp batch after ``past`` tokens; the logits after each token but the first ``unwanted``."""
    import llama_cpp
    import numpy as np

    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, past + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, i >= unwanted
        if llama_cpp.llama_decode(context, batch):
            raise NonRetriableError("llama.cpp could not decode a batch")
        pointers = (
            llama_cpp.llama_get_logits_ith(context, i) for i in range(min(unwanted, len(tokens)), len(tokens))
        )
        return [np.ctypeslib.as_array(p, shape=(vocabulary,)).copy() for p in pointers]
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
