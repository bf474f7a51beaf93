"""``gt model prime build|show``: what a role's slim prime is now, and how much of the stock one it holds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, TownOption, checked_town, new_app, print_json

if TYPE_CHECKING:
    from ..prime.budget import Deployed
    from ..prime.facts import Recall
    from ..prime.slim import SlimPrime
    from ..town.root import Town

RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="deacon, boot, witness, polecat, crew, …")]
RigOption = Annotated[str, typer.Option("--rig", help="The rig, for its roles.", show_default=False)]
NameOption = Annotated[str, typer.Option("--name", help="Which polecat, crew or dog.", show_default=False)]
TokensOption = Annotated[
    int,
    typer.Option(
        "--tokens", min=0, help="Budget in tokens (as deployed, else the town's).", show_default=False
    ),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from", help="A stock prime from a file, - for stdin, instead of asking gt.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Mount ``prime`` with its sub-commands."""
    prime = new_app("prime", "The short prime that a deployed role is given.")
    prime.command("build")(build)
    prime.command("show")(show)
    app.add_typer(prime, name="prime")


@dataclass(frozen=True)
class _Made:
    stock: str
    slim: SlimPrime
    recall: Recall
    unknown: list[str]
    budget: int


def show(
    role: RoleArgument,
    explain: Annotated[bool, typer.Option("--explain", help="List what was kept and dropped.")] = False,
    rig: RigOption = "",
    name: NameOption = "",
    tokens: TokensOption = 0,
    source: FromOption = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the slim prime that a role would get now. Asks the real gt, which may create a patrol."""
    made = _make(role, rig, name, tokens, source, town)
    if as_json:
        print_json(_document(role, made))
        return
    print(made.slim.text)
    if explain:
        print(made.slim.explain())


def build(
    role: RoleArgument,
    rig: RigOption = "",
    name: NameOption = "",
    tokens: TokensOption = 0,
    source: FromOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the text, scrubbed, to this file (0600).", show_default=False),
    ] = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a role's slim prime and judge it: sizes, and the live facts it holds. Exit 1 if one is lost."""
    from ..errors import FinetuneError

    made = _make(role, rig, name, tokens, source, town)
    if out is not None:
        _write(out, made.slim.text, town)
    if as_json:
        print_json(_document(role, made))
    else:
        _print_judgement(made)
    if made.recall.missing:
        lost = ", ".join(f"{kind} {value!r:.60}" for kind, value in made.recall.missing[:5])
        raise FinetuneError(f"{len(made.recall.missing)} live facts do not fit {made.budget} tokens: {lost}")
    if made.unknown:
        raise FinetuneError(
            f"gt prime shows no {', '.join(made.unknown)} for {role} where it always did; "
            "this gt prints it in another way, so check with gt model prime show"
        )


def _make(role: str, rig: str, name: str, tokens: int, source: Path | None, at: Path | None) -> _Made:
    from ..prime.facts import recall, unknown_form
    from ..prime.slim import slim
    from ..town.roles import Identity, check_role

    check_role(role)
    if source is None:
        from ..prime.ask import ask_stock, place_of

        here = checked_town(at)
        place = place_of(here, role, rig or None, name or None)
        town: Town | None = here
        identity, stock = place.identity, ask_stock(here, place)
    else:
        town = _maybe_town(at)
        identity, stock = Identity(role, rig or None, name or None), _read(source)
    deployed = _deployment(town, identity, tokens)
    made = slim(
        stock, role, tokens=deployed.tokens, rules=deployed.rules, extra=_offered(deployed, town, stock)
    )
    return _Made(stock, made, recall(stock, made.text), unknown_form(stock, role), deployed.tokens)


def _maybe_town(at: Path | None) -> Town | None:
    from ..errors import UserError
    from ..town.root import find_town

    try:
        return find_town(at)
    except UserError:
        if at is not None:
            raise
        return None


def _deployment(town: Town | None, identity: Any, tokens: int) -> Deployed:
    from ..prime.budget import Deployed, role_rules, would_be

    found = would_be(town, identity) if town else None
    budget = tokens or (found.tokens if found else 3000)
    rules = found.rules if found else role_rules(None, identity.role)
    return Deployed(identity.role, found.folder if found else Path(), budget, rules)


def _offered(deployed: Deployed, town: Town | None, stock: str) -> list[Any]:
    from ..prime.command import Offer, guarded, offered_sections

    nobody: list[Offer] = []
    offers = guarded("plugins", lambda: offered_sections(deployed, town.root if town else None), nobody)
    return [section for offer in offers for section in offer(stock)]


def _read(source: Path) -> str:
    from ..errors import UserError

    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    return data.decode("utf-8", "replace")


def _write(out: Path, text: str, at: Path | None) -> None:
    """Scrubbed first: a prime names mails, people and paths."""
    from ..corpus.scrub.engine import scrubber_for
    from ..durable import write_text

    clean, _ = scrubber_for(checked_town(at)).text(text)
    write_text(out, clean + "\n")


def _document(role: str, made: _Made) -> dict[str, Any]:
    from dataclasses import asdict

    from ..prime.slim import estimate_tokens

    return {
        "role": role,
        "budget": made.budget,
        "stock": {"characters": len(made.stock), "tokens": estimate_tokens(made.stock)},
        "slim": {"characters": len(made.slim.text), "tokens": made.slim.tokens},
        "recall": {**asdict(made.recall), "live": made.recall.live},
        "unknown_form": made.unknown,
        "text": made.slim.text,
        "kept": [asdict(p) for p in made.slim.kept],
        "dropped": [asdict(p) for p in made.slim.dropped],
    }


def _print_judgement(made: _Made) -> None:
    from ..prime.slim import estimate_tokens

    r = made.recall
    print(f"stock prime  {len(made.stock)} characters, about {estimate_tokens(made.stock)} tokens")
    print(f"slim prime   {len(made.slim.text)} characters, {made.slim.tokens} tokens of {made.budget}")
    print(f"live facts   {r.kept} of {r.facts}")
    print(f"prohibitions {r.prohibitions_kept} of {r.prohibitions}")
    print(f"commands     {r.commands_kept} of {r.commands}")
