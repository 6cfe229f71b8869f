"""`mosaic fleet`: the roster's stack on the Swarm."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, fleet_changes, fleet_console, fleet_watch, noun, prompts
from mosaic_fleet.cli.fleet_options import AgentName, Downgrade, DryRun, Fresh, StackName
from mosaic_fleet.cli.fleet_report import Report, print_outcome
from mosaic_fleet.cli.output import Json, Quiet, document, progress, stream
from mosaic_fleet.cli.spans import seconds
from mosaic_fleet.errors import Invalid

app = noun("Deploy, watch, ask and remove the fleet.")


@app.command("render", epilog=examples("mosaic fleet render", "mosaic fleet render --out rendered"))
def render(
    stack: StackName = None,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="A folder for stack.yml and <agent>/openclaw.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Render the stack file and the agents' openclaw.json. They hold no secret and Docker is not asked."""
    from mosaic_fleet.fleet import stack as stacks

    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        roster = stacks.load(session, mosaic.box, stack)
    rendered = stacks.render(roster, mosaic.box)
    files = {"stack.yml": rendered.text} | {
        f"{agent}/openclaw.json": rendered.docker_configs[rendered.config_name(agent)] for agent in rendered.services
    }
    if out:
        _write(out, files)
    text = f"wrote {len(files)} files to {out}" if out else rendered.text.rstrip("\n")
    document({"stack": roster.stack, "files": sorted(files) if out else files}, text=text, json=json)


@app.command(
    "deploy",
    epilog=examples("mosaic fleet deploy", "mosaic fleet deploy --dry-run", "mosaic fleet deploy --timeout 5m"),
)
def deploy(
    stack: StackName = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for health: 90s, 10m.")] = "10m",
    prune: Annotated[bool, typer.Option("--prune", help="Remove agents that left the roster.")] = False,
    create_network: Annotated[bool, typer.Option("--create-network", help="Make the network if it is absent.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until the agents are healthy.")] = False,
    fresh: Fresh = None,
    downgrade: Downgrade = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring the Swarm to what the roster says. Waits until every agent is healthy."""
    from mosaic_fleet.fleet import deploying
    from mosaic_fleet.fleet.options import Options

    mosaic = Mosaic.from_env()
    options = Options(
        seconds(timeout),
        prune,
        create_network,
        dry_run,
        detach,
        fresh=frozenset(fresh or []),
        downgrade=frozenset(downgrade or []),
    )
    with progress() as show:
        fleet = deploying.Fleet(mosaic.db, mosaic.box, mosaic.runtime, Report(show, quiet=quiet or json))
        outcome = deploying.deploy(fleet, stack, options)
    print_outcome(outcome, dry_run=dry_run, json=json, quiet=quiet)


@app.command(
    "ask",
    epilog=examples('mosaic fleet ask jarvis-main "What is on today?"', "mosaic fleet ask jarvis-main - < question"),
)
def ask(
    agent: AgentName,
    text: Annotated[str, typer.Argument(help="What to ask; - reads standard input.")],
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait until it has started.")] = "3m",
    json: Json = False,
) -> None:
    """Ask an agent something in a fresh conversation. Its answer comes on standard output as it is written."""
    from mosaic_fleet.fleet import gateway

    mosaic = Mosaic.from_env()
    question, wait = _question(text), seconds(timeout)
    with mosaic.reads() as reads:
        to = gateway.Address(reads.install_id(), reads.agent(agent).stack, agent)
    answer = gateway.ask(mosaic.runtime, to, question, timeout=wait)
    if json:
        document({"agent": agent, "answer": "".join(answer)}, json=True)
        return
    for part in answer:
        stream(part)
    stream("\n")


@app.command("rm", epilog=examples("mosaic fleet rm --yes", "mosaic fleet rm --volumes --confirm jarvis"))
def rm(
    stack: StackName = None,
    volumes: Annotated[bool, typer.Option("--volumes", help="Remove the agents' memory too.")] = False,
    confirm: Annotated[Optional[str], typer.Option("--confirm", help="The stack's name, to remove volumes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long agents may take to finish.")] = "10m",
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take the fleet off the Swarm. The roster stays, and the agents' memory unless --volumes says otherwise."""
    from mosaic_fleet.fleet import agents, removing

    options = removing.Options(volumes, dry_run, seconds(timeout))
    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        name = agents.get_stack(session, stack).name
    if volumes and not dry_run:
        prompts.confirm_name(name, what=f"This removes the memory of every agent of {name}", given=confirm)
    elif not dry_run:
        prompts.confirm(f"Take stack {name} off the Swarm?", yes=yes)
    removed = removing.remove(mosaic.db, mosaic.runtime, name, options)
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {item}" for item in [*removed.services, *removed.volumes]]
    lines += [f"{verb} {len(removed.docker_objects)} Docker configs and secrets"] if removed.docker_objects else []
    text = "\n".join(lines) or f"unchanged, nothing of {name} is there"
    changed = not removed.is_empty and not dry_run
    document({"stack": name, "removed": removed, "changed": changed}, text=text, json=json, quiet=quiet)


for part in (fleet_changes, fleet_watch, fleet_console):
    app.registered_commands += part.verbs.registered_commands


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise Invalid(f"--out: {folder} cannot be written: {error.strerror}") from error


def _question(text: str) -> str:
    question = _piped() if text == "-" else text
    if not question.strip():
        raise Invalid("the question is empty")
    return question


def _piped() -> str:
    if sys.stdin is None:
        raise Invalid("standard input is closed, there is no question", hint="mosaic fleet ask AGENT - < question")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("the question on standard input is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"standard input cannot be read: {error}") from error
