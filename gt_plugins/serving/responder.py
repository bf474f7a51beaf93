"""From a request's body to a reply: what stands behind the endpoint.

A :class:`Responder` answers a ``/v1/messages`` body. :class:`ModelResponder` does it with a model: the
body becomes a conversation, the conversation token ids, a grammar is chosen, the engine writes, the reply
is checked once more against the role's fence. The scripted teacher of ``sim`` is another responder.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import FinetuneError, UserError
from ..rendering.conversation import Conversation, from_request
from ..rendering.render import CALL, CALL_END, TINY, with_tools
from .fence import COMMAND_TOOL, check
from .grammar import Grammars, Limits, Matcher

if TYPE_CHECKING:
    from ..rendering.render import Budget
    from ..roles.profile import Profile
    from .engines import Engine

Body = Mapping[str, Any]
Block = dict[str, Any]
MIN_REPLY = 16
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_ADDRESS = re.compile(r"[A-Za-z0-9][\w-]*(?:/[A-Za-z0-9][\w-]*){1,2}")


class PromptTooLong(UserError):
    """The request does not fit the model, even after old messages were dropped and results cut."""


@dataclass(frozen=True)
class Reply:
    """An assistant's turn: text and tool_use blocks, ``end_turn``, ``tool_use`` or ``max_tokens``."""

    blocks: tuple[Block, ...]
    stop_reason: str
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Prepared:
    """A request that is ready for the engine."""

    ids: tuple[int, ...]
    max_tokens: int
    tools: frozenset[str]
    new_matcher: Callable[[], Matcher]
    seen: frozenset[str] = frozenset()
    is_json: bool = False
    dropped_messages: int = 0
    cut_results: int = 0

    @property
    def input_tokens(self) -> int:
        return len(self.ids)


@runtime_checkable
class Responder(Protocol):
    """Anything that answers a request."""

    name: str

    def respond(self, body: Body) -> Reply:
        """The whole reply. Raises UserError where the request is wrong, FinetuneError where we fail."""


@runtime_checkable
class StagedResponder(Responder, Protocol):
    """One that reads a request first and then writes piece by piece."""

    def prepare(self, body: Body) -> Prepared:
        """Quick, from any thread. Raises UserError where the request is wrong."""

    def stream(self, prepared: Prepared, stopped: Callable[[], bool]) -> Iterator[str | Reply]:
        """Pieces of the reply's first text as they come, at last the whole reply.

        One at a time. Once ``stopped`` says so it ends early, without a reply."""


