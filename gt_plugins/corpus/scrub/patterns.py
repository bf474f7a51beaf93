"""Regular expressions that are compiled when they are first used.

The rules have some seven hundred, and compiling them takes a third of a second; a session needs a few dozen.
"""

from __future__ import annotations

import re
from typing import Any, cast

_METHODS = ("match", "search", "fullmatch", "finditer", "findall", "sub", "split", "groups")


class _Later:
    """Looks like the compiled expression, which takes its place method by method at the first use."""

    __slots__ = ("_flags", "_source", *_METHODS)

    def __init__(self, source: str, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        compiled = re.compile(self._source, self._flags)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def regex(source: str, flags: int = 0) -> re.Pattern[str]:
    """``re.compile``, put off until the expression is used."""
    return cast("re.Pattern[str]", _Later(source, flags))
