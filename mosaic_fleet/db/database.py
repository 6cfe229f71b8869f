"""Transactions and locks: the only code that commits."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, create_engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import NullPool
from sqlmodel import Session, col

from mosaic_fleet.db import sealed
from mosaic_fleet.db.audit_reads import entry_hash
from mosaic_fleet.db.reads import CONNECTING, SCOPE, check_encoding, check_version, libpq, unreachable, unstorable
from mosaic_fleet.db.tables import Audit, now
from mosaic_fleet.errors import Conflict, DatabaseFailure, Invalid

_AUDIT_LOCK = 0x6D6F7361  # "mosa"
_MIGRATION_LOCK = 0x6D6F7362
_NAME_CHARACTERS = 63
# How a server keeps connections: asked before each use whether they live, and ended when Postgres is silent (seconds;
# the last one milliseconds).
_POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 8, "pool_timeout": 5, "pool_pre_ping": True}
_LASTING = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 8000}


class Database:
    """A Postgres, reached by its URL, in whose audit this process is called `actor`.

    `reseal` seals a value again that was sealed before a rotation began and is written after it. A process that serves
    keeps connections open, and leaves an empty database empty.
    """

    def __init__(self, url: str, *, actor: str, serving: bool = False) -> None:
        self.url = libpq(url)
        self.actor = actor
        self.reseal: sealed.Reseal | None = None
        self._serving = serving
        self._ready = False

    @contextmanager
    def transaction(self, *, owner: UUID | None = None, system: bool = False) -> Iterator[Session]:
        """Open a session for one owner or for the system; commit at the end, roll back on an error.

        An empty database is migrated first. Raises DatabaseFailure when Postgres does not answer or its schema
        is too old or too new, Conflict when another transaction got in between.
        """
        if (owner is None) == (not system):
            raise ValueError("a transaction is for one owner or for the system")
        with mapped(self.url):
            self._make_ready()
            with Session(self._engine, expire_on_commit=False) as session:
                session.execute(text(SCOPE.replace("%s", ":owner", 1).replace("%s", ":system", 1)), _scope(owner))
                sealed.guard(session, self.reseal)
                yield session
                session.flush()
                if "discarded" not in session.info:
                    _append_audit(session, self.actor)
                    session.commit()

    @contextmanager
    def lock(self, verb: str, thing: str, *, wait: float = 1) -> Iterator["Lock"]:
        """Hold the advisory lock of a thing on a connection of its own.

        Raises Conflict naming who does what to it when it is not free within `wait` seconds.
        """
        name = _called(f"mosaic {verb} {thing}")
        with mapped(self.url):
            connection = psycopg.connect(self.url, autocommit=True, application_name=name, **CONNECTING)
        with connection:
            lock = Lock(connection, f"mosaic/{thing}")
            with mapped(self.url):
                if not lock.take(wait):
                    raise Conflict(f"{lock.holder()} is under way", hint="wait until it has ended, then try again")
            try:
                yield lock
            finally:
                lock.release()

    def upgrade(self) -> tuple[str | None, str]:
        """Migrate to the newest schema in one transaction under a lock; return the versions before and after.

        Raises ConfigurationError when the database's encoding is not UTF8.
        """
        from mosaic_fleet.db import migrations

        with mapped(self.url), self._engine.begin() as connection:
            check_encoding(str(connection.execute(text("SHOW server_encoding")).scalar()))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            before = schema_version(connection)
            if before != migrations.HEAD:
                check_version(before, allow_older=True)
                migrations.upgrade(connection)
        self._ready = True
        return before, migrations.HEAD

    def version(self) -> str | None:
        """Return the schema's version, None for an empty database."""
        with mapped(self.url), self._engine.connect() as connection:
            return schema_version(connection)

    def check(self) -> None:
        """Raise DatabaseFailure unless Postgres answers and its schema is this program's."""
        check_version(self.version())

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._engine.dispose()

    @cached_property
    def _engine(self) -> Engine:
        url = make_url(self.url).set(drivername="postgresql+psycopg")
        if self._serving:
            return create_engine(url, connect_args=CONNECTING | _LASTING, **_POOL)
        return create_engine(url, poolclass=NullPool, connect_args=CONNECTING)

    def _make_ready(self) -> None:
        if self._ready:
            return
        version = self.version()
        if version is None and not self._serving:
            self.upgrade()
        else:
            check_version(version)
        self._ready = True


