"""A few cold starts at once, and nobody else waits for them: on a real Postgres and an engine in memory."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlmodel import text

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import Denied, MosaicError
from mosaic_fleet.fleet import lifecycle, starting, stopping
from mosaic_fleet.fleet.flights import AT_ONCE
from mosaic_fleet.fleet.hosting import Hosting, Running
from mosaic_fleet.runtimes.gateway_base import Memory
from tests import napping
from tests.docker_run import wait_until
from tests.postgres.guests import Guests

LONG = 60.0
SLOW = [f"slow-{number}" for number in range(AT_ONCE)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(starting, "_OWNER_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "LAST_SECONDS", 0.01)


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with users `ann` and `ben` whose gateways run."""
    guests = Guests.at(database)
    guests.runtime.host = Memory(64 << 30, 60 << 30)
    for name in ("ann", "ben"):
        guests.add(name)
        guests.wake(name)
    return guests


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return as many threads as a test needs."""
    with ThreadPoolExecutor(2 * AT_ONCE + 2) as pool:
        yield pool


@pytest.fixture
def hosting(guests: Guests, pool: ThreadPoolExecutor) -> Iterator[Hosting]:
    """Return a process in which as many gateways as there are seats are being started and do not become healthy."""
    hosting = guests.hosting()
    for name in SLOW:
        guests.add(name, model="never-healthy")
    starts = [pool.submit(guests.wake, name, hosting=hosting) for name in SLOW]
    wait_until(lambda: len(guests.runtime.running()) == 2 + AT_ONCE)
    yield hosting
    for name in SLOW:
        guests.deactivate(name)
    for start in starts:
        with suppress(Denied):
            start.result(LONG)


def ask(pool: ThreadPoolExecutor, guests: Guests, name: str, hosting: Hosting) -> "Future[Running]":
    """Ask for a user's gateway in another thread."""
    return pool.submit(guests.wake, name, hosting=hosting)


def test_a_nap_ends_while_others_start(guests: Guests, hosting: Hosting, pool: ThreadPoolExecutor) -> None:
    """Who naps is woken at once, however many gateways are being started."""
    napping.nap(guests.hosting(), guests.users["ann"])
    assert ask(pool, guests, "ann", hosting).result(LONG).woken
    assert len(guests.runtime.running()) == 2 + AT_ONCE


def test_a_restart_is_a_cold_start_too(guests: Guests, hosting: Hosting, pool: ThreadPoolExecutor) -> None:
    """It waits for a seat with the gateway's lock held, and has one as soon as another start has ended."""
    restart = pool.submit(lifecycle.restart, hosting, guests.users["ben"])
    wait_until(lambda: guests.container("ben") not in guests.runtime.running())
    guests.stop("ann")
    guests.wake("ann")  # by another process: time enough for what did not wait
    guests.deactivate(SLOW[0])
    assert restart.result(LONG).woken
    changes = guests.runtime.changes[::-1]
    made, gone = f"create container {guests.container('ben')}", f"remove container {guests.container(SLOW[0])}"
    assert changes.index(made) < changes.index(gone)


def test_who_is_deactivated_does_not_wait_for_a_seat(
    guests: Guests, hosting: Hosting, pool: ThreadPoolExecutor
) -> None:
    """A start that waits for its turn ends as one that is under way does, and makes nothing (4.4)."""
    guests.stop("ben")
    guests.runtime.changes.clear()
    start = ask(pool, guests, "ben", hosting)
    wait_until(lambda: waiting_or_held(guests, "start") == AT_ONCE + 1)
    guests.deactivate("ben")
    lifecycle.cut(guests.hosting(), guests.users["ben"])
    with pytest.raises(Denied):
        start.result(LONG)
    assert guests.runtime.changes == []
    assert guests.state("ben") == ("stopped", None)


def test_who_waits_for_a_drain_keeps_nobody_from_starting(guests: Guests, pool: ThreadPoolExecutor) -> None:
    """With as many requests waiting for stops as there are seats, another user's gateway starts."""
    hosting = guests.hosting()
    for name in SLOW:
        guests.add(name, model="never-stops")
        guests.wake(name)
    stops = [pool.submit(guests.stop, name, grace=600) for name in SLOW]
    wait_until(lambda: all(guests.state(name)[0] == "stopping" for name in SLOW))
    waiting = [ask(pool, guests, name, hosting) for name in SLOW]
    wait_until(lambda: waiting_or_held(guests, "start", granted=False) == AT_ONCE)
    guests.stop("ben")
    try:
        assert ask(pool, guests, "ben", hosting).result(LONG).woken
    finally:
        for name in SLOW:
            guests.runtime.end(guests.container(name), 0)
        for one in stops:
            one.result(LONG)
        for each in waiting:
            with suppress(MosaicError):
                each.result(LONG)


def waiting_or_held(guests: Guests, verb: str, *, granted: bool = True) -> int:
    """Count who holds a lock of a gateway for this, or waits for one."""
    query = text(
        """SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
           WHERE locktype = 'advisory' AND granted = :granted AND application_name LIKE :name"""
    )
    with guests.db.transaction(system=True) as session:
        values = {"granted": granted, "name": f"mosaic {verb} gateway%"}
        return int(session.execute(query, values).scalar() or 0)
