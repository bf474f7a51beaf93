"""The training engine against transformers and peft: the same loss, the same gradients, for each family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from base_helpers import write_model

from gt_plugins.rendering.render import Row

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def rows(count: int = 5, seed: int = 3, vocab: int = 384) -> list[Row]:
    """Rows of several lengths with one or two supervised spans; the first begins at a row's first token."""
    import random

    draw = random.Random(seed)
    made = []
    for index in range(count):
        length = draw.randint(9, 60)
        ids = tuple(draw.randrange(vocab) for _ in range(length))
        spans = ((0, 4), (6, length)) if index == 0 else ((length // 2, length - 2),)
        made.append(Row(ids, spans, 0, 2, 0))
    return made


def peft_model(folder: Path, family: str, quantize: str = "none", **lora: Any) -> Any:
    """A random model with a LoRA whose B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from gt_plugins.training.adapter import load_base
    from gt_plugins.training.recipe import LINEAR, Recipe

    path = folder / family
    if not path.is_dir():
        write_model(path, family)
    torch.manual_seed(5)
    options = {"r": 4, "lora_alpha": 8, "target_modules": list(LINEAR), "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(load_base(path, "cpu", Recipe(quantize=quantize)), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def gradients(model: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def by_the_model(model: Any, some: list[Row]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of transformers and peft, each row alone."""
    from gt_plugins.training.adapter import token_loss
    from gt_plugins.training.loader import collate

    total = 0.0
    for row in some:
        loss, _ = token_loss(model, *collate([row], 0))
        loss.backward()
        total += float(loss)
    return total, gradients(model)


def by_the_engine(model: Any, some: list[Row], **options: Any) -> tuple[float, dict[str, Any]]:
    from gt_plugins.training.engine.network import Network, row_loss

    loss, count = row_loss(Network(model, **options), some, "cpu")
    assert count == sum(len(range(max(1, s), e)) for r in some for s, e in r.spans)
    loss.backward()
    return float(loss), gradients(model)


def assert_same(
    ours: tuple[float, dict[str, Any]], theirs: tuple[float, dict[str, Any]], within: float
) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=within)
    assert ours[1].keys() == theirs[1].keys()
    for name, wanted in theirs[1].items():
        error = float((ours[1][name] - wanted).norm() / wanted.norm())
        assert error < within, f"{name}: {error}"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_what_each_gives_alone(tmp_path: Path, family: str, checkpointing: bool):
    model = peft_model(tmp_path, family)
    theirs = by_the_model(model, rows())
    assert_same(by_the_engine(model, rows(), checkpointing=checkpointing), theirs, 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_rows_of_which_little_is_supervised(tmp_path: Path, family: str, checkpointing: bool):
    """In the last layer only the tokens that carry loss ask; one row has none that does, one has its ends."""
    model = peft_model(tmp_path, family)
    spans = [((3, 5),), ((0, 1),), ((1, 2), (29, 30))]
    some = [Row(tuple(range(7, 37)), at, 0, 2, 0) for at in spans]
    theirs = by_the_model(model, [some[0], some[2]])
    assert_same(by_the_engine(model, some, checkpointing=checkpointing), theirs, 1e-5)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"]},
        {"r": 3, "rank_pattern": {"v_proj": 6}},
    ],
)
def test_whatever_lora_peft_offers(tmp_path: Path, lora: dict[str, Any]):
    model = peft_model(tmp_path, "qwen2", **lora)
    theirs = by_the_model(model, rows())
    assert_same(by_the_engine(model, rows()), theirs, 1e-5)


def test_a_base_in_nf4_is_read_as_it_is(tmp_path: Path):
    model = peft_model(tmp_path, "llama", "nf4")
    theirs = by_the_model(model, rows())
    assert_same(by_the_engine(model, rows()), theirs, 1e-5)


def test_the_model_keeps_its_weights(tmp_path: Path):
    import torch

    from gt_plugins.training.engine.network import Network

    model = peft_model(tmp_path, "llama")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    network = Network(model)
    network.refresh()
    by_the_engine(model, rows())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"lora_dropout": 0.1}, "dropout"),
        ({"use_dora": True}, "DoRA"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
    ],
)
def test_it_says_what_it_cannot_run(tmp_path: Path, lora: dict[str, Any], said: str):
    from gt_plugins.training.engine.network import why_not

    assert said in why_not(peft_model(tmp_path, "llama", **lora))
    assert why_not(peft_model(tmp_path, "llama")) == ""


# -- products in 8 bits -------------------------------------------------------------------------------


def test_a_product_in_8_bits_is_that_in_16_but_for_rounding():
    import torch

    from gt_plugins.training.engine import eight

    torch.manual_seed(3)
    weight = (torch.randn(96, 64) * torch.logspace(-2, 0, 96)[:, None]).bfloat16()
    scale = eight.scale_of(weight)
    for given, right, turned in (
        (torch.randn(40, 64).bfloat16(), weight.t(), False),
        (torch.randn(40, 96).bfloat16() * 1e-6, weight, True),
    ):
        made = eight.multiply(given, weight, scale, turned)
        wanted = given.float() @ right.float()
        assert float((made.float() - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_lora_stays_in_16_bits_where_the_base_is_multiplied_in_8(tmp_path: Path, quantize: str):
    """Its x·Aᵀ and its gradients are off by no more than their inputs are."""
    import torch

    from gt_plugins.training.engine.projection import Projection, Workspace, refresh

    model = peft_model(tmp_path, "llama", quantize)
    attention = model.get_base_model().model.layers[0].self_attn
    modules = [attention.q_proj, attention.k_proj, attention.v_proj]
    for module in modules:
        if quantize == "nf4":
            module.base_layer.compute_dtype = torch.bfloat16
        else:
            module.base_layer.to(torch.bfloat16)
    found = []
    for eight in (False, True):
        projection = Projection(modules, "default", Workspace(), eight)
        with torch.no_grad():
            refresh([projection])
            x = torch.randn(48, projection.width, generator=torch.manual_seed(1)).bfloat16()
            y = projection.forward(x)
            inner = y[:, projection.outputs :].clone()
            dy = torch.randn(y.shape, generator=torch.manual_seed(2)).bfloat16()
            dy[:, projection.outputs :] = inner
            dx, of_b = projection.backward(dy)
        found.append((y[:, : projection.outputs], dx, inner, *of_b))
    apart = [float((b - a).float().norm() / a.float().norm()) for a, b in zip(*found, strict=True)]
    assert 0 < apart[0] < 0.05
    assert 0 < apart[1] < 0.05
    assert max(apart[2:]) < 1e-2


# -- the kernels of a GPU -----------------------------------------------------------------------------


def test_the_kernels_of_a_gpu_compute_what_the_plain_functions_do():
    """By Triton's interpreter, on a CPU; it must be asked for before Triton is first imported."""
    script = Path(__file__).with_name("interpreted_kernels.py")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    apart = json.loads(done.stdout)
    assert len(apart) == 20
    wrong = {name: value for name, value in apart.items() if not value <= 1e-6}
    assert not wrong
    assert all(value == 0 for name, value in apart.items() if name.startswith("nf4"))
