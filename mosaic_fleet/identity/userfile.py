"""Reads a CSV or JSON file of users: encodings, delimiters and lines; what a row means is the import's business."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosaic_fleet.errors import Invalid, MosaicError

COLUMNS = {"name": "name", "email": "email", "display_name": "display_name", "role": "role", "local": "is_local"}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_LARGEST = 50 << 20  # bytes
_OPENING = re.compile(r'\s*(?P<object>\{\s*"users"\s*:\s*)?\[')


@dataclass(frozen=True)
class Entry:
    """A row and the line it begins in; `values` are columns of a user, `error` says why it cannot be read."""

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read(path: Path, encoding: str | None = None) -> list[Entry]:
    """Read a file, by its byte-order mark or as UTF-8 unless an encoding is named.

    Raises Invalid when it cannot be read as a whole: not text, no columns, an unknown one.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > _LARGEST:
        raise Invalid(f"{path} has more than {_LARGEST >> 20} MB: split it")
    try:
        return parse(_decode(raw, encoding))
    except MosaicError as error:
        raise Invalid(f"{path}: {error.message}", hint=error.hint) from None


def parse(text: str) -> list[Entry]:
    """Parse CSV with a header (comma, semicolon or tab), or JSON: a list of objects, alone or as `users`."""
    start = text.lstrip()[:1]
    return list(_json(text) if start in ("[", "{") else _csv(text))


def _decode(raw: bytes, encoding: str | None) -> str:
    marked = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), None)
    if not encoding and not marked and b"\0" in raw[:2]:
        raise Invalid("it looks like UTF-16 without a byte-order mark", hint="add --encoding utf-16-le")
    chosen = encoding or marked or "utf-8"
    try:
        return raw.decode(chosen)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        hint = "save it as UTF-8, or name its encoding: --encoding latin-1"
        raise Invalid(f"line {line} is not {chosen}", hint=hint) from None
    except (LookupError, UnicodeError):
        raise Invalid(f"no encoding {chosen[:40]!r}", hint="--encoding latin-1") from None


def _csv(text: str) -> Iterator[Entry]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            yield Entry(line, error=f"it is no CSV: {error}")
            continue
        if any(cell.strip() for cell in cells):
            if header:
                yield _row(line, header, cells)
            else:
                header = _header(cells)
    if not header:
        raise Invalid("it is empty: the first line names the columns", hint=", ".join(COLUMNS))


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip().lower().replace("e-mail", "email").replace(" ", "_") for cell in cells]
    for name in names:
        _check_column(name)
        if names.count(name) > 1:
            raise Invalid(f"there are two columns {name!r}")
    if "name" not in names:
        raise Invalid("there is no column 'name'", hint=f"the first line names the columns: {', '.join(COLUMNS)}")
    return names


def _row(line: int, header: list[str], cells: list[str]) -> Entry:
    if len(cells) > len(header):
        return Entry(line, error=f"it has {len(cells)} fields, the header has {len(header)}")
    given = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
    return _entry(line, given)


def _json(text: str) -> Iterator[Entry]:
    """Decode the objects of a list one by one, because the decoder does not tell in which line each begins."""
    opening = _OPENING.match(text)
    if opening is None:
        raise Invalid("JSON must be a list of users, alone or as the value of 'users'")
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    place = _next(text, opening.end())
    while text[place : place + 1] not in ("]", ""):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise Invalid(f"line {line}: it is no JSON: {str(error)[:100]}") from None
        yield _object(line, value)
        place = _next(text, place)
        if text[place : place + 1] == ",":
            place = _next(text, place + 1)
        elif text[place : place + 1] != "]":
            raise Invalid(f"line {line + text.count(chr(10), counted, place)}: a comma or ] is missing")
    if not text[place:]:
        raise Invalid("the list does not end: ] is missing")
    _check_rest(text, _next(text, place + 1), closing="}" if opening["object"] else "")


def _check_rest(text: str, place: int, *, closing: str) -> None:
    """Refuse what stands behind the list: it would be left out without a word."""
    if closing and not text[place:]:
        raise Invalid(f"the object does not end: {closing} is missing")
    if closing and text[place] == closing:
        place = _next(text, place + 1)
    if text[place:]:
        line = text.count("\n", 0, place) + 1
        raise Invalid(f"line {line}: behind the list of users stands something else", hint="take it out")


def _next(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def _object(line: int, value: Any) -> Entry:
    if not isinstance(value, dict):
        return Entry(line, error="it is no object")
    given = {name: one for name, one in value.items() if one is not None and one != ""}
    odd = next((name for name, one in given.items() if not isinstance(one, str | bool)), None)
    if odd is not None:
        return Entry(line, error=f"{odd[:40]!r} must be text")
    return _entry(line, given)


def _entry(line: int, given: Mapping[str, Any]) -> Entry:
    try:
        for name in given:
            _check_column(name)
        values = {COLUMNS[name]: _boolean(value) if name == "local" else str(value) for name, value in given.items()}
    except Invalid as error:
        return Entry(line, {"name": str(given.get("name", ""))}, error.message)
    return Entry(line, values) if values.get("name") else Entry(line, error="it has no name")


def _check_column(name: str) -> None:
    if name not in COLUMNS:
        raise Invalid(f"there is no column {name[:40]!r}", hint=f"the columns are {', '.join(COLUMNS)}")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value.lower() not in _WORDS:
        raise Invalid(f"local is yes or no, not {value[:40]!r}")
    return _WORDS[value.lower()]
