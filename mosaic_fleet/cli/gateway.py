"""`mosaic gateway`: users' own gateways. No logs and no exec: those are the owner's."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, noun
from mosaic_fleet.cli.config_tokens import IfNotExists, Renew, TokenFile, hand_over
from mosaic_fleet.cli.output import Json, Quiet, QuietList, document, note, table
from mosaic_fleet.errors import MosaicError, PartialFailure

if TYPE_CHECKING:
    from mosaic_fleet.db.gateway_reads import GatewayRow
    from mosaic_fleet.runtimes.gateway_base import GatewayRuntime

app = noun("Start, stop and watch users' own gateways.")

# As fleet.containers has it, which is slow to import.
Name = Annotated[str, typer.Argument(help="The user's name or e-mail.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and do nothing.")]
Timeout = Annotated[
    Optional[int], typer.Option("--timeout", min=0, help="Seconds it has to finish its turns; gateways.stop_grace.")
]
Force = Annotated[bool, typer.Option("--force", help="Kill it when that time is over: a turn in flight is cut.")]


@app.command("list", epilog=examples("mosaic gateway list", "mosaic gateway list -q", "mosaic gateway list --json"))
def list_(json: Json = False, quiet: QuietList = False) -> None:
    """List the gateways that users have asked for. A container that is not there shows as gone."""
    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        rows, install = reads.gateways(), reads.install_id()
    there = {} if quiet else _containers(mosaic, install)
    columns = {
        "USER": lambda row: row.user,
        "STATUS": lambda row: _status(row, there),
        "MODEL": lambda row: row.model,
        "CONFIG": _config,
        "STARTED": lambda row: row.started_at if row.has_started else None,
        "ACTIVE": lambda row: row.last_active_at,
        "REASON": lambda row: row.reason,
    }
    if json:
        document({"gateways": [vars(row) | {"container": there.get(row.container_name)} for row in rows]}, json=True)
        return
    table("gateways", rows, columns, quiet=quiet)


@app.command("show", epilog=examples("mosaic gateway show ann", "mosaic gateway show ann@example.com --json"))
def show(name: Name, json: Json = False) -> None:
    """Show one user's gateway and why it is awake or asleep. Its token, chats and files are the owner's."""
    from mosaic_fleet.cli import waking

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        row, install = reads.gateway(reads.user(name).id), reads.install_id()
        settings, at = reads.settings(), reads.clock()
    there = _containers(mosaic, install)
    told = waking.told(row, settings, waking.next_due(mosaic, row), at)
    if json:
        document({"gateway": vars(row) | vars(told) | {"container": there.get(row.container_name)}}, json=True)
        return
    document(
        {
            "user": row.user,
            "status": _status(row, there),
            "since": row.status_at,
            "reason": told.why,
            "model": row.model,
            "config": _config(row),
            "started": row.started_at,
            "last active": told.last_active,
            "idle timeout": told.idle_timeout,
            "next job": told.next_job,
            "sleeps": told.sleeps,
            "failures": row.failures,
            "not tried before": row.retry_at,
            "container": row.container_name,
        }
    )


@app.command("start", epilog=examples("mosaic gateway start ann", "mosaic gateway start ann --dry-run"))
def start(name: Name, dry_run: DryRun = False, json: Json = False, quiet: Quiet = False) -> None:
    """Start a user's gateway and wait for it. Also one that failed so often that nobody tries."""
    from mosaic_fleet.fleet import lifecycle

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        user = reads.user(name)
    if dry_run:
        _say(user.name, "would start", changed=lifecycle.running(mosaic.hosting, user.id) is None, json=json)
        return
    began = time.monotonic()
    found = lifecycle.ensure_running(mosaic.hosting, user.id, insist=True)
    took = f"started in {time.monotonic() - began:.1f} s"
    _say(user.name, took, changed=found.woken, json=json, quiet=quiet, url=found.url)


