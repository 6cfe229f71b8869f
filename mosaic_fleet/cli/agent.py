"""`mosaic agent`: the roster."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import complete, examples, noun, prompts
from mosaic_fleet.cli.config_tokens import IfNotExists, Renew, TokenFile, hand_over
from mosaic_fleet.cli.output import Json, Quiet, QuietList, document, note, table
from mosaic_fleet.errors import Invalid
from mosaic_fleet.names import format_size, parse_size

app = noun("Manage the roster: the always-on agents of the fleet.")

NewName = Annotated[str, typer.Argument(help="The agent's name.")]
Name = Annotated[str, typer.Argument(help="The agent's name.", autocompletion=complete.agents)]
Role = Annotated[str | None, typer.Option("--role", help="What it is for; a label on its service.")]
Model = Annotated[str | None, typer.Option("--model", help="Its primary model ref, <provider>/<model id>.")]
Fallbacks = Annotated[list[str] | None, typer.Option("--fallback", help="A fallback model ref; repeat for more.")]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider", help="A provider it may use besides; repeat for more.", autocompletion=complete.providers
    ),
]
Personality = Annotated[Path | None, typer.Option("--personality-file", help="A text that becomes its SOUL.md.")]
Memory = Annotated[str | None, typer.Option("--memory", help="Its memory limit, for instance 2G.")]
Reservation = Annotated[str | None, typer.Option("--memory-reservation", help="The memory Swarm keeps free for it.")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="The cores it may use at most; 0 for no limit.")]
Schedules = Annotated[bool | None, typer.Option("--schedules/--no-schedules", help="Whether it may act on a schedule.")]
StackName = Annotated[
    str | None,
    typer.Option("--stack", help="The stack, where there is more than one.", autocompletion=complete.stacks),
]


@app.command(
    "add",
    epilog=examples(
        "mosaic agent add jarvis-writer --role writing --model zai/glm-5",
        "mosaic agent add scribe --stack office --model ollama/cogito --memory 3G",
        "mosaic agent add jarvis-research-2 --like jarvis-research",
    ),
)
def add(
    name: NewName,
    role: Role = None,
    model: Model = None,
    fallback: Fallbacks = None,
    provider: Providers = None,
    personality_file: Personality = None,
    memory: Memory = None,
    memory_reservation: Reservation = None,
    cpus: Cpus = None,
    schedules: Schedules = None,
    like: Annotated[str | None, typer.Option("--like", help="An agent from which it takes what is not given.")] = None,
    stack: StackName = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Do nothing when it is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add an agent. A new stack name makes a stack."""
    from mosaic_fleet import configuration
    from mosaic_fleet.fleet import agents

    mosaic = Mosaic.from_env()
    values = _values(role, model, fallback, provider, personality_file)
    values |= _sizes(memory, memory_reservation, cpus, schedules)
    with mosaic.db.transaction(system=True) as session:
        values = (agents.like(session, like) if like else {}) | values
        stack = stack or (agents.stack_of(session, like) if like else None)
        if stack and stack not in agents.stack_names(session):
            agents.put_stack(session, stack, configuration.values(session)["fleet.network"])
        changed = not (if_not_exists and agents.find(session, name))
        target = agents.get_stack(session, stack).name
        if changed:
            agents.add(session, mosaic.box, target, name, values)
    text = f"added {name} to stack {target}" if changed else f"unchanged {name}"
    document({"agent": name, "stack": target, "changed": changed}, text=text, json=json, quiet=quiet)
    if changed and not quiet:
        note("it starts with: mosaic fleet deploy")


@app.command("list", epilog=examples("mosaic agent list", "mosaic agent list --stack jarvis -q"))
def list_(stack: StackName = None, json: Json = False, quiet: QuietList = False) -> None:
    """List the agents."""
    with Mosaic.from_env().reads() as reads:
        rows = reads.agents(stack)
    columns = {
        "AGENT": lambda row: row.name,
        "STACK": lambda row: row.stack,
        "ROLE": lambda row: row.role,
        "MODEL": lambda row: row.primary_model,
        "MEMORY": lambda row: format_size(row.memory_limit),
        "SCHEDULES": lambda row: row.schedules,
        "ACTIVE": lambda row: row.is_active,
    }
    table("agents", rows, columns, json=json, quiet=quiet)


@app.command("show", epilog=examples("mosaic agent show jarvis-main", "mosaic agent show jarvis-main --json"))
def show(name: Name, json: Json = False) -> None:
    """Show one agent."""
    with Mosaic.from_env().reads() as reads:
        row = reads.agent(name)
    if json:
        document({"agent": row}, json=True)
        return
    document(
        {
            "name": row.name,
            "stack": row.stack,
            "role": row.role,
            "model": row.primary_model,
            "fallbacks": row.fallback_models,
            "providers": row.providers,
            "memory": f"{format_size(row.memory_limit)}, reserved {format_size(row.memory_reservation)}",
            "cpus": row.cpu_limit,
            "schedules": row.schedules,
            "image": row.image,
            "replicas": row.replicas,
            "node": row.node_id,
            "active": row.is_active,
            "changed": row.updated_at,
            "personality": row.personality,
        }
    )


