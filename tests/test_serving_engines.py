"""The transformers engine: decoding, prefix reuse, scoring, adapters, and folders that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_helpers import make_base, write_adapter

from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.roles.profile import load_profile
from gt_plugins.serving.engines import EngineFactory, EngineSource, load_engine
from gt_plugins.serving.engines.builtin import LLAMA, TRANSFORMERS, gt_serving_engines
from gt_plugins.serving.engines.drafts import LONGEST, Drafts
from gt_plugins.serving.engines.loop import common_prefix
from gt_plugins.serving.engines.transformers_engine import TransformersEngine
from gt_plugins.serving.grammar import Grammars, Limits

torch = pytest.importorskip("torch")
DEACON = load_profile("deacon")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("engines") / "base", seed=3)


@pytest.fixture
def engine(base: Path) -> TransformersEngine:
    return TransformersEngine.load(EngineSource(base))


def ids_of(engine: TransformersEngine, text: str) -> list[int]:
    return engine.renderer.encode(text)


def by_hand(engine: TransformersEngine, ids: list[int], matcher: Any, most: int) -> list[int]:
    """Greedy decoding without a cache and without forced tokens."""
    made: list[int] = []
    while len(made) < most:
        with torch.inference_mode():
            logits = engine.model(torch.tensor([ids + made])).logits[0, -1].clone()
        if matcher is not None:
            if matcher.stopped:
                return [*made, min(engine.renderer.end_ids)]
            allowed = torch.from_numpy(matcher.allowed()[: len(logits)].copy())
            logits[~allowed] = -torch.inf
        token = int(logits.argmax())
        made.append(token)
        if token in engine.renderer.end_ids:
            return made
        if matcher is not None:
            matcher.consume(token)
    return made


def test_the_cache_changes_nothing(engine: TransformersEngine) -> None:
    prompts = ["the polecat was idle", "the polecat was idle for 12", "the polecat holds work", "x", "the"]
    for prompt in prompts:
        ids = ids_of(engine, prompt)
        assert list(engine.generate(ids, matcher=None, max_tokens=12)) == by_hand(engine, ids, None, 12)


def test_a_shared_prefix_is_not_read_again(engine: TransformersEngine) -> None:
    read: list[int] = []
    really = engine.read
    engine.read = lambda tokens, wanted: read.append(len(tokens)) or really(tokens, wanted)  # type: ignore[method-assign]
    ids = ids_of(engine, "the polecat was idle for 12 minutes and holds work" * 4)
    list(engine.generate(ids, matcher=None, max_tokens=1))
    list(engine.generate([*ids, 7, 8, 9], matcher=None, max_tokens=1))
    list(engine.generate(ids, matcher=None, max_tokens=1))
    assert read == [len(ids), 3, 1]


def test_a_reply_that_repeats_takes_fewer_steps_and_stays_the_same(engine: TransformersEngine) -> None:
    read: list[int] = []
    really = engine.read
    engine.read = lambda tokens, wanted: read.append(len(tokens)) or really(tokens, wanted)  # type: ignore[method-assign]
    ids = ids_of(engine, "the polecat was idle for 12 minutes and holds work")
    plain = by_hand(engine, ids, None, 40)
    steps = []
    for _ in range(3):
        read.clear()
        assert list(engine.generate(ids, matcher=None, max_tokens=40)) == plain
        steps.append(len(read))
    assert steps[2] < 10 < steps[0], "what the last reply said is read ahead"


def test_reading_ahead_keeps_within_the_context(base: Path, tmp_path: Path) -> None:
    small = TransformersEngine.load(EngineSource(make_base(tmp_path / "small", context=64)))
    ids = [5] * 20
    plain = by_hand(small, ids, None, 44)
    for _ in range(2):
        assert list(small.generate(ids, matcher=None, max_tokens=44)) == plain


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 30))
def test_a_draft_is_what_followed_before(text: list[int], room: int) -> None:
    drafts = Drafts()
    drafts.begin(text, room)
    draft = drafts.guess()
    assert len(draft) <= max(0, min(LONGEST, room - 1))
    if draft:
        shown = "".join(map(str, text))
        assert any(shown[-n:] + "".join(map(str, draft)) in shown for n in (2, 3, 6))


def test_a_draft_that_is_wrong_is_followed_by_a_shorter_one() -> None:
    drafts = Drafts()
    text = [*range(30), 7, 8]
    drafts.begin(text, 100)
    whole = drafts.guess()
    drafts.judge(1, len(whole))
    assert drafts.guess() == whole[:3]
    drafts.judge(3, 3)
    assert drafts.guess() == whole[:6]


def test_an_iterator_that_is_dropped_leaves_a_sound_cache(engine: TransformersEngine) -> None:
    ids = ids_of(engine, "the polecat was idle")
    stream = engine.generate(ids, matcher=None, max_tokens=20)
    first = [next(stream) for _ in range(3)]
    stream.close()
    assert list(engine.generate(ids, matcher=None, max_tokens=6)) == by_hand(engine, ids, None, 6)
    assert first == by_hand(engine, ids, None, 3)


def test_threads_are_given_back(engine: TransformersEngine) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(engine.generate([1, 2, 3], matcher=None, max_tokens=2))
        engine.score([1, 2, 3], [[4, 5], [6]])
        assert torch.get_num_threads() == 3, "a training in the same process would be slower from then on"
    finally:
        torch.set_num_threads(before)


def test_a_failed_step_forgets_the_cache(engine: TransformersEngine, monkeypatch) -> None:
    ids = ids_of(engine, "the polecat was idle")
    list(engine.generate(ids, matcher=None, max_tokens=2))
    real = engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("oom")))
    with pytest.raises(RuntimeError):
        list(engine.generate([*ids, 9, 9], matcher=None, max_tokens=2))
    monkeypatch.setattr(engine.model, "forward", real)
    assert list(engine.generate(ids, matcher=None, max_tokens=4)) == by_hand(engine, ids, None, 4)


def test_forced_tokens_cost_no_step_and_change_nothing(engine: TransformersEngine) -> None:
    grammars = Grammars(engine.renderer.tokenizer, engine.renderer.end_ids)
    ids = ids_of(engine, "the polecat was idle")
    limits = Limits(text=20, command=60, calls=1)
    steps: list[int] = []
    really = engine.read
    engine.read = lambda tokens, wanted: steps.append(len(tokens)) or really(tokens, wanted)  # type: ignore[method-assign]
    made = list(engine.generate(ids, matcher=grammars.reply(DEACON, limits, must_call=True), max_tokens=200))
    text = engine.renderer.tokenizer.decode(made[:-1], skip_special_tokens=False)
    assert DEACON.allows(engine.renderer.parse_reply(text)[-1]["input"]["command"])
    assert len(steps) < len(made) - 8, "the JSON around the command is fed at once"


def test_max_tokens_holds_even_inside_forced_tokens(engine: TransformersEngine) -> None:
    grammars = Grammars(engine.renderer.tokenizer, engine.renderer.end_ids)
    ids = ids_of(engine, "x")
    whole = list(
        engine.generate(ids, matcher=grammars.reply(DEACON, Limits(), must_call=True), max_tokens=400)
    )
    for most in (1, 2, 5, len(whole) - 1):
        matcher = grammars.reply(DEACON, Limits(), must_call=True)
        assert list(engine.generate(ids, matcher=matcher, max_tokens=most)) == whole[:most]


def test_a_full_context_is_said(base: Path, tmp_path: Path) -> None:
    small = TransformersEngine.load(EngineSource(make_base(tmp_path / "small", context=64)))
    with pytest.raises(NonRetriableError, match="context of 64 tokens is full"):
        list(small.generate([5] * 100, matcher=None, max_tokens=1))


def test_scores_are_summed_log_probabilities(engine: TransformersEngine) -> None:
    ids = ids_of(engine, "the polecat was idle for")
    options = [ids_of(engine, t) for t in ('nudge"}', 'no-op"}', "x", "escalate to the mayor at once")]
    expected = []
    for option in options:
        with torch.inference_mode():
            logs = engine.model(torch.tensor([ids + option])).logits[0].log_softmax(-1)
        expected.append(sum(float(logs[len(ids) + i - 1, t]) for i, t in enumerate(option)))
    assert engine.score(ids, options) == pytest.approx(expected, abs=1e-3)
    assert engine.score(ids, options[2:3]) == pytest.approx(expected[2:3], abs=1e-3)
    longer = [*ids, *options[0]]
    assert list(engine.generate(longer, matcher=None, max_tokens=4)) == by_hand(engine, longer, None, 4)


# -- adapters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"q_proj": 4, "mlp.down_proj": 4}}, 1.0)],
)
def test_an_adapter_is_merged_as_peft_would(
    base: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    from safetensors.torch import load_file

    plain = TransformersEngine.load(EngineSource(base)).model
    tensors = load_file(write_adapter(tmp_path, **config) / "adapter_model.safetensors")
    merged = TransformersEngine.load(EngineSource(base, tmp_path)).model
    for stem in {key.rsplit(".lora_", 1)[0] for key in tensors}:
        name = stem.removeprefix("base_model.model.") + ".weight"
        delta = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"] * scale
        got = merged.get_parameter(name) - plain.get_parameter(name)
        assert torch.allclose(got, delta, atol=1e-4)


@pytest.mark.slow
def test_peft_itself_agrees(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    write_adapter(
        tmp_path, target_modules=["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    )
    ours = TransformersEngine.load(EngineSource(base, tmp_path)).model
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(ours(ids).logits, theirs.eval()(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "IA3"}, "peft_type: 'IA3' cannot be served"),
        ({"use_dora": True}, "use_dora: cannot be served"),
        ({"bias": "all"}, "bias: 'all' cannot be served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: cannot be served"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    base: Path, tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    write_adapter(tmp_path, **config)
    with pytest.raises(NonRetriableError, match=problem):
        TransformersEngine.load(EngineSource(base, tmp_path))


def test_an_adapter_that_does_not_fit_or_holds_nan_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    stem = "base_model.model.model.layers.1.self_attn.q_proj"

    def refused(up: Any, down: Any, name: str = stem) -> str:
        write_adapter(tmp_path)
        tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        save_file(tensors, str(tmp_path / "adapter_model.safetensors"))
        with pytest.raises(NonRetriableError) as caught:
            TransformersEngine.load(EngineSource(base, tmp_path))
        return str(caught.value)

    assert "does not fit" in refused(torch.zeros(64, 4), torch.zeros(4, 32))
    assert "does not fit" in refused(torch.zeros(64, 4), torch.zeros(3, 64))
    assert "NaN" in refused(torch.full((64, 4), torch.nan), torch.ones(4, 64))
    assert "no such layer" in refused(torch.zeros(64, 4), torch.zeros(4, 64), stem.replace("1", "9"))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(NonRetriableError, match="not a safetensors file"):
        TransformersEngine.load(EngineSource(base, tmp_path))
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(NonRetriableError, match=r"adapter_model\.bin: pickled weights"):
        TransformersEngine.load(EngineSource(base, tmp_path))


# -- folders and choice of engine -----------------------------------------------------------------


def test_pickled_weights_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04whatever")
    with pytest.raises(NonRetriableError, match=r"pytorch_model\.bin: pickled weights can run code"):
        load_engine(EngineSource(folder), factories=[LLAMA, TRANSFORMERS])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tokenizer.json", "tokenizer.json: not there"),
        ("chat_template.jinja", "chat_template.jinja: not there"),
        ("config.json", "base: not a model"),
    ],
)
def test_a_base_that_lacks_a_file_is_named(tmp_path: Path, name: str, problem: str) -> None:
    folder = make_base(tmp_path / "base")
    (folder / name).unlink()
    with pytest.raises(NonRetriableError, match=problem) as caught:
        TransformersEngine.load(EngineSource(folder))
    assert "\n" not in str(caught.value)


def test_torn_weights_are_named(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(NonRetriableError, match="base: not a model"):
        TransformersEngine.load(EngineSource(folder))


def test_weights_of_another_shape_of_model_are_not_filled_up_at_random(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(NonRetriableError, match=r"layers\.2.*not among its weights"):
        TransformersEngine.load(EngineSource(folder))


def test_the_engine_follows_from_the_files_and_the_name(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", weights=False)

    def factory(name: str, available: bool, suits: bool) -> EngineFactory:
        return EngineFactory(name, lambda: available, lambda _source: name, lambda _source: suits)  # type: ignore[arg-type, return-value]

    offered = [factory("a", False, True), factory("b", True, False), factory("c", True, True)]
    source = EngineSource(folder)
    assert load_engine(source, factories=offered) == "c"
    assert load_engine(source, "c", offered) == "c"
    with pytest.raises(UserError, match="'a' is not installed"):
        load_engine(source, "a", offered)
    with pytest.raises(UserError, match="'b' cannot load"):
        load_engine(source, "b", offered)
    with pytest.raises(UserError, match="no engine named 'd'; there are a, b, c"):
        load_engine(source, "d", offered)
    with pytest.raises(NonRetriableError, match="no engine can load"):
        load_engine(source, factories=offered[:2])


def test_the_shipped_engines_are_a_plugin() -> None:
    assert [f.name for f in gt_serving_engines()] == ["llama.cpp", "transformers"]
    assert LLAMA.suits(EngineSource(Path(), gguf=Path("x.gguf"))) and not LLAMA.suits(EngineSource(Path()))


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0 and common_prefix([1, 2, 3], [1, 2, 4]) == 2
