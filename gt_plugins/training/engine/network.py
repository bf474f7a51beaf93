"""The engine around a peft model: which models it can run, its layers, and the loss of a packed sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...rendering.render import Row
from ..recipe import LINEAR
from .attention import asked_by, span_of
from .head import loss_of
from .layer import Layer, Stage, apply
from .packing import Packed, pack
from .pointwise import Heads, rms_norm
from .projection import Projection, Workspace, refresh
from .shelf import Shelf

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def why_not(model: Any, adapter: str = "default") -> str:
    """Why the engine cannot run a peft model, or nothing if it can."""
    config = model.get_base_model().config
    lora = model.peft_config[adapter]
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is not one of {', '.join(FAMILIES)}"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"its activation is {config.hidden_act}"
    if _slides(config):
        return "its attention slides over a window shorter than its context"
    if lora.lora_dropout:
        return "LoRA with dropout"
    if getattr(lora, "use_dora", False):
        return "DoRA"
    if lora.bias != "none" or getattr(lora, "modules_to_save", None):
        return "more than LoRA is trained"
    names = {n.rsplit(".lora_A", 1)[0].rsplit(".", 1)[-1] for n, _ in model.named_modules() if ".lora_A" in n}
    other = sorted(names - set(LINEAR))
    return f"LoRA on {', '.join(other)}" if other else ""


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    if kinds:
        return "sliding_attention" in kinds and bool(window)
    return bool(window) and window < config.max_position_embeddings


class Network:
    """The decoder over packed rows. Its LoRA parameters are the peft model's own; after they changed
    (``refresh``) the next loss is with their new values."""

    def __init__(
        self, model: Any, *, checkpointing: bool = False, eight: bool = False, adapter: str = "default"
    ) -> None:
        base = model.get_base_model()
        self.checkpointing = checkpointing
        self._body, self._config = base.model, base.config
        self._head = base.lm_head.weight
        projection = partial(Projection, adapter=adapter, workspace=Workspace(), eight=eight)
        self.layers: list[Layer] = []
        for layer in base.model.layers:
            self.layers.append(_layer(layer, base.config, projection))
            _give_back(self._head)
        self._trained = [p for layer in self.layers for p in layer.parameters()]
        self._seen = -1
        self._copying = self._stream() if checkpointing and self._head.is_cuda else None

    def refresh(self) -> None:
        """Take over the LoRA parameters at the next loss: they were changed through a vector of them all.
        A change through the parameters themselves is seen without this."""
        self._seen = -1

    def loss(self, packed: Packed) -> Tensor:
        """Summed cross entropy over the supervised tokens, differentiable by the LoRA parameters."""
        versions = sum(p._version for p in self._trained)
        if versions != self._seen:
            refresh([p for layer in self.layers for p in layer.projections])
            self._seen = versions
        hidden = self._hidden(packed)
        return loss_of(hidden, self._head, packed.wanted)

    def _stream(self) -> Any:
        """A stream of the GPU's own for copies."""
        import torch

        return torch.cuda.Stream(self._head.device)

    def _hidden(self, packed: Packed) -> Tensor:
        """Normed states at the supervised positions, [supervised, width]."""
        import torch

        x = self._body.embed_tokens(packed.ids).detach()
        cos, sin = self._body.rotary_emb(x[None], packed.positions[None])
        span = span_of(packed.bounds, packed.lengths)
        shelf = Shelf(self._copying) if self._copying and torch.is_grad_enabled() else None
        stage = Stage(span, cos[0].contiguous(), sin[0].contiguous(), self.checkpointing, shelf=shelf)
        last = replace(stage, span=asked_by(span, packed.at), chosen=packed.at)
        for layer in self.layers[:-1]:
            x = apply(layer, x, stage)
        x = apply(self.layers[-1], x, last)
        norm = self._body.norm
        return _final_norm(x, norm.weight, norm.variance_epsilon)


def row_loss(network: Network, rows: Sequence[Row], device: str) -> tuple[Tensor, int]:
    """(summed loss of rows, number of supervised tokens)."""
    packed = pack(rows).to(device)
    return network.loss(packed), int(packed.wanted.numel())


def _give_back(like: Tensor) -> None:
    """Give a GPU's memory of the weights that were put together anew back, layer by layer: the allocator
    would hold room for the whole base twice."""
    import torch

    if like.is_cuda:
        torch.cuda.empty_cache()


def _final_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    import torch

    from .pointwise import rms_norm_backward

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return rms_norm(x, weight, eps)

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return rms_norm_backward(dy, x, weight, eps, torch.zeros((), dtype=x.dtype, device=x.device))

    result: Tensor = Norm.apply(x)
    return result


def _layer(module: Any, config: Any, projection: Callable[[Sequence[Any]], Projection]) -> Layer:
    """A decoder layer of transformers as the engine's."""
    attention, mlp = module.self_attn, module.mlp
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    norms = None
    head_eps = 0.0
    if hasattr(attention, "q_norm"):
        norms = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach())
        head_eps = float(attention.q_norm.variance_epsilon)
    return Layer(
        norm=module.input_layernorm.weight.detach(),
        qkv=projection([attention.q_proj, attention.k_proj, attention.v_proj]),
        o=projection([attention.o_proj]),
        mlp_norm=module.post_attention_layernorm.weight.detach(),
        gate_up=projection([mlp.gate_proj, mlp.up_proj]),
        down=projection([mlp.down_proj]),
        heads=Heads(config.num_attention_heads, config.num_key_value_heads, width),
        head_norms=norms,
        eps=float(module.input_layernorm.variance_epsilon),
        head_eps=head_eps,
    )
