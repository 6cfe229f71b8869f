"""Users' gateways, real: finding one that runs, and a wake against what Docker alone takes for the same container."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from mosaic_fleet import configuration
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.fleet import containers, delivery, lifecycle, personal
from mosaic_fleet.fleet.hosting import is_ok
from mosaic_fleet.fleet.openclaw import PORT, STATE_DIR
from mosaic_fleet.runtimes.gateway_base import Limits, Wanted
from mosaic_fleet.settings import Settings
from tests.bench import site
from tests.bench.cells import Operator
from tests.bench.measuring import Line, against, at_most, interleaved, seconds
from tests.docker.installation import Installation
from tests.docker_run import wait_until

ROUNDS = 3
_LOOKS = 20
_BARE = "mosaic-bench-bare"


@dataclass(frozen=True)
class Guest:
    """A user whose gateway is woken and stopped."""

    mosaic: Mosaic
    user: UUID


@contextmanager
def guest(made: Installation) -> Iterator[Guest]:
    """Make a user with a provider, whose gateway is real; it is stopped at the end."""
    mosaic = Mosaic(Settings.from_env(made.env))
    with mosaic.db.transaction(system=True) as session:
        user = site.user(session, mosaic, "bench")
    yield Guest(mosaic, user)
    lifecycle.stop(mosaic.hosting, user, grace=10, force=True)


def waking(guest: Guest, operator: Operator) -> Iterator[Line]:
    """Time a wake against a bare network, create, start and `/startupz` of the same container; medians.

    Beside it is what OpenClaw's own fleet takes for a cell, which has no state yet.
    """
    timers = (lambda: _wake(guest), lambda: _bare(guest), operator.create)
    measured, base, theirs = map(median, interleaved(ROUNDS, *timers))
    yield against("wake of a user's gateway", measured, ("create + start", base), times=1.05, plus=0.3)
    yield against("wake, against OpenClaw's own fleet", measured, ("openclaw fleet create", theirs), times=1.05)


def finding(guest: Guest) -> Line:
    """Time ensure_running of a gateway that runs; the median."""
    lifecycle.ensure_running(guest.mosaic.hosting, guest.user)
    (times,) = interleaved(_LOOKS, lambda: seconds(lambda: lifecycle.ensure_running(guest.mosaic.hosting, guest.user)))
    return at_most("ensure_running of one that runs", median(times), 0.02)


def _wake(guest: Guest) -> float:
    lifecycle.stop(guest.mosaic.hosting, guest.user)
    return seconds(lambda: lifecycle.ensure_running(guest.mosaic.hosting, guest.user))


def _bare(guest: Guest) -> float:
    """Make the same container without Mosaic's database, lock and checks; what it leaves is removed untimed."""
    lifecycle.ensure_running(guest.mosaic.hosting, guest.user)
    runtime, name = guest.mosaic.hosting.runtime, containers.name(guest.user)
    before = runtime.container(name)
    assert before
    image = guest.mosaic.runtime.image(_image(guest))
    assert image
    files = _files(guest)
    lifecycle.stop(guest.mosaic.hosting, guest.user)
    wanted = Wanted(
        name=_BARE,
        image=image.id,
        bridge=_BARE,
        volume=containers.volume(guest.user),
        state_dir=STATE_DIR,
        run_dir=delivery.RUN_DIR,
        command=delivery.command(),
        environment=delivery.environment(2 << 30),
        limits=Limits(2 << 30, 2),
        labels=before.labels,
    )

    def start() -> None:
        runtime.create_bridge(_BARE, interface="bench0", subnet="10.214.0.0/28", labels=before.labels)
        made = runtime.create(wanted)
        runtime.start(made, stdin=files)
        found = runtime.container(made)
        assert found
        wait_until(lambda: is_ok(runtime.get(found.address, "/startupz", port=PORT, timeout=5)))

    try:
        return seconds(start)
    finally:
        runtime.kill(_BARE)
        wait_until(lambda: not ((seen := runtime.container(_BARE)) and seen.lives))
        runtime.remove(_BARE)
        runtime.remove_bridge(_BARE)


def _image(guest: Guest) -> str:
    with guest.mosaic.db.transaction(system=True) as session:
        return str(configuration.values(session)["fleet.image"])


def _files(guest: Guest) -> bytes:
    with guest.mosaic.db.transaction(owner=guest.user) as session:
        return personal.load(session, guest.mosaic.box, guest.user).package.tar()
