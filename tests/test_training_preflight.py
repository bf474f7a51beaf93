"""Before the first step: each thing that would end a run later is refused now, in one line."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_helpers import RECIPE, request, row, write_dataset, write_small_base

from gt_plugins.corpus import dataset
from gt_plugins.corpus.dataset import Example
from gt_plugins.errors import FinetuneError, NonRetriableError, UserError
from gt_plugins.rendering.render import STANDARD, Renderer
from gt_plugins.town.root import Town
from gt_plugins.training import preflight
from gt_plugins.training.engine import eight
from gt_plugins.training.estimate import (
    Estimate,
    Network,
    disk_gib,
    estimate,
    memory_parts,
    network_of,
    read_network,
    time_seconds,
)
from gt_plugins.training.preflight import check_disk, check_memory, check_products, check_rows, rows_of
from gt_plugins.training.recipe import Recipe
from gt_plugins.training.run import estimate_of, prepare, train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    return Renderer.from_folder(base)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    return dataset.read(write_dataset(tmp_path_factory.mktemp("data")).folder).train


def silent(example: Example) -> Example:
    return replace(example, silent=tuple(range(len(example.conversation.messages))))


# -- rows -------------------------------------------------------------------------------------------


def test_a_dataset_without_examples_or_with_silent_ones_alone_is_refused(
    renderer: Renderer, examples: tuple[Example, ...]
) -> None:
    with pytest.raises(UserError, match="has no example to train on"):
        rows_of([], renderer, STANDARD, print)
    with pytest.raises(UserError, match=r"examples has a supervised token.*every reply is silent"):
        rows_of([silent(e) for e in examples], renderer, STANDARD, print)


def test_what_cannot_be_learned_from_is_left_out_and_counted(
    renderer: Renderer, examples: tuple[Example, ...]
) -> None:
    said: list[str] = []
    every = rows_of(examples, renderer, STANDARD, said.append)
    assert said == []
    rows = rows_of([silent(examples[0]), *examples[1:]], renderer, STANDARD, said.append)
    assert len(rows) < len(every)
    assert said == [f"1 of {len(examples)} examples were left out: no reply in them to learn from"]
    lengths = sorted(len(r.ids) for r in every)
    middle = lengths[len(lengths) // 2]
    said.clear()
    short = rows_of(examples, renderer, STANDARD, said.append, max_length=middle)
    left = len(every) - len(short)
    assert max(len(r.ids) for r in short) <= middle and left > 0
    assert said[0].startswith(f"{left} of {len(every)} rows were left out: longer than the {middle} tokens")
    with pytest.raises(UserError, match=f"every row is longer than 8 tokens .the shortest has {lengths[0]}"):
        rows_of(examples, renderer, STANDARD, print, max_length=8)


def test_a_row_that_would_not_teach_its_end_is_refused(renderer: Renderer) -> None:
    end = next(iter(renderer.end_ids))
    other = next(i for i in range(50) if i not in renderer.end_ids)
    good = replace(row(4, (2, 4)), ids=(other, other, other, end))
    check_rows([good], renderer)
    for bad, words in (
        (replace(good, ids=(other,) * 4), "row 1: the reply at 2 does not end with an end token"),
        (replace(good, spans=()), "row 1: no supervised token"),
        (replace(good, spans=((2, 9),)), "row 1: the reply at 2"),
        (replace(good, ids=(other, 10**6, other, end)), "row 1: token 1000000 is not in the tokenizer"),
    ):
        with pytest.raises(NonRetriableError, match=words):
            check_rows([good, bad], renderer)


# -- disk and memory --------------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_before_there_is_a_job(
    town: Town, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    data = write_dataset(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 9, 1000))
    with pytest.raises(UserError, match=r"\.checkpoints: .* MiB are needed for checkpoints .* 0\.0 MiB are"):
        prepare(request(town, tmp_path, base, data.folder), print)
    assert not list(town.checkpoints_dir.glob("deacon-*"))
    check_disk(tmp_path / "not/there/yet", 0.0)


def an_estimate(free: float | None, activations: float = 10.0) -> Estimate:
    parts = {"process": 1.0, "weights": 4.0, "activations": activations, "logits": 0.0}
    return Estimate("cuda", 10**9, 10**7, 5, 5000, 2, parts, free, 0.1, 60.0)


def test_memory_is_refused_where_it_is_surely_too_little_and_said_where_it_may_be() -> None:
    said: list[str] = []
    for enough in (None, 15.0, 80.0):
        check_memory(an_estimate(enough), said.append)
    assert said == []
    check_memory(an_estimate(14.0), said.append)
    assert len(said) == 1 and "it may not fit" in said[0]
    with pytest.raises(
        UserError, match=r"about 15\.0 GiB .* on cuda, 12\.0 GiB are free; raise accumulation"
    ):
        check_memory(an_estimate(12.0), print)


@pytest.mark.parametrize(
    ("network", "recipe", "said"),
    [
        ({}, {"packing": False}, "the model's own forward is used"),
        ({"family": "gpt2"}, {}, "the model's own forward is used"),
        ({"ffn": 18_950}, {}, "layers of 18950 numbers, which is no multiple of 16"),
    ],
)
def test_products_in_8_bits_are_refused_where_they_cannot_be(
    monkeypatch: pytest.MonkeyPatch, network: dict[str, Any], recipe: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(eight, "why_not", lambda device: "")
    qwen, fp8 = replace(SEVEN, family="qwen2"), Recipe(products="fp8")
    check_products(qwen, fp8, "cuda")
    with pytest.raises(UserError, match=said):
        check_products(replace(qwen, **network), replace(fp8, **recipe), "cuda")
    check_products(replace(qwen, **network), replace(fp8, **recipe, products="bf16"), "cuda")


def test_a_cpu_has_no_products_in_8_bits(town: Town, tmp_path: Path, base: Path) -> None:
    asked = request(town, tmp_path, base, write_dataset(tmp_path / "data").folder)
    with pytest.raises(UserError, match=r"products = 'fp8': .* need a GPU of NVIDIA, not cpu; leave it at"):
        train(replace(asked, recipe=replace(asked.recipe, products="fp8")), print)
    assert not list(town.root.glob(".checkpoints/*/job.json"))


# -- the estimate -----------------------------------------------------------------------------------

SEVEN = Network(28, 3584, 18944, 28, 4, 128, 152_064, False)


def test_an_estimate_counts_the_weights_of_a_known_model() -> None:
    assert SEVEN.parameters == pytest.approx(7.615e9, rel=0.01), "Qwen2.5-7B"
    assert SEVEN.adapter(Recipe()) == 40_370_176, "what peft counts for rank 16 on all linear layers"
    assert SEVEN.adapter(Recipe(rank=32)) == 2 * SEVEN.adapter(Recipe())


def test_what_saves_memory_is_estimated_to_save_it() -> None:
    def gib(**keys: object) -> float:
        return sum(memory_parts(SEVEN, Recipe(**keys), "cuda", 512, 0.2).values())  # type: ignore[arg-type]

    plain = gib()
    assert gib(quantize="nf4") < plain - 7
    assert gib(grad_checkpointing=True) < plain and gib(accumulation=4) < plain
    assert gib(precision="fp32") > plain and gib(rank=64) > plain
    longest = sum(memory_parts(SEVEN, Recipe(accumulation=64), "cuda", 8000).values())
    assert longest > gib(accumulation=64), "a piece is never smaller than a row"


@pytest.mark.parametrize(
    ("recipe", "tensors", "card"),
    [
        (Recipe(accumulation=4, grad_checkpointing=True), 16.4, 18.0),
        (Recipe(accumulation=4, grad_checkpointing=True, quantize="nf4"), 7.7, 10.5),
    ],
)
def test_memory_is_what_a_gpu_was_measured_to_take(recipe: Recipe, tensors: float, card: float) -> None:
    """bench/train_memory.py on an H200: rows of 4,096 tokens, half of them with loss."""
    qwen = replace(SEVEN, family="qwen2")
    parts = memory_parts(qwen, recipe, "cuda", 4096, 0.5)
    own = sum(gib for name, gib in parts.items() if name not in ("CUDA", "allocator"))
    assert own == pytest.approx(tensors, abs=0.8) and sum(parts.values()) > 0.95 * card
    assert sum(memory_parts(SEVEN, recipe, "cuda", 4096, 0.5).values()) > sum(parts.values())


def test_time_grows_with_tokens_and_with_checkpointing() -> None:
    fast = time_seconds(SEVEN, Recipe(), 10**6, 500, 3e14)
    assert time_seconds(SEVEN, Recipe(), 2 * 10**6, 500, 3e14) == pytest.approx(2 * fast)
    slow = time_seconds(SEVEN, Recipe(grad_checkpointing=True), 10**6, 500, 3e14)
    assert 1.3 * fast < slow < 1.6 * fast


def test_the_parameters_of_a_base_are_those_that_it_has(base: Path) -> None:
    from gt_plugins.training.adapter import add_adapter, load_base

    model = add_adapter(load_base(base, "cpu"), RECIPE)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    network = read_network(base)
    assert network.adapter(RECIPE) == trained
    assert network.parameters + trained == pytest.approx(total, rel=0.05), "norms and biases aside"
    found = estimate(base, RECIPE, [100, 200], 50, 4, "cpu")
    assert found.fits and found.seconds > 0 and found.disk == pytest.approx(disk_gib(trained, RECIPE.keep))
    assert found.to_json()["memory_gib"] == pytest.approx(found.memory, abs=0.01)


def test_an_estimate_begins_nothing(town: Town, tmp_path: Path, base: Path) -> None:
    data = write_dataset(tmp_path / "data")
    found = estimate_of(request(town, tmp_path, base, data.folder), print)
    assert found.rows > 0 and found.steps > 0 and not list(town.root.glob(".checkpoints/*/job.json"))


def test_a_config_without_figures_has_no_network() -> None:
    with pytest.raises(ValueError, match="num_attention_heads: not there"):
        network_of({"hidden_size": 64})


# -- what a request may get wrong -------------------------------------------------------------------


def test_a_dataset_that_is_not_its_cards_is_refused(town: Town, tmp_path: Path, base: Path) -> None:
    data = write_dataset(tmp_path / "data")
    path = data.folder / "train.jsonl"
    path.write_text(path.read_text().replace("nux", "NUX"))
    with pytest.raises(NonRetriableError, match="the files are not those of the card"):
        train(request(town, tmp_path, base, data.folder), print)


def test_another_roles_dataset_and_a_base_without_a_template_are_refused(
    town: Town, tmp_path: Path, base: Path
) -> None:
    other = write_dataset(tmp_path / "boot", role="boot")
    with pytest.raises(UserError, match="a dataset for boot, not for deacon"):
        train(request(town, tmp_path, base, other.folder), print)
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    special = bare / "tokenizer_config.json"
    value = json.loads(special.read_text())
    value.pop("chat_template", None)
    special.write_text(json.dumps(value))
    data = write_dataset(tmp_path / "data")
    with pytest.raises(FinetuneError, match="chat_template"):
        train(request(town, tmp_path, bare, data.folder), print)
    assert not list(town.root.glob(".checkpoints/*/job.json")), "there was never a job"


def test_the_limit_of_surety_is_a_share() -> None:
    assert 0 < preflight.SURE < 1
