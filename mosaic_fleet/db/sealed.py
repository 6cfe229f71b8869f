"""Sealed columns, known from the tables' own marks: read in batches, replaced, and written under the current key only.

Rooms write them as rows. On every flush the current data key is locked against change until the commit, and a value
that was sealed under another one is sealed again: once a rotation has begun, nothing more comes under the old key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Select, and_, case, event, func, inspect, literal, select, text
from sqlmodel import Session, SQLModel, col

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Keyring, place, place_of
from mosaic_fleet.errors import Conflict

Reseal = Callable[[str, str], str]
"""Turns (place, sealed text) into the same value sealed under the current data key."""


@dataclass(frozen=True)
class Value:
    """A sealed value: its row, its place, and the text in the column."""

    id: UUID
    place: str
    text: str

    @property
    def kid(self) -> str:
        """Name the data key it says it is sealed under; empty when it is not sealed at all."""
        return kid_of(self.text)


@dataclass(frozen=True)
class Batch:
    """Which values of a column to read: so many by id, behind one, not under a key; `lock` takes rows that are free."""

    limit: int
    after: UUID | None = None
    not_under: str | None = None
    lock: bool = False


def columns() -> list[Column[str]]:
    """List the columns that hold sealed text."""
    tables = SQLModel.metadata.sorted_tables
    return [column for table in tables for column in table.columns if "sealed" in column.info]


def title(column: Column[str]) -> str:
    """Name a column: `table.column`."""
    return f"{column.table.name}.{column.name}"


def kid_of(sealed: str) -> str:
    """Name the data key of a sealed text; empty when it is not sealed at all."""
    prefix, _, rest = sealed.partition("enc:v1:")
    return rest.partition(":")[0] if rest and not prefix else ""


def read(session: Session, column: Column[str], batch: Batch) -> list[Value]:
    """Read a batch of a column's sealed values by id."""
    table = column.table
    owner = table.c[table.info["owner"]] if "owner" in table.info else literal(SYSTEM_OWNER)
    query = select(table.c.id, owner, column).where(_holds(column)).order_by(table.c.id).limit(batch.limit)
    if batch.after is not None:
        query = query.where(table.c.id > batch.after)
    if batch.not_under is not None:
        query = query.where(column.not_like(f"enc:v1:{batch.not_under}:%"))
    if batch.lock:
        query = query.with_for_update(skip_locked=True, of=table)
    return [Value(row[0], place_of(column, row[0], row[1]), row[2]) for row in session.execute(query)]


def replace(session: Session, column: Column[str], fresh: Mapping[UUID, str]) -> dict[UUID, str]:
    """Write texts by row id in one statement that touches nothing else of the rows; return what is stored now."""
    quote = session.get_bind().dialect.identifier_preparer.quote
    table, name = quote(column.table.name), quote(column.name)
    statement = text(
        f"UPDATE {table} SET {name} = fresh.value "  # noqa: S608  # names of our own tables
        f"FROM unnest(CAST(:ids AS uuid[]), CAST(:texts AS text[])) AS fresh (id, value) "
        # The ids a second time, or the planner reads the whole table for each batch.
        f"WHERE {table}.id = fresh.id AND {table}.id = ANY(CAST(:ids AS uuid[])) RETURNING {table}.id, {table}.{name}"
    )
    stored = session.execute(statement, {"ids": list(fresh), "texts": list(fresh.values())})
    return {row[0]: row[1] for row in stored}


def counts(session: Session, column: Column[str]) -> list[tuple[str, int]]:
    """Count a column's sealed values by data key; what is not sealed though it should be has the key ''."""
    kid = _kid(column)
    query: Select[tuple[str, int]] = select(kid, func.count()).where(_holds(column)).group_by(kid).order_by(kid)
    return [(row[0], row[1]) for row in session.execute(query)]


def lock_keyring(session: Session) -> None:
    """Hold off whoever is about to write a sealed value, until the commit."""
    session.execute(select(col(Keyring.id)).with_for_update())


def guard(session: Session, reseal: Reseal | None) -> None:
    """Have every flush of a session write sealed values under the current data key only.

    Without `reseal` a value under another one raises Conflict.
    """

    def before_flush(session: Session, *_: Any) -> None:
        written = _written(session)
        current = _current(session) if written else set()
        for row, name in written:
            if current and kid_of(getattr(row, name)) not in current:
                _seal_again(row, name, reseal)

    event.listen(session, "before_flush", before_flush)


def _seal_again(row: Any, name: str, reseal: Reseal | None) -> None:
    kid = kid_of(getattr(row, name))
    if reseal is None:
        raise Conflict(f"data key {kid} was replaced meanwhile", hint="run the same command again")
    setattr(row, name, reseal(place(row, name), getattr(row, name)))


def _written(session: Session) -> list[tuple[Any, str]]:
    """List the sealed values that a flush is about to write."""
    found = []
    for row in [*session.new, *session.dirty]:
        state = inspect(row)
        for column in row.__table__.columns:
            if "sealed" in column.info and getattr(row, column.info.get("when", ""), True):
                added: Sequence[Any] = state.attrs[column.name].history.added
                found += [(row, column.name)] if added and added[0] and kid_of(added[0]) else []
    return found


def _current(session: Session) -> set[str]:
    """Name the current data key and keep it current until the commit.

    Waiting for a rotation that was just beginning finds no row: its new key is for the next statement to see.
    """
    query = select(col(Keyring.kid)).where(col(Keyring.use) == "data", col(Keyring.is_current))
    for _ in range(3):
        if kids := set(session.scalars(query.with_for_update(read=True))):
            return kids
    return set()


def _holds(column: Column[str]) -> Any:
    """Select the rows whose text is sealed according to the table's marks."""
    filled = column.is_not(None)
    return and_(filled, column.table.c[column.info["when"]]) if "when" in column.info else filled


def _kid(column: Column[str]) -> Any:
    return case((column.like("enc:v1:%"), func.split_part(column, ":", 3)), else_="")
