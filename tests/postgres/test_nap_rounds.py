"""Rounds that have idle gateways nap: on a real Postgres and an engine in memory, with messages all the while."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from random import Random
from threading import Event
from typing import Any

import pytest
from sqlmodel import col, select

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import User, UserContainer, now
from mosaic_fleet.fleet import activity, containers, lifecycle, reaping, sleeping, starting, stopping
from mosaic_fleet.fleet.hosting import Running
from mosaic_fleet.runtimes.gateway_base import Container
from tests.fake_gateways import FakeGateways
from tests.fake_openclaw import FakeOpenClaw
from tests.postgres.guests import Dying, Guests, Killed

RACES = 100
# A nap makes ten calls; the last message comes when all is over.
_STEPS = 11


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often and give up sooner: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(sleeping, "_GRACE_SECONDS", 0.05)


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with a user whose gateway runs and was active last 3 minutes ago."""
    guests = Guests.at(database)
    guests.add("ann")
    guests.wake("ann")
    guests.age("ann", 3)
    return guests


def outcome(guests: Guests, at: datetime | None = None) -> tuple[str, str]:
    """Have a round; return what became of the only gateway."""
    rows = reaping.reap(guests.hosting(), at or now())
    assert rows is not None
    [row] = rows
    return row.outcome, row.reason


def state(guests: Guests) -> tuple[str, str]:
    """Return what the row and what Docker says of ann's gateway."""
    found = guests.runtime.container(guests.container("ann"))
    return guests.state("ann")[0], found.state if found else "gone"


def test_an_idle_gateway_naps_and_is_stopped_at_its_timeout(guests: Guests) -> None:
    """It is paused after two minutes and told why, left alone while it naps, and stopped as ever in the end."""
    assert outcome(guests) == ("napped", "idle 3 min (last: chat)")
    assert state(guests) == ("paused", "paused")
    row = guests.row("ann")
    assert row.reason == "idle 3 min (last: chat)"
    assert row.status_at
    assert now() - row.status_at < timedelta(minutes=1)
    guests.runtime.changes.clear()
    assert outcome(guests) == ("kept", "naps, idle 3 of 30 min (last: chat)")
    assert guests.runtime.changes == []
    assert outcome(guests, now() + timedelta(minutes=27)) == ("stopped", "idle 30 min (last: chat)")
    assert state(guests) == ("stopped", "gone")


def test_one_that_was_woken_naps_again_only_after_another_silence(guests: Guests) -> None:
    """A message wakes it, its activity counts from then on."""
    outcome(guests)
    chat(guests)
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: chat)")
    assert outcome(guests, now() + timedelta(minutes=2, seconds=1))[0] == "napped"


def test_a_wake_is_activity(guests: Guests) -> None:
    """Who asked for one that naps, without a word to it yet, finds it awake for as long as it may idle."""
    outcome(guests)
    assert lifecycle.running(guests.hosting(), guests.users["ann"]) is None
    assert guests.row("ann").last_active_by == "chat"
    guests.wake("ann")
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: wake)")
    assert outcome(guests, now() + timedelta(minutes=2, seconds=1))[0] == "napped"


def test_naps_can_be_switched_off(guests: Guests) -> None:
    """With `nap.after` 0 an idle gateway runs until it is stopped."""
    guests.configure("nap.after", "0")
    assert outcome(guests) == ("kept", "idle 3 of 30 min (last: chat)")


def test_a_busy_gateway_does_not_nap(guests: Guests) -> None:
    """What it works at counts as activity; it is neither paused nor fenced, and its state is as old as it was."""
    before = guests.row("ann").status_at
    assert guests.openclaw("ann").begin()
    guests.age("ann", 3)
    assert outcome(guests) == ("kept", "idle 3 min (last: chat), but busy: embedded-run, root-request")
    assert state(guests) == ("running", "running")
    assert guests.row("ann").status_at == before
    assert guests.openclaw("ann").begin()


def test_no_gateway_naps_right_after_a_turn_that_mosaic_did_not_carry(guests: Guests) -> None:
    """It is asked when its latest turn was, so its two minutes begin then."""
    guests.openclaw("ann").latest_turn = now().timestamp()
    assert outcome(guests) == ("kept", "idle 0 of 30 min (last: chat)")
    assert state(guests) == ("running", "running")
    assert outcome(guests, now() + timedelta(minutes=2, seconds=1)) == ("napped", "idle 2 min (last: chat)")


