"""`mosaic user`: the people of the installation."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import carrying, examples, noun, prompts, spans
from mosaic_fleet.cli.output import Json, Quiet, QuietList, document, note, table
from mosaic_fleet.errors import PartialFailure

if TYPE_CHECKING:
    from mosaic_fleet.identity.importing import Imported

_YEAR = 366 * spans.DAY

app = noun("Manage the people of the installation.")

Name = Annotated[str, typer.Argument(help="The user's name or e-mail.")]
DisplayName = Annotated[str | None, typer.Option("--display-name", help="The name people see.")]
Role = Annotated[str | None, typer.Option("--role", help="member or admin.")]
Local = Annotated[
    bool | None, typer.Option("--local/--not-local", help="Known to Mosaic alone, or an issuer vouches for them.")
]


@app.command(
    "add",
    epilog=examples(
        "mosaic user add ann --email ann@example.com",
        'mosaic user add bob --email bob@example.com --role admin --display-name "Bob B."',
    ),
)
def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, and inner dots, - and _.")],
    email: Annotated[str, typer.Option("--email", help="Their e-mail; capitals make no difference.")],
    role: Role = None,
    display_name: DisplayName = None,
    local: Local = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Do nothing when it is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add a user, as a member unless told otherwise."""
    from mosaic_fleet.identity import users

    values = _given(email=email, role=role, display_name=display_name, is_local=local)
    with Mosaic.from_env().db.transaction(system=True) as session:
        changed = not (if_not_exists and users.find(session, name))
        if changed:
            users.add(session, name, values)
    text = f"added {name}" if changed else f"unchanged {name}"
    document({"user": name, "changed": changed}, text=text, json=json, quiet=quiet)


@app.command(
    "list",
    epilog=examples("mosaic user list", "mosaic user list --search example.com --page 2", "mosaic user list -q"),
)
def list_(
    search: Annotated[str, typer.Option("--search", help="A part of a name or an e-mail.")] = "",
    page: Annotated[int, typer.Option("--page", min=1, help="The page; behind the last one the last.")] = 1,
    per_page: Annotated[int, typer.Option("--per-page", min=1, max=1000, help="Users on a page.")] = 50,
    json: Json = False,
    quiet: QuietList = False,
) -> None:
    """List the users by name, a page at a time."""
    with Mosaic.from_env().reads() as reads:
        found = reads.users(page=page, per_page=per_page, search=search)
    if json:
        document({"users": found.users, "page": found.page, "pages": found.pages, "total": found.total}, json=True)
        return
    columns = {
        "NAME": lambda row: row.name,
        "DISPLAY NAME": lambda row: row.display_name,
        "EMAIL": lambda row: row.email,
        "ROLE": lambda row: row.role,
        "LOCAL": lambda row: row.is_local,
        "ACTIVE": lambda row: row.deactivated_at is None,
        "CREATED": lambda row: row.created_at,
    }
    table("users", found.users, columns, quiet=quiet)
    if found.pages > 1 and not quiet:
        note(f"page {found.page} of {found.pages}, {found.total} users: --page N shows another")


@app.command("show", epilog=examples("mosaic user show ann", "mosaic user show ann@example.com --json"))
def show(name: Name, json: Json = False) -> None:
    """Show one user and what they prefer for their gateway."""
    with Mosaic.from_env().reads() as reads:
        row = reads.user(name)
        preferred = reads.preferences(row.id)
    if json:
        document({"user": row, "preferences": preferred}, json=True)
        return
    document(
        {
            "name": row.name,
            "display name": row.display_name,
            "email": row.email,
            "role": row.role,
            "local": row.is_local,
            "active": row.deactivated_at is None,
            "deactivated": row.deactivated_at,
            "created": row.created_at,
            "changed": row.updated_at,
            "model": preferred.primary_model,
            "fallbacks": preferred.fallback_models,
            "provider": preferred.provider,
            "personality": f"{preferred.personality_length} characters" if preferred.personality_length else None,
            "schedules": preferred.schedules,
        }
    )


