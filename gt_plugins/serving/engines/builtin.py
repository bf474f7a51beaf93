"""The two engines that are shipped, as a plugin; nothing heavy is imported until one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ... import hookimpl
from . import Engine, EngineFactory, EngineSource


def _has_llama() -> bool:
    return find_spec("llama_cpp") is not None


def _has_transformers() -> bool:
    return find_spec("transformers") is not None and find_spec("torch") is not None


def _load_llama(source: EngineSource) -> Engine:
    from .llama_engine import LlamaEngine

    return LlamaEngine.load(source)


def _load_transformers(source: EngineSource) -> Engine:
    from .transformers_engine import TransformersEngine

    return TransformersEngine.load(source)


def _has_gguf(source: EngineSource) -> bool:
    return source.gguf is not None


def _has_weights(source: EngineSource) -> bool:
    return any(source.base.glob("*.safetensors")) or any(source.base.glob("*.bin"))


LLAMA = EngineFactory("llama.cpp", _has_llama, _load_llama, _has_gguf)
TRANSFORMERS = EngineFactory("transformers", _has_transformers, _load_transformers, _has_weights)


@hookimpl
def gt_serving_engines() -> Sequence[EngineFactory]:
    return [LLAMA, TRANSFORMERS]
