"""Rounds over users' gateways: how they are, and what a crash or a reboot left is put right."""

from typing import Any

import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import PartialFailure
from mosaic_fleet.fleet import containers, rounds, starting, stopping
from mosaic_fleet.fleet.rounds import Health, Mended
from tests.fake_gateways import Behaviour
from tests.postgres.guests import Guests


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often: the engine in memory needs no time."""
    for module in (starting, stopping):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)


@pytest.fixture
def guests(database: Database) -> Guests:
    """Return an installation with two users whose gateways run."""
    guests = Guests.at(database)
    for name in ("ann", "ben"):
        guests.add(name)
        guests.wake(name)
    return guests


def set_row(guests: Guests, name: str, **values: Any) -> None:
    """Write into a user's row, as a process that died would have left it."""
    with guests.db.transaction(system=True) as session:
        row = containers.find(session, guests.users[name])
        assert row
        for column, value in values.items():
            setattr(row, column, value)


def mend(guests: Guests) -> dict[str, str]:
    """Reconcile; return what was put right by user."""
    return {row.user: row.what for row in rounds.reconcile(guests.hosting())}


def test_healthy_gateways_are_ok(guests: Guests) -> None:
    """All that run say ok; stopped ones are not asked."""
    guests.add("cyd")
    guests.wake("cyd")
    guests.stop("cyd")
    assert rounds.health_check_all(guests.hosting()) == [
        Health("ann", "running", "ok"),
        Health("ben", "running", "ok"),
    ]


def test_a_gateway_that_is_not_well_says_so(guests: Guests) -> None:
    """An ended container is gone with the reason, a paused one is well, one that says no is unhealthy."""
    guests.runtime.end(guests.container("ann"), 137, oom_killed=True)
    guests.runtime.pause(guests.container("ben"))
    gone, paused = rounds.health_check_all(guests.hosting())
    assert (gone.health, gone.is_well) == ("gone", False)
    assert "OOM" in gone.reason
    assert (paused.health, paused.is_well) == ("paused", True)


def test_a_probe_s_body_counts(guests: Guests) -> None:
    """A gateway that answers 200 and does not say ok is unhealthy."""
    guests.runtime.behave = lambda *_: Behaviour(healthy=False)
    guests.stop("ben")
    made = guests.runtime
    made.looks_to_start = 0
    guests.runtime.behave = lambda *_: Behaviour()
    guests.wake("ben")
    container = made._found(guests.container("ben"))
    container.behaviour = Behaviour(healthy=False)
    assert [one.health for one in rounds.health_check_all(guests.hosting())] == ["ok", "unhealthy"]


def test_when_all_agrees_nothing_is_done(guests: Guests) -> None:
    """Running gateways are left alone."""
    guests.runtime.changes.clear()
    assert mend(guests) == {}
    assert guests.runtime.changes == []


def test_after_a_reboot_all_is_stopped_and_taken_away(guests: Guests) -> None:
    """Ended containers and their networks go, and the rows say why they do not run."""
    guests.runtime.end(guests.container("ann"), 255)
    guests.runtime.vanish(guests.container("ben"))
    assert mend(guests) == {
        "ann": "was running, it ended with exit code 255",
        "ben": "was running, its container is gone",
    }
    assert guests.state("ann") == ("stopped", "it ended with exit code 255")
    assert guests.runtime.everything()["containers"] == guests.runtime.everything()["networks"] == []
    assert len(guests.runtime.everything()["volumes"]) == 2
    assert mend(guests) == {}
    assert guests.wake("ann").woken


def test_a_start_that_broke_off_is_taken_over_or_cleared(guests: Guests) -> None:
    """A gateway that runs although its start broke off counts as running; one that ended is an error."""
    set_row(guests, "ann", status="starting", container_id=None)
    set_row(guests, "ben", status="starting", container_id=None)
    guests.runtime.end(guests.container("ben"), 1)
    assert set(mend(guests)) == {"ann", "ben"}
    assert guests.state("ann") == ("running", None)
    assert guests.state("ben") == ("error", "its start broke off: it ended with exit code 1")
    assert not guests.wake("ann").woken


def test_a_stop_that_broke_off_is_finished(guests: Guests) -> None:
    """A container whose stop was interrupted, or whose row says stopped, ends and goes."""
    set_row(guests, "ann", status="stopping")
    set_row(guests, "ben", status="stopped", container_id=None)
    assert mend(guests) == {"ann": "finished its stop", "ben": "finished its stop"}
    assert guests.runtime.running() == []
    assert guests.state("ann") == ("stopped", None)


def test_a_network_without_a_container_is_taken_away(guests: Guests) -> None:
    """What a killed stop left goes."""
    guests.stop("ann")
    marks = guests.runtime.wanted(guests.container("ben")).labels
    guests.runtime.create_bridge(guests.container("ann"), interface="mu-9", subnet="10.213.9.0/28", labels=marks)
    mend(guests)
    assert guests.runtime.everything()["networks"] == [guests.container("ben")]


def test_a_deactivated_user_s_gateway_is_stopped(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a `user disable` left because Docker was away ends, even when it works on."""
    monkeypatch.setattr(stopping, "LAST_SECONDS", 0.01)
    guests.prefer("ann", primary_model="llm/never-stops")
    guests.stop("ann")
    guests.wake("ann")
    guests.deactivate("ann")
    assert mend(guests) == {"ann": "stopped: its user is deactivated"}
    assert guests.runtime.running() == [guests.container("ben")]
    assert guests.state("ann") == ("stopped", None)
    assert mend(guests) == {}


def test_what_somebody_works_on_is_left_to_them(guests: Guests) -> None:
    """A gateway whose lock is held is not touched."""
    guests.runtime.end(guests.container("ann"), 1)
    with guests.db.lock("start", f"gateway {guests.users['ann']}"):
        assert mend(guests) == {}
    assert guests.state("ann") == ("running", None)


def test_one_that_cannot_be_put_right_keeps_no_other_from_it(guests: Guests) -> None:
    """Its failure is told with what was done to the others, and names it."""
    guests.runtime.end(guests.container("ann"), 1)
    guests.runtime.vanish(guests.container("ben"))
    guests.runtime.break_at = len(guests.runtime.changes) + 1
    broken, mended = rounds.reconcile(guests.hosting())
    assert broken == Mended(broken.user, "docker does not answer: broken on purpose", failed=True)
    assert mended.what.startswith("was running, ")
    assert {broken.user, mended.user} == {"ann", "ben"}
    assert (guests.state(broken.user)[0], guests.state(mended.user)[0]) == ("running", "stopped")
    with pytest.raises(PartialFailure, match=f"1 gateways could not be put right: {broken.user}: docker does not"):
        rounds.check([broken, mended])
    guests.runtime.break_at = None
    assert list(mend(guests)) == [broken.user]
