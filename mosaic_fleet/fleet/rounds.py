"""Rounds over all users' gateways: how they are, and what no longer is as the database says is put right."""

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from mosaic_fleet import configuration
from mosaic_fleet.db.gateway_reads import STARTED
from mosaic_fleet.db.tables import User, UserContainer, now
from mosaic_fleet.errors import Conflict, MosaicError, PartialFailure
from mosaic_fleet.fleet import containers, endings, naps, stopping
from mosaic_fleet.fleet.hosting import Hosting, Work, says_ok, working
from mosaic_fleet.runtimes.base import INSTALL_LABEL
from mosaic_fleet.runtimes.gateway_base import CONFIG_LABEL, KIND_LABEL, USER_GATEWAY, Container

_PROBE_SECONDS = 10.0
_AT_ONCE = 8
_PREFIX = "mosaic-user-"


@dataclass(frozen=True)
class Health:
    """How a user's gateway is: `health` is `ok`, `starting`, `paused`, `unhealthy` or `gone`."""

    user: str
    status: str
    health: str
    reason: str = ""

    @property
    def is_well(self) -> bool:
        """Tell whether nobody needs to look after it."""
        return self.health in ("ok", "starting", "paused")


@dataclass(frozen=True)
class Mended:
    """What was put right of a user's gateway, or why that failed."""

    user: str
    what: str
    failed: bool = False


@dataclass(frozen=True)
class _Overview:
    """The rows that are meant to be there, their users' names, Docker's containers by name, and what marks them.

    `deactivated` are the users among them who may have none any more.
    """

    rows: list[UserContainer]
    users: Mapping[UUID, str]
    deactivated: Set[UUID]
    containers: Mapping[str, Container]
    marks: Mapping[str, str]


def health_check_all(hosting: Hosting) -> list[Health]:
    """Look at every gateway that is meant to be there, by `/healthz` with its body checked; changes nothing."""
    there = _overview(hosting)

    def look(row: UserContainer) -> Health:
        health, reason = _health(hosting, row, there.containers.get(row.container_name))
        return Health(there.users[row.user_id], row.status, health, reason)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sorted(pool.map(look, there.rows), key=lambda one: one.user)


def reconcile(hosting: Hosting) -> list[Mended]:
    """Bring database and Docker together after a crash or a reboot; return what was put right, and what could not be.

    Gateways somebody is working on are left to them; ones that are starting are waited for by nobody here.
    """
    there = _overview(hosting)
    networks = [one.name for one in hosting.runtime.bridges() if there.marks.items() <= one.labels.items()]
    wrong = {row.user_id for row in there.rows if not _agrees(hosting, row, there.containers.get(row.container_name))}
    wrong |= there.deactivated
    known = {row.container_name for row in there.rows}
    wrong |= {user for name in {*there.containers, *networks} - known if (user := _user(name))}
    with hosting.db.transaction(system=True) as session:
        names = {user: containers.owner(session, user) for user in sorted(wrong)}
    return [done for user, name in names.items() if (done := _mended(hosting, user, name))]


def check(rows: Sequence[Mended]) -> None:
    """Raise PartialFailure when a gateway could not be put right."""
    failed = [row for row in rows if row.failed]
    if failed:
        told = "; ".join(f"{row.user}: {row.what}" for row in failed)
        raise PartialFailure(f"{len(failed)} gateways could not be put right: {told}", rows=rows)


def _overview(hosting: Hosting) -> _Overview:
    with hosting.db.transaction(system=True) as session:
        rows, install = containers.all_alive(session), configuration.install_id(session)
        users = {row.user_id: session.get(User, row.user_id) for row in rows}
    marks = {INSTALL_LABEL: install, KIND_LABEL: USER_GATEWAY}
    found = {one.name: one for one in hosting.runtime.containers(marks)}
    names = {user: row.name if row else str(user) for user, row in users.items()}
    deactivated = {user for user, row in users.items() if row and row.deactivated_at}
    return _Overview(rows, names, deactivated, found, marks)


