"""A base with a LoRA adapter on it: loading, the loss, saving. The heavy imports live here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..durable import parse_json, write_json
from ..errors import NonRetriableError, in_file
from .recipe import Recipe

if TYPE_CHECKING:
    import torch


def quiet_libraries() -> None:
    """Keep libraries from asking a hub and from talking over the live display of what they cannot do here."""
    import logging
    import os
    import warnings

    for name, value in (
        ("HF_HUB_OFFLINE", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    for library in ("transformers", "torch"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)


def import_libraries() -> None:
    """Import what ``load_base`` will, ahead of it; transformers loads its parts when they are first used.

    Without scipy, which transformers wants for the losses of models that find objects in pictures."""
    if "transformers.modeling_utils" in sys.modules:
        return
    with _uncollected(), _hidden("scipy", "transformers.utils.import_utils", "is_scipy_available"):
        import torch  # noqa: F401
        import transformers.masking_utils
        import transformers.modeling_utils  # noqa: F401


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects that stay, without looking for garbage among them: in thousands of modules Python's
    collector would look a thousand times, for a fifth of the time that their import takes. Afterwards they
    are left out of its rounds until the process ends, when libraries look whether anything leaked."""
    import atexit
    import gc

    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        gc.enable()


def pick_device() -> str:
    """cuda, mps or cpu, whichever this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_base(folder: Path, device: str, recipe: Recipe = Recipe()) -> Any:
    """The base for training in the recipe's precision, in nf4 if it asks for that. One that will be sharded
    stays on the CPU, in 4 bits packed into the type that it computes in.

    Only safetensors are read, nothing is unpickled. Raises NonRetriableError naming the folder."""
    import_libraries()
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": torch.bfloat16 if recipe.half(device) else torch.float32}
    if recipe.quantize == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=options["dtype"],
            bnb_4bit_quant_storage=options["dtype"] if recipe.shard else torch.uint8,
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise _not_loaded(folder, error) from None
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        words = f"{missing[0]} is not in its weights" + (
            f", nor {len(missing) - 1} more" if missing[1:] else ""
        )
        raise NonRetriableError(in_file(folder, "", words, "get the base again"))
    model.config.use_cache = False
    stays = recipe.quantize == "nf4" or recipe.shard
    placed: Any = model if stays else cast(Any, model).to(device)
    return placed


def _not_loaded(folder: Path, error: Exception) -> NonRetriableError:
    """Whatever transformers says of a base: a key that it does not know raises nearly any class of error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return NonRetriableError(in_file(folder, "", f"not a base that can be loaded ({said})", ""))


def add_adapter(model: Any, recipe: Recipe) -> Any:
    """The base with fresh LoRA weights, drawn from the recipe's seed, on the recipe's layers.

    On a GPU the adapter's own weights stay in fp32, the base in bf16."""
    if recipe.quantize != "none":
        return _with_lora(model, recipe)
    with _hidden("bitsandbytes", "peft.import_utils", "is_bnb_available", "is_bnb_4bit_available"):
        return _with_lora(model, recipe)


@contextmanager
def _hidden(name: str, library: str, *asked: str) -> Iterator[None]:
    """Let a library think that there is no ``name``, of which it would import much for what is not done here.
    Whoever has imported it already keeps it; what asks afterwards finds it, as the functions ``asked`` of the
    module ``library`` forget what they were told."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
        for function in asked:
            getattr(importlib.import_module(library), function).cache_clear()
    finally:
        del sys.modules[name]


def _with_lora(model: Any, recipe: Recipe) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.layers),
        use_rslora=recipe.rslora,
        use_dora=recipe.dora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _outline(folder: Path, recipe: Recipe) -> Any:
    """A base with an adapter that have shapes and no weights. Raises NonRetriableError for no such base."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise _not_loaded(folder, error) from None
    with torch.device("meta"):
        return add_adapter(model, recipe)


def adapter_shapes(folder: Path, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter of this recipe on the base in ``folder``, of which only the
    configuration is read."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(_outline(folder, recipe))
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def save_state(state: dict[str, torch.Tensor], base: Path, recipe: Recipe, folder: Path) -> None:
    """Weights from ``adapter_state`` as ``save_adapter`` would write them, without loading the base."""
    from .safefile import save_tensors

    config = _outline(base, recipe).peft_config["default"]
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_tensors(folder / "adapter_model.safetensors", state, {"format": "pt"})
    _forget_base(folder)


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights under peft's names, on the CPU."""
    from peft import get_peft_model_state_dict

    return {k: v.detach().to("cpu").contiguous() for k, v in get_peft_model_state_dict(model).items()}


def set_adapter_state(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put weights from ``adapter_state`` back. Raises NonRetriableError where they are another adapter's."""
    from peft import set_peft_model_state_dict

    wanted = {name: tensor.shape for name, tensor in adapter_state(model).items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise NonRetriableError("these weights are another adapter's: names or shapes are not this one's")
    set_peft_model_state_dict(model, state)


def token_loss(
    model: Any, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Summed cross entropy over the supervised next tokens and their number.

    Logits are made only where there is a label: on a small model the output layer is most of the work."""
    from torch.nn.functional import cross_entropy

    hidden = model.get_base_model().model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    wanted = labels[:, 1:] != -100
    logits = model.get_base_model().lm_head(hidden[:, :-1][wanted])
    targets = labels[:, 1:][wanted]
    return cross_entropy(logits.float(), targets, reduction="sum"), int(targets.numel())


def save_adapter(model: Any, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors as peft writes them; no pickle, no base path."""
    model.save_pretrained(str(folder), safe_serialization=True)
    _forget_base(folder)
    (folder / "README.md").unlink(missing_ok=True)


def _forget_base(folder: Path) -> None:
    """Take the base's local path, which peft puts in, out of an adapter's configuration."""
    path = folder / "adapter_config.json"
    config = parse_json(path.read_text(encoding="utf-8"))
    write_json(path, config | {"base_model_name_or_path": None})
