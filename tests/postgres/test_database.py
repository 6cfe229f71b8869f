"""Transactions: for whom, under which role, whole or not at all, and what a failure says."""

import os
import signal
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from mosaic_fleet.db import migrations
from mosaic_fleet.db.database import Database, discard
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.db.reads import read
from mosaic_fleet.db.tables import Audit, Stack
from mosaic_fleet.errors import ConfigurationError, Conflict, DatabaseFailure, Invalid
from mosaic_fleet.identity import audit
from tests.postgres.machine import Machine
from tests.processes import until

PASSWORD = "hunter2-of-the-north"
SCOPE = """SELECT current_user, coalesce(current_setting('mosaic.owner', true), ''),
                  coalesce(current_setting('mosaic.system', true), '')"""


def scope(session: Session) -> tuple[str, ...]:
    return tuple(session.execute(text(SCOPE)).one())


def add_stack(session: Session, name: str) -> None:
    session.add(Stack(name=name, network="net"))
    session.flush()
    audit.record(session, "stack.add", name)


def add_stacks(session: Session, *names: str) -> None:
    for name in names:
        add_stack(session, name)


def fail(session: Session, name: str) -> None:
    add_stack(session, name)
    raise ZeroDivisionError


def kept(database: Database) -> list[list[str]]:
    """Name the stacks and the objects of the audit."""
    with database.transaction(system=True) as session:
        return [list(session.exec(select(Stack.name))), list(session.exec(select(Audit.object)))]


@pytest.fixture
def new_database(own_embedded: Embedded) -> Iterator[Callable[[], Database]]:
    """Return a function that makes an empty database of mosaic's in a Postgres that may be hurt."""
    own_embedded.start()
    names: list[str] = []

    def make() -> Database:
        names.append(f"hurt_{uuid4().hex}")
        as_superuser(own_embedded, f"CREATE DATABASE {names[-1]} OWNER mosaic")
        return Database(own_embedded.url(database=names[-1]), actor="test")

    yield make
    own_embedded.start()
    for name in names:
        until(lambda name=name: dropped(own_embedded, name))


def dropped(postgres: Embedded, name: str) -> bool:
    """Drop a database; False when those whom Postgres puts out for it take their time."""
    try:
        as_superuser(postgres, f"DROP DATABASE {name} WITH (FORCE)")
    except psycopg.errors.ObjectInUse:
        return False
    return True


def as_superuser(postgres: Embedded, *statements: str) -> None:
    with psycopg.connect(postgres.url("mosaic_super"), autocommit=True) as superuser:
        for statement in statements:
            superuser.execute(statement)


