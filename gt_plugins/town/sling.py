"""A ``gt sling`` as plugins see it: arguments read as gt reads them, changed only by adding ``--agent``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from .root import Town

_VALUED = {
    "--account": "",
    "--agent": "",
    "--args": "a",
    "--base-branch": "",
    "--crew": "",
    "--formula": "",
    "--max-concurrent": "",
    "--merge": "",
    "--message": "m",
    "--on": "",
    "--subject": "s",
    "--var": "",
}
_SHORT = {short: name for name, short in _VALUED.items() if short}
_SHORT_SWITCHES = "nh"


@dataclass(frozen=True)
class Parsed:
    """A sling's arguments: what stands alone, the options with a value (the last counts), the switches."""

    words: tuple[str, ...]
    options: dict[str, str]
    switches: frozenset[str]


@dataclass(frozen=True)
class Sling:
    """One ``gt sling ARGS`` before it runs. A plugin returns a changed one; ``notes`` go to stderr."""

    args: tuple[str, ...]
    cwd: Path
    town: Town | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def parsed(self) -> Parsed:
        """The arguments as gt's flag library takes them."""
        return parse(self.args)

    @property
    def agent(self) -> str | None:
        """The agent that was asked for, None where gt is to choose."""
        return self.parsed.options.get("--agent")

    @property
    def target(self) -> str | None:
        """Where the work goes: the last word of several, without a closing slash."""
        words = self.parsed.words
        return words[-1].rstrip("/") if len(words) > 1 else None

    @property
    def beads(self) -> tuple[str, ...]:
        """What is slung: beads or a formula; with ``--on`` the bead that the formula is put on."""
        on = self.parsed.options.get("--on")
        if on:
            return (on,)
        words = self.parsed.words
        return words[:-1] if len(words) > 1 else words

    def rig(self, rigs: tuple[str, ...] | list[str]) -> str | None:
        """The rig whose polecat gets the work; None where it goes to somebody else."""
        if self.target is None or self.parsed.options.get("--crew"):
            return None
        first, _, rest = self.target.partition("/")
        if first not in rigs or rest.startswith(("crew", "witness", "refinery")):
            return None
        return first

    def with_agent(self, alias: str, note: str = "") -> Sling:
        """The same sling with ``--agent ALIAS``."""
        notes = (*self.notes, note) if note else self.notes
        return replace(self, args=(f"--agent={alias}", *self.args), notes=notes)

    def with_note(self, note: str) -> Sling:
        """The same sling with one more line for the person."""
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True)
class SlingResult:
    """How the real sling ended: its exit code, and the first bead it was given."""

    code: int
    bead: str = ""


def parse(args: tuple[str, ...]) -> Parsed:
    """Read sling's arguments: ``--name value``, ``--name=value``, ``-m value``, ``-mvalue``, ``--``."""
    words: list[str] = []
    options: dict[str, str] = {}
    switches: set[str] = set()
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in _VALUED:
                switches.add(name)
            else:
                options[name] = value if equals else (rest.pop(0) if rest else "")
        elif word.startswith("-") and len(word) > 1:
            _short(word[1:], rest, options, switches)
        else:
            words.append(word)
    return Parsed(tuple(words), options, frozenset(switches))


def _short(letters: str, rest: list[str], options: dict[str, str], switches: set[str]) -> None:
    """``-n``, ``-nm text``, ``-mtext``."""
    for index, letter in enumerate(letters):
        if letter not in _SHORT:
            switches.add(f"-{letter}")
            continue
        value = letters[index + 1 :].removeprefix("=")
        options[_SHORT[letter]] = value or (rest.pop(0) if rest else "")
        return
