"""Is this folder a base that can be trained and served? Answered in a second, before anything heavy.

What goes wrong silently otherwise: a tokenizer of another model, a vocabulary that does not fit the
embedding, an end-of-turn token that is several tokens (the model would never learn to stop), a chat
template that rewrites earlier turns (training and serving would see different text), weights that are
pickles. Only ``tokenizers``, jinja2 and the headers of safetensors files are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import parse_json
from ..errors import NonRetriableError, UserError, in_file
from ..rendering.conversation import Conversation, Message, Tool
from ..rendering.render import STANDARD, Renderer
from .engine.network import FAMILIES
from .estimate import read_network
from .safefile import Header, read_header

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
MAX_PADDING = 1024
"""Rows of an embedding beyond the tokenizer's: Qwen pads by up to 399; far more is another tokenizer's."""

SAMPLES = (
    "The deacon checks 3 polecats: nux, slit, ace.",
    '{"action": "nudge", "target": "demo/polecats/nux", "n": 12.5}',
    "  two spaces,\ttab,\n\nnew lines\r\nand   runs   of them\n",
    "Größe, naïve, Łódź, 東京, мир, שלום, 🦊👩‍👩‍👧",
    "<tool_call>\n{}\n</tool_call> don't can't I'll 1234567890 ===> //",
    "\u200b\ufeff\u00a0 odd spaces \u3000",
)
_MARK = "qzxreply"


@dataclass(frozen=True)
class BaseFacts:
    """What a base is, as far as training, serving and export need to know."""

    folder: Path
    architecture: str
    vocabulary: int
    """Tokens of the tokenizer, added ones too."""
    rows: int
    """Rows of the embedding; at least ``vocabulary``."""
    end_token: str
    """The token that ends an assistant's turn in the template."""
    end_id: int
    context: int
    weights: tuple[Path, ...]


def validate_base(folder: Path) -> BaseFacts:
    """Check a Hugging Face folder in every point that matters here.

    Raises UserError where the folder or a file is missing, and NonRetriableError where what is there does
    not fit; either names the file and how to mend it.
    """
    if not folder.is_dir():
        raise UserError(in_file(folder, "", "no such folder", "give a local Hugging Face folder, or tiny"))
    config = _json(folder / "config.json")
    _present(folder / "tokenizer.json", "a base needs its tokenizer", "use a folder with a fast tokenizer")
    headers = weight_headers(folder)
    renderer = Renderer.from_folder(folder)
    rows, vocabulary = _check_rows(folder, config, headers, renderer.tokenizer)
    _check_layers(folder, config, headers)
    _check_round_trip(folder, renderer.tokenizer)
    template = _Template(folder, renderer)
    template.check_roles()
    template.check_prefix()
    end, end_id = template.end_token()
    _check_rendering(folder, renderer)
    return BaseFacts(
        folder,
        _architecture(config),
        vocabulary,
        rows,
        end,
        end_id,
        renderer.context,
        tuple(header.path for header in headers),
    )


# -- files ------------------------------------------------------------------------------------------


