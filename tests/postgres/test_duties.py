"""What `mosaic serve` does every minute: on a real Postgres and an engine in memory."""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from threading import Event, Lock
from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import DatabaseFailure, RuntimeFailure
from mosaic_fleet.fleet import containers
from mosaic_fleet.fleet.hosting import Hosting
from mosaic_fleet.web import duties
from mosaic_fleet.web.duties import Duties, Duty
from tests.postgres.guests import Guests
from tests.postgres.team import FaultyDatabase

LONG = 60.0


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with a user whose gateway runs."""
    guests = Guests.at(database)
    guests.add("ann")
    guests.wake("ann")
    return guests


def at(guests: Guests, *table: Duty, **options: Any) -> Duties:
    """Return the duties of a server, all of them unless some are given."""
    return Duties(guests.hosting, lambda work: work(guests.db), table=table or duties.TABLE, **options)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_walls_that_fell_are_put_up(guests: Guests, caplog: pytest.LogCaptureFixture) -> None:
    """A packet filter that a reboot emptied is in force after a round, and said so once."""
    guests.walls.fall()
    for _ in range(2):
        at(guests).round()
    assert guests.walls.openings == []
    assert told(caplog) == ["walls: the packet filter was not in force, and is now"]


def test_what_a_crash_left_is_put_right(guests: Guests, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway whose container ended is stopped in the database too, and nothing of it stays."""
    guests.runtime.end(guests.container("ann"), 137, oom_killed=True)
    at(guests).round()
    assert guests.state("ann")[0] == "stopped"
    assert guests.runtime.everything()["networks"] == []
    assert told(caplog)[0].startswith("reconcile: gateway of ann: was running, killed")


def test_what_cannot_be_put_right_is_told_beside_what_was(guests: Guests, caplog: pytest.LogCaptureFixture) -> None:
    """The log has both, `/readyz` that it fails; the next round goes on with it."""
    guests.add("ben")
    guests.wake("ben")
    for name in ("ann", "ben"):
        guests.runtime.end(guests.container(name), 1)
    guests.runtime.break_at = len(guests.runtime.changes) + 1
    one = at(guests)
    one.round()
    assert one.failing == ['the duty "reconcile" failed 1 times in a row: see the log']
    mended, failed = told(caplog)
    assert mended.startswith("reconcile: gateway of ")
    assert failed.startswith("reconcile: 1 gateways could not be put right: ")
    assert failed.endswith(": docker does not answer: broken on purpose")
    one.round()
    assert one.failing == []


def test_where_nobody_started_a_gateway_nobody_asks_docker(database: Database) -> None:
    """Not even a user whose container pulls its config elsewhere makes Docker be asked or walls be put up."""
    guests = Guests.at(database)
    guests.add("ann")
    with database.transaction(system=True) as session:
        containers.claim(session, guests.box, guests.users["ann"])
    guests.runtime.engine = guests.runtime.containers = away
    one = at(guests)
    one.round()
    assert (one.failing, guests.walls.applied) == ([], 0)


def test_where_docker_is_elsewhere_there_are_no_walls(guests: Guests) -> None:
    """The packet filter of this machine is left alone."""
    guests.runtime.is_local = False
    guests.walls.fall()
    at(guests).round()
    assert guests.walls.openings is None


def away(*_: object) -> Any:
    """Fail as Docker does when it is not there."""
    raise RuntimeFailure("docker does not answer", hint="start docker")


