"""A renderer from a base's folder: what it reads, and what it says of a folder that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rendering_helpers import ALTERNATING, CHATML, conversation, said, steps, user, write_base

from gt_plugins.errors import NonRetriableError
from gt_plugins.rendering.render import TINY, Renderer
from gt_plugins.training.base import SHIPPED


def test_the_shipped_base_renders_a_patrol_within_its_budget() -> None:
    renderer = Renderer.from_folder(SHIPPED)
    asked = renderer.request(steps(30, 40), TINY)
    assert 400 < len(asked.ids) <= TINY.request and asked.first_message > 0
    assert renderer.tokenizer.decode(list(asked.ids), skip_special_tokens=False) == asked.text
    assert renderer.context == 4096 and len(renderer.end_ids) == 1


def test_a_template_may_stand_in_the_tokenizers_file(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    (base / "chat_template.jinja").unlink()
    config = {"eos_token": {"content": "<|im_end|>", "special": True}}
    expected = Renderer.from_folder(write_base(tmp_path / "other")).request(steps(1), TINY)
    for template in (
        CHATML,
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}],
    ):
        (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        assert Renderer.from_folder(base).request(steps(1), TINY) == expected


def test_the_bases_own_start_token_stands_where_its_template_wants_it(tmp_path: Path) -> None:
    for given in ("<|endoftext|>", {"content": "<|endoftext|>"}):
        renderer = Renderer.from_folder(write_base(tmp_path, ALTERNATING, bos_token=given))
        asked = renderer.request(conversation([user(said("go"))]), TINY)
        assert asked.text.startswith("<|endoftext|>[INST] ")
        assert asked.ids[0] == renderer.tokenizer.token_to_id("<|endoftext|>")
    renderer = Renderer.from_folder(write_base(tmp_path, ALTERNATING, bos_token=None))
    assert renderer.request(conversation([user(said("go"))]), TINY).text.startswith("[INST] ")


def test_all_end_tokens_end_a_reply(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    assert Renderer.from_folder(base).end_tokens == ("<|im_end|>",)
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 0, 999999]}')
    renderer = Renderer.from_folder(base)
    assert renderer.end_tokens == ("<|im_end|>", "<|endoftext|>")
    assert renderer.end_ids == {0, 2}


def test_loop_controls_are_known(tmp_path: Path) -> None:
    template = CHATML.replace(
        "{%- for m in messages %}", "{%- for m in messages %}{% if not m %}{% break %}{% endif %}"
    )
    plain = Renderer.from_folder(write_base(tmp_path / "plain")).request(steps(2), TINY)
    assert Renderer.from_folder(write_base(tmp_path / "loop", template)).request(steps(2), TINY) == plain


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(NonRetriableError) as caught:
        Renderer.from_folder(folder).request(steps(2), TINY)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, ("tokenizer.json", "not there")),
        ("tokenizer.json", "{}", ("tokenizer.json", "not a tokenizer")),
        ("config.json", "{", ("config.json", "not JSON")),
        ("tokenizer_config.json", "[", ("tokenizer_config.json", "not JSON")),
        ("tokenizer_config.json", "{}", ("tokenizer_config.json", "eos_token", "not a token")),
        ("tokenizer_config.json", '{"eos_token": "<eot>"}', ("eos_token", "not a token")),
        ("chat_template.jinja", None, ("chat_template.jinja", "not there")),
        ("chat_template.jinja", "{% for m in messages %}{% if", ("chat template", "cannot render")),
        ("chat_template.jinja", "{{ raise_exception('no system role') }}", ("refuses", "no system role")),
        ("chat_template.jinja", "{{ messages[0].content + 7 }}", ("chat template", "cannot render")),
        (
            "chat_template.jinja",
            "{{ messages.__class__.__mro__ }}{{ f() }}",
            ("chat template", "cannot render"),
        ),
        ("chat_template.jinja", "{{ messages | length }}", ("does not keep its prefix",)),
        ("chat_template.jinja", CHATML.replace("'<|im_end|>\n'", "'\n'"), ("ends a reply with no token",)),
    ],
)
def test_a_folder_that_is_no_base(
    tmp_path: Path, name: str, content: str | None, words: tuple[str, ...]
) -> None:
    base = write_base(tmp_path)
    if content is None:
        (base / name).unlink()
    else:
        (base / name).write_text(content)
    refused(base, *words)


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgetful = CHATML.replace("m.content", "(m.content if loop.revindex < 3 else 'long ago')")
    refused(write_base(tmp_path, forgetful), "does not keep its prefix")
