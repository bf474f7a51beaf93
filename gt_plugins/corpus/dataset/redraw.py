"""Other surrogates for each example: a tuned model must not learn by heart what stands for a secret.

The corpus gives one original one surrogate for ever, so that sessions can be joined; a model that reads the
same surrogate in a hundred examples remembers it. Here every surrogate of an example is replaced by one of
the same type, drawn under a key of the example's own: the same one throughout the example, another one in
the next, and none that the corpus knows.

Surrogates are found in two ways: the scrub layers find what stands where a secret would and name its type,
and what carries a seal is found by its form alone. What either finds is then replaced wherever it stands.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from ...rendering.conversation import Message
from ..scrub.decoding import wrapped
from ..scrub.seal import LEAST, is_sealed
from ..scrub.surrogates import BLANK_MEDIA, Surrogates
from .example import Example

Found = list[tuple[int, int, str]]
"""(start, end, kind) of each surrogate in a text."""
_CV = "(?:[bdfgjklmnprstvz][aeiou])"
_STARTS = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
"""Where a word may begin: also after the tail of an escape."""
_ESCAPE = re.compile(r"\\[nrtbf]")
_FORMS = tuple(
    (kind, re.compile(rf"{_STARTS}{pattern}(?![A-Za-z0-9])", re.IGNORECASE))
    for kind, pattern in (
        ("email", r"user-[a-z0-9]{12}(?:@|%40|\\+u0040)example\.com"),
        ("host", r"(?:host-[a-z]{12}|[a-z]{12}\.example\.net)"),
        ("address", r"\d{1,4} [a-z]{14} Street"),
        ("jwt", r"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.[a-z0-9_-]{8,80}\.[a-z0-9]{43}"),
        ("ipv6", r"2001:db8(?::[0-9a-f]{1,4}){6}"),
        ("ipv4", r"2(?:4\d|5[0-4])(?:\.\d{1,3}){3}"),
        ("ssn", r"9\d\d[ -]\d\d[ -]\d{4}"),
        ("credit_card", r"\d(?:[ -]?\d){12,18}"),
        ("iban", r"[a-z]{2}\d{2}(?:[ -]?[a-z0-9]){11,30}"),
        ("mac", r"06([:-])47\1(?:54)(?:\1[0-9a-f]{2}){3}"),
        ("seed_phrase", rf"{_CV}{{2}}(?: {_CV}{{2}}){{11,23}}"),
        ("person", rf"(?:{_CV}{{6}}|{_CV}{{2}}[ ._-](?:{_CV}{{5}}|{_CV}{{2}}[ ._-]{_CV}{{3}}))"),
    )
)
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=~-]{6,}[A-Za-z0-9=]")
_GLUE = re.compile(r"[^A-Za-z0-9]+")
_TRIES = 64
_LONG = 12
"""Letters and digits from which on a surrogate is replaced inside a longer word too."""


@dataclass(frozen=True)
class Redrawn:
    """How many surrogates got others, in how many examples."""

    examples: int = 0
    surrogates: int = 0


class Finder:
    """Finds surrogates; ``by_layers`` are the scrub layers' finds, for types that carry no seal."""

    def __init__(self, by_layers: Callable[[str], Found] | None = None) -> None:
        self._by_layers = by_layers
        self._anyone = Surrogates(b"", lambda text: text)

    def kinds(self, text: str) -> dict[str, str]:
        """Each surrogate in ``text`` with its type."""
        found: dict[str, str] = {}
        spans = list(self._by_layers(text)) if self._by_layers is not None else []
        for kind, form in _FORMS:
            spans += [(*m.span(), kind) for m in form.finditer(text) if self._anyone.is_own(kind, m[0])]
        for start, end, kind in spans:
            if kind != "media":
                found.setdefault(text[start:end], kind)
        for match in _RUN.finditer(_ESCAPE.sub("  ", text)):
            for part in _parts(match[0]):
                if part not in found and _is_token(part):
                    found[part] = "token"
        found.pop(BLANK_MEDIA, None)
        return found

    def unwrapped(self, text: str) -> dict[str, str]:
        """The same, with those that stand inside base64 and hexadecimal digits."""
        found = self.kinds(text)
        inner = (wrapped(kind, value) for value, kind in list(found.items()))
        for plain in filter(None, inner):
            found = self.unwrapped(plain) | found
        return found


