"""Rows of a query as dataclasses: what all quick reads are made of."""

from typing import Any, TypeVar, cast

import psycopg
from psycopg.rows import class_row

from mosaic_fleet.errors import NotFound

Row = TypeVar("Row")


class Rows:
    """The connection of one read-only transaction."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def _all(self, shape: type[Row], query: str, *values: object) -> list[Row]:
        with self._connection.cursor(row_factory=class_row(shape)) as cursor:
            return cursor.execute(cast(Any, query), values).fetchall()


def one(rows: list[Row], message: str, hint: str) -> Row:
    """Return the only row; raises NotFound when there is none."""
    if not rows:
        raise NotFound(message, hint=hint)
    return rows[0]