def kill(postgres: Embedded) -> None:
    """Kill the server with SIGKILL and wait until nobody answers."""
    os.kill(int((postgres.data_dir / "pg" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: not postgres.running())


@pytest.mark.parametrize("whom", [{}, {"owner": uuid4(), "system": True}])
def test_a_transaction_says_for_whom(database: Database, whom: dict[str, object]) -> None:
    """A transaction for nobody, or for an owner and the system at once, is a mistake in the program."""
    with pytest.raises(ValueError, match="for one owner or for the system"), database.transaction(**whom):
        pass


@pytest.mark.parametrize("owner", [None, UUID(int=7)])
def test_the_role_and_the_owner_hold_for_the_transaction_only(database: Database, owner: UUID | None) -> None:
    """Inside, the role is the application's and policies see the owner; after it neither is left."""
    with database.transaction(owner=owner, system=owner is None) as session:
        assert scope(session) == ("mosaic_app", str(owner or ""), "" if owner else "on")
        session.rollback()
        assert scope(session) == ("mosaic", "", "")


@pytest.mark.parametrize("owner", [None, UUID(int=7)])
def test_quick_reads_have_the_same_scope(database: Database, owner: UUID | None) -> None:
    """A read runs under the same role and settings as a change."""
    with read(database.url, owner=owner) as reads:
        row = reads._connection.execute(SCOPE).fetchone()
    assert row == ("mosaic_app", str(owner or ""), "" if owner else "on")


def test_a_change_is_kept(database: Database) -> None:
    """What was added is there afterwards, audit included."""
    with database.transaction(system=True) as session:
        add_stack(session, "kept")
    assert kept(database) == [["kept"], ["kept"]]


def test_an_error_rolls_back(database: Database) -> None:
    """After an error nothing of the transaction is there, and the error is passed on as it is."""
    with pytest.raises(ZeroDivisionError), database.transaction(system=True) as session:
        fail(session, "lost")
    assert kept(database) == [[], []]


def test_a_discarded_transaction_writes_nothing(database: Database) -> None:
    """A dry run leaves no row, not in the audit either."""
    with database.transaction(system=True) as session:
        add_stack(session, "lost")
        discard(session)
    assert kept(database) == [[], []]


def test_a_name_that_is_taken_is_a_conflict(database: Database) -> None:
    """When somebody else was quicker the change is refused as a conflict, and nothing of it is kept."""
    with database.transaction(system=True) as session:
        add_stack(session, "twice")
    with pytest.raises(Conflict, match="duplicate key"), database.transaction(system=True) as session:
        add_stacks(session, "other", "twice")
    assert kept(database) == [["twice"], ["twice"]]


@pytest.mark.parametrize("name", ["a\0b", "a\udcffb"])
def test_what_postgres_cannot_store_is_invalid(database: Database, name: str) -> None:
    """A NUL or a lone surrogate in a text is a bad value, in a change as in a read."""
    with pytest.raises(Invalid, match="cannot"), database.transaction(system=True) as session:
        add_stack(session, name)
    with pytest.raises(Invalid, match="cannot"), read(database.url) as reads:
        reads.agents(name)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO alembic_version VALUES ('9999')",
        "UPDATE alembic_version SET version_num = '9999'",
        "DELETE FROM alembic_version",
        "DROP TABLE audit",
        "CREATE TABLE mine ()",
    ],
)
def test_the_application_cannot_rewrite_history(database: Database, statement: str) -> None:
    """The application's role may neither change the audit nor the schema."""
    refused = pytest.raises(DatabaseFailure, match=r"permission denied|must be owner")
    with refused, database.transaction(system=True) as session:
        session.execute(text(statement))


@pytest.mark.parametrize(
    ("world", "role"),
    [
        (["DROP ROLE IF EXISTS mosaic_app", "ALTER ROLE mosaic NOCREATEROLE"], "mosaic"),
        (["DROP ROLE IF EXISTS mosaic_app", "ALTER ROLE mosaic CREATEROLE"], "mosaic_app"),
        (
            ["DROP ROLE IF EXISTS mosaic_app", "ALTER ROLE mosaic NOCREATEROLE", "CREATE ROLE mosaic_app NOLOGIN"],
            "mosaic",
        ),
    ],
    ids=["no such role", "may make roles", "somebody else's role"],
)
def test_works_without_the_right_to_make_roles(
    own_embedded: Embedded, new_database: Callable[[], Database], world: list[str], role: str
) -> None:
    """A database whose owner may not make roles, or not take the application's, works under the owner's own."""
    database = new_database()
    as_superuser(own_embedded, *world)
    database.upgrade()
    with database.transaction(system=True) as session:
        add_stack(session, "kept")
        assert scope(session)[0] == role
    with read(database.url) as reads:
        assert [stack.name for stack in reads.stacks()] == ["kept"]


def test_an_unreachable_postgres_does_not_tell_the_password(mosaic: Machine) -> None:
    """When nobody answers, the failure names the place and never the password."""
    url = f"postgresql://mosaic:{PASSWORD}@127.0.0.1:1/none"
    with pytest.raises(DatabaseFailure, match=r"postgres at 127\.0\.0\.1:1/none: ") as caught:
        Database(url, actor="test").version()
    assert PASSWORD not in str(caught.value)
    for words in (["provider", "list"], ["-v", "provider", "remove", "x"], ["db", "upgrade", "--json"]):
        said = mosaic.but(DATABASE_URL=url)(*words)
        assert said.exit_code == 8
        assert PASSWORD not in said.stdout + said.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://mosaic:{PASSWORD}@h/db",
        f"postgresql://mosaic:{PASSWORD}@h:port/db",
        f"postgresql://mosaic:{PASSWORD}@h/db?no_such_option=1",
        f"postgresql://mosaic:p@{PASSWORD}@h/db",
        f"postgresql://mosaic:1/p@{PASSWORD}@h/db",
        f"postgresql://mosaic:1/{PASSWORD}@h/db",
        f"postgresql://127.0.0.1:1/none?password=x@{PASSWORD}",
        f"host=h password={PASSWORD}",
        "nonsense",
    ],
)
@pytest.mark.parametrize("words", [["provider", "list"], ["provider", "remove", "x"], ["db", "upgrade"]])
def test_a_malformed_address_is_a_wrong_setting(mosaic: Machine, url: str, words: list[str]) -> None:
    """What is no address of a Postgres is refused as a setting, without repeating it."""
    code, message, _ = mosaic.but(DATABASE_URL=url)(*words).error
    assert code == 3
    assert message.startswith("DATABASE_URL")
    assert PASSWORD not in message