def _health(hosting: Hosting, row: UserContainer, seen: Container | None) -> tuple[str, str]:
    if seen is None or not seen.lives:
        ended = hosting.runtime.container(row.container_name) if seen else None
        return "gone", endings.why(ended, "")
    if row.status == "starting":
        return "starting", ""
    if seen.state == "paused":
        return "paused", ""
    if says_ok(hosting.runtime, seen, "/healthz", timeout=_PROBE_SECONDS):
        return "ok", row.reason or ""
    return "unhealthy", f"/healthz does not say ok within {_PROBE_SECONDS:g} s"


def _agrees(hosting: Hosting, row: UserContainer, seen: Container | None) -> bool:
    if seen is None or seen.id != row.container_id or seen.state != row.status:
        return False
    napping = hosting.runtime.container(seen.id) if seen.state == "paused" else None  # a list tells no limits
    return not (napping and napping.is_squeezed)


def _user(name: str) -> UUID | None:
    try:
        return UUID(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
    except ValueError:
        return None


def _mended(hosting: Hosting, user: UUID, name: str) -> Mended | None:
    """Put one gateway right under its lock; None when somebody holds it, or nothing is wrong any more."""
    try:
        with working(hosting, "reconcile", user, wait=0.1) as work:
            what = _settle(work) if _may_run(work) else _end(work)
    except Conflict:
        return None
    except MosaicError as error:
        return Mended(name, error.message, failed=True)
    return Mended(name, what) if what else None


def _may_run(work: Work) -> bool:
    with work.hosting.db.transaction(system=True) as session:
        row = session.get(User, work.user)
    return row is None or row.deactivated_at is None


def _end(work: Work) -> str | None:
    """Stop what a `user disable` that broke off, or found no Docker, left running."""
    stopped = stopping.stop(work, stopping.LAST_SECONDS, force=True)
    return "stopped: its user is deactivated" if stopped else None


def _settle(work: Work) -> str | None:
    found = stopping.check_ours(work)
    with work.row() as row:
        status = row.status if row else "stopped"
    if found is None or not found.lives:
        return _bury(work, status, found)
    if status in STARTED and (found.is_squeezed or (status, found.state) != ("running", "running")):
        return _end_nap(work, status, found)
    ready = says_ok(work.runtime, found, "/startupz", timeout=_PROBE_SECONDS)
    if status in ("starting", "running") and ready:
        return _take_over(work, found)
    if status in ("stopping", "stopped", "error"):
        return _finish(work, found)
    return None


def _bury(work: Work, status: str, found: Container | None) -> str | None:
    """Clear what ended; a gateway that was to run says why it does not."""
    reason = endings.why(found, "")
    stopping.take_away(work)
    if status not in containers.ALIVE:
        return "took a leftover away" if found else None
    with work.row() as row:
        if row and status == "starting":
            containers.fail(row, f"its start broke off: {reason}", counted=False, now=now())
        elif row:
            containers.end(row, None if status == "stopping" else reason)
    return f"was {status}, {reason}"


def _end_nap(work: Work, status: str, found: Container) -> str | None:
    """Let a gateway go on whose nap broke off at either end: what proved it idle does not any more."""
    if found.state == status and not found.is_squeezed:
        return None
    return "goes on, its nap broke off" if naps.wake(work) else None


def _take_over(work: Work, found: Container) -> str | None:
    with work.row() as row:
        if row is None or (row.status == "running" and row.container_id == found.id):
            return None
        row.config_hash = found.labels.get(CONFIG_LABEL)
        containers.run(row, found, config=None, now=now())
    return "runs, although its start broke off"


def _finish(work: Work, found: Container) -> str | None:
    """Finish a stop that broke off, as far as the gateway lets it go now."""
    work.change().terminate(found.id)
    if not stopping.ended(work, found.id, 1.0):
        return None
    stopping.take_away(work)
    with work.row() as row:
        if row and row.status == "stopping":
            containers.end(row)
    return "finished its stop"
