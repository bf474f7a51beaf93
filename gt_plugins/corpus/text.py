"""Sessions and documents as plain text, for the full-text index and for showing where a word was found.

The index is told what to forget by giving it the same text again, so a change here needs a migration in
:mod:`gt_plugins.corpus.database` that builds the index anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..transcripts.model import Block, Session
from .sources import Document


def session_text(session: Session) -> str:
    """Everything said, called and answered in a session, in order."""
    return "\n".join(text for turn in session.turns for block in turn.blocks for text in block_texts(block))


def document_text(document: Document) -> str:
    return f"{document.key}\n{document.content}"


def block_texts(block: Block) -> Iterator[str]:
    """The texts of one block: what a reader would see of it."""
    match block.get("type"):
        case "text" | "thinking":
            yield from _strings(block.get("text") or block.get("thinking"))
        case "tool_use":
            yield json.dumps([block.get("name"), block.get("input")], ensure_ascii=False)
        case "tool_result":
            content = block.get("content")
            if isinstance(content, str):
                yield content
            else:
                for inner in content if isinstance(content, list) else ():
                    yield from block_texts(inner) if isinstance(inner, dict) else _strings(inner)
        case "unknown":
            yield json.dumps(block.get("line"), ensure_ascii=False)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value


def snippet(text: str, query: str, width: int = 120) -> str:
    """The first place in ``text`` where a word of ``query`` stands, on one line."""
    words = [re.escape(w) for w in query.split()]
    found = re.search("|".join(words), text, re.IGNORECASE) if words else None
    start = max(0, (found.start() if found else 0) - width // 3)
    cut = " ".join(text[start : start + width].split())
    return f"{'…' if start else ''}{cut}{'…' if start + width < len(text) else ''}"
