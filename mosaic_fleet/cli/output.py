"""What a command prints: data on standard output (table, tab-separated or JSON), notes on standard error."""

import json as jsonlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from mosaic_fleet.logs import neutralise
from mosaic_fleet.settings import Settings

SCHEMA = 1
NONE = "–"
MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
QuietList = Annotated[bool, typer.Option("--quiet", "-q", help="Print names only.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing when it went well.")]

Row = TypeVar("Row")
# What json.dumps leaves raw and a terminal might obey; inside JSON text these can only stand in strings.
_RAW = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def table(
    name: str,
    rows: Sequence[Row],
    columns: Mapping[str, Callable[[Row], object]],
    *,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Print rows: a table on a terminal, else a tab-separated line for each, or `{"schema": 1, name: [row, …]}`.

    `columns` maps headings to functions of a row, the first one the name of the row, which is all that `quiet`
    prints. JSON has every field of the row.
    """
    if json:
        document({name: rows}, json=True)
    elif quiet:
        first = next(iter(columns.values()))
        _print_lines([[first(row)] for row in rows])
    elif _is_terminal(sys.stdout):
        _print_table(list(columns), [[_cell(get(row), human=True) for get in columns.values()] for row in rows])
    else:
        _print_lines([[get(row) for get in columns.values()] for row in rows])


def document(values: Mapping[str, object], *, text: str | None = None, json: bool = False, quiet: bool = False) -> None:
    """Print the outcome of an action: `text`, or with `json` the document `{"schema": 1, **values}`.

    Without `text` each value gets a line of its own. `quiet` prints nothing, but does not silence JSON.
    """
    if json:
        _print(_RAW.sub(lambda match: f"\\u{ord(match[0]):04x}", _dump({"schema": SCHEMA, **values})))
    elif not quiet:
        _print(_fields(values) if text is None else neutralise(text, keep="\n"))


def check(mark: str, name: str, text: str) -> None:
    """Print one finding: `ok`, `warn` or `fail`, what was looked at and what was seen."""
    _print(f" {MARKS[mark]} {neutralise(name):<18} {neutralise(text)}")


def stream(text: str) -> None:
    """Print text as it comes, such as an answer or a log; on a terminal control characters are spelled out."""
    if sys.stdout is not None:
        sys.stdout.write(neutralise(text, keep="\n\t") if _is_terminal(sys.stdout) else text)
        sys.stdout.flush()


def note(text: str) -> None:
    """Print a remark for people on standard error."""
    if sys.stderr is not None:
        print(neutralise(text, keep="\n"), file=sys.stderr)


def cleared(*, json: bool = False) -> None:
    """Make room for what is shown again: an empty screen, or an empty line where there is none to clear."""
    if sys.stdout is None or json:
        return
    sys.stdout.write("\x1b[H\x1b[2J" if _is_screen(sys.stdout) else "\n")


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that replaces one line on standard error; elsewhere than on a screen it does nothing."""
    if not _is_screen(sys.stderr):
        yield lambda _: None
        return
    try:
        yield lambda text: _replace_line(neutralise(text))
    finally:
        _replace_line("")


def ago(when: datetime) -> str:
    """Say how long ago a time was, as people do: `just now`, `4 min ago`, `3 days ago`."""
    seconds = time.time() - when.timestamp()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "min")):
        count = int(seconds // size)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 and unit != 'min' else ''} ago"
    return "just now"


def _print(text: str) -> None:
    """Print to standard output, whatever it can encode; a closed one takes nothing."""
    if sys.stdout is not None:
        print(text)


def _print_lines(rows: Sequence[Sequence[object]]) -> None:
    for row in rows:
        _print("\t".join(_cell(value, human=False) for value in row))


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))  # Text is never read as markup
    Console(color_system=None, highlight=False).print(grid)


def _cell(value: object, *, human: bool) -> str:
    """Write a value for people, or for a script: no value is empty there, and times are exact."""
    if value is None:
        return NONE if human else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return ago(value) if human else _time(value)
    if isinstance(value, list | tuple):
        return neutralise(", ".join(str(item) for item in value))
    return neutralise(str(value))


def _fields(values: Mapping[str, object]) -> str:
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:<{width}}  {_cell(value, human=True)}" for name, value in values.items())


def _dump(value: object) -> str:
    return jsonlib.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: object) -> Any:
    """Turn a value into JSON's types; a SecretStr is none of these and raises TypeError."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, UUID | Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be printed")


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _is_screen(stream: Any) -> bool:
    """Tell whether a stream is a terminal on which the cursor can be moved."""
    return _is_terminal(stream) and not Settings.from_env().dumb_terminal


def _replace_line(text: str) -> None:
    from shutil import get_terminal_size

    sys.stderr.write(f"\r\x1b[K{text[: get_terminal_size().columns - 1]}")
    sys.stderr.flush()
