"""``gt corpus``: what was captured from the town's sessions, and what may be done with it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FinetuneError, UserError
from .common import JsonOption, TownOption, checked_town, new_app, print_json, run

if TYPE_CHECKING:
    from ..corpus.store import StoredDocument, StoredSession
    from ..corpus.sweep import SweepReport
    from ..town.root import Town

HELP = "The corpus: capture sessions with consent, scrub, search, label, build datasets, purge."
MODULES = (
    "corpus_scrub",
    "corpus_audit",
    "corpus_dataset",
    "corpus_outcomes",
    "corpus_reversions",
    "corpus_share",
)
LOG_BYTES = 1 << 20
EXPECTED = ("line:", "attachment:", "event:")
"""Counts of what every transcript has; ``--json`` gives them, the table leaves them out."""
app = new_app("corpus", HELP)


@app.command()
def consent(
    grant: Annotated[bool, typer.Option("--grant", help="Allow capturing in this town.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Stop capturing.")] = False,
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "",
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Show, grant or revoke the consent without which nothing is captured."""
    from ..corpus import consent as consents

    if grant and revoke:
        raise UserError("--grant or --revoke, not both")
    place = checked_town(town)
    if grant or revoke:
        state = (consents.grant if grant else consents.revoke)(place, by)
    else:
        state = consents.status(place)
    if json:
        print_json({"granted": state.granted, "by": state.by, "at": state.at})
    elif state.granted:
        print(f"granted by {state.by} at {state.at}")
    elif state.by:
        print(f"revoked by {state.by} at {state.at}")
    else:
        print("not granted; nothing is captured")