@app.command("stop", epilog=examples("mosaic gateway stop ann", "mosaic gateway stop ann --timeout 5 --force"))
def stop(
    name: Name,
    timeout: Timeout = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop a user's gateway once it has finished its turns. Its memory stays; the next request wakes it."""
    from mosaic_fleet.fleet import lifecycle

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        user = reads.user(name)
        alive = [row for row in reads.gateways() if row.user_id == user.id and row.status != "stopped"]
    if dry_run:
        _say(user.name, "would stop", changed=bool(alive), json=json)
        return
    changed = lifecycle.stop(mosaic.hosting, user.id, grace=timeout, force=force)
    _say(user.name, "stopped", changed=changed, json=json, quiet=quiet)


@app.command("restart", epilog=examples("mosaic gateway restart ann", "mosaic gateway restart ann --timeout 60"))
def restart(
    name: Name,
    timeout: Timeout = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop a user's gateway and start it afresh. Its turns end first, its memory stays."""
    from mosaic_fleet.fleet import lifecycle

    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        user = reads.user(name)
    if dry_run:
        _say(user.name, "would restart", changed=True, json=json)
        return
    found = lifecycle.restart(mosaic.hosting, user.id, grace=timeout, force=force)
    _say(user.name, "restarted", changed=True, json=json, quiet=quiet, url=found.url)


@app.command(
    "health", epilog=examples("mosaic gateway health", "mosaic gateway health --fix", "mosaic gateway health -q")
)
def health(
    fix: Annotated[bool, typer.Option("--fix", help="First put right what a crash or a reboot left.")] = False,
    json: Json = False,
    quiet: QuietList = False,
) -> None:
    """Ask the gateways that run how they are. Exit 9 when one is not well."""
    from mosaic_fleet.fleet import rounds

    mosaic = Mosaic.from_env()
    mended = rounds.reconcile(mosaic.hosting) if fix else []
    for one in mended:
        note(f"{one.user}: {'not put right: ' if one.failed else ''}{one.what}")
    rows = rounds.health_check_all(mosaic.hosting)
    columns = {
        "USER": lambda row: row.user,
        "STATUS": lambda row: row.status,
        "HEALTH": lambda row: row.health,
        "REASON": lambda row: row.reason,
    }
    table("gateways", rows, columns, json=json, quiet=quiet)
    rounds.check(mended)
    ill = [row.user for row in rows if not row.is_well]
    if ill:
        raise PartialFailure(
            f"{len(ill)} of {len(rows)} gateways are not well: {', '.join(ill)}",
            rows=rows,
            hint="mosaic gateway health --fix",
        )


@app.command(
    "config-token",
    epilog=examples(
        "mosaic gateway config-token ann --token-file ./ann.token",
        "mosaic gateway config-token ann --renew --json",
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
    """Make the token to fetch a user's config. Shown once, for a container that pulls."""
    from mosaic_fleet.db.tables import now
    from mosaic_fleet.fleet import config_tokens

    hand_over(
        ("user", name),
        lambda mosaic, session: config_tokens.issue_user(session, mosaic.box, name, now=now(), renew=renew),
        file=token_file,
        if_not_exists=if_not_exists,
        shown=(json, quiet),
    )


def _containers(mosaic: Mosaic, install: str) -> Mapping[str, str]:
    """Return the states of this installation's containers by name, in one call; none when Docker is away."""
    from mosaic_fleet.runtimes.base import INSTALL_LABEL
    from mosaic_fleet.runtimes.gateway_base import KIND_LABEL, USER_GATEWAY

    try:
        found = _engine(mosaic).containers({INSTALL_LABEL: install, KIND_LABEL: USER_GATEWAY})
    except MosaicError as error:
        note(f"{error.message}; this is what the database remembers")
        return {}
    return {one.name: one.state for one in found} | {"": "seen"}


def _engine(mosaic: Mosaic) -> "GatewayRuntime":
    """Return the runtime without what only changes need."""
    from mosaic_fleet.runtimes import endpoint
    from mosaic_fleet.runtimes.engine import EngineRuntime

    return EngineRuntime(endpoint.find(mosaic.settings))


def _status(row: "GatewayRow", there: Mapping[str, str]) -> str:
    """Say what it is; one whose container is not there, although it should be, is gone."""
    if not there or not row.has_started:
        return row.status
    seen = there.get(row.container_name, "")
    return seen if seen in ("running", "paused") else "gone"


def _config(row: "GatewayRow") -> str | None:
    if not row.has_started:
        return None
    return "stale" if row.is_stale else "current"


def _say(name: str, what: str, *, changed: bool, **shown: Any) -> None:
    url = shown.pop("url", None)
    values = {"user": name, "changed": changed} | ({"url": url} if url else {})
    document(values, text=f"{name} {what}" if changed else f"unchanged {name}", **shown)
