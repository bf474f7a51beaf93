"""Conversation → text → token ids, within a budget; and a model's text → blocks.

The form is the one that Qwen2.5 and Hermes models know: tool calls as JSON between ``<tool_call>`` and
``</tool_call>`` in the assistant's text, results between ``<tool_response>`` and ``</tool_response>`` in
the user's, around it the base's own chat template. Only roles system, user and assistant are given to the
template, alternating, so that any template renders them.

Ids are made segment by segment (each assistant reply is a segment of its own), so the ids of a training
example's prefix are those of the live request at that point, whatever the tokenizer merges.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import parse_json
from ..errors import NonRetriableError, in_file
from .conversation import Block, Conversation, Message, call_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CALL, CALL_END = "<tool_call>", "</tool_call>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"
_TEMPLATE_MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|<</?[A-Z]{1,20}>>|\[/?[A-Z_]{1,20}\]")
"""What chat templates write as markers, be they tokens of the base or not: ``<|im_end|>``, ``[/INST]``."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_LEAST_RESULT = 16


@dataclass(frozen=True)
class Budget:
    """Tokens: of a whole rendered request, of one tool result, of the slim prime, of a reply."""

    request: int
    result: int
    prime: int
    reply: int


TINY = Budget(request=1500, result=320, prime=256, reply=200)
STANDARD = Budget(request=8000, result=2000, prime=3000, reply=1024)


@dataclass(frozen=True)
class Rendered:
    """A request as token ids, with what had to be left out of it."""

    ids: tuple[int, ...]
    text: str
    first_message: int
    """Index of the first message that is shown; those before it were dropped for the budget."""
    cut_results: int


