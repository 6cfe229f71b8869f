"""A real Postgres for the tests: the embedded one, in fresh folders, stopped and removed at the end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlmodel import SQLModel

from mosaic_fleet import logs
from mosaic_fleet.db import reads
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.sealing import generate_key
from mosaic_fleet.settings import Settings
from tests.postgres.machine import Machine, Said
from tests.processes import until

_numbers = count(1)
_RESERVED = {"mosaic_user": "name = 'shared'", "system_config": "key = 'install.id'"}


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    """Start one embedded Postgres for the whole session."""
    with _fresh() as settings:
        yield _started(settings)


@pytest.fixture(scope="module")
def own_embedded() -> Iterator[Embedded]:
    """Start one embedded Postgres for a module whose tests hurt it."""
    with _fresh() as settings:
        yield _started(settings)


@pytest.fixture
def fresh_settings() -> Iterator[Settings]:
    """Make the settings of a fresh Mosaic; an embedded Postgres that the test starts there is stopped."""
    with _fresh() as settings:
        yield settings


@pytest.fixture
def database_url(embedded: Embedded) -> Iterator[str]:
    """Make an empty database that belongs to mosaic, dropped after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(embedded.url("mosaic_super"), autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} OWNER mosaic TEMPLATE template0")
        yield embedded.url(database=name)
        until(lambda: _dropped(superuser, name))


def _dropped(superuser: psycopg.Connection[Any], name: str) -> bool:
    """Drop a database; Postgres waits five seconds for those whom it puts out, which a loaded machine may outlast."""
    try:
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    except psycopg.errors.ObjectInUse:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def patient_connections() -> Iterator[None]:
    """Wait long for connections that many make at once; who tests that limit sets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reads.CONNECTING, "connect_timeout", 60)
        yield


@pytest.fixture(autouse=True)
def no_registered_secrets() -> None:
    """Forget the secrets that an earlier test registered."""
    logs.forget()


@pytest.fixture(scope="session")
def migrated_url(embedded: Embedded) -> str:
    """Make one migrated database for the whole session."""
    with psycopg.connect(embedded.url("mosaic_super"), autocommit=True) as superuser:
        superuser.execute("CREATE DATABASE migrated OWNER mosaic TEMPLATE template0")
    url = embedded.url(database="migrated")
    Database(url, actor="test").upgrade()
    return url


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """Return a migrated database with nothing in it but what the migrations put there."""
    yield Database(migrated_url, actor="test")
    emptying = ";".join(
        f"DELETE FROM {table.name} WHERE NOT ({_RESERVED.get(table.name, 'false')})"
        for table in reversed(SQLModel.metadata.sorted_tables)
    )
    with psycopg.connect(migrated_url) as connection:
        connection.execute(emptying)


@pytest.fixture
def mosaic(database: Database, tmp_path: Path) -> Machine:
    """Return the command line of a machine that has a migrated database and a key, and no Docker."""
    return Machine.at(tmp_path, DATABASE_URL=database.url, MOSAIC_SECRET_KEY=generate_key())


@pytest.fixture
def fresh_mosaic(fresh_settings: Settings) -> Machine:
    """Return the command line of a machine on which nothing was made yet."""
    return Machine.at(fresh_settings.env_file.parents[2])


@pytest.fixture(scope="session")
def first_init() -> Iterator[tuple[Machine, Said]]:
    """Run the first `mosaic init` of a machine without Docker, and return both; tests share it and leave it so."""
    with _fresh() as settings:
        machine = Machine.at(settings.env_file.parents[2])
        yield machine, machine("init")


@contextmanager
def _fresh() -> Iterator[Settings]:
    """Make folders that the server's user can enter, and settings from no real environment."""
    folder = Path(tempfile.mkdtemp(prefix="mosaic-test-"))
    folder.chmod(0o755)
    settings = Settings.from_env({"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")})
    try:
        yield settings
    finally:
        Embedded(settings.data_dir, settings.socket_dir).stop()
        shutil.rmtree(settings.socket_dir, ignore_errors=True)
        shutil.rmtree(folder)


def _started(settings: Settings) -> Embedded:
    postgres = Embedded(settings.data_dir, settings.socket_dir)
    postgres.create()
    postgres.start()
    return postgres
