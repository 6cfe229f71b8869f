"""`mosaic secrets`: the keys that seal."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mosaic_fleet import env_file
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, noun, prompts
from mosaic_fleet.cli.output import Json, Quiet, document, note, progress, table
from mosaic_fleet.cli.spans import DAY, seconds
from mosaic_fleet.errors import Conflict, Invalid, NotFound, PartialFailure, RuntimeFailure

if TYPE_CHECKING:
    from mosaic_fleet.fleet.holdings import Mounted
    from mosaic_fleet.fleet.renewing import Ages
    from mosaic_fleet.keyring import Key, SealedCount

app = noun("Look after the keys that seal what is secret.")

_OLDEST = 3650 * DAY


@app.command("status", epilog=examples("mosaic secrets status", "mosaic secrets status --json"))
def status(json: Json = False) -> None:
    """Show every key, its age and its users, and what is stale. Needs MOSAIC_SECRET_KEY."""
    from mosaic_fleet import keyring
    from mosaic_fleet.fleet import fingerprints, renewing

    mosaic = _sealed()
    ring, counts = mosaic.box.ring, keyring.sealed_counts(mosaic.db)
    mounted, away = _mounted(mosaic)
    with mosaic.db.transaction(system=True) as session:
        rows = _ring_rows(keyring.keys(session), counts)
        rows += [
            {"what": one.what, "key": one.key, "since": one.since, "state": one.state, "used_by": one.agents}
            for one in fingerprints.fingerprints(session, mosaic.box, mounted)
        ]
        users = renewing.ages(session)
    if json:
        told = {"current": ring.current, "keys": sorted(ring.keys), "sealed": counts, "all": rows}
        document(told | {"user_tokens": users, "by_record": away is not None}, json=True)
        return
    rows += _user_rows(users)
    titles = {"WHAT": "what", "KEY": "key", "SINCE": "since", "STATE": "state", "USED BY": "used_by"}
    table("all", rows, {title: itemgetter(name) for title, name in titles.items()})
    if away:
        note(f"which agents run on what is by the record of deploys, not by what runs: {away}")
    if any(row["state"] in ("stale", "unknown") for row in rows):
        note("agents run on stale or unknown keys until: mosaic fleet deploy")


@app.command("rotate", epilog=examples("mosaic secrets rotate --dry-run", "mosaic secrets rotate"))
def rotate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sealed again, do nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Seal every value under a new data key. What was broken off is ended by the next run."""
    from mosaic_fleet import rotation

    mosaic = _sealed()
    if dry_run:
        columns = {"COLUMN": lambda row: row.column, "DATA KEY": lambda row: row.kid, "VALUES": lambda row: row.values}
        table("sealed", rotation.preview(mosaic.db), columns, json=json)
        return
    with progress() as show, _unopened_shown(json=json):
        done = rotation.rotate(
            mosaic.db, mosaic.settings.secret_key, lambda count, total: show(f"sealed {count:,} of {total:,} values")
        )
    gone = f"dropped {', '.join(done.dropped)}" if done.dropped else "no key was dropped"
    text = f"{'continued: ' if done.continued else ''}sealed {done.values} values under data key {done.kid}, {gone}"
    values = {"current": done.kid, "values": done.values, "continued": done.continued, "dropped": done.dropped}
    document({**values, "kept": done.kept, "changed": True}, text=text, json=json, quiet=quiet)
    if done.kept and not quiet:
        note(f"data key {', '.join(done.kept)} stays while older transactions run: mosaic secrets rotate ends it")


