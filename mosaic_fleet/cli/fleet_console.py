"""`mosaic fleet exec` and `login`: a command in an agent's container, on one's own terminal."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, Optional

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import command, complete, examples, prompts
from mosaic_fleet.cli.fleet_options import AgentName
from mosaic_fleet.cli.output import Json, document, note
from mosaic_fleet.errors import Invalid

verbs = command()


@verbs.command(
    "exec",
    epilog=examples(
        "mosaic fleet exec jarvis-main -- openclaw models status",
        "mosaic fleet exec jarvis-main bash",
        "mosaic fleet exec jarvis-main -- sh -c 'cat > notes' < notes",
    ),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def exec_(
    agent: AgentName,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The command and its words.")],
) -> None:
    """Run a command in an agent's container. Exit code and streams are the command's; it is audited."""
    from mosaic_fleet.fleet import consoles
    from mosaic_fleet.runtimes.base import Streams

    words = words[1:] if words[0] == "--" else words
    if not words:
        raise Invalid("there is no command", hint=f"mosaic fleet exec {agent} -- COMMAND")
    mosaic = Mosaic.from_env()
    container = _container(mosaic, agent)
    with mosaic.db.transaction(system=True) as session:
        consoles.note_command(session, agent, words)
    with _ended_by_signals(), _open_streams():
        code = mosaic.runtime.attach(container, words, Streams(), terminal=_on_terminal())
    raise typer.Exit(code)


@verbs.command(
    "login",
    epilog=examples(
        "mosaic fleet login jarvis-main",
        "mosaic fleet login jarvis-main --provider openai",
        "mosaic fleet login jarvis-main --provider anthropic --method setup-token",
    ),
)
def login(
    agent: AgentName,
    provider: Annotated[
        Optional[str],
        typer.Option(
            "--provider", help="Where; without, the one that it uses by login.", autocompletion=complete.providers
        ),
    ] = None,
    method: Annotated[Optional[str], typer.Option("--method", help="How, in OpenClaw's words: device-code, …")] = None,
    force: Annotated[bool, typer.Option("--force", help="Remove the provider's profiles first.")] = False,
    json: Json = False,
) -> None:
    """Log an agent in at a provider. It needs a terminal; what is saved lies in the agent's state."""
    from mosaic_fleet.db.reads import SYSTEM_OWNER
    from mosaic_fleet.fleet import consoles
    from mosaic_fleet.runtimes.base import Streams

    if not (_on_terminal() and prompts.can_ask()):
        raise Invalid("a login is a conversation and needs a terminal", hint=f"ssh -t HOST mosaic fleet login {agent}")
    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        provider = provider or consoles.login_provider(reads.agent(agent), reads.providers(SYSTEM_OWNER))
    container, wanted = _container(mosaic, agent), consoles.Login(provider, method, force)
    outcome = "failed"
    try:
        with _ended_by_signals():
            done = consoles.login(mosaic.runtime, container, wanted, Streams())
        outcome = "done"
    finally:
        with mosaic.db.transaction(system=True) as session:
            consoles.note_login(session, agent, provider, outcome=outcome)
    names = ", ".join(f"{one.get('id')} ({one.get('type')})" for one in done.profiles)
    values = {"agent": agent, "provider": provider, "profiles": done.profiles, "changed": done.changed}
    document(values, text=f"{agent} is logged in: {names}", json=json)
    if done.exit_code and not json:
        note("OpenClaw could not write its config, which is Mosaic's: the login itself is saved")


def _container(mosaic: Mosaic, agent: str) -> str:
    from mosaic_fleet.fleet import consoles, gateway

    with mosaic.reads() as reads:
        to = gateway.Address(reads.install_id(), reads.agent(agent).stack, agent)
    return consoles.container(mosaic.runtime, to)


def _on_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


@contextmanager
def _open_streams() -> Iterator[None]:
    """Put an empty file where a stream is closed: a command's would land in whatever is opened next."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make a closed terminal and a polite kill an exception, so that what runs in the container is ended too.

    A second one, as shells send it behind the kernel's, does not break that off.
    """
    numbers = (signal.SIGHUP, signal.SIGTERM)

    def end(number: int, frame: Any) -> NoReturn:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
