"""What must come up quickly imports nothing heavy; every command exists; no module is too long."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(ROOT.glob("gt_plugins/**/*.py"))
HEAVY = {"torch", "transformers", "peft", "lancedb", "scrubadub", "llama_cpp", "hivemind", "numpy"}
ALSO_SLOW = {"pluggy", "typer", "rich", "httpx", "starlette", "jinja2", "tokenizers", "sqlite3", "git"}
MOST_LINES = 600
WHOLE = {"gt_plugins/training/swarm/records.py": "hivemind"}
"""Modules that subclass what is heavy, so that they are heavy as a whole; others import them in functions."""


WATCHED = """
import os, sys
def heard(event, args, path=sys.argv[1]):
    if event == "import":
        with open(path, "a") as handle:
            handle.write(args[0] + "\\n")
sys.addaudithook(heard)
sys.argv = ["x", *sys.argv[3:]]
exec(CODE)
"""
"""Whatever the process does with its standard streams, and however it ends, its imports are in a file."""


def imported(code: str, log: Path, *words: str, stdin: str = "") -> set[str]:
    """The top-level packages that a process imports for ``code``, with ``words`` as its arguments."""
    script = WATCHED.replace("CODE", repr(code))
    command = [sys.executable, "-c", script, str(log), "--", *words]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    found = {name.partition(".")[0] for name in log.read_text().split()}
    assert "gt_plugins" in found
    return found


@pytest.mark.parametrize("command", ["session-end", "guard", "nothing"])
def test_the_hooks_come_up_light(command: str, tmp_path: Path) -> None:
    payload = {"session_id": "s", "transcript_path": str(tmp_path / "none.jsonl"), "cwd": str(tmp_path)}
    stdin = json.dumps({**payload, "tool_name": "Bash", "tool_input": {"command": "ls"}})
    code = "from gt_plugins.cli.hook import main; main()"
    found = imported(code, tmp_path / "log", command, stdin=stdin)
    assert not found & (HEAVY | ALSO_SLOW)


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["list", "--role", "deacon"]])
def test_the_list_of_models_comes_up_light(words: list[str], tmp_path: Path) -> None:
    found = imported(f"from gt_plugins.cli.model import main; main({words!r})", tmp_path / "log")
    assert not found & (HEAVY | {"pluggy", "typer", "httpx", "starlette", "tokenizers"})


@pytest.mark.parametrize(
    "module", ["gt_plugins.cli.model", "gt_plugins.cli.corpus", "gt_plugins.cli.plugins", "gt_plugins.cli.gt"]
)
def test_no_command_line_imports_what_is_heavy(module: str, tmp_path: Path) -> None:
    build = "; m.build(plugins=False)" if module.endswith(".model") else ""
    assert not imported(f"import {module} as m{build}", tmp_path / "log") & HEAVY


def test_all_plugins_of_ours_load_light(tmp_path: Path) -> None:
    code = "from gt_plugins.plugins import list_plugins; list_plugins()"
    assert not imported(code, tmp_path / "log") & HEAVY


def scripts() -> dict[str, str]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def test_the_console_scripts_are_those_of_the_contract() -> None:
    names = {"gt-plugins", "gt-model", "gt-corpus", "gt-hook"}
    assert set(scripts()) == names | {"node0-finetune", "node0-inference", "node0-corpus"}


@pytest.mark.parametrize("name", scripts())
def test_a_console_script_has_its_module_and_main(name: str) -> None:
    module, _, function = scripts()[name].partition(":")
    assert function == "main" and callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_documented_and_light(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MOST_LINES
    assert not tree.body or ast.get_docstring(tree), "a module says what it is for"
    heavy = {name for name in at_module_level(tree.body)} & HEAVY - {WHOLE.get(str(path.relative_to(ROOT)))}
    assert not heavy, f"{', '.join(sorted(heavy))}: import it inside the function that needs it"


@pytest.mark.parametrize("heavy", WHOLE)
def test_a_module_that_is_heavy_as_a_whole_is_imported_in_functions_alone(heavy: str) -> None:
    name = Path(heavy).stem
    for path in (ROOT / heavy).parent.glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert not [
            node
            for node in body
            if isinstance(node, ast.ImportFrom)
            and (node.module == name or name in [alias.name for alias in node.names])
        ], path


def at_module_level(body: list[ast.stmt]) -> Iterator[str]:
    """Packages imported when a module is: not inside functions, not for type checking alone."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_module_level(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While | ast.ClassDef):
            parts = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            parts += [handler.body for handler in getattr(node, "handlers", [])]
            for part in parts:
                yield from at_module_level(part)


@pytest.mark.parametrize("room", ["corpus", "transcripts", "town"])
def test_no_module_of_a_room_imports_what_imports_it(room: str) -> None:
    folder = ROOT / "gt_plugins" / room
    graph: dict[Path, set[Path]] = {}
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        found: set[Path] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and node not in typing:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                found |= {base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)}
        graph[path] = {other for other in found if other.is_relative_to(folder) and other.is_file()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises for a circle, and names it


def test_the_search_finds_what_is_imported() -> None:
    text = (
        "import torch.nn\nif TYPE_CHECKING:\n    import peft\nelse:\n    import lancedb\n"
        "try:\n    from numpy import array\nexcept ImportError:\n    import hivemind\n"
        "class A:\n    import llama_cpp\ndef f():\n    import transformers\nfrom . import scrubadub\n"
    )
    assert set(at_module_level(ast.parse(text).body)) == {
        "torch",
        "lancedb",
        "numpy",
        "hivemind",
        "llama_cpp",
    }
