"""`mosaic config`: the settings of the installation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import carrying, examples, noun, prompts, spans
from mosaic_fleet.cli.output import Json, Quiet, QuietList, document, note, table
from mosaic_fleet.errors import Invalid

if TYPE_CHECKING:
    from sqlmodel import Session

    from mosaic_fleet.configuration import Value

app = noun("Read and change the settings of the installation.")

Key = Annotated[str, typer.Argument(help="The setting, for instance fleet.image.")]


@app.command("get", epilog=examples("mosaic config get fleet.image", "mosaic config get fleet.image --json"))
def get(key: Key, json: Json = False) -> None:
    """Print one setting's value. A secret one is never shown."""
    from mosaic_fleet import configuration

    one = next((value for value in _values() if value.key == key), None)
    if one is None:
        configuration.find(key)
        return
    text = one.value if not one.secret else "not set" if one.origin == "default" else "set"
    document({"key": key, "value": one.value, "origin": one.origin, "by": one.by, "at": one.at}, text=text, json=json)


@app.command("list", epilog=examples("mosaic config list", "mosaic config list --json"))
def list_(json: Json = False, quiet: QuietList = False) -> None:
    """List the settings: each value, its origin, and who set it when."""
    columns = {
        "KEY": lambda one: one.key,
        "VALUE": lambda one: "(secret)" if one.secret and one.origin != "default" else one.value,
        "ORIGIN": lambda one: one.origin,
        "BY": lambda one: one.by,
        "AT": lambda one: one.at,
    }
    table("settings", _values(), columns, json=json, quiet=quiet)


@app.command(
    "history", epilog=examples("mosaic config history fleet.image", "mosaic config history fleet.image --json")
)
def history(key: Key, json: Json = False) -> None:
    """List who changed a setting, the newest change first."""
    from mosaic_fleet import configuration

    configuration.find(key)
    with Mosaic.from_env().reads() as reads:
        rows = reads.audit_of(key, "config.")
    columns = {
        "AT": lambda row: row.at,
        "BY": lambda row: row.actor,
        "CHANGE": lambda row: row.verb.removeprefix("config."),
        "VALUE": lambda row: row.details.get("value"),
    }
    table("changes", rows, columns, json=json)


@app.command(
    "set",
    epilog=examples(
        "mosaic config set fleet.image ghcr.io/openclaw/openclaw:2026.9.6", "mosaic config set fleet.stop_grace 60"
    ),
)
def set_(
    key: Key,
    value: Annotated[str | None, typer.Argument(help="Its new value.")] = None,
    value_stdin: Annotated[bool, typer.Option("--value-stdin", help="Read it from standard input.")] = False,
    value_file: Annotated[Path | None, typer.Option("--value-file", help="Read it from a file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change a setting. Those of the fleet take effect with the next deploy, its network with the next new stack.

    Users' gateways that run with it are restarted, at once or when they are idle; the walls around them follow at once.
    """
    from mosaic_fleet import configuration

    setting = configuration.find(key)
    if value is not None and (value_stdin or value_file):
        raise Invalid("a value and --value-stdin or --value-file exclude each other")
    if value is not None and setting.secret:
        hint = f"mosaic config set {key} --value-stdin"
        raise Invalid(f'setting "{key}" is secret: a command line can be read by others', hint=hint)
    if value is None:
        value = prompts.secret(f"Value of {key}", flags="--value", from_stdin=value_stdin, file=value_file)
    mosaic = Mosaic.from_env()
    box = mosaic.box if setting.secret else None
    with mosaic.db.transaction(system=True) as session:
        changed = configuration.set(session, key, value, box=box)
        follows = _gateways_follow(session, key) if changed else False
    if changed:
        carrying.put_up_walls(mosaic, key, quiet=quiet)
    outcomes = carrying.refresh(mosaic) if follows else []
    text = f"changed {key}" if changed else f"unchanged {key}"
    shown = None if setting.secret else value
    told = {"key": key, "value": shown, "changed": changed} | ({"gateways": outcomes} if follows else {})
    document(told, text=text, json=json, quiet=quiet)
    if changed and not quiet:
        _tell(setting.effect)
    if changed and key == "gateways.idle_timeout":
        spans.warn_of_short(setting.parse(value))
    carrying.tell(outcomes, quiet=quiet)


@app.command("unset", epilog=examples("mosaic config unset fleet.image", "mosaic config unset fleet.stop_grace -q"))
def unset(key: Key, json: Json = False, quiet: Quiet = False) -> None:
    """Return a setting to its default."""
    from mosaic_fleet import configuration

    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        changed = configuration.unset(session, key)
        follows = _gateways_follow(session, key) if changed else False
    if changed:
        carrying.put_up_walls(mosaic, key, quiet=quiet)
    outcomes = carrying.refresh(mosaic) if follows else []
    text = f"changed {key}" if changed else f"unchanged {key}"
    told = {"key": key, "changed": changed} | ({"gateways": outcomes} if follows else {})
    document(told, text=text, json=json, quiet=quiet)
    carrying.tell(outcomes, quiet=quiet)


def _values() -> "list[Value]":
    from mosaic_fleet import configuration

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        return configuration.origins(mosaic.settings, reads.settings())


def _gateways_follow(session: "Session", key: str) -> bool:
    """Note that users' gateways run with something else than this setting says by now, where it is one of theirs."""
    from mosaic_fleet.fleet import containers, personal

    if key not in personal.SETTINGS:
        return False
    containers.mark_stale(session)
    return True


def _tell(effect: str) -> None:
    if effect == "next deploy":
        note("it takes effect with: mosaic fleet deploy")
    elif effect == "new stacks":
        note("it counts for stacks made from now on; one that is there: network: in its roster file, then import it")
    elif effect == "restart":
        note("it takes effect when mosaic serve is started again")
