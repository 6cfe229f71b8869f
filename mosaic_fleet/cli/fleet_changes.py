"""`mosaic fleet`: what changes the fleet day by day, and what shows the change before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Optional

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, complete, examples
from mosaic_fleet.cli.fleet_options import DryRun, Fresh, StackName
from mosaic_fleet.cli.fleet_report import Report, print_outcome
from mosaic_fleet.cli.output import NONE, Json, Quiet, ago, document, note, progress, table
from mosaic_fleet.cli.spans import seconds
from mosaic_fleet.errors import Invalid, PartialFailure

verbs = command()

DIFFERS = 10

Timeout = Annotated[str, typer.Option("--timeout", help="How long to wait for health: 90s, 10m.")]
Agents = Annotated[Optional[list[str]], typer.Argument(help="Names of agents.", autocompletion=complete.agents)]
_MARKS = {"change": "~", "add": "+", "remove": "-"}


@verbs.command(
    "diff", epilog=examples("mosaic fleet diff", "mosaic fleet diff --exit-code", "mosaic fleet diff --json")
)
def diff(
    stack: StackName = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 10 when something differs.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a deploy would change. Roster, last deploy and what really runs are compared; nothing is changed."""
    from mosaic_fleet.fleet import comparing

    mosaic = Mosaic.from_env()
    found = comparing.diff(mosaic.reads, mosaic.reading_box, mosaic.runtime, stack)
    values: dict[str, object] = {
        "stack": found.stack,
        "number": found.number,
        "status": found.status,
        "applies": found.applies,
    }
    values |= {"deployed_at": found.deployed_at, "differs": not found.is_empty, "agents": found.agents}
    document(values, text=_diff_text(found), json=json, quiet=quiet)
    if exit_code and not found.is_empty:
        raise typer.Exit(DIFFERS)


