"""Recipes: presets, files and flags that cannot differ, and how the rate goes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins.errors import UserError
from gt_plugins.training.estimate import Network, memory_parts
from gt_plugins.training.presets import PRESETS, billions_of
from gt_plugins.training.recipe import LINEAR, Recipe, as_toml, base_of, load_recipe
from gt_plugins.training.schedule import rate_share


def command(*args: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "gt_plugins.cli.model", "train", *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done


def config(folder: Path, width: int, layers: int, ffn: int, vocabulary: int, kv: int, heads: int) -> Path:
    """A base folder of which only the figures are there."""
    folder.mkdir()
    figures = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "tie_word_embeddings": width < 3000,
    }
    (folder / "config.json").write_text(json.dumps(figures))
    return folder


# -- presets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "billions", "preset"),
    [
        ((896, 24, 4864, 151_936, 2, 14), 0.494, "0.5b"),  # Qwen2.5-0.5B
        ((1536, 28, 8960, 151_936, 2, 12), 1.544, "1.5b"),  # Qwen2.5-1.5B
        ((2048, 36, 11008, 151_936, 2, 16), 3.086, "3b"),  # Qwen2.5-3B
        ((4096, 32, 14336, 128_256, 8, 32), 8.03, "7b"),  # Llama-3.1-8B
    ],
)
def test_a_bases_own_size_chooses_the_preset(
    tmp_path: Path, figures: tuple[int, ...], billions: float, preset: str
) -> None:
    base = config(tmp_path / "base", *figures)
    assert billions_of(base) == pytest.approx(billions, rel=0.01), "as the model's own card has it"
    assert load_recipe(str(base)) == PRESETS[preset].recipe
    assert load_recipe(str(base), preset="tiny", rank=4) == replace(PRESETS["tiny"].recipe, rank=4)


QWEN = {
    "0.5b": Network(24, 896, 4864, 14, 2, 64, 151_936, True, "qwen2"),
    "1.5b": Network(28, 1536, 8960, 12, 2, 128, 151_936, True, "qwen2"),
    "3b": Network(36, 2048, 11008, 16, 2, 128, 151_936, True, "qwen2"),
    "7b": Network(28, 3584, 18944, 28, 4, 128, 152_064, False, "qwen2"),
}


@pytest.mark.parametrize("name", QWEN)
def test_the_memory_of_a_preset_is_what_the_estimate_says_and_fits_a_card_of_24(name: str) -> None:
    preset, network = PRESETS[name], QWEN[name]
    for told, recipe in (
        (preset.gib, preset.recipe),
        (preset.gib_nf4, replace(preset.recipe, quantize="nf4")),
    ):
        needed = sum(memory_parts(network, recipe, "cuda", 4096, 0.5).values())
        assert told == pytest.approx(needed, abs=0.75) and needed < 24
    page = (Path(__file__).parents[1] / "docs/training.md").read_text()
    assert f"| `{name}` |" in page and f"| {preset.gib:g} GiB | {preset.gib_nf4:g} GiB |" in page


def test_a_preset_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"no preset '9b'; there are tiny, 0\.5b"):
        load_recipe("tiny", preset="9b")


# -- files and flags --------------------------------------------------------------------------------


def test_a_file_can_name_base_and_preset(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('base = "models/mine"\npreset = "7b"\ntargets = ["q_proj", "v_proj"]\n')
    assert base_of(None, path) == str(tmp_path / "models/mine") and base_of("tiny", path) == "tiny"
    made = load_recipe(base_of(None, path), path)
    assert made == replace(PRESETS["7b"].recipe, targets="q_proj,v_proj")
    assert made.layers == ("q_proj", "v_proj") and Recipe().layers == LINEAR


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('targets = "q_proj,qq"\n', "targets: 'qq' is no layer; use all-linear"),
        ('targets = ","\n', "targets: names no layer"),
        ('schedule = "step"\n', "schedule: 'step' is not cosine, wsd, linear or constant"),
        ("packing = 1\n", "packing: must be bool"),
        ("rank = true\n", "rank: must be int"),
        ("preset = 7\n", "preset: must be str"),
        ("accumulation = 0\n", "accumulation: must be more than zero"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe("tiny", path)
    assert str(caught.value).startswith(f"{path}: {words}")


VALUES = {"targets": "q_proj", "quantize": "nf4", "schedule": "wsd", "precision": "fp32", "products": "fp8"}


def test_every_key_is_a_flag_and_print_config_prints_a_file_that_means_the_same(tmp_path: Path) -> None:
    args: list[str] = []
    wanted = {}
    for spec in fields(Recipe):
        flag = spec.name.replace("_", "-")
        if isinstance(spec.default, bool):
            wanted[spec.name] = not spec.default
            args.append(f"--{flag}" if wanted[spec.name] else f"--no-{flag}")
            continue
        value = VALUES.get(spec.name, 0.5 if isinstance(spec.default, float) else 3)
        wanted[spec.name] = value
        args += [f"--{flag}", str(value)]
    printed = command("deacon", "--print-config", *args).stdout
    assert tomllib.loads(printed) == {"base": "tiny", **wanted}
    path = tmp_path / "recipe.toml"
    path.write_text(printed)
    assert load_recipe("tiny", path) == Recipe(**wanted)
    assert command("deacon", "--print-config", "--config", path).stdout == printed


@pytest.mark.parametrize("recipe", [p.recipe for p in PRESETS.values()], ids=list(PRESETS))
def test_a_printed_recipe_is_read_back(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml("tiny", recipe))
    assert load_recipe("tiny", path, preset="0.5b") == recipe


def test_a_wrong_flag_is_one_line_before_any_work() -> None:
    done = command("deacon", "--schedule", "steps", code=2)
    assert done.stderr == "error: --schedule: 'steps' is not cosine, wsd, linear or constant\n"
    assert "no such option" in command("deacon", "--lr", "1", code=2).stderr


# -- the rate ---------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 400), st.floats(0, 0.5), st.floats(0, 0.99), st.floats(0, 0.99))


@given(shapes, st.sampled_from(["cosine", "wsd", "linear", "constant"]))
def test_every_schedule_rises_once_and_never_again(shape: tuple[int, float, float, float], kind: str) -> None:
    total, warmup, decay, floor = shape
    shares = [rate_share(n, total, warmup, kind, decay, floor) for n in range(total)]
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1]) and max(shares) == pytest.approx(1.0)
    assert all(a >= b - 1e-12 for a, b in zip(shares[top:], shares[top + 1 :], strict=False))
    assert all(s >= floor - 1e-12 for s in shares[top:])


def test_wsd_is_stable_and_then_falls_straight_to_its_floor() -> None:
    shares = [rate_share(n, 100, 0.1, "wsd", 0.2, 0.1) for n in range(100)]
    assert shares[10:80] == [1.0] * 70
    assert shares[90] == pytest.approx(0.1 + 0.9 * 0.5) and shares[99] == pytest.approx(0.1 + 0.9 / 20)
