"""Brings running gateways to what their owners want by now: when they are idle, never in the middle of a turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from pydantic import SecretStr

from mosaic_fleet.db.gateway_reads import STARTED
from mosaic_fleet.errors import ConfigurationError, Conflict, Denied, KeyFailure, MosaicError, RuntimeFailure
from mosaic_fleet.fleet import containers, leases, naps, personal, starting, stopping
from mosaic_fleet.fleet.hosting import Hosting, Work, working
from mosaic_fleet.fleet.leases import Busy
from mosaic_fleet.fleet.personal import Personal

Done = TypeVar("Done")
_TAKING_SECONDS = 1.0
# An idle gateway ends within a second; what it still has to write it has time for.
_IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of a gateway that runs with something old.

    `restarted`; `stopped`, and its next start has a reason not to succeed, or is the next request's; `busy`, and it is
    left running; `failed`, and the reason says how it is now.
    """

    user: str
    result: str
    reason: str = ""


def refresh(hosting: Hosting, user: UUID) -> Outcome | None:
    """Restart a user's gateway if it runs with something else than its owner wants, and is idle.

    None when there is nothing to do. What fails is an outcome: a change is not undone because it is not carried out.
    """

    def do(name: str) -> Outcome | None:
        if not is_stale(hosting, user):
            return None
        with working(hosting, "refresh", user, wait=_TAKING_SECONDS) as work:
            return _refreshed(work, name) if is_stale(hosting, user) else None

    return outcome(hosting, user, do)


def outcome(hosting: Hosting, user: UUID, do: Callable[[str], Done]) -> Done | Outcome:
    """Do something to a user's gateway, given their name: one somebody works on is busy, and what fails has failed."""
    name = str(user)
    try:
        with hosting.db.transaction(system=True) as session:
            name = containers.owner(session, user)
        return do(name)
    except Conflict as error:
        return Outcome(name, "busy", error.message)
    except MosaicError as error:
        return Outcome(name, "failed", error.message)


def refresh_all(hosting: Hosting, *, marked: bool = False) -> Iterator[Outcome]:
    """Refresh every gateway that runs, one after the other; yields what became of those that there was to do for.

    With `marked` only those whose rows say that something was changed: nobody else's secrets are opened.
    """
    with hosting.db.transaction(system=True) as session:
        users = [row.user_id for row in containers.all_alive(session) if row.is_stale or not marked]
    for user in users:
        if done := refresh(hosting, user):
            yield done


def is_stale(hosting: Hosting, user: UUID) -> bool:
    """Compare what a gateway runs with to what its owner wants, exactly, and note it in the row.

    False for one that does not run, or whose owner may have none: those are not for us to restart.
    """
    with hosting.db.transaction(owner=user) as session:
        row = containers.find(session, user, lock=True)  # a mark that is made meanwhile comes after this look
        if row is None or row.status not in STARTED:
            return False
        try:
            row.is_stale = personal.digest(session, hosting.box, user) != row.config_hash
        except Denied:
            return False
        return row.is_stale


def stop_idle(work: Work, token: SecretStr) -> tuple[str, ...]:
    """Stop a user's gateway if it is idle; return what it is busy with, and then it goes on as if nobody had asked.

    A paused one has nothing to do. Raises RuntimeFailure when it cannot be asked.
    """
    found = stopping.check_ours(work)
    if found is None or found.state != "running":
        stopping.stop(work, _IDLE_SECONDS, force=False)
        return ()
    with work.row() as row:
        active = row.last_active_at if row else None
        broke_off = row is not None and row.status == "dozing"
    if broke_off:
        naps.go_on(work, found, token)
    if not naps.announce(work, active):
        return ("a request that came just now",)
    with naps.called_off(work, found, token):
        lease = leases.prepare(work.runtime, found, token)
        if isinstance(lease, Busy):
            naps.retract(work)
            return lease.blockers
        stopping.stop(work, _IDLE_SECONDS, force=False, lease=lease)
    return ()


def token_of(work: Work) -> SecretStr | None:
    """Open the token that a user's gateway runs with; None when it was never asked for."""
    with work.row() as row:
        return containers.token(row, work.hosting.box) if row else None


def has_job(work: Work) -> bool:
    """Tell whether a gateway said that a job of its own schedules is ahead: no request would start it for that."""
    with work.row() as row:
        return row is not None and row.next_due_at is not None


def wish(work: Work) -> tuple[Personal | None, str]:
    """Load what the owner wants; None and why when no gateway can be made from that."""
    try:
        with work.hosting.db.transaction(owner=work.user) as session:
            return personal.load(session, work.hosting.box, work.user), ""
    except KeyFailure:
        raise
    except ConfigurationError as error:
        return None, error.message


def _refreshed(work: Work, name: str) -> Outcome:
    """Stop and start; what would keep it from starting again is looked for while it still runs."""
    wanted, lacking = wish(work)
    token, found = token_of(work), stopping.check_ours(work)
    if found is None or not found.lives or token is None:
        return Outcome(name, "failed", "its container is gone: mosaic gateway health --fix")
    if wanted:
        starting.check(work, wanted)
    if blockers := stop_idle(work, token):
        return Outcome(name, "busy", ", ".join(blockers))
    if wanted is None:
        return Outcome(name, "stopped", lacking)
    if found.state == "paused" and not has_job(work):
        return Outcome(name, "stopped", "it was paused: the next request starts it")
    try:
        starting.start(work, insist=True)
    except MosaicError as error:
        raise RuntimeFailure(f"it was stopped for it, and did not start: {error.message}") from error
    return Outcome(name, "restarted")
