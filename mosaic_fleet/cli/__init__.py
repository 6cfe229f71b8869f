"""The door at the terminal: nouns that are imported only when they run, and errors as two lines.

Only typer is imported here, so that `mosaic --help` stays as quick as a shell expects.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import mosaic_fleet

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("mosaic_fleet.cli.top:init_app", "Make key, database and schema ready, then look at Docker."),
    "status": ("mosaic_fleet.cli.top:status_app", "Show what is here."),
    "doctor": ("mosaic_fleet.cli.top:doctor_app", "Check everything Mosaic stands on."),
    "version": ("mosaic_fleet.cli.version:app", "Print the version."),
    "admin": ("mosaic_fleet.cli.admin:app", "Look after local administrators."),
    "provider": ("mosaic_fleet.cli.provider:app", "Manage the shared LLM providers of the fleet, or a user's own."),
    "agent": ("mosaic_fleet.cli.agent:app", "Manage the roster: the always-on agents of the fleet."),
    "fleet": ("mosaic_fleet.cli.fleet:app", "Deploy, watch, ask and remove the fleet."),
    "user": ("mosaic_fleet.cli.user:app", "Manage the people of the installation."),
    "gateway": ("mosaic_fleet.cli.gateway:app", "Start, stop and watch users' own gateways."),
    "reap": ("mosaic_fleet.cli.reap:app", "Put the gateways to sleep that idle."),
    "serve": ("mosaic_fleet.cli.serve:app", "Serve the web, and configs to containers that fetch them."),
    "config": ("mosaic_fleet.cli.config:app", "Read and change the settings of the installation."),
    "secrets": ("mosaic_fleet.cli.secrets:app", "Look after the keys that seal what is secret."),
    "audit": ("mosaic_fleet.cli.audit:app", "See who did what, and that nobody changed it."),
    "db": ("mosaic_fleet.cli.db:app", "Look after the database."),
}
PLURALS = {f"{name}s": name for name in ("admin", "provider", "agent", "user", "gateway", "config")} | {
    "secret": "secrets"
}
VERBS = {"ls": "list", "rm": "remove"}
ANYWHERE = {"--no-input", "--verbose", "-v"}  # options of `mosaic` itself that also work behind a verb


class Root(TyperGroup):
    """Lists stubs, imports a command only to run or complete it, and shows every error."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: _stub(name, line) for name, (_, line) in COMMANDS.items()})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options that work anywhere, and note whether errors are to be JSON."""
        end = _own_words(args)
        ctx.meta["json"] = "--json" in args[:end]
        moved = [word for word in args[:end] if word in ANYWHERE]
        rest = [word for word in args[:end] if word not in ANYWHERE]
        with _shown(ctx):
            return super().parse_args(ctx, [*(moved if rest else []), *rest, *args[end:]])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command of a name or its plural, and import it."""
        name, stub, rest = super().resolve_command(ctx, [PLURALS.get(args[0], args[0]), *args[1:]])
        return name, load(name) if name else stub, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error becomes two lines and an exit code."""
        with _shown(ctx):
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result


class Noun(TyperGroup):
    """A group of verbs that also answers to `ls` and `rm`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a verb by its name or alias."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, VERBS.get(cmd_name, cmd_name))


def noun(help: str) -> typer.Typer:
    """Make the group of a noun; without a verb it prints its help and exits with 2."""
    app = typer.Typer(cls=Noun, help=help, no_args_is_help=True, **_plain())
    app.callback()(lambda: None)  # keeps a noun with a single verb a group
    return app


def command() -> typer.Typer:
    """Make the holder of a command that has no noun."""
    return typer.Typer(**_plain())


def examples(*lines: str) -> str:
    """Lay out an epilog of commands to copy; every command has one."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def load(name: str) -> Any:
    """Import the command of a name in COMMANDS."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    loaded = typer.main.get_command(getattr(import_module(module), attribute))
    loaded.name = name
    return loaded


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="mosaic")


def _own_words(args: list[str]) -> int:
    """Count the words that are ours: up to `--`, or to the command that `fleet exec AGENT` hands on."""
    end = args.index("--") if "--" in args else len(args)
    names = [place for place, word in enumerate(args[:end]) if not word.startswith("-")]
    if [PLURALS.get(args[place], args[place]) for place in names[:2]] == ["fleet", "exec"] and len(names) > 2:
        return names[2] + 1
    return end


def _stub(name: str, line: str) -> TyperCommand:
    return TyperCommand(name, help=line, rich_markup_mode=None)


def _plain() -> dict[str, Any]:
    """Leave Rich out of help, and local variables (which may be secrets) out of tracebacks."""
    return {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}


@contextmanager
def _shown(ctx: Any) -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        from mosaic_fleet.cli.errors import show

        raise typer.Exit(show(error, as_json=ctx.meta["json"])) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mosaic {mosaic_fleet.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Root,
    help="Run a fleet of OpenClaw gateways for a team, on Docker Swarm.",
    epilog=examples("mosaic init", "mosaic agent import jarvis.yml", "mosaic fleet deploy"),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **(_plain() | {"add_completion": True}),
)


@app.callback()
def root(
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask; a missing value is an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Prepare what holds for every command."""
    from mosaic_fleet import logs
    from mosaic_fleet.cli import prompts

    logs.configure(verbose=verbose)
    prompts.configure(no_input=no_input)
