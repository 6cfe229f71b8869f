"""Migrations: an empty database becomes the tables of `tables.py`, whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine
from sqlmodel import SQLModel

from mosaic_fleet.db import migrations
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import read
from mosaic_fleet.errors import DatabaseFailure
from tests.postgres.machine import Machine
from tests.processes import fork, until

_GATE = 4242
_SHAPE = (
    """SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
       FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
       ORDER BY 1, 2""",
    """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
       WHERE connamespace = 'public'::regnamespace AND conrelid <> coalesce(to_regclass('alembic_version')::oid, 0)
       ORDER BY 1, 2""",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1",
)


def shape(url: str) -> list[list[Any]]:
    """Describe columns, constraints and indexes as Postgres itself does."""
    with psycopg.connect(url) as connection:
        return [connection.execute(query).fetchall() for query in _SHAPE]


def tables(url: str) -> list[str]:
    query = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute(query)]


def set_version(url: str, version: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (version,))


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    with create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool).begin() as connection:
        yield connection


@contextmanager
def gate(url: str) -> Iterator["psycopg.Connection[Any]"]:
    """Hold up every migration in its middle, once it has made the table `stack`."""
    with psycopg.connect(url.replace("mosaic@", "mosaic_super@"), autocommit=True) as superuser:
        superuser.execute(
            f"""CREATE FUNCTION gate() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.stack')
                THEN PERFORM pg_advisory_xact_lock_shared({_GATE}); END IF; END $$;
                CREATE EVENT TRIGGER gate ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION gate();
                SELECT pg_advisory_lock({_GATE})"""
        )
        yield superuser


def waiting(superuser: "psycopg.Connection[Any]") -> int:
    """Count who waits for an advisory lock of this database."""
    query = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
               WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
    row = superuser.execute(query).fetchone()
    return int(row[0]) if row else 0


def test_an_empty_database_becomes_the_newest(database_url: str) -> None:
    """The first upgrade goes from nothing to the newest schema, the second changes nothing."""
    database = Database(database_url, actor="test")
    assert database.version() is None
    assert [database.upgrade(), database.upgrade()] == [(None, migrations.HEAD), (migrations.HEAD, migrations.HEAD)]
    assert database.version() == migrations.HEAD


def test_the_first_change_migrates_by_itself(database_url: str) -> None:
    """A transaction in an empty database finds the newest schema there."""
    with Database(database_url, actor="test").transaction(system=True):
        pass
    assert Database(database_url, actor="test").version() == migrations.HEAD


def test_migrations_make_the_tables_of_the_program(database_url: str) -> None:
    """Columns, defaults, constraints and indexes are the same, to the letter, as those that tables.py describes."""
    with transaction(database_url) as connection:
        SQLModel.metadata.create_all(connection)
    described = shape(database_url)
    with transaction(database_url) as connection:
        SQLModel.metadata.drop_all(connection)
    Database(database_url, actor="test").upgrade()
    assert shape(database_url) == described


def test_alembic_finds_no_difference(database_url: str) -> None:
    """`alembic check` has nothing to add to the migrations."""
    Database(database_url, actor="test").upgrade()
    with transaction(database_url) as connection:
        command.check(migrations.config(connection))


def test_down_and_up_again_is_the_same(database_url: str) -> None:
    """Going down leaves no table of ours, and going up again makes the same schema."""
    Database(database_url, actor="test").upgrade()
    first = shape(database_url)
    with transaction(database_url) as connection:
        command.downgrade(migrations.config(connection), "base")
    assert tables(database_url) == ["alembic_version"]
    assert Database(database_url, actor="test").upgrade() == (None, migrations.HEAD)
    assert shape(database_url) == first


def test_the_constant_is_the_newest_revision() -> None:
    """The version that quick reads compare with is that of the newest migration, and there is one line of them."""
    assert ScriptDirectory.from_config(migrations.config(None)).get_heads() == [migrations.HEAD]


def test_two_upgrades_at_once_take_turns(database_url: str) -> None:
    """Of two processes that upgrade at once one waits for the other and then finds nothing to do."""
    with gate(database_url) as superuser:
        first = fork(Database(database_url, actor="test").upgrade)
        until(lambda: waiting(superuser) == 1)
        second = fork(Database(database_url, actor="test").upgrade)
        until(lambda: waiting(superuser) == 2)
        superuser.execute("SELECT pg_advisory_unlock_all()")
        assert [first.result(), second.result()] == [[None, migrations.HEAD], [migrations.HEAD, migrations.HEAD]]


def test_a_killed_upgrade_leaves_no_table(database_url: str) -> None:
    """After kill -9 in the middle of a migration there is no table, and the next upgrade succeeds."""
    with gate(database_url) as superuser:
        child = fork(Database(database_url, actor="test").upgrade)
        until(lambda: waiting(superuser) == 1)
        child.kill()
        superuser.execute("SELECT pg_advisory_unlock_all()")
        others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        until(lambda: not superuser.execute(others).fetchall())
    assert tables(database_url) == []
    assert Database(database_url, actor="test").upgrade() == (None, migrations.HEAD)


@pytest.mark.parametrize(
    ("version", "message", "hint"),
    [
        ("0000", f"the database has schema 0000, this mosaic needs {migrations.HEAD}", "mosaic db upgrade"),
        (
            "9999",
            f"the database has schema 9999, newer than this mosaic's {migrations.HEAD}",
            "install the newer mosaic",
        ),
    ],
)
def test_another_schema_is_neither_read_nor_written(
    database_url: str, mosaic: Machine, version: str, message: str, hint: str
) -> None:
    """With an older or newer schema reads and writes end with exit code 8 and say what to do."""
    Database(database_url, actor="test").upgrade()
    set_version(database_url, version)
    machine = mosaic.but(DATABASE_URL=database_url)
    for words in (["provider", "list"], ["db", "check"], ["provider", "remove", "x"], ["secrets", "status"]):
        assert machine(*words).error == (8, message, hint)


def test_a_newer_schema_is_not_upgraded(database_url: str) -> None:
    """An upgrade to an older schema is refused."""
    Database(database_url, actor="test").upgrade()
    set_version(database_url, "9999")
    with pytest.raises(DatabaseFailure, match="newer than this mosaic's"):
        Database(database_url, actor="test").upgrade()


def test_an_empty_database_is_not_read(database_url: str) -> None:
    """A read does not migrate: it says how to."""
    with pytest.raises(DatabaseFailure, match="the database is empty") as caught, read(database_url):
        pass
    assert caught.value.hint == "mosaic init"
