"""Locks: one holder at a time, named to whoever comes second, and free when the holder is gone."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.errors import Conflict, DatabaseFailure
from tests.processes import fork, until
from tests.servers import relaying, serving


def held(database: Database, thing: str) -> bool:
    try:
        with database.lock("look at", thing):
            return False
    except Conflict:
        return True


def holders(connection: "psycopg.Connection[Any]") -> list[str]:
    """Name who holds an advisory lock, without trying to take one."""
    query = """SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
               WHERE locktype = 'advisory' AND granted AND datname = current_database()"""
    return [name for (name,) in connection.execute(query)]


def hold(database: Database, thing: str) -> None:
    """Hold a lock until killed."""
    with database.lock("deploy", thing):
        signal.pause()


def test_the_second_is_told_who_holds_it(database: Database) -> None:
    """Whoever comes second is refused, and the refusal names verb, thing, host and process of the first."""
    with database.lock("deploy", "jarvis"), pytest.raises(Conflict) as caught, database.lock("rm", "jarvis"):
        pass
    name = f"mosaic deploy jarvis {socket.gethostname()[:16]}:{os.getpid()}"
    assert caught.value.message == f"{name} is under way"


@pytest.mark.parametrize("verb", ["restart", "stop"])
@pytest.mark.parametrize("thing", ["gateway", "end of gateway"])
def test_the_holder_of_a_gateway_is_told_with_its_process(database: Database, verb: str, thing: str) -> None:
    """However long the name of the thing is, host and process stand whole at the end, and enough of the user's id."""
    user = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
    with (
        database.lock(verb, f"{thing} {user}"),
        pytest.raises(Conflict) as caught,
        database.lock("start", f"{thing} {user}", wait=0.01),
    ):
        pass
    assert caught.value.message.startswith(f"mosaic {verb} {thing} {user[:8]}")
    assert caught.value.message.endswith(f" {socket.gethostname()[:16]}:{os.getpid()} is under way")


def test_other_things_are_free(database: Database) -> None:
    """Two things can be locked at once."""
    with database.lock("deploy", "one"), database.lock("deploy", "two"):
        assert [held(database, "one"), held(database, "two"), held(database, "three")] == [True, True, False]


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_it_is_free_afterwards(database: Database, error: type[Exception] | None) -> None:
    """The lock ends with its block, however that ends: nobody has to wait until Postgres has seen its holder go."""
    with psycopg.connect(database.url, autocommit=True) as looking:
        for _ in range(10):
            try:
                with database.lock("deploy", "jarvis"):
                    if error:
                        raise error
            except ZeroDivisionError:
                pass
            assert holders(looking) == []


def test_it_is_free_when_the_holder_is_killed(database: Database) -> None:
    """kill -9 of the holder frees it, and while it lives its process number is the one that is told."""
    child = fork(lambda: hold(database, "jarvis"))
    with psycopg.connect(database.url, autocommit=True) as looking:
        until(lambda: holders(looking))
    with pytest.raises(Conflict, match=f":{child.pid} is under way"), database.lock("deploy", "jarvis"):
        pass
    child.kill()
    until(lambda: not held(database, "jarvis"))


def test_a_lost_lock_is_noticed(database: Database) -> None:
    """When Postgres ended the holder's connection the next look says so."""
    with database.lock("deploy", "jarvis") as lock:
        lock.check()
        terminate(database, "mosaic deploy jarvis%")
        until(lambda: not held(database, "jarvis"))
        with pytest.raises(DatabaseFailure, match="the connection that held the lock was lost"):
            lock.check()


def test_it_knows_where_its_postgres_is(database: Database, embedded: Embedded) -> None:
    """Over TCP the address that was dialled and its port, over a socket nothing."""
    with database.lock("look at", "jarvis") as lock:
        assert lock.server is None
    with serving(relaying(f"{embedded.socket_dir}/.s.PGSQL.5432")) as relay:
        there = Database(f"postgresql://mosaic@localhost:{relay.port}/migrated", actor="test")
        with there.lock("look at", "jarvis") as lock:
            assert lock.server == ("127.0.0.1", relay.port)


def test_a_postgres_that_ends_while_a_lock_is_waited_for_is_told(database: Database) -> None:
    """Whoever waits for a lock when its connection is ended is told of the database, not of a bug."""
    with ThreadPoolExecutor(1) as pool, database.lock("stop", "gateway x"):
        waiting = pool.submit(wait_for, database, "gateway x")
        until(lambda: terminate(database, "mosaic start%"))
        with pytest.raises(DatabaseFailure, match="postgres at"):
            waiting.result(60)


def test_a_lock_that_is_lost_while_others_are_outlasted_is_told(database: Database) -> None:
    """A rotation that waits for old readers ends with the database's failure too."""
    with database.lock("rotate", "keyring") as lock:
        terminate(database, "mosaic rotate%")
        until(lambda: not held(database, "keyring"))
        with pytest.raises(DatabaseFailure, match="the connection that held the lock was lost"):
            lock.outlast(60)


def wait_for(database: Database, thing: str) -> None:
    with database.lock("start", thing, wait=60):
        pass


def terminate(database: Database, name: str) -> bool:
    """End the connections of this name that wait for a lock or hold one; tell whether there was any."""
    query = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_locks USING (pid)
               WHERE locktype = 'advisory' AND application_name LIKE %s"""
    with psycopg.connect(database.url) as connection:
        return bool(connection.execute(query, (name,)).fetchall())


def test_an_unreachable_postgres_is_told(database: Database) -> None:
    """Without a Postgres there is no lock, and the failure is the database's."""
    away: Any = Database("postgresql://mosaic@127.0.0.1:1/none", actor="test")
    with pytest.raises(DatabaseFailure, match="postgres at"), away.lock("deploy", "jarvis"):
        pass