@app.command()
def sweep(
    projects: Annotated[
        Path | None, typer.Option("--projects", help="Look here, not in the clients' own projects folders.")
    ] = None,
    spool_only: Annotated[bool, typer.Option("--spool-only", hidden=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", hidden=True)] = False,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Capture what is new: sessions that ended, and those that the hook missed."""
    if projects is not None and not projects.is_dir():
        raise UserError(f"{projects}: no such folder (--projects)")
    if quiet:
        from ..town.root import find_town

        _quiet_sweep(find_town(town), projects, spool_only)
        return
    from ..corpus.sweep import sweep as run_sweep
    from ..settings import unknown_exclusions

    place = checked_town(town)
    for name in unknown_exclusions(place):
        print(f"note: {place.settings_file}: capture.exclude_rigs: no rig {name!r} here yet", file=sys.stderr)
    with _progress(shown=not json and sys.stderr.isatty()) as progress:
        report = run_sweep(place, projects, spool_only, progress=progress)
    if json:
        print_json(report.to_json())
    else:
        _print_sweep(report)


def _quiet_sweep(town: Town, projects: Path | None, spool_only: bool) -> None:
    """The detached worker: its result, or the kind of its failure, is a line in ``.corpus/log``."""
    from ..corpus.store import now
    from ..durable import append_line

    log = town.corpus_dir / "log"
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name("log.1"))
    try:
        from ..corpus.sweep import sweep as run_sweep

        report = run_sweep(town, projects, spool_only)
    except Exception as error:
        message = str(error) if isinstance(error, FinetuneError) else ""
        append_line(log, {"at": now(), "error": type(error).__name__, "message": message})
        raise
    if not report.busy:
        append_line(log, {"at": now(), **report.to_json()})


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sessions", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_sweep(report: SweepReport) -> None:
    rows = [("captured", report.captured), ("updated", report.updated), ("unchanged", report.unchanged)]
    rows += [(f"skipped: {name}", count) for name, count in report.skipped.items()]
    rows += [(f"redacted: {name}", count) for name, count in report.redactions.items()]
    notes = report.notes.items()
    rows += [(f"met: {name}", count) for name, count in notes if not name.startswith(EXPECTED)]
    _print_counts(rows)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if report.busy:
        print("another sweep is running; it takes this over", file=sys.stderr)


def _print_counts(rows: list[tuple[str, int]]) -> None:
    from .tables import print_table

    print_table(("what", "count"), [(name, str(count)) for name, count in rows])


@app.command()
def collect(
    source: Annotated[str | None, typer.Option("--source", help="Only this source.")] = None,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Collect artifacts and records: conventions, formulas, specs, settings, role files, primes and more."""
    from ..corpus.collect import collect as run_collect

    report = run_collect(checked_town(town), source)
    if json:
        print_json(report.to_json())
        return
    rows = [(name, getattr(report, name)) for name in ("captured", "updated", "unchanged", "retired")]
    rows += [(f"skipped: {name}", count) for name, count in report.skipped.items()]
    rows += [(f"redacted: {name}", count) for name, count in report.redactions.items()]
    _print_counts(rows)
    for found in report.reversions:
        print(f"{found['key']}: {found['message']} ({found['id']})", file=sys.stderr)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)


@app.command()
def stats(town: TownOption = None, json: JsonOption = False) -> None:
    """Count what is stored, by role, outcome, day and model."""
    from ..corpus.stats import bars, days, stacked
    from ..corpus.stats import stats as count

    found = count(checked_town(town))
    if json:
        print_json(found.to_json())
        return
    print(f"{found.sessions} sessions, {found.turns} turns, {found.decisions} decisions")
    if found.tuned:
        print(f"{found.tuned} of them by our own tuned models; they do not train by default")
    pictures = (
        bars("by role", found.by_role),
        bars("by outcome", found.by_outcome),
        stacked("outcomes by role", found.by_role_outcome),
        days("day by day", found.by_day),
        bars("by day", found.by_day),
        bars("by model", found.by_model),
        bars("documents", found.documents),
        bars("redacted", found.redactions),
        bars("files left out", found.left_out),
    )
    for picture in pictures:
        _print_picture(picture)


def _print_picture(lines: list[str]) -> None:
    """A title and its bars, in colour on a terminal."""
    from .tables import printable

    lines = [printable(line) for line in lines]
    if not lines or not sys.stdout.isatty():
        print("".join(f"{line}\n" for line in lines), end="")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(lines[0], style="bold"))
    for line in lines[1:]:
        text = Text(line)
        text.highlight_regex("[█▏▎▍▌▋▊▉▁▂▃▄▅▆▇]+", "cyan")
        text.highlight_regex("▓+", "red")
        console.print(text, soft_wrap=True)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words that must all occur; none for the newest.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most so many.", min=1, max=1_000_000)] = 20,
    role: Annotated[str | None, typer.Option("--role", help="Only of this role.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only session, or a type of document.")] = None,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Find sessions and documents by the words in them, best first."""
    from ..corpus.store import Store, exists
    from ..town.roles import check_role
    from .tables import print_table, printable

    if role is not None:
        check_role(role)
    place = checked_town(town)
    found: list[dict[str, str]] = []
    if exists(place):
        with Store(place) as store:
            refs = store.search(query, limit=-1) if query.split() else store.newest()
            hits = (_hit(store, ref, query) for ref in refs)
            wanted = (h for h in hits if role in (None, h["role"]) and kind in (None, h["kind"]))
            found = list(itertools.islice(wanted, limit))
    if json:
        print_json(found)
        return
    if not found:
        print("nothing was found")
        return
    columns = ("id", "kind", "role", "at", "text")
    print_table(columns, [tuple(printable(hit[name]) for name in columns) for hit in found])


def _hit(store: Any, ref: str, query: str) -> dict[str, str]:
    from ..corpus.text import document_text, session_text, snippet

    document = store.document(ref)
    if document is not None:
        inner = document.document
        text = snippet(document_text(inner), query)
        return {"id": ref, "kind": inner.corpus_type, "role": inner.role, "at": inner.at, "text": text}
    session = store.session(ref).session
    text = snippet(session_text(session), query)
    return {"id": ref, "kind": "session", "role": session.role, "at": session.started, "text": text}


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="A session (or the start of its id) or a document.")],
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Show one session or document as it is stored."""
    from ..corpus.store import Store, exists

    place = checked_town(town)
    if not exists(place):
        raise UserError(f"{id!r}: nothing was captured yet; run `gt corpus sweep`")
    with Store(place) as store:
        document = store.document(id)
        if document is None and id.startswith("doc-"):
            told = "no such document in the corpus; one that changed has another number"
            raise UserError(f"{id!r}: {told}, which `gt corpus search` tells")
        session = store.session(store.resolve_session(id)) if document is None else None
    if document is not None:
        _show_document(id, document, json)
    elif session is not None:
        _show_session(session, json)


def _show_document(ref: str, stored: StoredDocument, json: bool) -> None:
    from .tables import printable

    if json:
        value = {"id": ref, **vars(stored.document), "policy": stored.policy, "current": stored.current}
        print_json(value | {"consent": stored.consent, "captured_at": stored.captured_at})
        return
    print(f"{ref}  {stored.document.corpus_type}  {stored.document.key}  {stored.document.at}")
    print(printable(stored.document.content))


def _show_session(stored: StoredSession, json: bool) -> None:
    session = stored.session
    known = {name: value for name, value in vars(stored).items() if name != "session"}
    if json:
        print_json(session.to_json() | known | {"redactions": dict(stored.redactions)})
        return
    from ..corpus.text import block_texts
    from .tables import printable

    who = "/".join(part for part in (session.rig, session.role, session.name) if part) or "unknown role"
    print(f"{session.id}  {who}  {session.started}  outcome {stored.outcome}")
    print(f"models {', '.join(session.models) or 'unknown'}; policy {stored.policy}; {stored.consent}")
    for turn in session.turns:
        print(f"\n[{turn.role}{f' {turn.hook}' if turn.hook else ''}] {turn.at}")
        for block in turn.blocks:
            for text in block_texts(block):
                print(printable(text))


@app.command()
def label(
    session: Annotated[str, typer.Argument(help="A session, or the start of its id.")],
    verdict: Annotated[str, typer.Argument(metavar="good|bad")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    town: TownOption = None,
) -> None:
    """Judge a session; a label wins over every outcome that was found."""
    from ..corpus.store import Store, exists

    if verdict not in ("good", "bad"):
        raise UserError(f"a label is good or bad, not {verdict!r}")
    if not reason.strip():
        raise UserError("--reason is empty; say why the session is judged so")
    place = checked_town(town)
    if not exists(place):
        raise UserError(f"{session!r}: nothing was captured yet; run `gt corpus sweep`")
    from ..corpus.scrub.engine import scrubber_for

    clean, _ = scrubber_for(place).text(reason)
    with Store(place) as store:
        ref = store.resolve_session(session)
        store.label(ref, verdict, clean)
    print(f"{ref}: {verdict}")


@app.command()
def purge(
    session: Annotated[str | None, typer.Option("--session", help="This session.")] = None,
    before: Annotated[str | None, typer.Option("--before", help="All that ended before this date.")] = None,
    town: TownOption = None,
    json: JsonOption = False,
) -> None:
    """Delete for real, and name the model versions that were trained on it."""
    from ..corpus.purge import purge as run_purge

    result = run_purge(checked_town(town), session, before)
    if json:
        print_json(result.to_json())
        return
    print(
        f"deleted {len(result.sessions)} sessions, {result.documents} documents, {result.spool} spool entries"
    )
    for folder in result.datasets:
        print(f"deleted dataset {folder}")
    if result.index:
        print("dropped the retrieval index, which may hold text of what is gone")
    for version in result.versions:
        print(f"trained on it: {version}")
    for bundle in result.bundles:
        print(f"shared with others in bundle {bundle[:12]}: ask them to purge it too")


for _name in MODULES:
    if importlib.util.find_spec(f"{__package__}.{_name}") is not None:
        importlib.import_module(f"{__package__}.{_name}").register(app)


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``gt-corpus``, ``node0-corpus`` and, through the shim, of ``gt corpus``."""
    if argv is not None:
        sys.argv = ["gt-corpus", *argv]
    run(app)


if __name__ == "__main__":
    main()
