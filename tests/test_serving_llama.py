"""The llama.cpp engine against the transformers engine on the same weights: same replies, same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_helpers import BASH, make_base, request, write_adapter, write_gguf

from gt_plugins.errors import NonRetriableError
from gt_plugins.rendering.render import TINY
from gt_plugins.roles.profile import load_profile
from gt_plugins.serving.engines import EngineSource, load_engine
from gt_plugins.serving.engines.builtin import LLAMA, TRANSFORMERS
from gt_plugins.serving.responder import ModelResponder

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra 'serve')")
pytest.importorskip("torch")
from gt_plugins.serving.engines.llama_engine import LlamaEngine
from gt_plugins.serving.engines.transformers_engine import TransformersEngine

DEACON = load_profile("deacon")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> EngineSource:
    base = make_base(tmp_path_factory.mktemp("llama") / "base", seed=5)
    return EngineSource(base, gguf=write_gguf(base, base.parent / "model-f32.gguf"))


@pytest.fixture(scope="module")
def llama(source: EngineSource) -> LlamaEngine:
    return LlamaEngine.load(source)


@pytest.fixture(scope="module")
def reference(source: EngineSource) -> TransformersEngine:
    return TransformersEngine.load(source)


PROMPTS = ["the polecat was idle", "the polecat was idle for 12", "the witness of demo", "x", "the"]


def test_both_engines_write_the_same(llama: LlamaEngine, reference: TransformersEngine) -> None:
    for prompt in PROMPTS:
        ids = reference.renderer.encode(prompt)
        made = [list(e.generate(ids, matcher=None, max_tokens=10)) for e in (llama, reference)]
        assert made[0] == made[1]


def test_both_answer_a_request_the_same(llama: LlamaEngine, reference: TransformersEngine) -> None:
    for choice in ({"type": "auto"}, {"type": "any"}):
        body = request(tools=[BASH], tool_choice=choice)
        replies = [ModelResponder(e, DEACON, TINY).respond(body) for e in (llama, reference)]
        bare = [[{k: v for k, v in b.items() if k != "id"} for b in r.blocks] for r in replies]
        assert bare[0] == bare[1] and replies[0].output_tokens == replies[1].output_tokens


def test_both_score_the_same(llama: LlamaEngine, reference: TransformersEngine) -> None:
    ids = reference.renderer.encode("the polecat was idle for")
    options = [reference.renderer.encode(t) for t in ('nudge"}', "x", "escalate to the mayor at once " * 20)]
    expected = reference.score(ids, options)
    assert llama.score(ids, options) == pytest.approx(expected, abs=0.02)
    assert llama.score(ids, options) == pytest.approx(expected, abs=0.02), "scoring leaves nothing behind"
    made = [list(e.generate([*ids, 9], matcher=None, max_tokens=6)) for e in (llama, reference)]
    assert made[0] == made[1]


def test_a_shared_prefix_is_not_read_again(llama: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    really = llama.read
    monkeypatch.setattr(llama, "read", lambda given, wanted: read.append(len(given)) or really(given, wanted))
    ids = llama.renderer.encode("an agent's requests grow at the end" * 4)
    list(llama.generate(ids, matcher=None, max_tokens=1))
    list(llama.generate([*ids, 7, 8, 9], matcher=None, max_tokens=1))
    list(llama.generate(ids, matcher=None, max_tokens=1))
    assert read[1:] == [3, 1] and read[0] >= len(ids) - 8


def test_a_long_prompt_goes_in_batches_and_a_full_context_is_said(
    llama: LlamaEngine, reference: TransformersEngine
) -> None:
    ids = reference.renderer.encode("the polecat was idle " * 400)[:1300]
    made = [list(e.generate(ids, matcher=None, max_tokens=3)) for e in (llama, reference)]
    assert len(ids) > 1024 and made[0] == made[1]
    with pytest.raises(NonRetriableError, match="context of 2048 tokens is full"):
        list(llama.generate([5] * 3000, matcher=None, max_tokens=1))
    assert list(llama.generate(ids, matcher=None, max_tokens=3)) == made[1]


def test_an_adapter_as_gguf_changes_replies_as_the_merged_one_does(
    source: EngineSource, llama: LlamaEngine, tmp_path: Path
) -> None:
    from gt_plugins.export.gguf import export

    adapter = write_adapter(tmp_path / "adapter", seed=2)
    lora = export(source.base, adapter, tmp_path / "gguf", ("lora",))["lora"]
    both = LlamaEngine.load(EngineSource(source.base, gguf=source.gguf, lora_gguf=lora))
    merged = TransformersEngine.load(EngineSource(source.base, adapter))
    ids = [both.renderer.encode(prompt) for prompt in PROMPTS]
    options = [both.renderer.encode(t) for t in ("nudge", "no-op now")]
    for prompt in ids:
        assert both.score(prompt, options) == pytest.approx(merged.score(prompt, options), abs=0.1)
    assert both.score(ids[0], options) != pytest.approx(llama.score(ids[0], options), abs=0.1)


def test_the_gguf_file_is_preferred_where_it_is_there(source: EngineSource) -> None:
    assert load_engine(source, factories=[LLAMA, TRANSFORMERS]).name == "llama.cpp"
    assert load_engine(EngineSource(source.base), factories=[LLAMA, TRANSFORMERS]).name == "transformers"


def test_files_that_are_no_gguf_are_named(source: EngineSource, tmp_path: Path) -> None:
    torn, other, whole = tmp_path / "torn.gguf", tmp_path / "other.gguf", source.gguf
    assert whole is not None
    torn.write_bytes(whole.read_bytes()[:2000])
    other.write_bytes(b"not one")
    for path, problem in (
        (torn, "llama.cpp cannot load it"),
        (other, "not a GGUF file"),
        (tmp_path / "no", "not there"),
    ):
        with pytest.raises(NonRetriableError, match=problem):
            LlamaEngine.load(EngineSource(source.base, gguf=path))
        if path != torn:
            with pytest.raises(NonRetriableError, match=problem):
                LlamaEngine.load(EngineSource(source.base, gguf=whole, lora_gguf=path))


def test_a_model_of_a_smaller_vocabulary_is_refused(source: EngineSource, tmp_path: Path) -> None:
    larger = make_base(tmp_path / "larger", weights=False)
    text = (larger / "tokenizer.json").read_text()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(50)])
    tokenizer.save(str(larger / "tokenizer.json"))
    with pytest.raises(NonRetriableError, match="export it from that base"):
        LlamaEngine.load(EngineSource(larger, gguf=source.gguf))