class ScriptResponder:
    """Answers with the blocks that a function gives for a body: the teacher, tests."""

    def __init__(self, name: str, script: Callable[[Body], Sequence[Block]]) -> None:
        self.name = name
        self._script = script

    def respond(self, body: Body) -> Reply:
        """See ``Responder.respond``; tool calls without an id get one."""
        given = self._script(body)
        blocks = tuple({"id": call_id(), **b} if b["type"] == "tool_use" else b for b in given)
        calls = any(b["type"] == "tool_use" for b in blocks)
        size = sum(len(str(b.get("text") or b.get("input") or "")) for b in blocks)
        return Reply(blocks, "tool_use" if calls else "end_turn", 0, size // 4 + 1)


class ModelResponder:
    """A role's model. ``refused`` counts calls that got past the grammar and not past the fence."""

    def __init__(self, engine: Engine, profile: Profile, budget: Budget = TINY) -> None:
        self.name = engine.name
        self.engine = engine
        self.profile = profile
        self.budget = budget
        self.limits = Limits.for_budget(budget)
        self.refused = 0
        self.grammars = Grammars(engine.renderer.tokenizer, engine.renderer.end_ids)
        self.grammars.reply(profile, self.limits)  # a fence that cannot be a grammar is found now

    def respond(self, body: Body) -> Reply:
        """See ``Responder.respond``."""
        for item in self.stream(self.prepare(body), lambda: False):
            if isinstance(item, Reply):
                return item
        raise FinetuneError("the engine ended without a reply")

    def prepare(self, body: Body) -> Prepared:
        """See ``StagedResponder.prepare``."""
        try:
            conversation = role_conversation(body, self.profile)
        except ValueError as error:
            raise UserError(str(error)) from None
        rendered = self.engine.renderer.request(conversation, self.budget)
        room = self.engine.context - len(rendered.ids)
        if room < MIN_REPLY:
            most = self.engine.context - MIN_REPLY
            raise PromptTooLong(f"prompt is too long: {len(rendered.ids)} tokens > {most} maximum")
        tools = frozenset(t.name for t in conversation.tools)
        seen = seen_in(conversation, self.profile)
        new_matcher = self._matcher(conversation, body.get("tool_choice") or {}, tools, seen)
        new_matcher()  # a schema that cannot be met is the request's error, said before the reply begins
        longest = max(self.budget.reply, self.limits.longest)
        return Prepared(
            rendered.ids,
            min(int(body.get("max_tokens") or longest), longest, room),
            tools,
            new_matcher,
            seen,
            conversation.schema is not None,
            rendered.first_message,
            rendered.cut_results,
        )

    def stream(self, prepared: Prepared, stopped: Callable[[], bool]) -> Iterator[str | Reply]:
        """See ``StagedResponder.stream``."""
        pieces = TextPieces(self.engine.renderer.tokenizer)
        end_ids = self.engine.renderer.end_ids
        count, ended = 0, False
        tokens = self.engine.generate(
            prepared.ids, matcher=prepared.new_matcher(), max_tokens=prepared.max_tokens
        )
        for token in tokens:
            if stopped():
                return
            count += 1
            if token in end_ids:
                ended = True
                break
            piece = pieces.add(token)
            if piece:
                yield piece
        yield self._reply(pieces.text, prepared, count, ended)

    def _reply(self, text: str, prepared: Prepared, count: int, ended: bool) -> Reply:
        """The reply from the model's text; a call that was cut off in the middle is left out."""
        if prepared.is_json:
            block = {"type": "text", "text": text}
            return Reply((block,), "end_turn" if ended else "max_tokens", len(prepared.ids), count)
        if not ended:
            whole, cut, tail = text.rpartition(CALL)
            text = whole if cut and CALL_END not in tail else text
        checked = check(self.engine.renderer.parse_reply(text), self.profile, prepared.tools, prepared.seen)
        self.refused += checked.refused
        blocks = tuple({**b, "id": call_id()} if b["type"] == "tool_use" else b for b in checked.blocks)
        calls = any(b["type"] == "tool_use" for b in blocks)
        reason = "tool_use" if calls else "end_turn"
        return Reply(blocks, reason if ended else "max_tokens", len(prepared.ids), count)

    def _matcher(
        self,
        conversation: Conversation,
        choice: Mapping[str, Any],
        tools: frozenset[str],
        seen: frozenset[str],
    ) -> Callable[[], Matcher]:
        """Which grammar a request is answered in: its schema, else calls where Bash is offered, else text."""
        if conversation.schema is not None:
            schema = conversation.schema
            return lambda: self.grammars.schema(schema, self.limits)
        if COMMAND_TOOL in tools and choice.get("type") != "none":
            must_call = choice.get("type") in ("any", "tool")
            return lambda: self.grammars.reply(self.profile, self.limits, must_call=must_call, seen=seen)
        return lambda: self.grammars.text(max(self.limits.text, self.budget.reply))


def role_conversation(body: Body, profile: Profile) -> Conversation:
    """A request as the role's model was taught to see one.

    A turn of the agent (it brings tools) has the role's own system prompt and only the tools that the role
    may use, as every training example has; whatever the client wraps around them is not learnt text. Other
    requests (a title) are taken as they are. Raises ValueError where the body is no conversation.
    """
    conversation = from_request(body)
    if not conversation.tools:
        return conversation
    offered = [t for t in conversation.tools if t.name in profile.tools]
    return replace(with_tools(conversation, offered), system=profile.system)


def seen_in(conversation: Conversation, profile: Profile) -> frozenset[str]:
    """The words that a command may be about: those of the decision's evidence, which is what the commands
    since the decision before it printed. Where that names nobody, those of everything that was said to the
    role. An agent's address is there in its short form too (``demo/polecats/nux`` as ``demo/nux``)."""
    since: list[str] = []
    for message in reversed(conversation.messages):
        commands = (str((b.get("input") or {}).get("command", "")) for b in message.blocks)
        if message.role == "assistant" and any(profile.action_of(c) for c in commands if c):
            break
        since += [str(b.get("content", "")) for b in message.blocks if b.get("type") == "tool_result"]
    words = _words(since)
    if any(map(_ADDRESS.fullmatch, words)):
        return words
    told = [b for m in conversation.messages if m.role != "assistant" for b in m.blocks]
    return _words([conversation.prime, *(str(b.get("text") or b.get("content") or "") for b in told)])


def _words(texts: Sequence[str]) -> frozenset[str]:
    found = {word.rstrip("./-") for text in texts for word in _WORD.findall(text)}
    return frozenset(found | {word.replace("/polecats/", "/") for word in found})


class TextPieces:
    """Token by token to text; gives out what surely belongs to the reply's first text block.

    Held back until more is known: what may become a tool call, and white space at the end, which a block
    does not have. Inside and after a tool call nothing is given out.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._sent = 0
        self.text = ""

    def add(self, token: int) -> str:
        """The text that this token makes certain, often ''."""
        self.text += self._stream.step(self._tokenizer, token) or ""
        before, called, _ = self.text.partition(CALL)
        if not called:
            before = before[: len(before) - _open_end(before)]
        sure = before.strip()
        piece = sure[self._sent :]
        self._sent = max(self._sent, len(sure))
        return piece


def _open_end(text: str) -> int:
    """Length of the longest end of ``text`` that a tool call could begin with."""
    for length in range(min(len(CALL) - 1, len(text)), 0, -1):
        if CALL.startswith(text[-length:]):
            return length
    return 0


def call_id() -> str:
    """A fresh id for a tool_use block, in the API's form."""
    return f"toolu_{secrets.token_hex(12)}"
