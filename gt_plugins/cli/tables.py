"""Tables for people: aligned plain text, and rich, which is slow to import, only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def printable(text: str) -> str:
    """Without control characters: a terminal must not obey what a session printed."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` under ``header``; through rich on a terminal, as aligned text elsewhere."""
    if sys.stdout.isatty():
        _rich(header, rows)
    else:
        print(plain(header, rows))


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``rows`` under ``header``, columns two spaces apart, no trailing space."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _rich(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
