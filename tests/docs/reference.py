"""Writes docs/reference/{cli,settings,exit-codes,tables}.md from the program: `python -m tests.docs.reference`."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from sqlalchemy import Column, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from mosaic_fleet import cli, errors
from mosaic_fleet.configuration import REGISTRY, Setting
from mosaic_fleet.db import tables

PLACE = Path(__file__).parents[2] / "docs" / "reference"
NOTICE = "<!-- Written by `make docs`; changes by hand are lost. -->"

VARIABLES = {
    "DATABASE_URL": "The Postgres to use, `postgresql://…`; unset, the embedded one.",
    "MOSAIC_SECRET_KEY": "The key that protects all sealed values: 32 random bytes in base64 or hex.",
}
PLACES = {
    "XDG_CONFIG_HOME": "The env file is `mosaic/env` in it; default `/etc` for root, else `~/.config`.",
    "XDG_DATA_HOME": "The embedded Postgres is `mosaic/pg` in it; default `/var/lib` for root, else `~/.local/share`.",
    "XDG_RUNTIME_DIR": "The embedded Postgres's socket lies in it, except for root: `/run/mosaic`.",
}
OBEYED = {
    "DOCKER_HOST": "The Docker daemon, as for the docker command.",
    "DOCKER_CONTEXT": "The Docker context, as for the docker command.",
    "DOCKER_CONFIG": "The folder of the docker command's own settings; default `~/.docker`.",
    "MOSAIC_NO_INPUT": "Set to anything: never ask, as with `--no-input`.",
    "TERM": "`dumb`: the cursor is not moved. Nothing is ever coloured.",
}
OTHER_CODES = {
    0: ("done", "It is done, or there was nothing to do."),
    1: ("bug", "A bug, with a traceback; or the answer to a question was no."),
    2: ("usage", "The command line is wrong: unknown command or option, missing value."),
    10: ("differs", "Of `mosaic fleet diff --exit-code` alone: something differs."),
    130: ("interrupted", "Ctrl-C."),
    141: ("pipe closed", "Whoever read the output left, as `head` does."),
}


def pages() -> dict[str, str]:
    """Return the generated pages by file name."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "cli.md": _cli,
        "settings.md": _settings,
        "exit-codes.md": _exit_codes,
        "tables.md": _tables,
    }
    return {name: "\n".join([NOTICE, "", *make()]) + "\n" for name, make in makers.items()}


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Yield every command as (what to type, command, context), groups before their members."""
    root = typer.main.get_command(cli.app)
    context = _context(root, "mosaic", None)
    yield "mosaic", root, context
    for name in cli.COMMANDS:
        yield from _tree(cli.load(name), f"mosaic {name}", context)


def _tree(command: Any, path: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = _context(command, path.split()[-1], parent)
    yield path, command, context
    for name, inner in getattr(command, "commands", {}).items():
        yield from _tree(inner, f"{path} {name}", context)


def _context(command: Any, name: str, parent: Any) -> Any:
    return typer.Context(command, info_name=name, parent=parent, terminal_width=100, **command.context_settings)


def _cli() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "`--no-input`, `-v` and `--verbose` may stand anywhere."
    yield "A plural noun is its singular, `ls` is `list`, `rm` is `remove`."
    for path, command, context in commands():
        yield ""
        yield f"## {path}" if len(path.split()) < 3 else f"### {path}"
        yield ""
        yield f"```text\n{command.get_help(context)}\n```"


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Two variables rule; each may also name a file: `DATABASE_URL_FILE`, `MOSAIC_SECRET_KEY_FILE`."
    yield "Unset, they are read from the env file that `mosaic init` writes. Everything else is in the database."
    for title, rows in (("Variables", VARIABLES), ("Where things lie", PLACES), ("Also obeyed", OBEYED)):
        yield from ["", f"## {title}", "", *_grid(["Variable", "Meaning"], [[f"`{k}`", v] for k, v in rows.items()])]
    yield from ["", "## In the database", "", "Read and change them with `mosaic config`.", ""]
    yield from _grid(["Setting", "Kind", "Default", "Counts", "Meaning"], [_setting(one) for one in REGISTRY.values()])


def _setting(one: Setting) -> list[str]:
    """Write a row: what kind it is, secret or not, and when a change of it counts."""
    kind = f"{one.kind}, secret" if one.secret else one.kind
    return [f"`{one.key}`", kind, f"`{one.default}`" if one.default else "none", one.effect, one.help]


def _exit_codes() -> Iterator[str]:
    yield "# Exit codes"
    yield ""
    yield "An error is two lines on standard error, `error: …` and `hint:  …`;"
    yield 'with `--json` it is one document there: `{"error": {"code": 5, "message": "…", "hint": "…"}}`.'
    yield ""
    codes = {code: [(name, text)] for code, (name, text) in OTHER_CODES.items()}
    for error in errors.MosaicError.__subclasses__():
        codes.setdefault(error.exit_code, []).append((error.__name__, _sentence(error)))
    rows = [[str(code), name, text] for code in sorted(codes) for name, text in codes[code]]
    yield from _grid(["Code", "Name", "Meaning"], rows)
    yield ""
    yield "`mosaic fleet exec` ends with the code of the command that it ran."


def _tables() -> Iterator[str]:
    yield "# Tables"
    yield ""
    yield "*Sealed* columns hold ciphertext only; see [what is sealed](../explanation/security.md)."
    for model in _models():
        table: Table = model.__table__  # SQLModel does not declare it
        yield from ["", f"## {table.name}", "", inspect.getdoc(model) or "", ""]
        rows = [
            [f"`{column.name}`", _type(column), _default(model, column), _notes(column)] for column in table.columns
        ]
        yield from _grid(["Column", "Type", "Default", "Notes"], rows)
        for names in _uniques(table):
            yield from ["", f"Unique together: {names}."]


def _models() -> list[type[SQLModel]]:
    return [one for one in vars(tables).values() if inspect.isclass(one) and hasattr(one, "__table__")]


def _type(column: Column[Any]) -> str:
    kind = column.type.compile(postgresql.dialect()).lower()
    return f"{kind}, may be null" if column.nullable else kind


def _default(model: type[SQLModel], column: Column[Any]) -> str:
    default = model.model_fields[column.name].default
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if isinstance(default, str | int | float) and default != "" else ""


def _notes(column: Column[Any]) -> str:
    notes = ["primary key"] if column.primary_key else []
    notes += [f"of `{key.target_fullname}`" for key in sorted(column.foreign_keys, key=lambda key: key.target_fullname)]
    notes += ["unique"] if column.unique else []
    if "sealed" in column.info:
        where = f" where `{column.info['when']}`" if "when" in column.info else ""
        notes.append(f"**sealed**{where} as “{column.info['sealed']}”")
    return ", ".join(notes)


def _uniques(table: Table) -> list[str]:
    sets = [one.columns.keys() for one in table.constraints if isinstance(one, UniqueConstraint)]
    return sorted(", ".join(f"`{name}`" for name in names) for names in sets if len(names) > 1)


def _sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _grid(headings: list[str], rows: list[list[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (PLACE / name).write_text(text, "utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
