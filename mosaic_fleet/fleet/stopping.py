"""Stops one user's gateway: ask it to end, wait while it finishes its turns, then take container and network away."""

import time
from contextlib import suppress

from mosaic_fleet import configuration
from mosaic_fleet.db.tables import UserContainer, now
from mosaic_fleet.errors import Conflict, MosaicError, RuntimeFailure
from mosaic_fleet.fleet import containers, leases
from mosaic_fleet.fleet.hosting import Work
from mosaic_fleet.fleet.leases import Lease
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from mosaic_fleet.runtimes.gateway_base import Container

_POLL_SECONDS = 0.05
_KILLED_SECONDS = 10.0
_STILL = "it is still finishing its work"
# What the gateway of a deactivated user has to end by itself: it is to be gone within five.
LAST_SECONDS = 3.0


class StillStopping(RuntimeFailure):
    """A gateway was asked to end and finishes its work."""


def stop(
    work: Work, grace: float | None, *, force: bool, reason: str | None = None, lease: Lease | None = None
) -> bool:
    """Stop a user's gateway and record it and why; see lifecycle.stop. With a lease only while that holds."""
    with work.hosting.db.transaction(system=True) as session:
        settings = configuration.values(session)
    found = check_ours(work)
    with work.hosting.db.transaction(system=True) as session:
        row = containers.find(session, work.user)
        was = row.status if row else "stopped"
        if row and found:
            row.status, row.reason = "stopping", reason
    patience = float(settings["gateways.stop_grace"]) if grace is None else grace
    if not end(work, patience, force=force, lease=lease):
        raise _still_stopping(work, patience)
    take_away(work)
    with work.hosting.db.transaction(system=True) as session:
        if row := containers.find(session, work.user):
            containers.end(row, reason)
            if found or was != "stopped":
                told = {"reason": reason} if reason else {}
                audit.record(session, "gateway.stop", containers.owner(session, work.user), forced=force, **told)
    return found is not None or was != "stopped"


def cause(row: UserContainer) -> str | None:
    """Return why a stop that goes on was begun, None when it was somebody's will."""
    return None if row.reason is None or row.reason.startswith(_STILL) else row.reason


def _still_stopping(work: Work, patience: float) -> StillStopping:
    reason = f"{_STILL} after {patience:g} s"
    with suppress(MosaicError), work.row() as row:
        if row and row.reason is None:
            row.reason = reason
    return StillStopping(f"{work.name} is still stopping: {reason}", hint="run the same command again, or --force")


def end(work: Work, grace: float, *, force: bool, lease: Lease | None = None) -> bool:
    """Ask the container to end and wait; with `force` it is killed after the grace. True when it has ended."""
    found = work.runtime.container(work.name)
    if found is None or not found.lives:
        return True
    runtime = work.change()
    if lease:
        leases.check(lease, now())
    runtime.terminate(found.id)
    if ended(work, found.id, grace):
        return True
    if not force:
        return False
    work.change().kill(found.id)
    return ended(work, found.id, _KILLED_SECONDS)


def ended(work: Work, container_id: str, seconds: float) -> bool:
    """Wait until a container has ended; False when it lives on."""
    end = time.monotonic() + seconds
    while (seen := work.runtime.container(container_id)) and seen.lives:
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def take_away(work: Work) -> None:
    """Remove an ended container and its network, if they are this installation's; the volume stays."""
    if found := check_ours(work):
        work.change().remove(found.id)
    network = next((one for one in work.runtime.bridges() if one.name == work.name), None)
    if network and network.labels.get(INSTALL_LABEL) == work.install:
        work.change().remove_bridge(work.name)


def check_ours(work: Work) -> Container | None:
    """Return the user's container, None when there is none; raises Conflict when it is not this installation's."""
    found = work.runtime.container(work.name)
    if found and found.labels.get(INSTALL_LABEL) != work.install:
        raise foreign("container", work.name)
    return found


def foreign(kind: str, name: str) -> Conflict:
    """Say that a Docker object of this name is in the way."""
    return Conflict(f'{kind} "{name}" is not this Mosaic\'s and is left alone', hint=f"docker {kind} inspect {name}")