class Lock:
    """A session advisory lock, by its name."""

    def __init__(self, connection: "psycopg.Connection[Any]", name: str) -> None:
        self._connection = connection
        self._key = _lock_key(name)

    @property
    def server(self) -> tuple[str, int] | None:
        """Return the address and port at which this process reaches Postgres, None over a socket."""
        info = self._connection.info
        return None if info.host.startswith(("/", "@")) else (info.hostaddr, info.port)

    def take(self, wait: float = 1) -> bool:
        """Try to take it; for a second, because the one that a killed process held is freed a moment after its end."""
        try:
            self._connection.execute(f"SET lock_timeout = {int(max(wait, 0.001) * 1000)}")
            self._connection.execute("SELECT pg_advisory_lock(%s)", (self._key,))
        except psycopg.errors.LockNotAvailable:
            return False
        return True

    def release(self) -> None:
        """Give it back: with the connection alone it would only be free once Postgres has noticed that end."""
        with suppress(psycopg.Error):
            self._connection.execute("SELECT pg_advisory_unlock(%s)", (self._key,))

    def check(self) -> None:
        """Make sure that it is still held: asked before every change to Docker. Raises DatabaseFailure if lost."""
        self._ask("SELECT 1")

    def outlast(self, seconds: float) -> bool:
        """Wait until the transactions that are open now have ended; return False when one does not in time.

        Raises DatabaseFailure when the lock is lost meanwhile.
        """
        query = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start < %s"""
        end, row = time.monotonic() + seconds, self._ask("SELECT clock_timestamp()").fetchone()
        while (open_ones := self._ask(query, row).fetchone()) and open_ones[0]:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def holder(self) -> str:
        """Name who holds it: `mosaic <verb> <object> <host>:<pid>`."""
        query = """
            SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE locktype = 'advisory' AND granted AND objsubid = 1
              AND (classid::bigint << 32 | objid::bigint) = %s"""
        row = self._connection.execute(query, (self._key,)).fetchone()
        return str(row[0]) if row else "another mosaic command"

    def _ask(self, query: str, values: Any = None) -> "psycopg.Cursor[Any]":
        """Ask on the connection that holds it."""
        try:
            return self._connection.execute(query, values)
        except psycopg.OperationalError as error:
            raise DatabaseFailure("the connection that held the lock was lost", hint="run the same command") from error


def take_turns(session: Session, thing: str) -> None:
    """Wait until no other transaction that called this for the same thing is open; what is read then is the last."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(f"mosaic/turns/{thing}")})


def discard(session: Session) -> None:
    """Have the transaction roll back at its end instead of committing: for a dry run."""
    session.info["discarded"] = True


def schema_version(connection: Connection) -> str | None:
    """Read the schema's version, None when the database is empty."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)


@contextmanager
def mapped(url: str) -> Iterator[None]:
    """Turn Postgres' errors into ours."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(_first_line(error), hint="somebody else changed it; try again") from error
    except DataError as error:
        raise Invalid(f"postgres cannot store a value: {_first_line(error)}") from error
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise  # a mistake of ours, not an outage
        raise unreachable(url, error.orig) from error
    except DBAPIError as error:
        raise unreachable(url, error.orig or error) from error
    except (psycopg.OperationalError, NoConnection) as error:
        raise unreachable(url, error) from error
    except UnicodeEncodeError as error:
        raise unstorable(error) from error


def _called(what: str) -> str:
    """Name who does something, in the 63 characters that Postgres keeps: what is cut off is never host and process."""
    who = f"{socket.gethostname()[:16]}:{os.getpid()}"
    return f"{what[: _NAME_CHARACTERS - len(who) - 1].rstrip()} {who}"


def _lock_key(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)


def _scope(owner: UUID | None) -> dict[str, str]:
    return {"owner": str(owner) if owner else "", "system": "" if owner else "on"}


def _append_audit(session: Session, actor: str) -> None:
    """Chain the recorded entries as the transaction's last statements, one transaction at a time."""
    entries: Sequence[dict[str, Any]] = session.info.pop("audit", [])
    if not entries:
        return
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _AUDIT_LOCK})
    previous = session.execute(select(col(Audit.hash)).order_by(col(Audit.id).desc()).limit(1)).scalar() or ""
    rows = []
    for entry in entries:
        row = {**entry, "at": now(), "actor": actor, "previous": previous}
        previous = entry_hash(row)
        rows.append({**row, "hash": previous})
    session.execute(insert(Audit), rows)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
