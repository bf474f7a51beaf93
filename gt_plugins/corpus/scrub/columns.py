"""A table with a column of secrets: CSV as password managers export it, tabs, Markdown.

Nothing joins such a value to its key but the column. A keyword that is a whole cell of a line of names is
taken for a heading, and what stands in its column in the next lines is judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from .assignments import kind_of
from .judge import is_plainly, key_strength
from .layers import Hit
from .patterns import regex

KEYWORDS: tuple[str, ...] = ("password", "passwd", "passwort", "pwd", "secret", "token", "api_key", "api key")
MOST_ROWS = 200
_MOST_LINE = 2000
_DELIMITERS = "|,;\t"
_HEADING = regex(r"[\"'` *]*[A-Za-z][\w .-]{0,40}[\"'` *]*")
_END = regex(r"\r?\n|\\+n|\x00")
_CELL = regex(r"[\"'`* ]*(.*?)[\"'`* ]*")
_NO_CELL = frozenset(":=.()[]{}<>/")
"""What stands behind a keyword that is not a whole cell."""
_NAME = regex(r"[\w-]{0,60}")
_RULED = regex(r"[\s|:+-]*")


def find_column(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A keyword stands at ``text[start:end]``; returns where the table ends, if it heads a column of one."""
    if text[end : end + 1] in _NO_CELL:
        return 0
    left, right = start, _NAME.match(text, end).end()  # type: ignore[union-attr]
    after = text[right : right + 4].strip(" \"'`*")[:1]
    if after not in "|,;\t\r\n\\":
        return 0
    while left and (text[left - 1].isalnum() or text[left - 1] in "_-"):
        left -= 1
    before = text[max(0, left - 4) : left].strip(" \"'`*")[-1:]
    if before and before not in "|,;\t\n" and text[left - 2 : left] != "\\n":
        return 0
    strength = key_strength(text[left:right])
    glue = next((d for d in _DELIMITERS if d in (before, after)), "")
    if not strength or not glue:
        return 0
    begin = max(text.rfind("\n", 0, left), text.rfind("\0", 0, left), text.rfind("\\n", 0, left) + 1) + 1
    rows = _rows(text, begin)
    heading = next(rows, None)
    if heading is None or left - begin > _MOST_LINE:
        return 0
    first, *others = text[slice(*heading)].strip(" |").split(glue)
    names = [first.strip("\"'").rpartition('"')[2], *others]  # it may begin a string of JSON
    if len(names) < 2 or not all(_HEADING.fullmatch(name) for name in names):
        return 0
    column = text[begin:left].lstrip(" |").count(glue)
    done = 0
    for row in rows:
        cells = list(_cells(text, *row, glue))
        if not _RULED.fullmatch(text, *row) and len(cells) == len(names):
            if is_plainly(text[slice(*cells[column])], strength):
                out.append(Hit(*cells[column], kind_of(text[left:right], strength)))
        elif not _RULED.fullmatch(text, *row):
            break
        done = row[1]
    return done


def _rows(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Start and end of the lines from ``at`` on."""
    for _ in range(MOST_ROWS):
        mark = _END.search(text, at, at + _MOST_LINE)
        stop = mark.start() if mark is not None else min(len(text), at + _MOST_LINE)
        if stop > at:
            yield at, stop
        if mark is None or mark[0] == "\0" or stop == at:
            return
        at = mark.end()


def _cells(text: str, start: int, end: int, glue: str) -> Iterator[tuple[int, int]]:
    """Start and end of a line's cells, without quotes and spaces around them."""
    while start < end and text[start] in " |":
        start += 1
    while end > start and text[end - 1] in " |":
        end -= 1
    while start <= end:
        stop = text.find(glue, start, end)
        stop = stop if stop >= 0 else end
        cell = _CELL.fullmatch(text, start, stop)
        if cell is not None:
            yield cell.start(1), cell.end(1)
        start = stop + 1
