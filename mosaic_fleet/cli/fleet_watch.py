"""`mosaic fleet status` and `logs`: looking at the fleet, once or for as long as one likes."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, complete, examples
from mosaic_fleet.cli.fleet_options import StackName
from mosaic_fleet.cli.output import Json, QuietList, cleared, document, note, stream, table
from mosaic_fleet.cli.spans import seconds, spelled
from mosaic_fleet.errors import Invalid, MosaicError, NotFound
from mosaic_fleet.names import format_size

if TYPE_CHECKING:
    from mosaic_fleet.fleet.journal import Entry, Journal
    from mosaic_fleet.fleet.masking import Known
    from mosaic_fleet.fleet.status import AgentStatus

verbs = command()

_EVERY = "2"
_TAIL = 100
_MOST_LINES = 100_000
_MARKS = {"starting": "!", "failed": "✗"}
_MANY = 4  # Swarm remembers that many ended tasks beside the one that runs


class _Watching(TyperCommand):
    """A command whose `--watch` may stand without its seconds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the usual seconds behind a bare `--watch`."""
        for place in [place for place, word in enumerate(args) if word == "--watch"]:
            following = args[place + 1 : place + 2]
            if not following or following[0].startswith("-"):
                args = [*args[: place + 1], _EVERY, *args[place + 1 :]]
        return super().parse_args(ctx, args)


@verbs.command(
    "status",
    cls=_Watching,
    epilog=examples("mosaic fleet status", "mosaic fleet status --watch", "mosaic fleet status --no-memory --json"),
)
def status(
    stack: StackName = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Ask no container: quicker, without memory, OOM and last lines.")
    ] = False,
    watch: Annotated[
        Optional[float], typer.Option("--watch", metavar="[SECONDS]", help="Show it again and again until Ctrl-C.")
    ] = None,
    json: Json = False,
    quiet: QuietList = False,
) -> None:
    """Show how the agents are. Exit 0 also when one is not well."""
    mosaic = Mosaic.from_env()

    def show(before: Callable[[], None] = lambda: None) -> None:
        rows = _statuses(mosaic, stack, containers=not no_memory)
        before()
        table("agents", rows, _columns(rows), json=json, quiet=quiet)

    if watch is None:
        show()
        return
    if not 0.1 <= watch <= 3600:
        raise Invalid(f"--watch {watch:g}: from 0.1 to 3600 seconds")
    while True:
        show(lambda: cleared(json=json))
        if sys.stdout is not None:
            sys.stdout.flush()
        time.sleep(watch)


@verbs.command(
    "logs",
    epilog=examples(
        "mosaic fleet logs jarvis-main --since 10m", "mosaic fleet logs -f", "mosaic fleet logs --tail 0 --json"
    ),
)
def logs(
    agent: Annotated[
        Optional[list[str]],
        typer.Argument(help="The agents; without, all of them.", autocompletion=complete.agents),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    since: Annotated[Optional[str], typer.Option("--since", help="How far back: 90s, 10m, 3h.")] = None,
    tail: Annotated[
        Optional[int], typer.Option("--tail", help="At most so many lines of each; 0 for all. 100 without --since.")
    ] = None,
    with_replies: Annotated[
        bool, typer.Option("--with-replies", help="Show what agents answered, too; it is audited.")
    ] = False,
    stack: StackName = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Show what the agents wrote, in order of time. Secrets are stars; what may be an answer is left out."""
    after = _ago(seconds(since, flag="--since")) if since else ""
    if tail is not None and not 0 <= tail <= _MOST_LINES:
        raise Invalid(f"--tail {tail}: from 0, which is all, to {_MOST_LINES:,} lines")
    journal = _journal(Mosaic.from_env(), stack, agent or [], replies=with_replies)
    last = (None if since else _TAIL) if tail is None else tail
    try:
        for entry in journal.past(after=after, tail=last or None):
            _print_entry(entry, json=json)
        for entry in journal.follow(after=after) if follow else ():
            _print_entry(entry, json=json)
    finally:
        if journal.hidden:
            note(f"{journal.hidden} lines that may be answers are left out; --with-replies shows them, audited")