@app.command(
    "set",
    epilog=examples(
        "mosaic user set ann --role admin",
        "mosaic user set ann --model zai/glm-5 --fallback ollama/cogito --personality-file SOUL.md",
        "mosaic user set ann@example.com --email ann@example.org --idle-timeout 2d",
    ),
)
def set_(
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    email: Annotated[str | None, typer.Option("--email", help="A new e-mail.")] = None,
    role: Role = None,
    display_name: DisplayName = None,
    local: Local = None,
    model: Annotated[str | None, typer.Option("--model", help='The model ref preferred; "" for none.')] = None,
    fallback: Annotated[list[str] | None, typer.Option("--fallback", help="A model ref; repeat for more.")] = None,
    no_fallbacks: Annotated[bool, typer.Option("--no-fallbacks", help="Remove the fallbacks.")] = False,
    provider: Annotated[str | None, typer.Option("--provider", help='The default provider; "" for none.')] = None,
    personality_file: Annotated[Path | None, typer.Option("--personality-file", help="The text of SOUL.md.")] = None,
    no_personality: Annotated[bool, typer.Option("--no-personality", help="Remove the personality.")] = False,
    schedules: Annotated[
        bool | None, typer.Option("--schedules/--no-schedules", help="Let their gateway run scheduled jobs.")
    ] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(
            "--idle-timeout", help='Time their gateway may idle, such as 45m or 2d; 0 never, "" as set for all.'
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change a user, or what they prefer. Models and providers are the user's own.

    A gateway of theirs that runs is restarted for it, at once or when it is idle.
    """
    from mosaic_fleet.fleet import preferences
    from mosaic_fleet.identity import users

    minutes = None if idle_timeout is None else _minutes(idle_timeout)
    values = _given(name=new_name, email=email, role=role, display_name=display_name, is_local=local)
    preferred = _given(primary_model=model, fallback_models=fallback, provider=provider, schedules=schedules)
    preferred |= {"primary_model": None} if model == "" else {}
    preferred |= {"fallback_models": []} if no_fallbacks else {}
    preferred |= {"personality": None} if no_personality else {}
    if personality_file:
        preferred["personality"] = prompts.text_file(personality_file, flag="--personality-file")
    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        changed = users.set(session, name, values)
        user = users.get(session, new_name or name).id
        wanted = preferences.set(session, user, preferred) if preferred else []
        changed += wanted
        if idle_timeout is not None:
            changed += _set_idle_timeout(mosaic, session, user, minutes)
    outcomes = carrying.refresh(mosaic, user) if wanted else []
    text = f"changed {name}: {', '.join(changed)}" if changed else f"unchanged {name}"
    told = {"user": name, "changed": bool(changed), "fields": changed} | ({"gateways": outcomes} if preferred else {})
    document(told, text=text, json=json, quiet=quiet)
    carrying.tell(outcomes, quiet=quiet)


@app.command("disable", epilog=examples("mosaic user disable ann", "mosaic user disable ann@example.com -q"))
def disable(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """Deactivate a user and stop their gateway in seconds. What is theirs stays. Never the last administrator."""
    from mosaic_fleet.db.tables import now
    from mosaic_fleet.identity import users

    mosaic = Mosaic.from_env()
    with mosaic.db.transaction(system=True) as session:
        changed = users.disable(session, name, now=now())
    _stop_gateway(mosaic, name)
    text = f"disabled {name}" if changed else f"unchanged {name}"
    document({"user": name, "changed": changed}, text=text, json=json, quiet=quiet)


def _set_idle_timeout(mosaic: Mosaic, session: Any, user: Any, minutes: int | None) -> list[str]:
    from mosaic_fleet.fleet import containers

    spans.warn_of_short(minutes)
    return ["idle_timeout_min"] if containers.set_idle_timeout(session, mosaic.box, user, minutes) else []


def _minutes(text: str) -> int | None:
    """Read an idle timeout: nothing is the setting's, 0 is never."""
    if text in ("", "0"):
        return int(text) if text else None
    return max(int(spans.seconds(text, flag="--idle-timeout", longest=_YEAR) // 60), 1)


def _stop_gateway(mosaic: Mosaic, name: str) -> None:
    """Stop the gateway of a user who may have none any more, whatever it works on; without one Docker is not asked."""
    from mosaic_fleet.fleet import lifecycle

    with mosaic.reads() as reads:
        user = reads.user(name).id
        alive = [row for row in reads.gateways() if row.user_id == user and row.status != "stopped"]
    if alive:
        lifecycle.cut(mosaic.hosting, user)


@app.command("enable", epilog=examples("mosaic user enable ann", "mosaic user enable ann@example.com -q"))
def enable(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """Reactivate a user."""
    from mosaic_fleet.identity import users

    with Mosaic.from_env().db.transaction(system=True) as session:
        changed = users.enable(session, name)
    text = f"enabled {name}" if changed else f"unchanged {name}"
    document({"user": name, "changed": changed}, text=text, json=json, quiet=quiet)


@app.command(
    "import",
    epilog=examples("mosaic user import people.csv", "mosaic user import people.json --dry-run"),
)
def import_(
    file: Annotated[Path, typer.Argument(help="CSV or JSON: name, email, display_name, role, local. - is stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, write nothing.")] = False,
    encoding: Annotated[str | None, typer.Option("--encoding", help="The file's, where it is not Unicode.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add and change users from a file. Rows that fail are told by line; the others are taken."""
    from mosaic_fleet.db.database import discard
    from mosaic_fleet.identity import importing, userfile

    entries = userfile.read(Path("/dev/stdin") if str(file) == "-" else file, encoding)
    with Mosaic.from_env().db.transaction(system=True) as session:
        rows = importing.load(session, entries)
        if dry_run:
            discard(session)
    counts = Counter(row.outcome for row in rows)
    if json:
        document({"rows": rows, "dry_run": dry_run, "changed": bool(counts["added"] or counts["changed"])}, json=True)
    else:
        _print_rows([row for row in rows if row.outcome == "failed" or not (quiet or row.outcome == "unchanged")])
    if not quiet:
        note(f"{', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())) or 'no rows'}")
    if failed := [row for row in rows if row.outcome == "failed"]:
        raise PartialFailure(
            f"{len(failed)} of {len(rows)} rows failed", rows=failed, hint="mend them, then run it again"
        )


def _print_rows(rows: Sequence["Imported"]) -> None:
    columns = {
        "LINE": lambda row: row.line,
        "NAME": lambda row: row.name,
        "OUTCOME": lambda row: row.outcome,
        "ERROR": lambda row: row.error,
    }
    table("rows", rows, columns)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