@pytest.mark.parametrize("query", ["", f"?password=x%40{PASSWORD}"])
def test_an_address_without_a_user_is_told_as_a_place(query: str) -> None:
    """Without a user in the address the failure names host and database, and nothing of the query."""
    with pytest.raises(DatabaseFailure, match=r"^postgres at 127\.0\.0\.1:1/none: ") as caught:
        Database(f"postgresql://127.0.0.1:1/none{query}", actor="test").version()
    assert PASSWORD not in caught.value.message


@pytest.fixture
def ascii_database(own_embedded: Embedded) -> Iterator[Database]:
    """Make a database without an encoding, as `initdb` does under the C locale."""
    own_embedded.start()
    made = "CREATE DATABASE ascii OWNER mosaic ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
    as_superuser(own_embedded, made)
    yield Database(own_embedded.url(database="ascii"), actor="test")
    until(lambda: dropped(own_embedded, "ascii"))


@pytest.mark.parametrize("words", [["db", "upgrade"], ["init"], ["provider", "remove", "x"]], ids=" ".join)
def test_a_database_without_an_encoding_is_refused(mosaic: Machine, ascii_database: Database, words: list[str]) -> None:
    """What would make the schema there refuses the encoding by its name, and makes nothing."""
    code, message, hint = mosaic.but(DATABASE_URL=ascii_database.url)(*words).error
    assert (code, message) == (3, "the database has encoding SQL_ASCII, Mosaic needs UTF8")
    assert "ENCODING 'UTF8'" in str(hint)
    assert ascii_database.version() is None


def test_an_old_database_without_an_encoding_is_told(mosaic: Machine, ascii_database: Database) -> None:
    """A schema that was made in such a database is still read, and doctor fails the check of the database."""
    with ascii_database._engine.begin() as connection:
        migrations.upgrade(connection)
    machine = mosaic.but(DATABASE_URL=ascii_database.url)
    assert machine("provider", "list").exit_code == 0
    assert machine("status").exit_code == 0
    assert machine("config", "set", "fleet.stop_grace", "60").exit_code == 0
    assert " ✗ db " in machine("doctor").stdout
    assert "encoding SQL_ASCII" in machine("doctor").stdout


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_spelling_of_an_address_works(mosaic: Machine, database: Database, scheme: str) -> None:
    """libpq's two schemes and SQLAlchemy's are all understood, for reads and changes."""
    machine = mosaic.but(DATABASE_URL=database.url.replace("postgresql", scheme, 1))
    assert machine("config", "list").exit_code == 0
    assert machine("config", "set", "fleet.stop_grace", "60").exit_code == 0


@pytest.mark.parametrize("more", [["more"], []], ids=["goes on", "commits"])
def test_a_postgres_killed_in_between_leaves_nothing_half(
    own_embedded: Embedded, new_database: Callable[[], Database], more: list[str]
) -> None:
    """A server killed inside a transaction is a failure of the database; started again it has nothing of it."""
    database = new_database()
    database.upgrade()

    def change(session: Session) -> None:
        add_stack(session, "lost")
        kill(own_embedded)
        add_stacks(session, *more)

    with pytest.raises(DatabaseFailure), database.transaction(system=True) as session:
        change(session)
    own_embedded.start()
    assert kept(database) == [[], []]


def test_configuration_errors_are_not_the_databases(database: Database) -> None:
    """An error of ours that is raised inside a transaction is passed on as it is."""
    with pytest.raises(ConfigurationError, match="mine"), database.transaction(system=True):
        raise ConfigurationError("mine")