@app.command(
    "set",
    epilog=examples(
        "mosaic agent set jarvis-research --memory 3G",
        "mosaic agent set jarvis-main --model zai/glm-5 --fallback ollama/cogito",
        "mosaic agent set jarvis-main --personality-file SOUL.md",
    ),
)
def set_(
    name: Name,
    role: Role = None,
    model: Model = None,
    fallback: Fallbacks = None,
    no_fallbacks: Annotated[bool, typer.Option("--no-fallbacks", help="Remove the fallbacks.")] = False,
    provider: Providers = None,
    no_providers: Annotated[bool, typer.Option("--no-providers", help="Remove the further providers.")] = False,
    personality_file: Personality = None,
    memory: Memory = None,
    memory_reservation: Reservation = None,
    cpus: Cpus = None,
    schedules: Schedules = None,
    node: Annotated[str | None, typer.Option("--node", help='The node that keeps its state. "" chooses anew.')] = None,
    active: Annotated[bool | None, typer.Option("--enable/--disable", help="Keep it in the fleet or not.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change an agent. It takes effect with the next deploy."""
    from mosaic_fleet.fleet import agents
    from mosaic_fleet.fleet.preflight import find_node

    mosaic = Mosaic.from_env()
    values = _values(role, model, fallback, provider, personality_file)
    values |= _sizes(memory, memory_reservation, cpus, schedules)
    values |= {"fallback_models": []} if no_fallbacks else {}
    values |= {"providers": []} if no_providers else {}
    values |= {} if active is None else {"is_active": active}
    values |= {} if node is None else {"node_id": find_node(mosaic.runtime, node).id if node else None}
    with mosaic.db.transaction(system=True) as session:
        changed = agents.set(session, name, values)
    text = f"changed {name}: {', '.join(changed)}" if changed else f"unchanged {name}"
    document({"agent": name, "changed": bool(changed), "fields": changed}, text=text, json=json, quiet=quiet)
    if changed and not quiet:
        note(f"it takes effect with: mosaic fleet deploy{' --prune' if active is False else ''}")


@app.command("remove", epilog=examples("mosaic agent remove jarvis-writer", "mosaic agent remove jarvis-writer --yes"))
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove an agent from the roster. Its memory stays in its volume."""
    from mosaic_fleet.fleet import agents

    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        agents.get(session, name)
    prompts.confirm(f"Remove agent {name} from the roster?", yes=yes)
    with mosaic.db.transaction(system=True) as session:
        agents.remove(session, name)
    document({"agent": name, "changed": True}, text=f"removed {name}", json=json, quiet=quiet)
    if not quiet:
        note("what runs of it ends with: mosaic fleet deploy --prune")


@app.command(
    "import",
    epilog=examples(
        "mosaic agent import stacks/jarvis.yml",
        "mosaic agent import ~/docker/openclaw --stack jarvis --dry-run",
        "mosaic agent import ~/docker/openclaw --stack jarvis --adopt --confirm jarvis",
    ),
)
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A roster file, or a hand-made fleet's folder.")],
    stack: Annotated[str | None, typer.Option("--stack", help="What a folder's stack is called.")] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take the folder's running services over, state and all.")
    ] = False,
    confirm: Annotated[str | None, typer.Option("--confirm", help="The stack's name, to take it over.")] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long a service may take to stop or start.")] = "10m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, write nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read agents from a roster file or a hand-made fleet.

    A fleet's folder has a compose file, env files and OpenClaw configs; keys and tokens are sealed on the way in.
    What is not understood is named. Providers are only added. A bad file writes nothing.
    """
    from mosaic_fleet.cli import imports

    how = imports.How(dry_run=dry_run, json=json, quiet=quiet)
    if source.is_dir() and adopt:
        imports.adopt(source, stack, how, imports.Consent(confirm, timeout))
    elif source.is_dir():
        imports.folder(source, stack, how)
    elif stack or adopt:
        raise Invalid("--stack and --adopt are for the folder of a hand-made fleet", hint="mosaic agent import DIR")
    else:
        imports.file(source, how)


@app.command(
    "config-token",
    epilog=examples(
        "mosaic agent config-token jarvis-far --token-file ./jarvis-far.token",
        "mosaic agent config-token jarvis-far | docker secret create jarvis-far-config -",
        "mosaic agent config-token jarvis-far --renew --json",
    ),
)
def config_token(
    name: Name,
    token_file: TokenFile = None,
    renew: Renew = False,
    if_not_exists: IfNotExists = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the token to fetch an agent's config. Shown once, for a container that pulls."""
    from mosaic_fleet.db.tables import now
    from mosaic_fleet.fleet import config_tokens

    hand_over(
        ("agent", name),
        lambda _, session: config_tokens.issue_system(session, name, now=now(), renew=renew),
        file=token_file,
        if_not_exists=if_not_exists,
        shown=(json, quiet),
    )


def _values(
    role: str | None,
    model: str | None,
    fallback: list[str] | None,
    provider: list[str] | None,
    personality: Path | None,
) -> dict[str, Any]:
    given: dict[str, Any] = {"role": role, "primary_model": model, "fallback_models": fallback, "providers": provider}
    if personality:
        given["personality"] = prompts.text_file(personality, flag="--personality-file")
    return {key: value for key, value in given.items() if value is not None}


def _sizes(memory: str | None, reservation: str | None, cpus: float | None, schedules: bool | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if memory is not None:
        values["memory_limit"] = parse_size(memory)
    if reservation is not None:
        values["memory_reservation"] = parse_size(reservation)
    if cpus is not None:
        values["cpu_limit"] = cpus or None
    if schedules is not None:
        values["schedules"] = schedules
    return values
