"""`mosaic reap`: puts idle gateways to sleep, for cron and for people who want to know why."""

import time
from collections import Counter
from typing import Annotated, Any

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, examples
from mosaic_fleet.cli.output import Json, Quiet, document, note, table

app = command()


@app.command(
    epilog=examples(
        "mosaic reap --explain",
        "mosaic reap --dry-run --explain",
        "mosaic reap -q",
    )
)
def reap(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell which idle for long enough; ask no gateway, stop none.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Tell of every gateway that is awake why it is.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop the gateways that idle and have nothing to do. The next request wakes them; for cron with -q."""
    from mosaic_fleet.db.tables import now
    from mosaic_fleet.fleet import reaping

    began = time.monotonic()
    rows = reaping.reap(Mosaic.from_env().hosting, now(), dry_run=dry_run)
    if rows is None:
        _say([], quiet=quiet, json=json, text="another reaper is at it", another=True, changed=False)
        return
    counts = Counter(row.outcome for row in rows)
    told = [row for row in rows if explain or row.outcome != "kept"]
    text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no gateway is awake"
    text = f"{text}, {time.monotonic() - began:.1f} s"
    changed = any(row.is_changed for row in rows)
    _say(told, quiet=quiet, json=json, text=text, another=False, changed=changed, counts=counts)
    reaping.check(rows)


def _say(rows: Any, *, quiet: bool, json: bool, text: str, **values: Any) -> None:
    if json:
        document({"gateways": rows, **values}, json=True)
    elif not quiet:
        columns = {
            "OUTCOME": lambda row: row.outcome,
            "USER": lambda row: row.user,
            "REASON": lambda row: row.told,
            "NEXT JOB": lambda row: row.next_due_at,
        }
        table("gateways", rows, columns)
        note(text)