def test_without_docker_it_is_degraded_and_recovers(
    guests: Guests, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the reason once for each duty, `/readyz` how often it failed; both end when Docker is back."""
    one = at(guests)
    with monkeypatch.context() as patched:
        for what in ("engine", "containers"):
            patched.setattr(guests.runtime, what, away)
        for _ in range(3):
            one.round()
    assert one.failing == [f'the duty "{name}" failed 3 times in a row: see the log' for name in ("walls", "reconcile")]
    assert told(caplog) == [f"{name}: docker does not answer (hint: start docker)" for name in ("walls", "reconcile")]
    caplog.clear()
    one.round()
    assert one.failing == []
    assert told(caplog) == ["walls: works again", "reconcile: works again"]


def failing(error: Exception) -> Callable[[Hosting], Iterator[str]]:
    """Return a duty's work that fails."""

    def work(_: Hosting) -> Iterator[str]:
        yield "something"
        raise error

    return work


@pytest.mark.parametrize("error", [RuntimeFailure("broken"), KeyError("a bug")], ids=["ours", "bug"])
def test_a_duty_that_fails_keeps_no_other_from_its_turn(guests: Guests, error: Exception) -> None:
    """Neither an error of ours nor a bug ends the round, or the next one."""
    done: list[str] = []

    def work(_: Hosting) -> Iterator[str]:
        yield from ()
        done.append("done")

    one = at(guests, Duty("bad", failing(error)), Duty("good", work))
    for _ in range(2):
        one.round()
    assert done == ["done"] * 2
    assert one.failing == ['the duty "bad" failed 2 times in a row: see the log']


def test_what_has_its_turn_now_and_then_is_tried_again_when_it_failed(guests: Guests) -> None:
    """It is done in the first round and in every third one, and in the one after a failure."""
    done: list[int] = []

    def work(_: Hosting) -> Iterator[str]:
        yield from ()
        done.append(number)
        if number == 3:
            raise RuntimeFailure("broken")

    one = at(guests, Duty("rare", work, every=3))
    for number in range(7):  # noqa: B007  # which round it is
        one.round()
    assert done == [0, 3, 4, 6]


def test_nothing_runs_twice_at_once(guests: Guests) -> None:
    """While one server is at a duty, another one passes it by without complaint."""
    inside, go, lock = Event(), Event(), Lock()

    def work(_: Hosting) -> Iterator[str]:
        assert lock.acquire(blocking=False)
        inside.set()
        assert go.wait(LONG)
        lock.release()
        yield from ()

    first, second = at(guests, Duty("slow", work)), at(guests, Duty("slow", work))
    first.start()
    assert inside.wait(LONG)
    second.round()
    assert second.failing == []
    go.set()
    first.close()
    assert first.failing == []


def test_rounds_follow_each_other_until_it_ends(guests: Guests) -> None:
    """It goes on by itself, and does nothing any more once it was told to end."""
    rounds, enough = [0], Event()

    def work(_: Hosting) -> Iterator[str]:
        yield from ()
        rounds[0] += 1
        if rounds[0] == 3:
            enough.set()

    one = at(guests, Duty("often", work), every=0.01)
    one.start()
    assert enough.wait(LONG)
    one.close()
    last = rounds[0]
    one.round()
    assert rounds[0] == last


def test_it_ends_between_two_pieces_of_work(guests: Guests) -> None:
    """A duty with many gateways to see to is left after the one that it is at."""
    done: list[int] = []

    def work(_: Hosting) -> Iterator[str]:
        for number in range(100):
            done.append(number)
            one.end()
            yield str(number)

    one = at(guests, Duty("long", work), Duty("behind", work))
    one.round()
    assert done == [0]


def test_a_duty_that_hangs_does_not_hold_up_the_end(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a moment, no longer."""
    monkeypatch.setattr(duties, "_PATIENCE_SECONDS", 0.01)
    inside, go, over = Event(), Event(), Event()

    def work(_: Hosting) -> Iterator[str]:
        inside.set()
        assert go.wait(LONG)
        yield from ()
        over.set()

    one = at(guests, Duty("hangs", work))
    one.start()
    assert inside.wait(LONG)
    one.close()
    assert not over.is_set()
    go.set()
    assert over.wait(LONG)


@pytest.mark.parametrize("when", ["begin", "commit", "answer"])
def test_a_database_that_is_lost_fails_the_duty_alone(guests: Guests, when: str) -> None:
    """With each transaction failing in turn, the round ends, and the next one finds nothing to complain of."""
    for at_ in count(1):
        broken = FaultyDatabase(guests.db.url, at_, when)
        one = Duties(lambda db=broken: guests.hosting(db=db), lambda work, db=broken: work(db))
        one.round()
        if not one.failing:
            break
        one.round()
        assert one.failing == []
    assert at_ > 3


def test_a_database_that_is_away_is_told(guests: Guests) -> None:
    """Every duty says that it could not be done."""

    def attempt(_: object) -> Any:
        raise DatabaseFailure("away")

    one = Duties(guests.hosting, attempt)
    one.round()
    assert len(one.failing) == len(duties.TABLE)
