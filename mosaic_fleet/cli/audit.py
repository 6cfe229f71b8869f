"""`mosaic audit`: who did what, and the proof that nobody changed it afterwards."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, noun
from mosaic_fleet.cli.output import Json, Quiet, document, note, table
from mosaic_fleet.errors import PartialFailure

app = noun("See who did what, and that nobody changed it.")


@app.command(
    "list",
    epilog=examples(
        "mosaic audit list --since 24h", "mosaic audit list --verb user --actor cli:root", "mosaic audit list --page 2"
    ),
)
def list_(
    since: Annotated[str | None, typer.Option("--since", help="2026-11-24, a full time, or 90m, 24h, 7d ago.")] = None,
    actor: Annotated[str, typer.Option("--actor", help="Who did it, for instance cli:root.")] = "",
    verb: Annotated[str, typer.Option("--verb", help="What was done: user.add, or user for all its verbs.")] = "",
    page: Annotated[int, typer.Option("--page", min=1, help="The page; behind the last one the last.")] = 1,
    per_page: Annotated[int, typer.Option("--per-page", min=1, max=1000, help="Rows on a page.")] = 50,
    json: Json = False,
) -> None:
    """List what was done, the newest first."""
    import json as jsonlib

    from mosaic_fleet.identity import audit

    begin = audit.moment(since, now=datetime.now(UTC)) if since else None
    with Mosaic.from_env().reads() as reads:
        found = reads.audit(page=page, per_page=per_page, since=begin, actor=actor, verb=verb)
    if json:
        document({"audit": found.rows, "page": found.page, "pages": found.pages, "total": found.total}, json=True)
        return
    columns = {
        "ID": lambda row: row.id,
        "AT": lambda row: row.at,
        "ACTOR": lambda row: row.actor,
        "VERB": lambda row: row.verb,
        "OBJECT": lambda row: row.object,
        "OUTCOME": lambda row: row.outcome,
        "DETAILS": lambda row: jsonlib.dumps(row.details, ensure_ascii=False) if row.details else None,
    }
    table("audit", found.rows, columns)
    if found.pages > 1:
        note(f"page {found.page} of {found.pages}, {found.total} rows: --page N shows another")


@app.command("verify", epilog=examples("mosaic audit verify", "mosaic audit verify --json"))
def verify(
    head: Annotated[
        str | None, typer.Option("--head", help="A head printed earlier, which must still be there.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that no row was edited, removed or moved. Keep the head it prints elsewhere."""
    from mosaic_fleet.identity import audit

    with Mosaic.from_env().reads() as reads:
        verdict = audit.verify(reads, head=head)
    values = {"rows": verdict.rows, "head": verdict.head}
    if json:
        document({**values, "faults": verdict.faults}, json=True)
    elif verdict.faults:
        table("faults", verdict.faults, {"ROW": lambda fault: fault.row, "FAULT": lambda fault: fault.what})
    else:
        document(values, quiet=quiet)
    if verdict.faults:
        first = verdict.faults[0]
        which = "" if first.row is None else f"row {first.row} "
        raise PartialFailure(f"the audit was changed: {which}{first.what}", rows=verdict.faults)