def _journal(mosaic: Mosaic, stack: str | None, agents: Sequence[str], *, replies: bool) -> "Journal":
    """Prepare to read: which stacks, which secrets are to be hidden, and the audit's line before anything is shown."""
    from mosaic_fleet.fleet import journal

    with mosaic.reads() as reads:
        install = reads.install_id()
        stacks = [row.name for row in reads.stacks() if stack in (None, row.name)]
    if not stacks:
        raise NotFound(f'no stack "{stack}"' if stack else "there is no stack", hint="mosaic status")
    if replies:
        with mosaic.db.transaction(system=True) as session:
            journal.note_replies(session, agents or stacks)
    return journal.Journal(mosaic.runtime, install, stacks, agents, replies, _Secrets(mosaic, stacks))


class _Secrets:
    """Tells what is to be hidden, as it is now; where that cannot be read, as it was, and says so once."""

    def __init__(self, mosaic: Mosaic, stacks: Sequence[str]) -> None:
        self._mosaic, self._stacks = mosaic, stacks
        self._known: Known = {}
        self._told = False

    def __call__(self) -> "Known":
        """Read it anew."""
        try:
            self._known = _known(self._mosaic, self._stacks)
        except MosaicError as error:
            if not self._told:
                what = "secrets that were known before are" if self._known else "what looks like a secret is"
                note(f"only {what} hidden: {error.message}")
            self._told = True
        return self._known


def _known(mosaic: Mosaic, stacks: Sequence[str]) -> "Known":
    from mosaic_fleet.fleet import masking

    with mosaic.reads() as reads:
        return masking.known(reads, mosaic.reading_box, stacks)


def _ago(span: float) -> str:
    """Write the time so many seconds ago as Docker does."""
    from datetime import UTC, datetime, timedelta

    return f"{datetime.now(UTC) - timedelta(seconds=span):%Y-%m-%dT%H:%M:%S.%f}000Z"


def _print_entry(entry: "Entry", *, json: bool) -> None:
    if json:
        document({"agent": entry.agent, "at": entry.at, "stream": entry.stream, "line": entry.text}, json=True)
        sys.stdout.flush()
    else:
        stream(f"{entry.agent} | {entry.text}\n")


def _statuses(mosaic: Mosaic, stack: str | None, *, containers: bool) -> "list[AgentStatus]":
    from datetime import UTC, datetime

    from mosaic_fleet.fleet.status import Asked
    from mosaic_fleet.fleet.status import status as agents_status

    with mosaic.reads() as reads:
        stacks, install = [row for row in reads.stacks() if stack in (None, row.name)], reads.install_id()
        roster = {row.name: reads.agents(row.name) for row in stacks}
    if stack and not stacks:
        raise NotFound(f'no stack "{stack}"', hint="mosaic status")
    asked = Asked(install, datetime.now(UTC), cache(partial(_known, mosaic, [row.name for row in stacks])), containers)
    return [agent for row in stacks for agent in agents_status(mosaic.runtime, row, roster[row.name], asked)]


def _columns(rows: "Sequence[AgentStatus]") -> "dict[str, Callable[[AgentStatus], object]]":
    columns: dict[str, Callable[[AgentStatus], object]] = {
        "AGENT": lambda row: row.agent,
        "ROLE": lambda row: row.role,
        "MODEL": lambda row: row.model,
        "REPLICAS": lambda row: f"{row.running}/{row.desired}",
        "HEALTH": _health,
        "MEM / LIMIT": _memory,
        "UP": lambda row: spelled(row.up),
        "CONFIG": _config,
    }
    if len({row.node for row in rows if row.node}) > 1:
        columns["NODE"] = lambda row: row.node
    if len({row.stack for row in rows}) > 1:
        columns["STACK"] = lambda row: row.stack
    return columns


def _health(row: "AgentStatus") -> str:
    mark = _MARKS.get(row.health)
    if row.reason:
        return f"{mark} {row.reason}" if row.health == "failed" else f"{mark} {row.health}: {row.reason}"
    return f"{mark} {row.health}" if mark else row.health


def _memory(row: "AgentStatus") -> str | None:
    if row.memory is None:
        return None
    used = format_size(row.memory >> 20 << 20)
    return f"{used} / {format_size(row.limit)}" if row.limit else used


def _config(row: "AgentStatus") -> str:
    if not row.restarts:
        return row.config
    count = f"{row.restarts}+" if row.restarts >= _MANY else str(row.restarts)
    why = f" ({row.restart_reason})" if row.restart_reason and row.restart_reason not in row.reason else ""
    return f"{row.config}, restarts {count}{why}"
