"""A user's own gateway: started by the first request, stopped without losing a turn, never twice on one volume."""

from uuid import UUID

from mosaic_fleet.db.tables import now
from mosaic_fleet.fleet import activity, containers, naps, personal, starting, stopping
from mosaic_fleet.fleet.hosting import Hosting, Running, Work, url, working


def ensure_running(hosting: Hosting, user: UUID, *, insist: bool = False) -> Running:
    """Return where a user's gateway is, waking it from a nap or starting it; all who ask meanwhile share one start.

    Raises NotFound or Denied for who may have none, ConfigurationError when it cannot run as it is, RuntimeFailure
    with the reason when it did not start. After three failures in a row it is not tried for five minutes, unless its
    config changes or the caller does `insist`.
    """
    found = running(hosting, user)
    return found or hosting.flights.share(user, lambda: _wake(hosting, user, insist=insist))


def running(hosting: Hosting, user: UUID) -> Running | None:
    """Return where a user's gateway is, None when it does not run or naps; raises as ensure_running for the user."""
    with hosting.db.transaction(owner=user) as session:
        personal.person(session, user)
        row = containers.find(session, user)
        if row is None or row.status != "running" or row.container_id is None:
            return None
        token = containers.token(row, hosting.box)
    found = hosting.runtime.container(row.container_id)
    awake = found is not None and found.state == "running" and not found.is_squeezed
    return Running(url(found), token) if found and awake else None


def stop(hosting: Hosting, user: UUID, *, grace: float | None = None, force: bool = False) -> bool:
    """Stop a user's gateway, letting it finish its turns; return False when it was stopped already.

    Raises RuntimeFailure when it still works after `grace` seconds: it ends by itself, and the same call finishes
    the stop. With `force` it is killed then.
    """
    with working(hosting, "stop", user) as work:
        return stopping.stop(work, grace, force=force)


def restart(hosting: Hosting, user: UUID, *, grace: float | None = None, force: bool = False) -> Running:
    """Stop a user's gateway and start it with what its owner wants now; its state stays."""
    with hosting.db.transaction(owner=user) as session:
        personal.person(session, user)
    with working(hosting, "restart", user) as work:
        stopping.stop(work, grace, force=force)
        return starting.start(work, insist=True)


def cut(hosting: Hosting, user: UUID) -> bool:
    """Stop the gateway of who may have none any more: within seconds, whatever it works on; False when none was there.

    Also while somebody else starts or stops it: its container is ended without waiting for them, as a crash would, and
    a start looks every second whether it still may. Raises RuntimeFailure when Docker does not do it.
    """
    with working(hosting, "cut", user, thing="end of gateway") as work:
        if stopping.check_ours(work):
            stopping.end(work, stopping.LAST_SECONDS, force=True)
    with working(hosting, "stop", user) as work:
        return stopping.stop(work, stopping.LAST_SECONDS, force=True)


def _wake(hosting: Hosting, user: UUID, *, insist: bool) -> Running:
    with working(hosting, "start", user) as work:
        return running(hosting, user) or _woken(work) or starting.start(work, insist=insist)


def _woken(work: Work) -> Running | None:
    """Have one that naps go on for whoever asked: that is activity, or the next round would have it nap again."""
    found = naps.wake(work)
    if found:
        with work.hosting.db.transaction(system=True) as session:
            activity.note(session, work.user, "wake", now=now())
    return found