@app.command(
    "rekey",
    epilog=examples(
        "mosaic secrets rekey --new-key-file key",
        "mosaic secrets rekey --new-key-file key --write-env",
        "mosaic secrets rekey --finish --yes",
    ),
)
def rekey(
    new_key_file: Annotated[
        Optional[Path], typer.Option("--new-key-file", help="A file with the new MOSAIC_SECRET_KEY.")
    ] = None,
    write_env: Annotated[
        bool, typer.Option("--write-env", help="Put it into the env file, in the old one's place.")
    ] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Under the new key: shut the old one out.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change MOSAIC_SECRET_KEY. Both keys open everything until --finish; no value is sealed again."""
    if finish == bool(new_key_file) or (write_env and finish):
        raise Invalid("give either --new-key-file FILE or --finish", hint="mosaic secrets rekey --help")
    if finish:
        _finish_rekey(yes=yes, json=json, quiet=quiet)
        return
    from mosaic_fleet import rotation
    from mosaic_fleet.sealing import EnvironmentKey

    mosaic = _sealed()
    new = prompts.secret("new key", flags="--new-key", file=new_key_file).strip()
    place = mosaic.settings.env_file
    if write_env and mosaic.settings.secret_key_place != str(place):
        raise Conflict(f"the key in use stands in {mosaic.settings.secret_key_place}", hint="leave out --write-env")
    changed = rotation.rekey(mosaic.db, mosaic.settings.secret_key, new)
    if write_env:
        with env_file.alone(place.parent):
            env_file.put(place, "MOSAIC_SECRET_KEY", new)
    kid = EnvironmentKey(new).kid
    text = f"key {kid} opens the keyring too" if changed else f"unchanged, key {kid} opens the keyring already"
    document({"key": kid, "changed": changed, "written": write_env}, text=text, json=json, quiet=quiet)
    if not quiet and len(_environment_kids(mosaic)) > 1:
        where = (
            f"{place} has the new key"
            if write_env
            else f"put the new key in the old one's place, in {mosaic.settings.secret_key_place}"
        )
        note(f"{where}; start again what runs under the old one, then: mosaic secrets rekey --finish")


@app.command("verify", epilog=examples("mosaic secrets verify", "mosaic secrets verify --json"))
def verify(json: Json = False, quiet: Quiet = False) -> None:
    """Open every sealed value. Exit 9 names those that do not open: column, row and data key."""
    from mosaic_fleet import rotation

    mosaic = _sealed()
    _ = mosaic.box.ring
    with progress() as show, _unopened_shown(json=json):
        opened = rotation.verify(mosaic.db, mosaic.box, lambda count, total: show(f"opened {count:,} of {total:,}"))

    document({"opened": opened}, text=f"all {opened} sealed values open", json=json, quiet=quiet)


@app.command(
    "rotate-tokens",
    epilog=examples(
        "mosaic secrets rotate-tokens --agent jarvis-main",
        "mosaic secrets rotate-tokens --user ann --drain",
        "mosaic secrets rotate-tokens --all --older-than 30d --dry-run",
    ),
)
def rotate_tokens(
    agent: Annotated[Optional[list[str]], typer.Option("--agent", help="An agent; repeat for more.")] = None,
    user: Annotated[Optional[list[str]], typer.Option("--user", help="A user's gateway; repeat for more.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every agent of the roster and every user's gateway.")] = False,
    older_than: Annotated[
        Optional[str], typer.Option("--older-than", help="Only tokens older than this: 12h, 30d.")
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Have a user's busy gateway finish its turns, within gateways.stop_grace.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for each agent's health.")] = "10m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print whose turn would come, do nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give agents and users' gateways new tokens, one by one. Each is healthy before the next one's turn.

    A user's busy gateway is left for the next run, or drained. Exit 9 when tokens are left; with --all the others are
    renewed all the same.
    """
    from datetime import UTC, datetime, timedelta

    from mosaic_fleet.cli import renewals

    if bool(agent or user) == all_:
        raise Invalid("give --agent NAME, --user NAME or --all", hint="mosaic secrets rotate-tokens --help")
    age = timedelta(seconds=seconds(older_than, flag="--older-than", longest=_OLDEST)) if older_than else None
    limit = datetime.now(UTC) - age if age else None
    wanted = renewals.Wanted(None if all_ else agent or [], None if all_ else user or [], limit, drain=drain)
    span = seconds(timeout)
    mosaic = _sealed()
    if dry_run:
        renewals.show(renewals.planned(mosaic, wanted), json=json)
        return
    with progress() as show:
        found = renewals.renewed(mosaic, wanted, _Steps(show, quiet=quiet or json), timeout=span)
    renewals.tell(found, json=json, quiet=quiet)


@app.command("generate-key", epilog=examples("mosaic secrets generate-key > key", "mosaic secrets generate-key --json"))
def generate_key(json: Json = False) -> None:
    """Print a fresh value for MOSAIC_SECRET_KEY. Nothing is stored."""
    from mosaic_fleet.sealing import generate_key

    key = generate_key()
    document({"key": key}, text=key, json=json)


def _mounted(mosaic: Mosaic) -> "tuple[Mounted | None, str | None]":
    """Ask Docker which secrets agents have; None and the reason where it does not answer.

    A stack that was never deployed and has no agent pinned to a node was never on a Swarm: no need to ask.
    """
    from mosaic_fleet.fleet import holdings

    with mosaic.reads() as reads:
        pinned = {agent.stack for agent in reads.agents() if agent.node_id}
        stacks = [row.name for row in reads.stacks() if row.number is not None or row.name in pinned]
        install = reads.install_id()
    try:
        return (holdings.look(mosaic.runtime, install, stacks) if stacks else {}), None
    except RuntimeFailure as error:
        return None, error.message


def _ring_rows(keys: "list[Key]", counts: "list[SealedCount]") -> list[dict[str, Any]]:
    """Lay out the keyring: environment keys by age, then what they wrap."""
    wraps = sorted({item for key in keys for item in key.wraps.items()}, key=itemgetter(1))
    since = dict(reversed(wraps))
    newest = wraps[-1][0]
    rows: list[dict[str, Any]] = [
        {"what": "environment key", "key": kid, "since": when, "state": "current" if kid == newest else "replaced"}
        for kid, when in since.items()
    ]
    for key in keys:
        values = sum(count.values for count in counts if count.kid == key.kid)
        used = [f"{values} values"] if key.use == "data" else ["names of Docker objects"]
        state = "current" if key.is_current else "replaced"
        rows.append(
            {"what": f"{key.use} key", "key": key.kid, "since": key.created_at, "state": state, "used_by": used}
        )
    return [{"used_by": [], **row} for row in rows]


def _user_rows(ages: "Ages") -> list[dict[str, Any]]:
    """Tell of users' gateway tokens together: how many there are, and since when the oldest one is good."""
    if not ages.count:
        return []
    used = [f"{ages.count} gateways", f"{ages.running} running"]
    return [{"what": "tokens of users", "key": "oldest", "since": ages.oldest, "state": "current", "used_by": used}]


class _Steps:
    """Tells whose turn it is; while an agent becomes healthy one line is replaced."""

    def __init__(self, show: Callable[[str], None], *, quiet: bool) -> None:
        self._show = show
        self._quiet = quiet

    def step(self, text: str) -> None:
        """Print a step."""
        if not self._quiet:
            self._show("")
            note(text)

    def states(self, states: Mapping[str, Any]) -> None:
        """Show who is waited for."""
        waiting = [f"{agent} ({state.reason})" for agent, state in states.items() if not state.settled]
        if waiting and not self._quiet:
            self._show(f"waiting for {', '.join(waiting)}")


def _finish_rekey(*, yes: bool, json: bool, quiet: bool) -> None:
    from mosaic_fleet import rotation

    mosaic = _sealed()
    kids = _environment_kids(mosaic)
    if len(kids) > 1:
        prompts.confirm("Shut out every MOSAIC_SECRET_KEY but the one in use here?", yes=yes)
    dropped = rotation.finish_rekey(mosaic.db, mosaic.settings.secret_key)
    text = (
        f"key {', '.join(dropped)} opens nothing any more" if dropped else "unchanged, no other key opens the keyring"
    )
    document({"dropped": dropped, "changed": bool(dropped)}, text=text, json=json, quiet=quiet)


def _sealed() -> Mosaic:
    """Return a Mosaic that has a keyring; a look makes neither a database nor one."""
    mosaic = Mosaic.from_env()
    with mosaic.reads():
        if not _environment_kids(mosaic):
            raise NotFound("there is no keyring yet", hint="mosaic init")
    return mosaic


def _environment_kids(mosaic: Mosaic) -> list[str]:
    from mosaic_fleet import keyring

    return keyring.environment_kids(mosaic.db)


@contextmanager
def _unopened_shown(*, json: bool) -> Iterator[None]:
    """Print the values that do not open before the error that counts them."""
    try:
        yield
    except PartialFailure as failure:
        columns = {
            "COLUMN": lambda row: row.column,
            "ROW": lambda row: row.id,
            "DATA KEY": lambda row: row.kid or None,
            "REASON": lambda row: row.reason,
        }
        table("unopened", failure.rows, columns, json=json)
        raise
