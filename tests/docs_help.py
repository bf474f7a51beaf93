"""Writes docs/help.md, the help texts of every command: ``python -m tests.docs_help``, or ``make docs``.

The texts are those that ``--help`` shows, without its boxes, at a fixed width; a test checks that the page is
current. Commands are found by walking the typer applications, so that none can be forgotten.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "help.md"
WIDTH = 120
HEAD = """# Commands

Generated from the commands themselves by `make docs`; do not edit.

`gt model …` is `gt-model …` and `gt corpus …` is `gt-corpus …` where the shim stands first on PATH.
`node0-corpus` is `gt-corpus` under another name. Exit codes: 0 fine; 2 bad arguments, configuration or names,
found before any work; 1 failed while working; 3 refused by a gate. An error is one line on stderr; with
`--json` stdout then holds nothing, otherwise one document.
"""


def applications() -> dict[str, Any]:
    """Console script → its typer application; plugins of third parties are left out."""
    from gt_plugins import run_finetune, run_inference
    from gt_plugins.cli import corpus, model, plugins

    return {
        "gt-plugins": plugins.app,
        "gt-model": model.build(plugins=False),
        "gt-corpus": corpus.app,
        "node0-finetune": run_finetune.app,
        "node0-inference": run_inference.build(),
    }


def commands() -> Iterator[tuple[str, str]]:
    """(full name, help text) of every command and group, in the order in which help shows them."""
    import typer

    for name, app in applications().items():
        yield from _walk(typer.main.get_command(app), name, None)
    yield from _hook()


def _walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    command.rich_markup_mode = None
    context = command.make_context(
        name.rpartition(" ")[2] if parent is not None else name,
        [],
        parent=parent,
        resilient_parsing=True,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
    )
    yield name, command.get_help(context).strip()
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, word)
        if not inner.hidden:
            yield from _walk(inner, f"{name} {word}", context)


def _hook() -> Iterator[tuple[str, str]]:
    """``gt-hook``: called by the client, without typer, which it has no time for."""
    from gt_plugins.cli import hook, hook_guard

    yield "gt-hook", inspect.cleandoc(hook.__doc__ or "").replace("``", "")
    yield (
        "gt-hook session-end",
        "The client's payload on stdin. Prints nothing; exit code 0 whatever happens.",
    )
    usage = [line.strip() for line in (hook_guard.__doc__ or "").splitlines() if "gt-hook guard [" in line]
    yield (
        "gt-hook guard",
        "\n".join([f"Usage: {usage[0]}", "", "Exit code 0 allows the tool's call, 2 refuses it."]),
    )


def page() -> str:
    """The whole of docs/help.md."""
    parts = [HEAD]
    for name, text in commands():
        level = "##" if " " not in name else "###"
        parts.append(f"{level} {name}\n\n```text\n{_trimmed(text)}\n```\n")
    return "\n".join(parts)


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")


if __name__ == "__main__":
    main()
