"""How fast values are sealed again, and opened, in a Postgres of its own."""

from functools import partial
from uuid import uuid4

import psycopg

from mosaic_fleet import keyring, rotation
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import LlmProvider, place_of
from mosaic_fleet.settings import Settings
from tests.bench.measuring import Line, at_least, interleaved, seconds
from tests.docker.installation import Installation

_VALUES = 20_000
_ROUNDS = 3
_LEAST_SEALED, _LEAST_OPENED = 5_000, 20_000


def rotating(made: Installation) -> list[Line]:
    """Time a whole rotation, verified at its end, and a verification alone."""
    mosaic = Mosaic(Settings.from_env(made.env))
    rows = _fill(mosaic)
    try:
        rotate = partial(rotation.rotate, mosaic.db, mosaic.settings.secret_key, _quiet)
        times = interleaved(_ROUNDS, partial(seconds, rotate), partial(seconds, partial(_verify, mosaic)))
    finally:
        with psycopg.connect(mosaic.db.url) as connection:
            connection.execute("DELETE FROM llm_provider WHERE id = ANY(%s)", (rows,))
    sealed, opened = (_VALUES / min(one) for one in times)
    return [
        at_least("secrets rotate: sealed again and verified", sealed, _LEAST_SEALED),
        at_least("secrets verify", opened, _LEAST_OPENED),
    ]


def _fill(mosaic: Mosaic) -> list[object]:
    """Add many providers with sealed keys; return their ids."""
    column = LlmProvider.__table__.c.api_key  # SQLModel does not declare it
    rows = [uuid4() for _ in range(_VALUES)]
    columns = "(id, user_id, name, api_key, display_name, type, is_active, created_at, updated_at)"
    with (
        psycopg.connect(mosaic.db.url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY llm_provider {columns} FROM STDIN") as copy,
    ):
        for row in rows:
            sealed = mosaic.box.seal(place_of(column, row, SYSTEM_OWNER), str(row))
            copy.write_row((row, SYSTEM_OWNER, str(row), sealed, "bench", "zai", True, "now", "now"))
    return [*rows]


def _verify(mosaic: Mosaic) -> None:
    rotation.verify(mosaic.db, keyring.box(mosaic.db, mosaic.settings.secret_key), _quiet)


def _quiet(*_: int) -> None:
    """Take progress and say nothing."""
