"""Naps: an idle gateway is frozen and its memory given back; the next request finds it as it was, a moment later.

Whoever is about to fence, freeze or stop an idle gateway first has its row say `dozing`: from then on no request goes
there without waking it, and what a killed process left is woken the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlmodel import col, update

from mosaic_fleet.db.gateway_reads import STARTED
from mosaic_fleet.db.tables import UserContainer, now
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import containers, leases, stopping, walls
from mosaic_fleet.fleet.hosting import Running, Work, says_ok, url
from mosaic_fleet.fleet.leases import Lease
from mosaic_fleet.runtimes.gateway_base import Container

_PROBE_SECONDS = 10.0


def announce(work: Work, active: datetime | None) -> bool:
    """Have a gateway's row say that it may not be reached; False when it was active after `active`, or is asleep."""
    last = col(UserContainer.last_active_at)
    return _moved(work, "running", "dozing", last.is_not_distinct_from(active))


def retract(work: Work) -> None:
    """Have the row of a gateway that goes on say that it runs, as long as it did before."""
    _moved(work, "dozing", "running")


def nap(work: Work, found: Container, lease: Lease, *, reason: str | None = None) -> bool:
    """Pause a gateway that was announced and is idle by its lease, and record why; False when its memory stays.

    Raises RuntimeFailure when Docker refuses, or the lease ran out before: then it is to be called off.
    """
    work.change().pause(found.id)
    leases.check(lease, now())
    lapses_at = leases.lapses_at(work.runtime, lease, now())
    given_back = work.change().reclaim(found.id)
    with work.row() as row:
        assert row  # noqa: S101  # for mypy
        row.status, row.reason, row.lease_lapses_at = "paused", reason, lapses_at
    return given_back


def call_off(work: Work, found: Container, token: SecretStr) -> None:
    """Let a gateway go on as if nothing had been announced; one that was asked to end is left to do so."""
    with work.row() as row:
        is_ending = row is not None and row.status == "stopping"
    if not is_ending:
        work.change().unpause(found.id)
    leases.lift(work.runtime, found, token)
    retract(work)


@contextmanager
def called_off(work: Work, found: Container, token: SecretStr) -> Iterator[None]:
    """Have the gateway take new work again when what was begun in the block is given up, whatever the reason."""
    try:
        yield
    except stopping.StillStopping:
        raise  # it ends
    except BaseException:
        with suppress(MosaicError):
            call_off(work, found, token)
        raise


def wake(work: Work) -> Running | None:
    """Let a user's gateway go on that naps, or whose nap broke off; None when it has none, or does not answer then.

    Raises RuntimeFailure when the walls cannot stand: it naps on.
    """
    found = work.runtime.container(work.name)
    with work.row() as row:
        if row is None or found is None or not _is_known(row, found):
            return None
        token = containers.token(row, work.hosting.box)
    walls.stand(work.hosting)
    try:
        _go_on(work, found, token)
    except RuntimeFailure:
        return None
    return Running(url(found), token, woken=True)


def go_on(work: Work, found: Container, token: SecretStr) -> None:
    """Unpause a gateway with the limit it had, have it take new work, record it; raises RuntimeFailure.

    Not without walls: they may have fallen while it napped.
    """
    walls.stand(work.hosting)
    _go_on(work, found, token)


def _go_on(work: Work, found: Container, token: SecretStr) -> None:
    with work.row() as row:
        # One that a wake left unpaused may have a newer lease, one that was started anew is not ready.
        is_asleep = row is not None and row.status == "paused" and found.state == "paused"
        lapses_at = row.lease_lapses_at if row and is_asleep else None
    work.change().unpause(found.id)
    if leases.has_lapsed(work.runtime, lapses_at):
        # What answers has run its overdue timers, and the lease's end is one of them.
        if not says_ok(work.runtime, found, "/healthz", timeout=_PROBE_SECONDS):
            raise RuntimeFailure(f"{found.name} does not answer")
    else:
        leases.lift(work.runtime, found, token)
    with work.row() as row:
        assert row  # noqa: S101  # for mypy
        row.status, row.reason, row.lease_lapses_at = "running", None, None


def _is_known(row: UserContainer, found: Container) -> bool:
    started = row.status in STARTED and found.state in ("running", "paused")
    return started and row.container_id == found.id


def _moved(work: Work, before: str, after: str, *conditions: Any) -> bool:
    """Change the status of a row in one statement: whoever notes activity at the same time is before or after it."""
    row = UserContainer
    query = update(row).where(col(row.user_id) == work.user, col(row.status) == before, *conditions)
    with work.hosting.db.transaction(system=True) as session:
        return session.execute(query.values(status=after).returning(col(row.id))).first() is not None
