"""A role's training set: built from stored sessions, written as a folder, read back for training.

``build`` makes it (see there for the steps), ``write`` and ``read`` keep it. Rows hold conversations, not
token ids: the base's own renderer makes those, the same that renders live requests.
"""

from .build import Built, Options, build, joined
from .card import Facts
from .example import CHAT, DECISION, FORMATS, Dataset, Example, Origin, Verdict
from .extract import Decision, decisions, examples_of, stated_reason
from .folder import DATA_FILES, FILES, check_free, files_hash, read, write
from .ids import Ids
from .lengths import Length
from .outcomes import Outcomes
from .overlap import OVERLAP_WORDS, Overlap, shingles
from .redraw import Finder, Redraw
from .rows import from_row, to_row
from .split import Split, held_out, split

__all__ = [
    "CHAT",
    "DATA_FILES",
    "DECISION",
    "FILES",
    "FORMATS",
    "OVERLAP_WORDS",
    "Built",
    "Dataset",
    "Decision",
    "Example",
    "Facts",
    "Finder",
    "Ids",
    "Length",
    "Options",
    "Origin",
    "Outcomes",
    "Overlap",
    "Redraw",
    "Split",
    "Verdict",
    "build",
    "check_free",
    "decisions",
    "examples_of",
    "files_hash",
    "from_row",
    "held_out",
    "joined",
    "read",
    "shingles",
    "split",
    "stated_reason",
    "to_row",
    "write",
]
