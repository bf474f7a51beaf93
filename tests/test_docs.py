"""The documentation against the code: hooks, commands, pages, links; and what no committed file may hold."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import pytest

from gt_plugins import hookspecs
from gt_plugins.plugins import BUILT_IN
from gt_plugins.training.recipe import TINY_RECIPE, Recipe
from tests import docs_help

REPO = Path(__file__).parent.parent
DOCS = REPO / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [REPO / "README.md", REPO / "CHANGELOG.md", *PAGES]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("gt_"))
FOREIGN = {"gt-model route"}
"""A command that gt itself may get one day; docs/attach.md says what then."""
SPOKEN = re.compile(r"\b(gt model|gt corpus|gt-plugins|gt-model|gt-corpus|gt-hook)((?: [a-z][a-z-]*)+)")


def ids(path: Path) -> str:
    return path.name


# -- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_stands_in_the_plugins_page_with_its_arguments(name: str):
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    heading = f"### `{name}({arguments})`"
    assert heading in (DOCS / "plugins.md").read_text(), f"docs/plugins.md lacks {heading}"


def test_the_plugins_page_knows_no_hook_that_there_is_not():
    named = set(re.findall(r"\bgt_[a-z_]+\b", (DOCS / "plugins.md").read_text()))
    assert named - {"gt_plugins", "gt_role"} <= set(HOOKS)


def test_every_built_in_plugin_stands_in_the_plugins_page():
    text = (DOCS / "plugins.md").read_text()
    assert not [name for name in BUILT_IN if f"`{name}`" not in text]


# -- commands -------------------------------------------------------------------------------------


def test_the_help_page_is_current():
    assert docs_help.PAGE.read_text() == docs_help.page(), "run `make docs`"


def known_commands() -> set[str]:
    return {name for name, _ in docs_help.commands()} | FOREIGN


@pytest.mark.parametrize("path", [p for p in TEXTS if p.name != "coverage.md"], ids=ids)
def test_commands_that_a_page_names_exist(path: Path):
    """`gt model jobs` in a page is an error as long as there is no such command."""
    known = known_commands()
    wrong = []
    for code in re.findall(r"```.*?```|`[^`\n]+`|^    .*$", path.read_text(), re.DOTALL | re.MULTILINE):
        for tool, words in SPOKEN.findall(code):
            name = tool.replace("gt ", "gt-")
            spoken = f"{name} {words.split()[0]}"
            if spoken not in known:
                wrong.append(spoken)
    assert not wrong


# -- figures ---------------------------------------------------------------------------------------


def _written(value: object) -> str:
    """A value as the table has it: numbers with commas, yes and no, text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"


def test_the_training_page_has_the_recipes_numbers():
    """Each row of the recipe's table: key or keys, the tiny base's value, the others'."""
    table = (DOCS / "training.md").read_text().partition("## Presets")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \| (.*?) \|", table, re.MULTILINE)
    written = {}
    for names, tiny, other in rows:
        keys = re.findall(r"`(\w+)`", names)
        values = zip(re.split(r", ", tiny), re.split(r", ", other), strict=True)
        written.update(zip(keys, values, strict=True))
    recipes = (TINY_RECIPE.to_json(), Recipe().to_json())
    found = {key: tuple(_written(r[key]) for r in recipes) for key in recipes[0]}
    plain = {key: tuple(re.sub(r"\.0$", "", value) for value in values) for key, values in found.items()}
    assert written == plain


# -- pages and links ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in PAGES if p.name != "index.md"], ids=ids)
def test_every_page_is_linked_from_the_index(path: Path):
    assert f"]({path.name})" in (DOCS / "index.md").read_text()


@pytest.mark.parametrize("path", TEXTS, ids=ids)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert "://" not in target, f"{target}: a page links to files of the repository only"
        assert (path.parent / target).exists(), target


def test_what_the_coverage_page_points_at_is_there():
    text = (DOCS / "coverage.md").read_text()
    named = re.findall(
        r"`([\w./*-]+)`", "\n".join(line for line in text.splitlines() if line.startswith("| "))
    )
    paths = [name for name in named if "/" in name or name.endswith((".py", ".toml"))]
    assert len(paths) > 60
    assert not [name for name in paths if not [*REPO.glob(name), *(REPO / "gt_plugins").glob(name)]]


@pytest.mark.parametrize("path", TEXTS, ids=ids)
def test_pages_are_plain(path: Path):
    text = path.read_text()
    assert text.startswith("# ") and text.endswith("\n")
    assert not re.search("[\U0001f000-\U0001faff\u2600-\u27bf]", text), "no emojis"
    assert text.count("```") % 2 == 0


# -- what may stand in no committed file ----------------------------------------------------------


def committed() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name and (REPO / name).is_file()]


HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("golang", "org"),
        ("crates", "io"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("anaconda", "org"),
        ("rubygems", "org"),
        ("deb", "debian", "org"),
    )
]
PLACES = re.compile(r"(?<![\w./-])/(?:work|opt)/[a-z]")
FREE = {"/opt/other/agent"}
"""A made-up path in a test of settings."""


def test_no_committed_file_names_a_registry_or_the_machine_it_was_made_on():
    wrong = []
    for name in committed():
        text = (REPO / name).read_bytes().decode("utf-8", "ignore")
        wrong += [f"{name}: {host}" for host in HOSTS if host in text]
        for line in text.splitlines():
            if PLACES.search(line) and not any(free in line for free in FREE):
                wrong.append(f"{name}: {line.strip()[:120]}")
    assert not wrong
