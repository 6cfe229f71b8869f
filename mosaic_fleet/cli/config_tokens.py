"""What `mosaic agent config-token` and `mosaic gateway config-token` share: a token shown once, or put into a file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional
from uuid import uuid4

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli.output import document, note
from mosaic_fleet.errors import Conflict, Invalid

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlmodel import Session

TokenFile = Annotated[
    Optional[Path], typer.Option("--token-file", help="Write it into this file, for its owner only, and show nothing.")
]
Renew = Annotated[bool, typer.Option("--renew", help="Replace the one there is, which opens nothing from then on.")]
IfNotExists = Annotated[bool, typer.Option("--if-not-exists", help="Do nothing when there is one.")]


def hand_over(
    who: tuple[str, str],
    issue: "Callable[[Mosaic, Session], SecretStr]",
    *,
    file: Path | None,
    if_not_exists: bool,
    shown: tuple[bool, bool],
) -> None:
    """Make a token and show it once, alone on standard output, or write it into a file.

    `who` is the key and the value that name its container in JSON, `shown` is whether JSON and whether quiet.
    """
    json, quiet = shown
    mosaic = Mosaic.from_env()
    try:
        with _written(file) as write, mosaic.db.transaction(system=True) as session:
            token = issue(mosaic, session).get_secret_value()
            write(token)
    except Conflict:
        if not if_not_exists:
            raise
        document({who[0]: who[1], "changed": False}, text="", json=json, quiet=True)
        note(f"unchanged {who[1]}")
        return
    if file:
        values = {who[0]: who[1], "changed": True, "file": str(file)}
        document(values, text=f"written to {file}", json=json, quiet=quiet)
        return
    document({who[0]: who[1], "changed": True, "token": token}, text=token, json=json)
    if not quiet and not json:
        note("shown once; stored only as a hash")


@contextmanager
def _written(file: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes a text beside the file; it takes the file's place once all went well."""
    if file is None:
        yield lambda _: None
        return
    new = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    try:
        yield lambda text: _write(new, text)
        new.replace(file)
    except OSError as error:
        raise Invalid(f"--token-file: {file} cannot be written: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