def test_a_dry_run_says_what_would_nap(guests: Guests) -> None:
    """It tells and changes nothing."""
    rows = reaping.reap(guests.hosting(), now(), dry_run=True) or []
    assert [(row.outcome, row.reason) for row in rows] == [("would nap", "idle 3 min (last: chat)")]
    assert state(guests) == ("running", "running")


# Schedules -----------------------------------------------------------------------------------------------------------


def schedule(guests: Guests, minutes: float | None) -> None:
    """Have ann's gateway run with schedules on, and a job of it be due in so many minutes."""
    guests.prefer("ann", schedules=True)
    lifecycle.restart(guests.hosting(), guests.users["ann"])
    guests.age("ann", 3)
    openclaw = guests.openclaw("ann")
    openclaw.schedules = True
    openclaw.next_wake = None if minutes is None else now().timestamp() + 60 * minutes


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        pytest.param(None, ("kept", "its schedules do not say when their next job is due"), id="unknown"),
        pytest.param(9.5, ("kept", "a job of its schedules is due in 9 min"), id="soon"),
        pytest.param(-30, ("kept", "a job of its schedules is due now"), id="late"),
        pytest.param(-61, ("kept", "its schedules do not say when their next job is due"), id="overdue"),
        pytest.param(11, ("napped", ""), id="far"),
    ],
)
def test_a_gateway_with_schedules_naps_only_when_its_next_job_is_far(
    guests: Guests, minutes: float | None, expected: tuple[str, str]
) -> None:
    """A job is not missed for a nap, whether it is due soon or nobody knows when: one overdue hides the next."""
    schedule(guests, minutes)
    said, reason = outcome(guests)
    assert said == expected[0]
    assert reason == f"idle 3 min (last: chat){', but ' if expected[1] else ''}{expected[1]}"


def test_one_that_naps_goes_on_before_its_job(guests: Guests) -> None:
    """Ten minutes before a job of its schedules, which is told meanwhile, it runs again, and stays awake for it."""
    schedule(guests, 15)
    assert outcome(guests)[0] == "napped"
    for dry_run in (True, False):
        [row] = reaping.reap(guests.hosting(), now(), dry_run=dry_run) or []
        assert row.next_due_at is not None
        assert row.next_due_at == guests.row("ann").next_due_at
    later = now() + timedelta(minutes=6)
    assert outcome(guests, later) == ("woken", "a job of its schedules is due in 8 min")
    assert state(guests) == ("running", "running")
    assert outcome(guests, later)[0] == "kept"
    assert guests.openclaw("ann").begin()


def test_a_job_that_was_missed_in_a_nap_is_made_up_for(guests: Guests) -> None:
    """However late its round comes, one that naps goes on for its job before it may be stopped; broken, it is then."""
    schedule(guests, 15)
    assert outcome(guests)[0] == "napped"
    later = now() + timedelta(hours=9)
    assert outcome(guests, later) == ("woken", "a job of its schedules is due now")
    guests.openclaw("ann").work["cron-run"] = 1
    assert outcome(guests, later)[1].endswith("but busy: cron-run")
    guests.openclaw("ann").work.clear()
    assert outcome(guests, later + timedelta(hours=1))[0] == "stopped"


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 12))
def test_after_a_killed_round_the_next_one_has_it_nap(guests: Guests, at: int, late: bool) -> None:
    """A reaper that dies at the so manieth call of a nap leaves what the next round brings to its end."""
    hosting = guests.hosting(runtime=Dying(guests.runtime, at, late=late))
    with suppress(Killed):
        reaping.reap(hosting, now())
    assert outcome(guests)[0] in ("napped", "kept")
    assert state(guests) == ("paused", "paused")
    found = guests.runtime.container(guests.container("ann"))
    assert found
    assert not found.is_squeezed
    chat(guests)


def test_a_stop_of_one_that_naps_may_be_given_up(guests: Guests) -> None:
    """One that has work as soon as it goes on is not stopped: it was woken, and that is told."""
    outcome(guests)
    guests.openclaw("ann").work["cron-run"] = 1
    said = outcome(guests, now() + timedelta(minutes=30))
    assert said == ("woken", "idle 33 min (last: chat), but busy: cron-run")
    assert state(guests) == ("running", "running")


# Messages ------------------------------------------------------------------------------------------------------------