@verbs.command(
    "scale",
    epilog=examples("mosaic fleet scale jarvis-research=0", "mosaic fleet scale jarvis-research=1 jarvis-writer=1"),
)
def scale(
    targets: Annotated[list[str], typer.Argument(help="AGENT=0 stops an agent, AGENT=1 starts it.")],
    timeout: Timeout = "10m",
    fresh: Fresh = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop or start agents for good. The number is kept, also by the next deploy; other changes are left to that."""
    from mosaic_fleet.fleet import scaling
    from mosaic_fleet.fleet.options import Options

    wanted, options = _numbers(targets), Options(seconds(timeout), dry_run=dry_run, fresh=frozenset(fresh or []))
    with _fleet(quiet=quiet or json) as fleet:
        outcomes = scaling.scale(fleet, wanted, options)
    for outcome in outcomes:
        print_outcome(outcome, dry_run=dry_run, json=json, quiet=quiet)
        saved = [change.agent for change in outcome.changes if change.action == "save"]
        if saved and not (dry_run or quiet or json):
            note(f"kept for {', '.join(saved)}: it takes effect with mosaic fleet deploy --stack {outcome.stack}")


@verbs.command(
    "restart",
    epilog=examples(
        "mosaic fleet restart jarvis-main", "mosaic fleet restart --all", "mosaic fleet restart jarvis-main --now"
    ),
)
def restart(
    agents: Agents = None,
    all_: Annotated[bool, typer.Option("--all", help="Restart every agent of the stack.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not wait until an agent has finished its work.")] = False,
    timeout: Timeout = "10m",
    stack: StackName = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restart agents one by one. Each finishes its work first; the first that is not healthy ends it."""
    from mosaic_fleet.fleet import restarting

    if bool(agents) == all_:
        raise Invalid("name the agents to restart, or say --all", hint="mosaic fleet restart --all")
    options = restarting.Options(seconds(timeout), now, dry_run)
    try:
        with _fleet(quiet=quiet or json) as fleet:
            rows = restarting.restart(fleet, stack, agents or [], options)
    except PartialFailure as failure:
        _print_rows(failure.rows, json=json)
        raise
    if json or not quiet:
        _print_rows(rows, json=json)


@verbs.command(
    "push", epilog=examples("mosaic fleet push", "mosaic fleet push --dry-run", "mosaic fleet push --create-network")
)
def push(
    stack: StackName = None,
    create_network: Annotated[bool, typer.Option("--create-network", help="Make the network if it is absent.")] = False,
    fresh: Fresh = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make what the rendered stack file names. Then `docker stack deploy` or Portainer takes it as it is."""
    from mosaic_fleet.fleet import pushing
    from mosaic_fleet.fleet.options import Options

    options = Options(create_network=create_network, dry_run=dry_run, fresh=frozenset(fresh or []))
    with _fleet(quiet=quiet or json) as fleet:
        pushed = pushing.push(fleet, stack, options)
    verb = "would make" if dry_run else "made"
    lines = [f"{verb} {name}" for name in [*pushed.docker_objects, *pushed.volumes]]
    text = "\n".join(lines) or f"unchanged, all that {pushed.stack} names is there"
    changed = not pushed.is_empty and not dry_run
    document({"stack": pushed.stack, "made": pushed, "changed": changed}, text=text, json=json, quiet=quiet)
    if not quiet and not json and not dry_run:
        note(
            f"next:  mosaic fleet render --stack {pushed.stack} --out DIR"
            f"   docker stack deploy -c DIR/stack.yml {pushed.stack}"
        )


@verbs.command(
    "rollback",
    epilog=examples("mosaic fleet rollback", "mosaic fleet rollback --to 12", "mosaic fleet rollback --dry-run"),
)
def rollback(
    to: Annotated[Optional[int], typer.Option("--to", min=1, help="The number of the deploy to go back to.")] = None,
    stack: StackName = None,
    timeout: Timeout = "10m",
    fresh: Fresh = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go back to an earlier deploy, as a new one. The roster stays as it is: `mosaic fleet diff` shows it ahead."""
    from mosaic_fleet.fleet import rollbacks
    from mosaic_fleet.fleet.options import Options

    options = Options(seconds(timeout), dry_run=dry_run, fresh=frozenset(fresh or []))
    with _fleet(quiet=quiet or json) as fleet:
        outcome = rollbacks.go_back(fleet, stack, to, options)
    print_outcome(outcome, dry_run=dry_run, json=json, quiet=quiet)
    if not quiet and not json and not dry_run:
        note("the roster is as it was; what it would change again: mosaic fleet diff")


@verbs.command(
    "upgrade",
    epilog=examples(
        "mosaic fleet upgrade --image ghcr.io/openclaw/openclaw:2026.9.6",
        "mosaic fleet upgrade jarvis-research --image mosaic-openclaw:2026.9.6",
        "mosaic fleet upgrade --image mosaic-openclaw:2026.9.6 --dry-run",
    ),
)
def upgrade(
    image: Annotated[str, typer.Option("--image", help="The OpenClaw image to run.")],
    agent: Annotated[Optional[str], typer.Argument(help="An agent; without one, all of the stack.")] = None,
    stack: StackName = None,
    timeout: Timeout = "10m",
    fresh: Fresh = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run agents from another image, one first. Who does not get healthy with it runs the old one again."""
    from mosaic_fleet.configuration import REGISTRY
    from mosaic_fleet.fleet import upgrades
    from mosaic_fleet.fleet.options import Options

    try:
        REGISTRY["fleet.image"].parse(image)
    except Invalid as error:
        raise Invalid(f"--image {error.message}") from None
    options = Options(seconds(timeout), dry_run=dry_run, fresh=frozenset(fresh or []))
    with _fleet(quiet=quiet or json) as fleet:
        outcome = upgrades.upgrade(fleet, stack, agent, image, options)
    print_outcome(outcome, dry_run=dry_run, json=json, quiet=quiet)


@contextmanager
def _fleet(*, quiet: bool) -> Iterator[Any]:
    """Yield what a change of the fleet works with; it reports to standard error unless `quiet`."""
    from mosaic_fleet.fleet.deploying import Fleet

    mosaic = Mosaic.from_env()
    with progress() as show:
        yield Fleet(mosaic.db, mosaic.box, mosaic.runtime, Report(show, quiet=quiet))


def _numbers(targets: list[str]) -> dict[str, int]:
    """Read AGENT=N; raises Invalid."""
    found: dict[str, int] = {}
    for target in targets:
        name, sign, number = target.rpartition("=")
        if not sign or not name or not number.isdecimal() or len(number) > 4:
            raise Invalid(f"{target[:60]!r}: write AGENT=0 or AGENT=1", hint="mosaic fleet scale jarvis-research=0")
        if found.setdefault(name, int(number)) != int(number):
            raise Invalid(f"{name} is to be {found[name]} and {number}", hint="mosaic fleet scale jarvis-research=0")
    return found


def _print_rows(rows: list[Any], *, json: bool) -> None:
    columns = {
        "AGENT": lambda row: row.agent,
        "RESULT": lambda row: row.result,
        "SECONDS": lambda row: row.seconds,
        "REASON": lambda row: row.reason or None,
    }
    table("agents", rows, columns, json=json)


def _diff_text(found: Any) -> str:
    running = "never deployed"
    if found.number:
        again = f" (deploy {found.applies} again)" if found.applies else ""
        running = f"running: deploy {found.number}{again}, {ago(found.deployed_at)}"
        running += "" if found.status == "healthy" else f", {found.status}"
    lines = [cells for one in found.agents for cells in _diff_lines(one)]
    widths = [max((len(line[column]) for line in lines), default=0) for column in (0, 1)]
    shown = [f"{agent:<{widths[0]}}   {field:<{widths[1]}}   {rest}".rstrip() for agent, field, rest in lines]
    counts = (
        f"{found.count('change')} to change, {found.count('add')} to add, {found.count('remove')} to remove, "
        f"{found.count('unchanged')} unchanged"
    )
    return "\n".join([f"{f'stack {found.stack}':<48}{running}", *shown, counts])


def _diff_lines(one: Any) -> Iterator[tuple[str, str, str]]:
    if one.action == "add":
        yield f"+ {one.agent}", "new agent", ""
    if one.action == "remove":
        yield f"- {one.agent}", "not in the roster", "(ends with mosaic fleet deploy --prune)"
    for difference in one.differences:
        notes = [*difference.details, *(["changed by hand"] if difference.by_hand else [])]
        rest = f"{_brief(difference.old)} → {_brief(difference.new)}"
        yield f"~ {one.agent}", difference.field, f"{rest}   ({'; '.join(notes)})" if notes else rest


def _brief(value: str | None) -> str:
    if value is None:
        return NONE
    return value if len(value) <= 60 else f"{value[:57]}..."