def _present(path: Path, problem: str, mend: str) -> None:
    if not path.is_file():
        raise UserError(in_file(path, "", f"not there: {problem}", mend))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object that must be there."""
    _present(path, "a base needs it", "give a local Hugging Face folder")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NonRetriableError(in_file(path, "", f"not JSON ({error})", "get the file again")) from None
    if not isinstance(value, dict):
        raise NonRetriableError(in_file(path, "", "not a JSON object", "get the file again"))
    return value


def weight_headers(folder: Path) -> list[Header]:
    """The headers of a base's safetensors files, each known to be whole.

    Raises UserError where there are no weights, NonRetriableError for pickles, shards that are missing and
    files that are cut off.
    """
    index = folder / INDEX
    if index.is_file():
        mapping = _json(index).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise NonRetriableError(in_file(index, "weight_map", "not there", "get the file again"))
        names = sorted({str(name) for name in mapping.values()})
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise NonRetriableError(in_file(folder / missing[0], "", "this shard is not there", "get it"))
        return [read_header(folder / name) for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [read_header(single)]
    pickles = sorted(p for s in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{s}"))
    if pickles:
        raise NonRetriableError(
            in_file(pickles[0], "", "a pickle, which can run code when it is read", "convert to safetensors")
        )
    raise UserError(in_file(single, "", "not there: a base needs weights", "get the safetensors files"))


def _shapes(headers: list[Header]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(info.shape) for header in headers for name, info in header.tensors.items()}


def _check_rows(
    folder: Path, config: dict[str, Any], headers: list[Header], tokenizer: Tokenizer
) -> tuple[int, int]:
    """Rows of the embedding and tokens of the tokenizer, which must fit each other."""
    shapes = _shapes(headers)
    if EMBEDDING not in shapes or len(shapes[EMBEDDING]) != 2:
        raise NonRetriableError(
            in_file(headers[0].path, EMBEDDING, "not there", "use a Llama, Qwen or Mistral base")
        )
    rows = shapes[EMBEDDING][0]
    if config.get("vocab_size") != rows:
        problem = f"{config.get('vocab_size')}, but the embedding has {rows} rows"
        raise NonRetriableError(in_file(folder / "config.json", "vocab_size", problem, "get the base again"))
    head = shapes.get("lm_head.weight")
    if head is not None and head[0] != rows:
        problem = f"{head[0]} rows, but the embedding has {rows}"
        raise NonRetriableError(in_file(headers[0].path, "lm_head.weight", problem, "get the base again"))
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= rows or rows - vocabulary > MAX_PADDING:
        problem = f"{max(vocabulary, highest + 1)} tokens, but the embedding has {rows} rows"
        raise NonRetriableError(
            in_file(folder / "tokenizer.json", "", problem, "use the tokenizer that belongs to these weights")
        )
    return rows, vocabulary


def _check_layers(folder: Path, config: dict[str, Any], headers: list[Header]) -> None:
    """Every weight that the configuration tells of must be there, in its shape: transformers would draw what
    is missing at random and say nothing."""
    if config.get("model_type") not in FAMILIES:
        return
    net, shapes = read_network(folder), _shapes(headers)
    wanted = {EMBEDDING: (net.vocabulary, net.width), "model.norm.weight": (net.width,)}
    if not net.tied:
        wanted["lm_head.weight"] = (net.vocabulary, net.width)
    for layer in range(net.layers):
        for name, (inputs, outputs) in net.shapes.items():
            part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            wanted[f"model.layers.{layer}.{part}.{name}.weight"] = (outputs, inputs)
        for name in ("input_layernorm", "post_attention_layernorm"):
            wanted[f"model.layers.{layer}.{name}.weight"] = (net.width,)
    for name, shape in wanted.items():
        there = shapes.get(name)
        if there != shape:
            problem = f"{list(there)}, but config.json says {list(shape)}" if there else "not there"
            raise NonRetriableError(in_file(headers[0].path, name, problem, "get the base again"))


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else "?"


def _check_round_trip(folder: Path, tokenizer: Tokenizer) -> None:
    """Text that comes back changed would be trained on changed: unknown characters, lost spaces."""
    for text in SAMPLES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if back != text:
            raise NonRetriableError(
                in_file(
                    folder / "tokenizer.json",
                    "",
                    f"{text!r} comes back as {back!r}",
                    "use a base with a byte-level tokenizer",
                )
            )


# -- the template -----------------------------------------------------------------------------------


class _Template:
    """A chat template as it is, without the renderer's care around it."""

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        own = folder / "chat_template.jinja"
        self.path = own if own.is_file() else folder / "tokenizer_config.json"
        self._renderer = renderer

    def text(self, *turns: tuple[str, str], open_reply: bool = False) -> str:
        """Render turns of (role, content). Raises NonRetriableError in the template's own words."""
        from jinja2 import TemplateError

        chat = [{"role": role, "content": content} for role, content in turns]
        try:
            return self._renderer.chat(chat, open_reply)
        except (TemplateError, TypeError, KeyError, ValueError, ArithmeticError, NonRetriableError) as error:
            raise self._wrong(f"it cannot render {', '.join(r for r, _ in turns)} ({error})") from None

    def _wrong(self, problem: str) -> NonRetriableError:
        return NonRetriableError(
            in_file(self.path, "chat_template", problem, "give the base a chat template for training")
        )

    def check_roles(self) -> None:
        """system, user and assistant must each appear, with their content unchanged."""
        turns = [("system", "qzxsystem one"), ("user", "qzxuser two"), ("assistant", f"{_MARK} three")]
        text = self.text(*turns)
        for role, content in turns:
            if content not in text:
                raise self._wrong(f"it leaves out or changes what the {role} says")

    def check_prefix(self) -> None:
        """Each longer conversation must begin with the shorter one, and a reply with its opening."""
        turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
        done = ""
        for end in (2, 4):
            prompt = self.text(*turns[:end], open_reply=True)
            whole = self.text(*turns[: end + 1])
            if not prompt.startswith(done):
                raise self._wrong("it changes earlier turns when a new one is added")
            if not whole.startswith(prompt):
                raise self._wrong("a reply does not begin as its opening says (add_generation_prompt)")
            done = whole

    def end_token(self) -> tuple[str, int]:
        """The token right after a reply: one id, known to be special, one of those that end a reply."""
        prompt = self.text(("user", "u"), open_reply=True)
        tail = self.text(("user", "u"), ("assistant", _MARK))[len(prompt) :].partition(_MARK)[2].lstrip()
        tokenizer = self._renderer.tokenizer
        found = [t for t in self._renderer.end_tokens if tail.startswith(t)]
        if not found:
            known = ", ".join(self._renderer.end_tokens)
            raise self._wrong(f"a reply ends with {tail[:24]!r}, the tokenizer's end tokens are {known}")
        ids = tokenizer.encode(found[0], add_special_tokens=False).ids
        if len(ids) != 1 or ids[0] != tokenizer.token_to_id(found[0]):
            raise NonRetriableError(
                in_file(
                    self.path.parent / "tokenizer.json",
                    found[0],
                    f"the end of a turn is {len(ids)} tokens, not one",
                    "use a base whose tokenizer has it as a special token",
                )
            )
        return found[0], ids[0]


def _check_rendering(folder: Path, renderer: Renderer) -> None:
    """The very code that makes training rows: a tool call and its result, and an end in every span."""
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "gt status"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "2 polecats"}
    conversation = Conversation(
        "You are the deacon.",
        (Tool("Bash", ("command",)),),
        "town: demo",
        (
            Message("user", ({"type": "text", "text": "go on"},)),
            Message("assistant", ({"type": "text", "text": "Looking."}, call)),
            Message("user", (result,)),
            Message("assistant", ({"type": "text", "text": "All is well."},)),
        ),
    )
    for row in renderer.rows(conversation, STANDARD):
        for start, end in row.spans:
            if start >= end or row.ids[end - 1] not in renderer.end_ids:
                raise NonRetriableError(
                    in_file(
                        folder, "", "a rendered reply does not end with its end token", "use another base"
                    )
                )