def chat(guests: Guests, name: str = "ann") -> None:
    """Carry a turn to a gateway as a door does: note it, ensure that the gateway runs, send it, note its end."""
    note(guests, name)
    found: Running = lifecycle.ensure_running(guests.hosting(), guests.users[name])
    assert found
    seen = guests.runtime.container(guests.container(name))
    assert seen
    assert seen.state == "running", "a message to a frozen gateway"
    assert guests.openclaw(name).begin(), "a message was refused"
    guests.openclaw(name).end()


def note(guests: Guests, name: str) -> None:
    """Note that a turn begins."""
    with guests.db.transaction(system=True) as session:
        activity.note(session, guests.users[name], "chat", now=now())


class Stepping:
    """An engine that tells when its so manieth call begins, and goes on."""

    def __init__(self, runtime: FakeGateways, at: int) -> None:
        self._runtime, self._at = runtime, at
        self._calls = count(1)
        self.reached = Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._runtime, name)

        def call(*values: Any, **named: Any) -> Any:
            if next(self._calls) == self._at:
                self.reached.set()
            return method(*values, **named)

        return call


@pytest.mark.parametrize("hundred", range(5))
def test_no_message_is_refused_or_frozen_by_a_nap(guests: Guests, hundred: int) -> None:
    """Of 500 messages that come at any step of a round each is answered at once by a gateway that is awake (4.9)."""
    outcomes: Counter[str] = Counter()
    ahead = [0.0]
    guests.runtime.make_openclaw = lambda token: FakeOpenClaw(token, lambda: now().timestamp() + ahead[0])
    lifecycle.restart(guests.hosting(), guests.users["ann"])
    with ThreadPoolExecutor(1) as pool:
        for number in range(hundred * RACES, (hundred + 1) * RACES):
            ahead[0] += 61  # OpenClaw takes 30 requests for a lease a minute
            guests.age("ann", 3)
            engine = Stepping(guests.runtime, number % _STEPS + 1)
            round_ = pool.submit(reaping.reap, guests.hosting(runtime=engine), now())
            round_.add_done_callback(lambda _, engine=engine: engine.reached.set())
            assert engine.reached.wait(60)
            chat(guests)
            outcomes.update(row.outcome for row in round_.result(60) or [])
            assert guests.runtime.container(guests.container("ann")) == awake(guests)
            assert guests.openclaw("ann").begin()
            guests.openclaw("ann").end()
    assert set(outcomes) == {"napped", "kept"}
    assert outcomes.total() == RACES


def awake(guests: Guests) -> Container:
    """Return ann's container as it is when it runs with its own limit."""
    found = guests.runtime.container(guests.container("ann"))
    assert found
    return replace(found, state="running", memory_limit=found.swap_limit)


# A day ---------------------------------------------------------------------------------------------------------------


def test_a_day_of_a_thousand_gateways(guests: Guests) -> None:
    """Of a thousand that nap for days twenty are written to now and then: they alone are touched, and nap after it."""
    guests.configure("gateways.idle_timeout", "4320")
    names = [f"user-{number}" for number in range(20)]
    for name in names:
        guests.add(name)
        guests.wake(name)
    with guests.db.transaction(system=True) as session:
        crowd = [User(name=f"crowd-{number:03}", email=f"crowd-{number}@example.org") for number in range(980)]
        session.add_all(crowd)
        session.flush()
        rows = [
            UserContainer(user_id=one.id, container_name=containers.name(one.id), gateway_token="") for one in crowd
        ]
        for row in rows:
            row.status, row.started_at, row.last_active_at = "paused", now(), now()
        session.add_all(rows)
    start, chance = now(), Random(3)  # the same day each time
    napped: dict[str, int] = dict.fromkeys(names, 0)
    silences: dict[str, int] = dict.fromkeys(names, 1)
    for hour in range(24):
        at = start + timedelta(hours=hour + 1)
        for row in reaping.reap(guests.hosting(), at) or []:
            assert row.outcome in ("kept", "napped"), row
            if row.user in napped:
                napped[row.user] += row.outcome == "napped"
        for name in chance.sample(names, 3):
            guests.wake(name)
            set_active(guests, name, at)
            silences[name] += hour < 23
    assert napped == silences
    with guests.db.transaction(system=True) as session:
        query = select(UserContainer.status).where(col(UserContainer.status) != "paused")
        assert len(session.exec(query).all()) <= 3


def set_active(guests: Guests, name: str, at: datetime) -> None:
    """Have a user have written at a time."""
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users[name])
        assert row
        row.last_active_at, row.last_active_by = at, "chat"
