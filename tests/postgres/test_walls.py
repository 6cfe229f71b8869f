"""The packet filter follows the settings: at a change and at a wake, on a real Postgres and an engine in memory."""

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.fleet import walls
from tests.postgres.guests import Guests
from tests.postgres.machine import Machine

ALLOW = ("config", "set", "egress.allow")


@pytest.fixture
def guests(database: Database, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Return an installation with a user, which the command line reaches too."""
    guests = Guests.at(database)
    guests.add("ann")
    monkeypatch.setattr(Mosaic, "hosting", property(lambda _: guests.hosting()))
    return guests


def test_a_wake_puts_up_what_is_missing(guests: Guests) -> None:
    """After a reboot the next request needs nobody, and neither does one after a change that another host made."""
    guests.walls.fall()
    guests.wake("ann")
    assert guests.walls.openings == []
    guests.stop("ann")
    guests.configure("egress.allow", "10.1.1.42:11434")
    guests.wake("ann")
    assert guests.walls.openings == ["10.1.1.42/32"]


def test_a_change_of_egress_allow_is_in_force_at_once(guests: Guests, mosaic: Machine) -> None:
    """For gateways that run too, which are not restarted; a second time there is nothing to do."""
    guests.wake("ann")
    before = guests.row("ann").container_id
    for words, openings in (((*ALLOW, "10.1.1.42"), ["10.1.1.42/32"]), (("config", "unset", "egress.allow"), [])):
        said = mosaic(*words)
        assert (said.exit_code, said.stderr) == (0, "the walls around users' gateways follow it\n")
        assert guests.walls.openings == openings
        assert mosaic(*words).stderr == ""
    assert guests.row("ann").container_id == before


def test_a_change_of_the_pool_is_in_force_at_once(guests: Guests, mosaic: Machine) -> None:
    """No gateway reaches what is in the pool of other gateways."""
    guests.wake("ann")
    before = guests.walls.applied
    mosaic("config", "set", "gateways.subnet_pool", "10.214.0.0/16")
    assert guests.walls.applied == before + 1


def test_where_nobody_started_a_gateway_there_are_no_walls(guests: Guests, mosaic: Machine) -> None:
    """A fleet alone needs neither root nor the Docker of this machine for its settings."""
    assert mosaic(*ALLOW, "10.1.1.42").stderr == ""
    assert guests.walls.applied == 0


def elsewhere(guests: Guests) -> None:
    guests.runtime.is_local = False


def refused(guests: Guests) -> None:
    guests.walls.refusal = "iptables refused"


@pytest.mark.parametrize(
    ("spoil", "reason"), [(elsewhere, "their Docker is on another machine"), (refused, "iptables refused")]
)
def test_a_change_that_walls_cannot_follow_here_is_made(
    guests: Guests, mosaic: Machine, spoil: Callable[[Guests], None], reason: str
) -> None:
    """It is told, also to who wants quiet, and does not fail for it."""
    guests.wake("ann")
    spoil(guests)
    said = mosaic(*ALLOW, "10.1.1.42", "--quiet")
    assert (said.exit_code, said.stdout) == (0, "")
    assert said.stderr.splitlines()[0] == f"the walls around users' gateways do not follow it yet: {reason}"
    assert mosaic("config", "get", "egress.allow").stdout == "10.1.1.42\n"


def test_who_waited_for_the_walls_does_not_undo_a_change(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who puts them up has the settings of then, not those of before another one changed them."""
    hosting, waiting = guests.hosting(), Event()
    lock = hosting.db.lock

    def late(*words: Any, **options: Any) -> Any:
        waiting.set()
        return lock(*words, **options)

    with lock("test", "walls"):
        monkeypatch.setattr(hosting.db, "lock", late)
        other = Thread(target=walls.stand, args=(hosting,))
        other.start()
        assert waiting.wait(60)
        guests.configure("egress.allow", "10.1.1.42")
    other.join(60)
    assert guests.walls.openings == ["10.1.1.42/32"]
