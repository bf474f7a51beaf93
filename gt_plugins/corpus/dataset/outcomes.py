"""Which outcomes train: a session's, and in a patrol each decision's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ...errors import UserError

POSITIVE = ("merged", "closed", "good")
NEGATIVE = ("bad", "rejected", "reopened", "abandoned")
KNOWN = (*POSITIVE, *NEGATIVE, "unknown")
DEFAULT = POSITIVE
"""What trains unless somebody asks for other outcomes."""


def no_labels(_session: str) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Outcomes:
    """The outcomes wanted, and where a decision's label is found by session and id of its call."""

    wanted: Collection[str] | None = None
    """None: every outcome."""
    labels: Callable[[str], Mapping[str, str]] = no_labels

    def wants(self, outcome: str) -> bool:
        return self.wanted is None or outcome in self.wanted

    def of_chat(self, session: str, labels: Mapping[str, str]) -> str:
        """A chat's outcome: its session's where that is known, else ``good`` where one of its decisions
        went well. Its turns are then judged one by one."""
        if session == "unknown" and any(self.wants(label) for label in labels.values()):
            return next(label for label in labels.values() if self.wants(label))
        return session


def parse(text: str) -> tuple[str, ...] | None:
    """``merged,closed`` as outcomes, ``all`` as None. Raises UserError naming the one that there is not."""
    if text.strip() == "all":
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in KNOWN:
            raise UserError(f"--outcomes: no outcome {name!r}; there are {', '.join(KNOWN)}, or all")
    if not names:
        raise UserError("--outcomes: name at least one, or all")
    return names
