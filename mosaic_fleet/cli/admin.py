"""`mosaic admin`: local administrators; needs only the database, no key and no Docker."""

from typing import Annotated

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import examples, noun, prompts
from mosaic_fleet.cli.output import Json, Quiet, QuietList, document, table
from mosaic_fleet.errors import Invalid
from mosaic_fleet.names import check_username

app = noun("Look after local administrators, who need nothing but the database.")

Username = Annotated[str, typer.Argument(help="The administrator's name.")]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")]
Generate = Annotated[bool, typer.Option("--generate", help="Make a password and show it once.")]


@app.command(
    "create-breakglass",
    epilog=examples(
        "mosaic admin create-breakglass ops",
        "mosaic admin create-breakglass ops --generate",
        "pass mosaic/ops | mosaic admin create-breakglass ops --password-stdin --if-not-exists",
    ),
)
def create_breakglass(
    username: Annotated[str, typer.Argument(help="Lower-case letters, digits, and inner dots, - and _.")],
    password_stdin: FromStdin = False,
    generate: Generate = False,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Do nothing when it is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Create a local administrator. The password has at least 15 characters."""
    from mosaic_fleet.identity import breakglass

    check_username(username)
    db = Mosaic.from_env().db
    with db.transaction(system=True) as session:  # before anybody types a password
        changed = breakglass.is_free(session, username, may_exist=if_not_exists)
    if not changed:
        document({"admin": username, "changed": False}, text=f"unchanged {username}", json=json, quiet=quiet)
        return
    password, password_hash = _new_password(password_stdin, generate)
    with db.transaction(system=True) as session:  # somebody else may have been quicker
        changed = breakglass.is_free(session, username, may_exist=if_not_exists)
        if changed:
            breakglass.create(session, username, password_hash)
    verb = "added" if changed else "unchanged"
    _show(username, verb, password if generate and changed else None, json=json, quiet=quiet)


@app.command("list", epilog=examples("mosaic admin list", "mosaic admin list -q", "mosaic admin list --json"))
def list_(json: Json = False, quiet: QuietList = False) -> None:
    """List the local administrators."""
    with Mosaic.from_env().reads() as reads:
        rows = reads.admins()
    columns = {
        "NAME": lambda row: row.username,
        "ACTIVE": lambda row: row.is_active,
        "CREATED": lambda row: row.created_at,
    }
    table("admins", rows, columns, json=json, quiet=quiet)


@app.command(
    "set-password",
    epilog=examples(
        "mosaic admin set-password ops",
        "mosaic admin set-password ops --generate",
        "pass mosaic/ops | mosaic admin set-password ops --password-stdin",
    ),
)
def set_password(
    username: Username,
    password_stdin: FromStdin = False,
    generate: Generate = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give a local administrator a new password."""
    from mosaic_fleet.identity import breakglass

    db = Mosaic.from_env().db
    with db.transaction(system=True) as session:
        breakglass.get(session, username)
    password, password_hash = _new_password(password_stdin, generate)
    with db.transaction(system=True) as session:
        breakglass.set_password(session, username, password_hash)
    _show(username, "changed", password if generate else None, json=json, quiet=quiet)


@app.command("disable", epilog=examples("mosaic admin disable ops", "mosaic admin disable ops --json"))
def disable(username: Username, json: Json = False, quiet: Quiet = False) -> None:
    """Shut a local administrator out. Never the last active one."""
    from mosaic_fleet.identity import breakglass

    with Mosaic.from_env().db.transaction(system=True) as session:
        changed = breakglass.disable(session, username)
    text = f"disabled {username}" if changed else f"unchanged {username}"
    document({"admin": username, "changed": changed}, text=text, json=json, quiet=quiet)


@app.command("enable", epilog=examples("mosaic admin enable ops", "mosaic admin enable ops --json"))
def enable(username: Username, json: Json = False, quiet: Quiet = False) -> None:
    """Let a local administrator in again. The password is as it was."""
    from mosaic_fleet.identity import breakglass

    with Mosaic.from_env().db.transaction(system=True) as session:
        changed = breakglass.enable(session, username)
    text = f"enabled {username}" if changed else f"unchanged {username}"
    document({"admin": username, "changed": changed}, text=text, json=json, quiet=quiet)


def _new_password(from_stdin: bool, generate: bool) -> tuple[str, str]:
    """Ask for a password, or make one, and return it with its hash: that takes its time, so before a transaction."""
    from mosaic_fleet import passwords

    if generate and from_stdin:
        raise Invalid("--generate and --password-stdin exclude each other")
    asked = None if generate else prompts.secret("Password", flags="--password", from_stdin=from_stdin, repeat=True)
    password = asked or passwords.generate()
    return password, passwords.hash(password)


def _show(username: str, verb: str, password: str | None, *, json: bool, quiet: bool) -> None:
    """Print the outcome; a password that was made is shown even when all else is quiet, else it were lost."""
    values: dict[str, object] = {"admin": username, "changed": verb != "unchanged"}
    if password is None:
        document(values, text=f"{verb} {username}", json=json, quiet=quiet)
        return
    text = password if quiet else f"{username}\n  password  {password}      (shown once; stored only as a hash)"
    document({**values, "password": password}, text=text, json=json)