@dataclass(frozen=True)
class Row:
    """A training example: token ids and the [start, end) spans that carry loss."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    first_message: int
    messages: int
    cut_results: int


class Renderer:
    """A base's tokenizer and chat template."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, end: Sequence[str], context: int, start: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.end_tokens = tuple(end)
        self.start_token = start
        self._template_source = template
        self._ids = lru_cache(maxsize=512)(self._uncached_ids)

    @classmethod
    def from_folder(cls, folder: Path) -> Renderer:
        """From a Hugging Face folder (tokenizer.json, chat template, config.json).

        Raises NonRetriableError naming the file that is missing or odd."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise NonRetriableError(
                in_file(path, "", "not there: a base needs its tokenizer", "use a fast-tokenizer folder")
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise NonRetriableError(in_file(path, "", f"not a tokenizer ({error})", "")) from None
        config = _json(folder / "config.json")
        special = _json(folder / "tokenizer_config.json")
        return cls(
            tokenizer,
            _chat_template(folder, special),
            _end_tokens(tokenizer, folder, special),
            _context(folder, config),
            _token(special.get("bos_token")),
        )

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a reply."""
        ids = (self.tokenizer.token_to_id(t) for t in self.end_tokens)
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def _template(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda _format: ""
        return environment.from_string(self._template_source)

    @cached_property
    def _markers(self) -> re.Pattern[str]:
        """All that is structure: the tokenizer's special tokens, the template's markers, our own."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        markers = {t.content for t in added if t.special or t.content.startswith("<")}
        markers.update(_TEMPLATE_MARKER.findall(self._template_source), (CALL, CALL_END, RESULT, RESULT_END))
        longest_first = sorted((m for m in markers if len(m) > 2), key=lambda m: (-len(m), m))
        return re.compile("|".join(map(re.escape, longest_first)))

    # -- text -------------------------------------------------------------------------------------

    def plain(self, text: str) -> str:
        """Content that cannot pose as structure: markers are broken up, half UTF-16 pairs are replaced."""
        text = _HALF_PAIR.sub("\ufffd", text)
        while True:
            broken = self._markers.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)
            if broken == text:
                return text
            text = broken

    def reply_text(self, blocks: Sequence[Block]) -> str:
        """An assistant turn as the text a model writes: its text, then each tool call."""
        text = "\n".join(self.plain(str(b["text"])) for b in blocks if b.get("type") == "text")
        calls = [
            f"{CALL}\n{self.plain(call_json(b))}\n{CALL_END}" for b in blocks if b.get("type") == "tool_use"
        ]
        return "\n".join([text, *calls] if text else calls)

    def parse_reply(self, text: str) -> list[dict[str, Any]]:
        """The inverse: text and tool_use blocks (without ids). A call that is no JSON stays text."""
        blocks: list[dict[str, Any]] = []
        for index, part in enumerate(text.split(CALL)):
            body, closed, rest = part.partition(CALL_END) if index else ("", "", part)
            if index:
                call = _parsed_call(body)
                if call is None or not closed:
                    rest = f"{CALL}{part}"
                else:
                    blocks.append(call)
            if rest.strip():
                blocks.append({"type": "text", "text": rest.strip()})
        return blocks

    def _content(self, message: Message, result_tokens: int) -> tuple[str, int]:
        """A user message's text with its results cut to size, and how many were cut."""
        parts, cut = [], 0
        for block in message.blocks:
            if block.get("type") == "tool_result":
                text, was_cut = self._shorten(self.plain(str(block["content"])), result_tokens)
                cut += was_cut
                note = "Error: " if block.get("is_error") else ""
                parts.append(f"{RESULT}\n{note}{text}\n{RESULT_END}")
            elif block.get("type") == "text":
                parts.append(self.plain(str(block["text"])))
        return "\n".join(parts), cut

    def _shorten(self, text: str, limit: int) -> tuple[str, bool]:
        """Keep the head (two thirds) and the tail of a result that is longer than ``limit`` tokens."""
        if len(text) <= limit:
            return text, False
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= limit:
            return text, False
        head = offsets[limit * 2 // 3 - 1][1]
        tail = offsets[len(offsets) - limit // 3][0]
        return f"{text[:head]}\n… {tail - head} characters left out …\n{text[tail:]}", True

    def _system(self, conversation: Conversation) -> str:
        parts = [conversation.system]
        if conversation.tools:
            short = ", ".join(f"{t.name}({', '.join(t.required)})" for t in conversation.tools)
            parts.append(f"Tools: {short}")
        if conversation.prime:
            parts.append(conversation.prime)
        return self.plain("\n\n".join(p for p in parts if p))

    # -- tokens -----------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids of text whose markers are meant as such; no special tokens are added."""
        return list(self._ids(text))

    def _uncached_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """Tokens in a text."""
        return len(self.encode(text))

    def request(self, conversation: Conversation, budget: Budget) -> Rendered:
        """The ids a model is given, ending where its reply begins. Never longer than ``budget.request``
        unless the last message alone is (results in it are cut further then)."""
        view = self._window(conversation, budget)
        return Rendered(view.ids, "".join(view.segments), view.first, view.cut)

    def _segments(self, conversation: Conversation, first: int, result: int) -> tuple[list[str], int]:
        """Alternating prompt and reply texts; the last is a prompt that ends where a reply begins."""
        chat: list[dict[str, str]] = [{"role": "system", "content": self._system(conversation)}]
        segments, done, cut = [], "", 0
        for message in conversation.messages[first:]:
            if message.role == "user":
                text, was_cut = self._content(message, result)
                cut += was_cut
                chat.append({"role": "user", "content": text})
                continue
            segments.append(_rest(self.chat(chat, open_reply=True), done))
            prompt = done + segments[-1]
            chat.append({"role": "assistant", "content": self.reply_text(message.blocks)})
            segments.append(self._reply_segment(self.chat(chat, open_reply=False), prompt))
            done = prompt + segments[-1]
        return [*segments, _rest(self.chat(chat, open_reply=True), done)], cut

    def _reply_segment(self, whole: str, prompt: str) -> str:
        reply = _rest(whole, prompt)
        for marker in self.end_tokens:
            at = reply.rfind(marker)
            if at >= 0:
                return reply[: at + len(marker)]
        raise NonRetriableError("the chat template ends a reply with no token that the tokenizer knows")

    def chat(self, chat: list[dict[str, str]], open_reply: bool) -> str:
        """Messages through the base's own template, ending where a reply begins if ``open_reply``.

        Raises NonRetriableError in the template's own words where it cannot."""
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=chat,
                add_generation_prompt=open_reply,
                bos_token=self.start_token,
                eos_token=self.end_tokens[0],
            )
        except (TemplateError, TypeError) as error:
            raise NonRetriableError(f"the chat template cannot render this conversation: {error}") from None

    def _window(self, conversation: Conversation, budget: Budget) -> _View:
        """The view of a request: all of it where it fits, else where the walk has come to."""
        view = self._view(conversation, 0, budget.result)
        if len(view.ids) <= budget.request:
            return view
        return deque(self._walk(conversation, budget), maxlen=1).pop()

    def _walk(self, conversation: Conversation, budget: Budget) -> Iterator[_View]:
        """What is shown before each reply, and what at the end.

        The beginning moves on only when the budget is passed, then by half of it, so that the prefix stays
        the same from one request to the next (a cache lives on that)."""
        messages, first = conversation.messages, 0
        replies = [i for i, m in enumerate(messages) if m.role == "assistant"]
        for end in [*replies, len(messages)]:
            part = conversation.upto(end)
            view = self._view(part, first, budget.result)
            if len(view.ids) > budget.request:
                view = self._moved(part, view, budget)
                first = view.first
            yield view

    def _moved(self, conversation: Conversation, view: _View, budget: Budget) -> _View:
        messages = conversation.messages
        for start in range(view.first + 1, len(messages)):
            if messages[start].role == "user":
                view = self._view(conversation, start, budget.result)
                if len(view.ids) <= budget.request // 2:
                    break
        while len(view.ids) > budget.request and view.result > _LEAST_RESULT:
            view = self._view(conversation, view.first, view.result // 2)
        return view

    def _view(self, conversation: Conversation, first: int, result: int) -> _View:
        segments, cut = self._segments(conversation, first, result)
        return _View(segments, [self._ids(s) for s in segments], first, result, cut)

    def rows(self, conversation: Conversation, budget: Budget, silent: Collection[int] = ()) -> list[Row]:
        """Training examples: one for each stretch of the conversation that shares a window, with loss on
        each assistant reply once, but for the messages in ``silent``. A conversation that fits the budget
        is one row; a row without a supervised token is none."""
        replies = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
        windows = self._windows(conversation, budget, replies)
        rows = []
        for window, stretch in groupby(zip(windows, replies, strict=False), key=itemgetter(0)):
            taught = [reply for _, reply in stretch]
            upto = conversation.upto(taught[-1] + 1)
            rows.append(self._row(upto, window, [i for i in taught if i not in silent]))
        return [row for row in rows if row.spans]

    def _windows(
        self, conversation: Conversation, budget: Budget, replies: Sequence[int]
    ) -> list[tuple[int, int]]:
        """(first message, tokens of a result) of what is shown before each reply. Where all of it fits
        before the last one, so it does before the others, and the walk is saved."""
        if not replies:
            return []
        last = self._view(conversation.upto(replies[-1]), 0, budget.result)
        if len(last.ids) <= budget.request:
            return [(0, budget.result)] * len(replies)
        return [(view.first, view.result) for view in self._walk(conversation, budget)]

    def _row(self, conversation: Conversation, window: tuple[int, int], taught: Sequence[int]) -> Row:
        messages, first = conversation.messages, window[0]
        view = self._view(conversation, *window)
        shown = [i for i in range(first, len(messages)) if messages[i].role == "assistant"]
        ids: list[int] = []
        spans = []
        for index, piece in enumerate(view.pieces[:-1]):
            start = len(ids)
            ids.extend(piece)
            if index % 2 == 1 and shown[index // 2] in taught:
                spans.append((start, len(ids)))
        return Row(tuple(ids), tuple(spans), first, len(messages), view.cut)


@dataclass(frozen=True)
class _View:
    """A rendered stretch of a conversation: texts and ids by segment, where it begins, to how many tokens
    its results are cut, and how many were."""

    segments: list[str]
    pieces: list[tuple[int, ...]]
    first: int
    result: int
    cut: int

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return tuple(i for piece in self.pieces for i in piece)


def _rest(text: str, prefix: str) -> str:
    """What a longer conversation adds to a shorter one. Raises NonRetriableError where it changes it."""
    if not text.startswith(prefix):
        raise NonRetriableError("the chat template does not keep its prefix; this base cannot be used")
    return text[len(prefix) :]


def with_tools(conversation: Conversation, tools: Sequence[Any]) -> Conversation:
    """The same conversation with other tools."""
    return replace(conversation, tools=tuple(tools))


def _parsed_call(body: str) -> dict[str, Any] | None:
    try:
        value = parse_json(body)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments")
    return {
        "type": "tool_use",
        "name": value["name"],
        "input": arguments if isinstance(arguments, dict) else {},
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NonRetriableError(in_file(path, "", f"not JSON ({error})", "")) from None
    return value if isinstance(value, dict) else {}


def _context(folder: Path, config: dict[str, Any]) -> int:
    """Positions that a model knows."""
    value = config.get("max_position_embeddings") or 4096
    if type(value) is not int or value < 1:
        raise NonRetriableError(
            in_file(
                folder / "config.json", "max_position_embeddings", f"{value!r} is no number of tokens", ""
            )
        )
    return value


def _chat_template(folder: Path, special: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise NonRetriableError(in_file(path, "", f"not UTF-8 text ({error.reason})", "")) from None
    template = special.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if isinstance(template, str):
        return template
    raise NonRetriableError(
        in_file(path, "", "not there, and tokenizer_config.json has no chat_template", "use an instruct base")
    )


def _end_tokens(tokenizer: Tokenizer, folder: Path, special: dict[str, Any]) -> list[str]:
    """The base's end-of-turn tokens: eos_token first, then the generation config's."""
    named = _token(special.get("eos_token"))
    found = [named] if named else []
    more = _json(folder / "generation_config.json").get("eos_token_id")
    for identity in more if isinstance(more, list) else [more]:
        token = tokenizer.id_to_token(identity) if isinstance(identity, int) else None
        if token and token not in found:
            found.append(token)
    found = [t for t in found if tokenizer.token_to_id(t) is not None]
    if not found:
        raise NonRetriableError(
            in_file(folder / "tokenizer_config.json", "eos_token", "not a token of this tokenizer", "")
        )
    return found


def _token(value: Any) -> str:
    """A token as tokenizer_config.json has it: text, or an object with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _raise(message: str) -> None:
    raise NonRetriableError(f"the chat template refuses this conversation: {message}")