def _parts(run: str) -> Iterator[str]:
    """A run of letters, digits and marks, and what of it a surrogate may be: its ends and its pieces."""
    cuts = [m.span() for m in _GLUE.finditer(run)]
    yield run
    for start, end in cuts:
        yield run[:start]
        yield run[end:]
    for (_, start), (end, _) in pairwise(cuts):
        yield run[start:end]


@lru_cache(maxsize=100_000)
def _is_token(text: str) -> bool:
    """Whether a word is sealed, and no plain word or number: of these one in a while passes by chance."""
    body = _GLUE.sub("", text)
    word = body.isalpha() and (body.islower() or body.isupper() or body.istitle())
    return len(body) >= (16 if word else 9 if body.isdigit() else LEAST) and is_sealed(body)


class _Fresh(Surrogates):
    """Draws a surrogate for whatever it is given, a surrogate too."""

    def is_own(self, kind: str, text: str) -> bool:
        return False


@dataclass
class Redraw:
    """Gives examples surrogates of their own. ``key`` must be known to nobody outside."""

    key: bytes = field(repr=False)
    finder: Finder
    counts: Counter[str] = field(default_factory=Counter)

    def example(self, example: Example) -> Example:
        """The example with other surrogates, the same throughout."""
        conversation = example.conversation
        texts = list(_strings([conversation.system, conversation.prime]))
        texts += _strings([list(m.blocks) for m in conversation.messages])
        fresh = self.fresh(example.id, texts)
        if not fresh:
            return example
        self.counts["examples"] += 1
        self.counts["surrogates"] += len(fresh)
        put = _replacer(fresh)
        messages = tuple(
            Message(m.role, tuple(_mapped(b, put) for b in m.blocks)) for m in conversation.messages
        )
        changed = replace(
            conversation, system=put(conversation.system), prime=put(conversation.prime), messages=messages
        )
        return replace(example, conversation=changed)

    def fresh(self, name: str, texts: list[str]) -> dict[str, str]:
        """Surrogate → the one in its place, for all that stand in ``texts``; no two become the same."""
        kinds: dict[str, str] = {}
        for text in texts:
            kinds.update(self.finder.unwrapped(text))
        drawn: dict[str, str] = {}
        taken = set(kinds)
        for surrogate in sorted(kinds, key=lambda s: (len(s), s)):
            drawn[surrogate] = self._draw(name, kinds[surrogate], surrogate, taken, drawn)
            taken.add(drawn[surrogate])
        return {old: new for old, new in drawn.items() if old != new}

    def _draw(self, name: str, kind: str, old: str, taken: set[str], drawn: Mapping[str, str]) -> str:
        inside = _replacer({o: n for o, n in drawn.items() if len(o) < len(old)})
        for attempt in range(_TRIES):
            key = hmac.new(self.key, f"redraw\0{attempt}\0{name}".encode(), hashlib.sha256).digest()
            new = _Fresh(key, inside).make(kind, old)
            if new not in taken:
                return new
        return old


def _replacer(fresh: Mapping[str, str]) -> Callable[[str], str]:
    """Replaces every key of ``fresh`` wherever it stands, short ones as a whole only; the longest first."""
    if not fresh:
        return lambda text: text
    longest = sorted(fresh, key=lambda s: (-len(s), s))
    parts = (
        re.escape(s) if len(_GLUE.sub("", s)) >= _LONG else f"{_STARTS}{re.escape(s)}(?![A-Za-z0-9])"
        for s in longest
    )
    pattern = re.compile("|".join(parts))
    return lambda text: pattern.sub(lambda m: fresh[m[0]], text)


_NAMES = frozenset({"type", "id", "tool_use_id", "name"})
"""Keys of a block whose values hold it together."""


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NAMES or not isinstance(item, str):
                yield key
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, put: Callable[[str], str]) -> Any:
    """``value`` with its strings changed, but for the names that hold a block together."""
    if isinstance(value, str):
        return put(value)
    if isinstance(value, dict):
        return {
            put(k): v if k in _NAMES and isinstance(v, str) else _mapped(v, put) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(item, put) for item in value]
    return value
