"""Every key of a recipe as a flag, made from the recipe itself: ``--rate``, ``--no-packing`` …"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..training.recipe import Recipe, as_toml, base_of, load_recipe

PANEL = "Recipe (each is a key of --config too)"


@dataclass(frozen=True)
class Chosen:
    """The base and the recipe that a command line means."""

    base: str
    recipe: Recipe


def recipe_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the recipe's flags. It is called with one argument more, ``chosen``; where
    ``--print-config`` is given the recipe is printed and the command not called.

    Raises UserError, when called, for what is wrong in the file or in a flag."""

    @functools.wraps(command)
    def flagged(**given: Any) -> Any:
        values = {spec.name: given.pop(spec.name) for spec in fields(Recipe)}
        base, config = given.pop("base"), given.pop("config")
        preset, only_print = given.pop("preset"), given.pop("print_config")
        name = base_of(base, config)
        chosen = Chosen(name, load_recipe(name, config, preset, **values))
        if only_print:
            from ..roles.profile import check_tunable

            check_tunable(given["role"])
            print(as_toml(chosen.base, chosen.recipe), end="")
            return None
        return command(chosen=chosen, **given)

    own = inspect.signature(command, eval_str=True).parameters
    kept = [p for p in own.values() if p.name != "chosen"]
    made = [*kept, *map(_keyword, _HEAD.items()), *map(_flag, fields(Recipe))]
    made = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in made]
    flagged.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    flagged.__annotations__ = {p.name: p.annotation for p in made}
    return flagged


_HEAD: dict[str, tuple[Any, Any]] = {
    "base": (
        Annotated[
            str | None,
            typer.Option("--base", help="tiny, or a local Hugging Face folder.", show_default="tiny"),
        ],
        None,
    ),
    "config": (Annotated[Path | None, typer.Option("--config", help="A recipe in TOML.")], None),
    "preset": (
        Annotated[str, typer.Option("--preset", help="tiny, 0.5b, 1.5b, 3b or 7b (by the base's size).")],
        "",
    ),
    "print_config": (
        Annotated[bool, typer.Option("--print-config", help="Print the recipe as TOML, and end.")],
        False,
    ),
}


def _keyword(item: tuple[str, tuple[Any, Any]]) -> inspect.Parameter:
    name, (annotation, default) = item
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(spec: Field[Any]) -> inspect.Parameter:
    """One key: ``--batch-tokens INTEGER``, or ``--packing/--no-packing``; left out means not given."""
    dashed = "--" + spec.name.replace("_", "-")
    kind = type(spec.default)
    declared = f"{dashed}/--no-{dashed[2:]}" if kind is bool else dashed
    words = spec.metadata["words"]
    if spec.metadata["one_of"]:
        words += f" ({', '.join(spec.metadata['one_of'])})"
    option = typer.Option(declared, help=f"{words}.", rich_help_panel=PANEL)
    return _keyword((spec.name, (Annotated[kind | None, option], None)))
