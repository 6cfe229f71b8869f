"""Many sealed values in the real Postgres, readers and writers of them, and a rotation that is broken off."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
from pydantic import SecretStr
from sqlmodel import Session, SQLModel, col, select

from mosaic_fleet import keyring, rotation
from mosaic_fleet.db import sealed
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Keyring, LlmProvider, place, place_of
from mosaic_fleet.fleet import providers
from mosaic_fleet.sealing import Box


def nothing(*_: int) -> None:
    """Take progress and say nothing."""


@dataclass(frozen=True)
class Vault:
    """Providers with keys, in a database and under a MOSAIC_SECRET_KEY."""

    db: Database
    secret_key: str

    @property
    def box(self) -> Box:
        """A box as a process of its own has it."""
        return keyring.box(Database(self.db.url, actor="test"), self.secret_key)

    def fill(self, number: int) -> None:
        """Add so many providers, each with its own name as its key."""
        box, column = self.box, SQLModel.metadata.tables["llm_provider"].c.api_key
        rows = [(uuid4(), f"p{i:05}") for i in range(number)]
        values = [(row_id, name, box.seal(place_of(column, row_id, SYSTEM_OWNER), name)) for row_id, name in rows]
        with psycopg.connect(self.db.url) as connection, connection.cursor() as cursor:
            columns = "(id, user_id, name, api_key, display_name, type, is_active, created_at, updated_at)"
            with cursor.copy(f"COPY llm_provider {columns} FROM STDIN") as copy:
                for row_id, name, text in values:
                    copy.write_row((row_id, SYSTEM_OWNER, name, text, name, "zai", True, "now", "now"))

    def write(self, box: Box, db: Database, name: str, value: str) -> None:
        """Give a provider another key, as `provider set` does."""
        with db.transaction(system=True) as session:
            providers.set(session, box, SYSTEM_OWNER, name, {"api_key": SecretStr(value)})

    def read(self, box: Box, names: list[str] | None = None) -> dict[str, str]:
        """Return the providers' keys by name."""
        query = select(LlmProvider).where(col(LlmProvider.api_key).is_not(None))
        with self.db.transaction(system=True) as session:
            rows = session.exec(query.where(col(LlmProvider.name).in_(names)) if names else query).all()
            return {row.name: box.open(place(row, "api_key"), row.api_key or "").get_secret_value() for row in rows}

    def rotate(self, db: Database | None = None) -> rotation.Rotated:
        """Rotate."""
        return rotation.rotate(db or self.db, self.secret_key, nothing)

    @property
    def kids(self) -> set[str]:
        """The data keys that values are sealed under."""
        return {count.kid for count in keyring.sealed_counts(self.db)}

    @property
    def ring(self) -> dict[str, bool]:
        """The data keys of the keyring, and whether they are current."""
        with self.db.transaction(system=True) as session:
            return {key.kid: key.is_current for key in keyring.keys(session) if key.use == "data"}

    @property
    def names_kid(self) -> str:
        """The key for names."""
        with self.db.transaction(system=True) as session:
            return session.exec(select(Keyring.kid).where(Keyring.use == "names")).first() or ""


def sealed_texts(session: Session) -> dict[tuple[str, UUID], str]:
    """Return every sealed text by column and row."""
    found = {}
    for column in sealed.columns():
        for value in sealed.read(session, column, sealed.Batch(100_000)):
            found[sealed.title(column), value.id] = value.text
    return found


@contextmanager
def held_row(url: str, name: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Hold a provider's row in an open transaction."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM llm_provider WHERE name = %s FOR UPDATE", (name,))
        yield connection
