"""``gt-plugins``: attach to a town, leave it, look after the attachment."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from ..errors import UserError
from .common import JsonOption, TownOption, checked_town, new_app, print_json, run

app = new_app("gt-plugins", "Attach gastown-finetune to a Gas Town, leave it, and look after the attachment.")

ASK = """This attaches to {town}:
  - a gt of ours before the real one ({bin}), for gt model, gt corpus, gt prime and gt sling
  - a SessionEnd hook in the agent client's settings
  - three formulas in {formulas}
and from then on captures what this town's agents do (scrubbed before it is written, kept in {corpus}).
gt-plugins uninstall takes it all back."""


@app.command()
def install(
    town: TownOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs --consent-by.")] = False,
    consent_by: Annotated[str, typer.Option(help="Who consents to the capture.", show_default=False)] = "",
    json: JsonOption = False,
) -> None:
    """Attach to a town: the gt shim, the SessionEnd hook, the formulas, your consent."""
    from ..attach.install import install as attach

    found = checked_town(town)
    report = attach(found, _consent(found, yes, consent_by.strip()))
    _print_report(report, json)


def _consent(town: Any, yes: bool, by: str) -> str:
    """Who consents. Raises UserError where nobody can be asked, or says no."""
    from ..settings import load_settings
    from ..town.gt import shim_dir

    recorded = load_settings(town).consent
    if recorded.granted:
        if by and by != recorded.by:
            typer.echo(f"note: {recorded.by} has consented before; that stands", err=True)
        return recorded.by
    if yes and by:
        return by
    if yes:
        raise UserError("--yes needs --consent-by NAME: somebody has to consent to the capture")
    if not sys.stdin.isatty():
        raise UserError("no terminal to ask for consent on; pass --yes --consent-by NAME")
    text = ASK.format(town=town.root, bin=shim_dir(), formulas=town.formulas_dir, corpus=town.corpus_dir)
    typer.echo(text, err=True)
    by = by or _ask("Your name, to consent (empty: do not install):")
    if not by or _ask(f"Install, with the consent of {by}? [y/N]:").lower() not in ("y", "yes"):
        raise UserError("no consent; nothing was changed")
    return by


def _ask(question: str) -> str:
    """What is typed; asked on stderr, since stdout may be read by a program."""
    print(question, end=" ", file=sys.stderr, flush=True)
    return input().strip()


@app.command()
def uninstall(
    town: TownOption = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the town's corpus, checkpoints and roles as well.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Leave a town as it was before; corpus and models stay unless --purge."""
    from ..attach.uninstall import uninstall as leave
    from ..town.root import find_town

    _print_report(leave(find_town(town), purge), json)


@app.command()
def doctor(
    town: TownOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without asking.")] = False,
    json: JsonOption = False,
) -> None:
    """Check every point of attachment and say how to mend it; exit code 1 where one fails."""
    from ..attach import doctor as doctoring
    from ..town.root import find_town

    found = find_town(town)
    mended = doctoring.mend(found) if fix else []
    checks = doctoring.examine(found)
    failed = any(c.status == "fail" for c in checks)
    if json:
        print_json({"ok": not failed, "mended": mended, "checks": [c.as_dict() for c in checks]})
    else:
        for line in mended:
            typer.echo(f"mended  {line}")
        for check in checks:
            typer.echo(f"{check.status:<5} {check.name:<12} {check.detail}")
            if check.status != "ok" and check.mend:
                typer.echo(f"{'':<18} → {check.mend}")
    raise typer.Exit(1 if failed else 0)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List every plugin and the hooks that it implements."""
    from ..plugins import list_plugins

    plugins = list_plugins()
    if json:
        print_json(
            [{"name": p.name, "origin": p.origin, "version": p.version, "hooks": p.hooks} for p in plugins]
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("plugin", "origin", "version", "hooks", box=None, pad_edge=False, header_style="bold")
    for plugin in plugins:
        table.add_row(plugin.name, plugin.origin, plugin.version, "\n".join(plugin.hooks))
    Console().print(table)


@app.command()
def shellenv(
    shell: Annotated[str, typer.Option(help="sh (bash, zsh, dash) or fish; told from SHELL.")] = "",
) -> None:
    """Print the line that puts the gt shim first on PATH: eval "$(gt-plugins shellenv)"."""
    from ..attach.shim import shellenv as line

    name = shell or os.path.basename(os.environ.get("SHELL", "sh"))
    if shell and shell not in ("sh", "bash", "zsh", "dash", "fish"):
        raise UserError(f"--shell {shell}: not known; there is sh (bash, zsh, dash) and fish")
    typer.echo(line(name))


@app.command()
def schedule(
    town: TownOption = None,
    every: Annotated[int, typer.Option(min=1, max=1440, help="Minutes between two sweeps.")] = 15,
    show: Annotated[
        bool, typer.Option("--print", help="Print the timer that would be set up, change nothing.")
    ] = False,
    plugin: Annotated[
        bool, typer.Option("--plugin", help="Put the Gas Town plugin corpus-sweep into the town instead.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the schedule back.")] = False,
) -> None:
    """Sweep the town's ended sessions now and then, in case a hook was lost; audit the corpus every week."""
    from ..attach import schedule as scheduling
    from ..town.root import find_town

    if show and (plugin or remove):
        raise UserError("--print shows the timer alone; leave --plugin and --remove out")
    found = find_town(town)
    if remove:
        lines = scheduling.remove(found)
    elif plugin:
        lines = scheduling.add_plugin(found)
    else:
        lines = scheduling.add_timer(found, every, only_print=show)
    for line in lines:
        typer.echo(line)


@app.command()
def init(town: TownOption = None) -> None:
    """Write a commented settings/finetune.toml, where there is none yet."""
    from ..attach.starter import write_settings
    from ..town.root import find_town

    typer.echo(write_settings(find_town(town)))


def _print_report(report: Any, json: bool) -> None:
    if json:
        print_json({"done": report.done, "notes": report.notes})
        return
    for line in report.done:
        typer.echo(line)
    for line in report.notes:
        typer.echo(f"note: {line}")


def main() -> NoReturn:
    """Entry point of ``gt-plugins``."""
    run(app)


if __name__ == "__main__":
    main()
