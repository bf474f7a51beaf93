"""transformers behind the endpoint: any safetensors base, an adapter merged in, a KV cache that is kept.

The cache of the last request stays, cut back to the tokens that the next request shares with it: an
agent's requests grow at the end, so most of each prompt has been read already.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NonRetriableError, in_file
from . import EngineSource
from .drafts import Drafts
from .loop import common_prefix, decode, threads_for
from .weights import merge_lora, require_safetensors

if TYPE_CHECKING:
    import numpy as np

    from ...rendering.render import Renderer
    from ..grammar import Matcher

_SCORE_BATCH = 32


class TransformersEngine:
    """A causal language model with its renderer; fp32 on a CPU, bf16 on a GPU."""

    name = "transformers"

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self.model = model
        self.renderer = renderer
        self.context = renderer.context
        self._cache: Any = None
        self._fed: list[int] = []
        self._drafts = Drafts()
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"  # before transformers 5.24
        self._parameters = sum(p.numel() for p in model.parameters())

    @classmethod
    def load(cls, source: EngineSource) -> TransformersEngine:
        """Raises NonRetriableError naming the file that is missing, pickled or does not fit."""
        import torch

        from ...rendering.render import Renderer

        require_safetensors(source.base, "")
        renderer = Renderer.from_folder(source.base)
        model = _model(source.base)
        if source.adapter is not None:
            merge_lora(model, source.adapter)
        if torch.cuda.is_available():
            model = model.to(device="cuda", dtype=torch.bfloat16)
        return cls(model.eval(), renderer)

    def generate(self, ids: Sequence[int], *, matcher: Matcher | None, max_tokens: int) -> Iterator[int]:
        """See ``Engine.generate``."""
        first = self._rewind(ids)
        drafts = None if self._slides() else self._drafts
        self._drafts.begin(ids, min(max_tokens, self.context - len(ids)))
        return decode(self, ids[first:], matcher, max_tokens, self.renderer.end_ids, drafts)

    def score(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        """See ``Engine.score``; the prompt is read once, the continuations as one batch."""
        scores: list[float] = []
        for start in range(0, len(continuations), _SCORE_BATCH):
            scores += self._score_batch(ids, continuations[start : start + _SCORE_BATCH])
        return scores

    # -- the cache --------------------------------------------------------------------------------

    def _rewind(self, ids: Sequence[int]) -> int:
        """Cut the cache back to what ``ids`` shares with it; how many leading ids need no reading.

        At least one id is always left to read, since its logits are wanted."""
        shared = min(common_prefix(self._fed, ids), len(ids) - 1)
        surplus = len(self._fed) - shared
        if self._cache is None or shared <= 0 or (surplus and self._slides()):
            self._forget()
            return 0
        if surplus:
            self.unread(surplus)
        return shared

    def _slides(self) -> bool:
        """Layers with a sliding window have dropped what a rewind would need."""
        return any(getattr(layer, "is_sliding", False) for layer in self._cache.layers)

    def _forget(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self.model.config)
        self._fed = []

    def read(self, tokens: Sequence[int], wanted: int) -> np.ndarray:
        """See ``Reader.read``. A failure leaves no half-filled cache."""
        import torch

        if len(self._fed) + len(tokens) > self.context:
            raise NonRetriableError(f"the context of {self.context} tokens is full")
        cache, self._cache = self._cache, None
        with self._threads(len(tokens)), torch.inference_mode():
            given = torch.tensor([tokens], device=self.model.device)
            held = {self._cache_name: cache}
            out = self.model(given, **held, use_cache=True, logits_to_keep=wanted)
        self._cache = cache
        self._fed += tokens
        return out.logits[0].float().cpu().numpy()

    def unread(self, count: int) -> None:
        """See ``Reader.unread``."""
        self._cache.crop(-count)
        del self._fed[-count:]

    def _score_batch(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
        import torch

        first = self._rewind(ids)
        lead = torch.from_numpy(self.read(ids[first:], 1)[0]).log_softmax(-1)
        longest = max(len(c) for c in continuations)
        scores = [float(lead[c[0]]) for c in continuations]
        if longest < 2:
            return scores
        padded = torch.tensor([[*c[:-1], *[0] * (longest - len(c))] for c in continuations])
        with self._threads(padded.numel()), torch.inference_mode():
            held = {self._cache_name: self._copies(len(continuations))}
            out = self.model(padded.to(self.model.device), **held, use_cache=True)
            logs = out.logits.float().log_softmax(-1).cpu()
        for row, continuation in enumerate(continuations):
            rest = torch.tensor(continuation[1:])
            scores[row] += float(logs[row, : len(rest)].gather(1, rest[:, None]).sum())
        return scores

    @contextmanager
    def _threads(self, tokens: int) -> Iterator[None]:
        """As many threads as a step of so many tokens is worth. They are the whole process's: what trains in
        it afterwards has its own back."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads_for(tokens, self._parameters))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _copies(self, count: int) -> Any:
        """The cache once for each continuation; padding at the end needs no mask, as nothing follows it."""
        from transformers import DynamicCache

        copy = DynamicCache(config=self.model.config)
        for index, layer in enumerate(self._cache.layers):
            keys = layer.keys.expand(count, -1, -1, -1)
            copy.update(keys, layer.values.expand(count, -1, -1, -1), index)
        return copy


def _model(base: Path) -> Any:
    """The base's weights in fp32. Raises NonRetriableError where they are torn or some are missing."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise NonRetriableError(in_file(base, "", f"not a model ({reason})", "")) from None
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[0]
        raise NonRetriableError(in_file(base, missing, "not among its weights", "fetch the base again"))
    return model
