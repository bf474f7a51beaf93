"""The scrubber: runs the layers, settles overlaps, puts surrogates in, and leaves the shape of a value alone.

All strings of a value are joined and scanned in one call per layer; keys, ids and numbers stay. Where hits
overlap, what is a surrogate already is kept, then the longest hit wins, then the earliest layer.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from ...town.root import Town
from ...transcripts.model import Session
from . import encoded
from .judge import PASSWORD, key_strength
from .layers import SEPARATOR, Hit, Layer, Policy, ScrubError, prefiltered
from .memory import Memory
from .patterns import regex
from .policy import rules_version, town_policy
from .scan import Automaton, forget, haystack
from .secrets import GENERIC
from .surrogates import BLANK_MEDIA, Surrogates
from .views import views

POLICY_VERSION = rules_version()
"""The version of the built-in rules; ``Scrubber.policy.version`` adds lists and third-party layers to it."""

_BATCH = 1 << 20
_ROUNDS = 4
_PIECE = 4
_AROUND = 1024
_CACHED = 256
_CACHE = 50_000
_DEPTH = 3
_ID_KEYS = frozenset(
    "uuid parentUuid id tool_use_id toolUseID sessionId session_id requestId request_id leafUuid "
    "messageId promptId sourceToolAssistantUUID sourceToolUseID parent agentId logicalParentUuid "
    "callId call_id".split()
)
_ID = regex(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|"
    r"(?:msg|toolu|srvtoolu|req|call|fc|rs|resp|chatcmpl|run|agent|ses|prt|item)[_-][A-Za-z0-9_-]{4,64}",
    re.ASCII,
)
_SPECIAL = ("", "")
"""Met where a number or a picture may change: no string that is looked at is empty."""
_BEHIND_STEP = frozenset("/ \n\t\"'`:),")
_VALUE_KEYS = frozenset({"value", "Value", "default"})
_FLAG = regex(r"--?([A-Za-z][\w-]{1,40})")


_Counts = Counter[tuple[str, str]]
"""(layer, kind) → replacements."""
_Change = tuple[str, _Counts]
"""What a text becomes, and by what."""


class _Found(NamedTuple):
    start: int
    end: int
    kind: str
    layer: str
    rank: int


@dataclass(slots=True)
class _Work:
    """A text on its way to one in which nothing is left to find."""

    text: str
    found: list[_Found]
    counts: _Counts = field(default_factory=Counter)


def collect_layers(policy: Policy) -> list[Layer]:
    """The layers of every plugin, ours included, in the order they run."""
    from ...plugins import all_answers

    return [layer for layers in all_answers("gt_scrub_layers", policy=policy) for layer in layers]


class Scrubber:
    """Scrubs texts, JSON values and sessions by one policy. Not for use from several threads at once."""

    def __init__(self, policy: Policy, layers: Sequence[Layer] | None = None) -> None:
        chosen = collect_layers(policy) if layers is None else layers
        self.layers = sorted(chosen, key=lambda layer: (layer.order, layer.name))
        self.policy = _with_layers(policy, self.layers)
        self.totals: _Counts = Counter()
        """Replacements so far."""
        self._surrogates = Surrogates(policy.key, self._rescrub)
        self._allowed = tuple(a.lower() for a in policy.allow)
        self._allow = Automaton(
            a.encode("latin-1", "replace").lower().decode("latin-1") for a in policy.allow
        )
        self._finders = [(layer, prefiltered(layer)) for layer in self.layers]
        self._keyed = [layer for layer in self.layers if layer.find_keyed is not None]
        self._known: Memory[str, _Change | None] = Memory()
        self._plain_keys: set[str] = set()

    def text(self, text: str) -> tuple[str, Counter[str]]:
        """The scrubbed text and how many values of each kind were replaced. Raises ScrubError."""
        found = self._many([text])
        forget()
        if text not in found:
            return text, Counter()
        fresh, counts = found[text]
        return fresh, self._count(counts)

    def value(self, value: Any) -> tuple[Any, Counter[str]]:
        """A JSON value with its strings scrubbed; the same object if nothing was found. Raises ScrubError."""
        (value,), counts = self._values([value])
        return value, counts

    def session(self, session: Session) -> tuple[Session, Counter[str]]:
        """A session with the blocks of its turns and its folder scrubbed; ids, roles and times stay."""
        (cwd, *blocks), counts = self._values([session.cwd, *(turn.blocks for turn in session.turns)])
        turns = tuple(
            turn if turn.blocks is fresh else turn.saying(fresh)
            for turn, fresh in zip(session.turns, blocks, strict=True)
        )
        return replace(session, turns=turns, cwd=cwd), counts

    def surrogates_in(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, kind) of what the layers find in ``text`` and leave because it is a surrogate."""
        own = self._surrogates.is_own
        return [(f.start, f.end, f.kind) for f in self._find(text) if own(f.kind, text[f.start : f.end])]

    def findings(self, text: str) -> list[tuple[str, str]]:
        """(kind, value) of what would be replaced in ``text``, surrogates left out. Raises ScrubError."""
        found = [(hit.kind, text[hit.start : hit.end]) for hit in self._resolve(text, self._find(text))]
        forget()
        return found

    # --- strings

    def _values(self, values: list[Any]) -> tuple[list[Any], Counter[str]]:
        """JSON values scrubbed together; one that shares no text with what was found is the same object."""
        if len(self._plain_keys) > _CACHE:
            self._plain_keys.clear()
        leaves = _Leaves(self._plain_keys)
        ends = []
        try:
            for value in values:
                leaves.walk(value)
                ends.append(len(leaves.met))
        except RecursionError:
            raise ScrubError("nested too deeply to be scrubbed") from None
        fresh, counts = self._leaves(leaves)
        forget()
        if counts:
            met, changed = leaves.met, fresh.keys() | {_SPECIAL}
            spans = zip(values, [0, *ends], ends, strict=False)
            values = [
                value if changed.isdisjoint(met[start:end]) else leaves.rebuild(value, fresh)
                for value, start, end in spans
            ]
        return values, self._count(counts)

    def _count(self, counts: _Counts) -> Counter[str]:
        """Add to the totals, and tell by kind alone."""
        self.totals += counts
        kinds: Counter[str] = Counter()
        for (_, kind), number in counts.items():
            kinds[kind] += number
        return kinds

    def _rescrub(self, text: str) -> str:
        found = self._many([text])
        return found[text][0] if text in found else text

    def _leaves(self, leaves: _Leaves) -> tuple[dict[tuple[str, str], str], _Counts]:
        """What becomes of each (key, string) that changes, and the counts over all occurrences."""
        strings = Counter(leaves.met)
        del strings[_SPECIAL]
        keyed = {pair: hits for pair in strings if pair[0] and (hits := self._find_keyed(*pair))}
        settled = dict(zip(keyed, self._settle([_Work(p[1], f) for p, f in keyed.items()]), strict=True))
        changed = self._many({text: None for _, text in strings})
        fresh: dict[tuple[str, str], str] = {}
        counts: _Counts = Counter()
        for pair, times in strings.items():
            result = settled.get(pair) if pair in keyed else changed.get(pair[1])
            if result is not None:
                fresh[pair] = result[0]
                for what, number in result[1].items():
                    counts[what] += number * times
        names = {text for key, text in strings if not key}
        self._plain_keys.update(n for n in names if ("", n) not in fresh and len(n) <= 64)
        for (key, digits), times in leaves.numbers.items():
            told = self._number(key, digits)
            made = self._surrogates.make("number", digits) if told else digits
            if told and made != digits:
                fresh[key, digits] = made
                counts[told] += times
        if leaves.media:
            counts["secrets", "media"] += leaves.media
        return fresh, counts

    def _number(self, key: str, digits: str) -> tuple[str, str] | None:
        """(layer, kind) of a JSON number that its key makes sensitive."""
        if key_strength(key) == PASSWORD:
            return "secrets", "password"
        found = [f for f in self._find_keyed(key, digits) if f.end - f.start == len(digits)]
        return (found[0].layer, found[0].kind) if found else None

    def _find_keyed(self, key: str, text: str) -> list[_Found]:
        found = []
        for rank, layer in enumerate(self.layers):
            if layer.find_keyed is not None:
                found += self._call(layer, rank, len(text), layer.find_keyed, key, text)
        if found:
            found += self._find_encoded(text, 0)
        if found and all(
            f.end - f.start == len(text) and self._surrogates.is_own(f.kind, text) for f in found
        ):
            return []
        return found

    def _many(self, texts: Iterable[str]) -> dict[str, _Change]:
        """Those of ``texts`` that change, with what they become."""
        changed: dict[str, _Change] = {}
        batch: list[str] = []
        size = 0
        for text in texts:
            if text in self._known:
                result = self._known[text]
                if result is not None:
                    changed[text] = result
                continue
            batch.append(text)
            size += len(text) + len(SEPARATOR)
            if size >= _BATCH:
                self._batch(batch, changed)
                batch, size = [], 0
        if batch:
            self._batch(batch, changed)
        return changed

    def _batch(self, texts: list[str], changed: dict[str, _Change]) -> None:
        work = {t: _Work(t, found) for t, found in zip(texts, self._find_all(texts), strict=True) if found}
        settled = dict(zip(work, self._settle(list(work.values())), strict=True))
        for text in texts:
            result = settled.get(text)
            if result is not None:
                changed[text] = result
            if len(text) <= _CACHED:
                self._known.keep(text, result, len(text) + (len(result[0]) if result is not None else 0))

    def _find_all(self, texts: list[str]) -> list[list[_Found]]:
        """The hits of every layer in each text; texts that a hit straddles are searched again alone."""
        if len(texts) == 1:
            return [self._find(texts[0])]
        starts, at = [], 0
        for text in texts:
            starts.append(at)
            at += len(text) + len(SEPARATOR)
        found: list[list[_Found]] = [[] for _ in texts]
        astray: set[int] = set()
        base = stop = index = 0
        for start, end, kind, layer, rank in self._find(SEPARATOR.join(texts)):
            if not base <= start < stop:  # hits of one text mostly follow each other
                index = bisect_left(starts, start + 1) - 1
                base = starts[index]
                stop = base + len(texts[index])
            if end <= stop:
                found[index].append(_Found(start - base, end - base, kind, layer, rank))
            else:
                astray.update(range(index, bisect_left(starts, end)))
        for index in astray:
            found[index] = self._find(texts[index])
        return found

    def _find(self, text: str, depth: int = 0) -> list[_Found]:
        found: list[_Found] = []
        for rank, (layer, find) in enumerate(self._finders):
            found += self._call(layer, rank, len(text), find, text)
        if depth < _DEPTH:
            found += self._find_encoded(text, depth)
            for view in views(haystack(text)):
                for hit in self._find(view.text, depth + 1):
                    start, end = view.span(hit.start, hit.end)
                    found.append(_Found(start, end, *hit[2:]))
        return found

    def _find_encoded(self, text: str, depth: int) -> list[_Found]:
        """Base64 and hexadecimal digits in which any layer finds something; keys of a form of their own."""
        layers: list[str] = []

        def holds(plain: str) -> bool:
            inner = self._find(plain, depth + 1)
            layers.extend(min(inner, key=lambda f: f.rank).layer for _ in inner[:1])
            return bool(inner)

        hits = encoded.find(haystack(text), holds)
        first = self.layers[0].name if self.layers else ""
        names = iter(layers)
        return [
            _Found(h.start, h.end, h.kind, next(names, first) if h.kind in ("base64", "hex") else first, 0)
            for h in hits
        ]

    def _call(
        self, layer: Layer, rank: int, size: int, find: Callable[..., list[Hit]], *given: str
    ) -> list[_Found]:
        try:
            name = layer.name
            return [
                _Found(start, end, kind, name, rank)
                for start, end, kind in find(*given)
                if 0 <= start < end <= size
            ]
        except Exception as error:
            raise ScrubError(f"scrub layer {layer.name} failed ({type(error).__name__})") from None

    # --- replacing

    def _settle(self, works: list[_Work]) -> list[_Change | None]:
        """Replace until nothing more is found; None for a text in which all that was found may stay.

        Around the surrogates all texts are searched once more together; where something new is found, the
        text is searched whole."""
        before = [work.text for work in works]
        open_ = works
        for _ in range(_ROUNDS):
            near: list[str] = []
            owners: list[_Work] = []
            for work in open_:
                windows = self._replaced(work)
                near += windows
                owners += [work] * len(windows)
            found = zip(owners, near, self._find_all(near) if near else (), strict=True)
            again = {id(work): work for work, text, hits in found if hits and self._resolve(text, hits)}
            open_ = list(again.values())
            for work in open_:
                work.found = self._find(work.text)
        return [
            (work.text, work.counts) if work.text != text else None
            for work, text in zip(works, before, strict=True)
        ]

    def _replaced(self, work: _Work) -> list[str]:
        """Put surrogates for what was found in a text; what stands around them now, but for those that can
        make nothing new of it."""
        before = work.text
        chosen = self._resolve(before, work.found)
        if not chosen:
            return []
        work.text, places = self._replace(before, chosen, work.counts)
        windows: list[list[int]] = []
        for hit, (start, end) in zip(chosen, places, strict=True):
            if _is_step_of_path(before, hit):
                continue
            if windows and start - _AROUND <= windows[-1][1]:
                windows[-1][1] = end + _AROUND
            else:
                windows.append([max(0, start - _AROUND), end + _AROUND])
        return [work.text[start:end] for start, end in windows]

    def _replace(self, text: str, chosen: list[_Found], counts: _Counts) -> tuple[str, list[tuple[int, int]]]:
        """The text with surrogates, and where they stand in it."""
        out: list[str] = []
        places: list[tuple[int, int]] = []
        at = size = 0
        for hit in chosen:
            fresh = self._surrogates.make(hit.kind, text[hit.start : hit.end])
            size += hit.start - at
            places.append((size, size + len(fresh)))
            out += (text[at : hit.start], fresh)
            size += len(fresh)
            at = hit.end
            counts[hit.layer, hit.kind] += 1
        out.append(text[at:])
        return "".join(out), places

    def _resolve(self, text: str, found: list[_Found]) -> list[_Found]:
        """Hits to replace, by position, without overlaps."""
        allowed = self._allow_spans(text)
        is_own = self._surrogates.is_own
        own: list[_Found] = []
        wanted: list[_Found] = []
        for hit in set(found):
            value = text[hit.start : hit.end]
            if is_own(hit.kind, value):
                own.append(hit)
            elif not (self._allowed and self._is_allowed(hit, value, allowed)):
                wanted.append(hit)
        if not wanted:
            return []
        ordered = sorted(own + wanted)
        if all(one.end <= other.start for one, other in pairwise(ordered)):
            return sorted(wanted)
        return self._disentangled(text, own, wanted)

    def _disentangled(self, text: str, own: list[_Found], wanted: list[_Found]) -> list[_Found]:
        """``_resolve`` where hits overlap."""
        claims: list[tuple[int, int]] = []
        for hit in sorted(own, key=_precedence):
            _claim(claims, hit.start, hit.end)
        chosen: list[_Found] = []
        for hit in sorted(wanted, key=_precedence):
            free = _free(claims, hit.start, hit.end)
            whole = free == [(hit.start, hit.end)]
            parts = [hit] if whole else self._pieces(text, hit, free)
            for part in parts:
                chosen.append(part)
                insort(claims, (part.start, part.end))
        return sorted(chosen, key=lambda f: f.start)

    def _pieces(self, text: str, hit: _Found, free: list[tuple[int, int]]) -> list[_Found]:
        """What sticks out of a longer hit: a secret's rest is secret, but of no type of its own any more."""
        if hit.rank != 0:
            return []
        return [
            _Found(start, end, "token", hit.layer, hit.rank)
            for start, end in free
            if sum(c.isalnum() for c in text[start:end]) >= _PIECE
            and not self._surrogates.is_own("token", text[start:end])
        ]

    def _allow_spans(self, text: str) -> list[tuple[int, int]]:
        if not self._allowed:
            return []
        return [(start, end) for _, start, end in self._allow.hits(haystack(text).folded)]

    def _is_allowed(self, hit: _Found, value: str, spans: list[tuple[int, int]]) -> bool:
        if any(start <= hit.start and hit.end <= end for start, end in spans):
            return True
        if hit.kind not in ("email", "host"):
            return False
        return value.lower().endswith(tuple(glue + a for a in self._allowed for glue in ("@", ".")))


