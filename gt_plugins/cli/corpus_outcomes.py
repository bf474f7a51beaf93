"""``gt corpus outcomes``: what became of the sessions' work and of the patrols' decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import JsonOption, TownOption, checked_town, print_json

if TYPE_CHECKING:
    from ..corpus.outcomes.rates import Rate
    from ..corpus.outcomes.report import Outcomes, SessionOutcome


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("outcomes")(outcomes)


def outcomes(
    role: Annotated[str | None, typer.Option("--role", help="Only this role.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="One session (or the start of its id), each decision.")
    ] = None,
    town: TownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label sessions and decisions by what followed, and show each label's rate beside matched situations."""
    from ..corpus.outcomes.report import outcomes_of, session_outcome
    from ..errors import UserError
    from ..town.roles import check_role

    if role and session:
        raise UserError("--role or --session, not both")
    if session:
        one = session_outcome(checked_town(town), session)
        print_json(one.to_json()) if as_json else _print_session(one)
        return
    found = outcomes_of(checked_town(town), check_role(role) if role else None)
    print_json(found.to_json()) if as_json else _print(found)


def _print_session(one: SessionOutcome) -> None:
    from .tables import print_table

    print(f"{one.session}  {one.outcome}: {one.reason or 'nothing is known'}")
    if one.decisions:
        print_table(
            ["DECISION", "LABEL", "WHY"], [[d["action"], d["label"], d["reason"]] for d in one.decisions]
        )


def _print(found: Outcomes) -> None:
    from .tables import print_table

    rows = [[s.role or "unknown", s.outcome, str(s.sessions)] for s in found.sessions]
    print_table(["ROLE", "SESSIONS THAT ARE", "COUNT"], rows or [["-", "-", "0"]])
    if found.rates:
        print()
        columns = ["ROLE", "DECISION", "COUNT", "GOOD", "BAD", "UNKNOWN", "RATE", "WITHOUT IT", "MATCHED"]
        print_table(columns, [_row(rate) for rate in found.rates])
    reasons = [[r["label"], r["reason"], str(r["count"])] for r in found.reasons if r["label"] != "good"]
    if reasons:
        print()
        print_table(["LABEL", "WHY", "DECISIONS"], reasons)
    if found.ahead:
        print(f"\npassed over: {found.ahead} of the town's records, dated after now")


def _row(rate: Rate) -> list[str]:
    without = "-" if rate.without is None else f"{rate.without:.2f}"
    counts: list[Any] = [rate.decisions, rate.good, rate.bad, rate.unknown]
    share = f"{rate.rate:.2f} ({rate.low:.2f} to {rate.high:.2f})"
    return [rate.role, rate.action, *map(str, counts), share, without, str(rate.matched)]
