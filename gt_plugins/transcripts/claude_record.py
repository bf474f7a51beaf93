"""One line of Claude Code's session files: the fields that the reader knows.

Almost every line has the types that its fields always had, so it is decoded straight into a :class:`Record`,
and what nobody asks for (``toolUseResult`` is half of a file) is passed over. Where a line is otherwise in
any way, :func:`record_of` takes from the whole object what has the right type.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .fields import string

_MOST_TOKENS = 2**63 - 1
Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]


class Usage(msgspec.Struct, gc=False):
    """Tokens of a reply (each of its lines repeats them), or of all."""

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_creation_input_tokens: Tokens = 0
    cache_read_input_tokens: Tokens = 0

    def add(self, other: Usage) -> None:
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cache_creation_input_tokens += other.cache_creation_input_tokens
        self.cache_read_input_tokens += other.cache_read_input_tokens

    def counted(self) -> dict[str, int]:
        """Those that there are any of, by name."""
        return {name: count for name in sorted(USAGE) if (count := getattr(self, name))}


class Message(msgspec.Struct, gc=False):
    """What the Messages API was sent or gave back."""

    id: str | None = None
    model: str | None = None
    content: Any = None
    usage: Usage | None = None


class Record(msgspec.Struct, gc=False, rename="camel"):
    """A line. What it does not name, or names as null, is None."""

    type: str | None = None
    uuid: str | None = None
    parent_uuid: str | None = None
    logical_parent_uuid: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    timestamp: str | None = None
    cwd: str | None = None
    version: str | None = None
    source_tool: str | None = msgspec.field(default=None, name="sourceToolAssistantUUID")
    message: Message | None = None
    attachment: Any = None
    is_sidechain: Any = None
    is_meta: Any = None
    is_compact_summary: Any = None
    is_visible_in_transcript_only: Any = None
    is_api_error_message: Any = None

    @property
    def parent(self) -> str:
        return self.parent_uuid or self.logical_parent_uuid or ""

    def drop_content(self) -> None:
        """Let go of what the line said, once it is known what is kept of it: pictures, say, are not."""
        self.attachment = None
        if self.message is not None:
            self.message.content = None

    @property
    def by_the_client(self) -> bool:
        """Whether a flag says that the client wrote the line itself."""
        return (
            self.is_meta is True
            or self.is_compact_summary is True
            or self.is_visible_in_transcript_only is True
            or self.is_api_error_message is True
        )


USAGE = Usage.__struct_fields__
_DECODER = msgspec.json.Decoder(Record)
_OF_ANY_TYPE = frozenset(
    "attachment is_sidechain is_meta is_compact_summary is_visible_in_transcript_only "
    "is_api_error_message".split()
)
_NAMES = tuple(zip(Record.__struct_fields__, Record.__struct_encode_fields__, strict=True))


def decoded(raw: bytes) -> Record | None:
    """A line whose fields all have their types; None for every other, and for what is no JSON object."""
    try:
        return _DECODER.decode(raw)
    except (ValueError, RecursionError):  # msgspec's own errors are of the first kind
        return None


def record_of(line: dict[str, Any]) -> Record:
    """The fields of a line that have the right type."""
    known: dict[str, Any] = {}
    for name, key in _NAMES:
        value = line.get(key)
        if type(value) is str or name in _OF_ANY_TYPE:
            known[name] = value
    message = line.get("message")
    return Record(**known | {"message": _message_of(message) if type(message) is dict else None})


def _message_of(message: dict[str, Any]) -> Message:
    usage = message.get("usage")
    known = usage if type(usage) is dict else {}
    tokens = {name: n for name in USAGE if type(n := known.get(name)) is int and 0 < n <= _MOST_TOKENS}
    return Message(
        id=string(message.get("id")),
        model=string(message.get("model")),
        content=message.get("content"),
        usage=Usage(**tokens),
    )