def _is_step_of_path(text: str, hit: _Found) -> bool:
    """A name in a path: another word there is as much a path as it was, and nothing else. Transcripts are
    full of them."""
    before, behind = text[hit.start - 1 : hit.start], text[hit.end : hit.end + 1]
    return hit.kind == "user" and before == "/" and behind in _BEHIND_STEP


def _precedence(hit: _Found) -> tuple[int, int, int, bool, str]:
    """Longest first, then the earliest layer; of two kinds for one place the one that knows its form."""
    return hit.start - hit.end, hit.rank, hit.start, hit.kind in GENERIC, hit.kind


def _claim(claims: list[tuple[int, int]], start: int, end: int) -> None:
    if _free(claims, start, end) == [(start, end)]:
        insort(claims, (start, end))


def _free(claims: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The parts of ``start … end`` that no claim covers; claims are sorted and do not overlap."""
    index = bisect_left(claims, (start, start))
    if index and claims[index - 1][1] > start:
        index -= 1
    free, at = [], start
    while index < len(claims) and claims[index][0] < end:
        if claims[index][0] > at:
            free.append((at, claims[index][0]))
        at = max(at, claims[index][1])
        index += 1
    if at < end:
        free.append((at, end))
    return free


def _with_layers(policy: Policy, layers: Sequence[Layer]) -> Policy:
    """The policy with third-party layers in its version."""
    foreign = [
        f"{x.name}={x.version}"
        for x in layers
        if not getattr(x.find, "__module__", "").startswith(__package__)
    ]
    return replace(policy, version="+".join([policy.version, *foreign])) if foreign else policy


class _Leaves:
    """The strings of one JSON value, each once per key that it stands under.

    Most of a transcript is small strings in small objects, so the two loops over objects are written out.
    """

    def __init__(self, plain_keys: set[str]) -> None:
        self.met: list[tuple[str, str]] = []
        """Every (key, string) in the order of the walk."""
        self.numbers: Counter[tuple[str, str]] = Counter()
        self.media = 0
        self._plain_keys = plain_keys

    def walk(self, node: Any, key: str = "") -> None:
        kind = type(node)
        if kind is str:
            if len(node) > 2 and not (key in _ID_KEYS and _ID.fullmatch(node)):
                self.met.append((key, node))
        elif kind is dict:
            self._walk_dict(node)
        elif kind is list or kind is tuple:
            for item, name in zip(node, _list_keys(node, key), strict=True):
                self.walk(item, name)
        elif key and (kind is int or kind is float) and _is_long(node):
            self.numbers[key, str(abs(int(node)))] += 1
            self.met.append(_SPECIAL)

    def _walk_dict(self, node: dict[Any, Any]) -> None:
        media = "data" in node and _is_media(node)
        met = self.met
        if media:
            self.media += 1
            met.append(_SPECIAL)
        for name, item in node.items():
            if name not in self._plain_keys and type(name) is str:
                met.append(("", name))
            kind = type(item)
            if kind is str and name not in _VALUE_KEYS:
                if (
                    len(item) > 2
                    and not (name in _ID_KEYS and _ID.fullmatch(item))
                    and not (media and name == "data")
                ):
                    met.append((name, item))
            elif item is not None and kind is not bool:
                self.walk(item, _value_key(node, name))

    def rebuild(self, node: Any, fresh: dict[tuple[str, str], str], key: str = "") -> Any:
        """``node`` with every string of ``fresh`` replaced."""
        kind = type(node)
        if kind is str:
            return node if key in _ID_KEYS and _ID.fullmatch(node) else fresh.get((key, node), node)
        if kind is dict:
            return self._rebuild_dict(node, fresh)
        if kind is list or kind is tuple:
            items = [self.rebuild(i, fresh, k) for i, k in zip(node, _list_keys(node, key), strict=True)]
            return items if kind is list else tuple(items)
        if (kind is int or kind is float) and _is_long(node):
            made = fresh.get((key, str(abs(int(node)))))
            return node if made is None else int(made) * (1 if node >= 0 else -1)
        return node

    def _rebuild_dict(self, node: dict[Any, Any], fresh: dict[tuple[str, str], str]) -> dict[Any, Any]:
        out = {}
        media = "data" in node and _is_media(node)
        for name, item in node.items():
            kind = type(item)
            if kind is str and name not in _VALUE_KEYS:
                if media and name == "data":
                    item = BLANK_MEDIA
                elif not (name in _ID_KEYS and _ID.fullmatch(item)):
                    item = fresh.get((name, item), item)
            elif item is not None and kind is not bool:
                item = self.rebuild(item, fresh, _value_key(node, name))
            if name not in self._plain_keys and type(name) is str:
                name = fresh.get(("", name), name)
            out[name] = item
        return out


def _is_long(number: int | float) -> bool:
    """Four digits and more; a fraction is no password and no telephone number."""
    return abs(number) >= 1000 and (isinstance(number, int) or number.is_integer())


def _value_key(node: dict[Any, Any], name: Any) -> str:
    """The key that says what a value is: in ``{"name": "API_KEY", "value": …}`` it is the name."""
    if name in _VALUE_KEYS:
        label = node.get("name") or node.get("key") or node.get("Name") or node.get("Key")
        if type(label) is str:
            return label
    return name if type(name) is str else ""


def _list_keys(node: Sequence[Any], key: str) -> list[str]:
    """The key of each item: that of the list, or the command flag just before it."""
    keys = [key] * len(node)
    for index, (before, item) in enumerate(pairwise(node)):
        if type(before) is str and type(item) is str and before.startswith("-"):
            flag = _FLAG.fullmatch(before)
            if flag is not None:
                keys[index + 1] = flag[1]
    return keys


def _is_media(node: dict[Any, Any]) -> bool:
    """An image or document in base64: it cannot be scrubbed, so a blank one takes its place."""
    data = node.get("data")
    return type(data) is str and node.get("type") == "base64" and data != BLANK_MEDIA and len(data) > 64


def scrubber_for(town: Town) -> Scrubber:
    """The scrubber of a town: its key, exact values, lists, and the layers of every plugin."""
    return Scrubber(town_policy(town))
