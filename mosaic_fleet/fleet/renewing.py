"""New gateway tokens for users: a stopped gateway just gets one, an idle one is restarted, a busy one is left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlmodel import Session, col, func, select

from mosaic_fleet.db.gateway_reads import STARTED
from mosaic_fleet.db.tables import User, UserContainer, now
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.fleet import containers, refreshing, starting, stopping
from mosaic_fleet.fleet.hosting import Hosting, Work, working
from mosaic_fleet.fleet.refreshing import Outcome
from mosaic_fleet.identity import users

_TAKING_SECONDS = 1.0
_IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class Ages:
    """The gateway tokens of all users: how many, how many gateways run, and when the first and last were made."""

    count: int
    running: int
    oldest: datetime | None
    newest: datetime | None


def ages(session: Session) -> Ages:
    """Look at all users' gateway tokens together."""
    at = col(UserContainer.gateway_token_at)
    runs = func.count().filter(col(UserContainer.status).in_(STARTED))
    count, running, oldest, newest = session.execute(select(func.count(), runs, func.min(at), func.max(at))).one()
    return Ages(count, running, oldest, newest)


def chosen(session: Session, names: Sequence[str] | None, *, made_before: datetime | None = None) -> dict[UUID, str]:
    """Map users with a gateway token to their names, in that order: those named, or all.

    Only those whose token was made before a time, if one is given. Raises NotFound for an unknown user.
    """
    wanted = None if names is None else {users.get(session, name).id for name in names}
    query = select(UserContainer, User).join(User).order_by(col(User.name))
    return {
        user.id: user.name
        for row, user in session.exec(query)
        if (wanted is None or user.id in wanted) and (made_before is None or row.gateway_token_at < made_before)
    }


def plan(session: Session, people: Sequence[UUID]) -> Iterator[Outcome]:
    """Say what would be done: `restart` what runs, `store` where nothing does."""
    for user in people:
        row = containers.find(session, user)
        runs = row is not None and row.status in containers.ALIVE
        yield Outcome(containers.owner(session, user), "restart" if runs else "store")


def renew(hosting: Hosting, user: UUID, *, drain: bool = False) -> Outcome:
    """Give a user's gateway a new token.

    `restarted` with it, `stored` where nothing runs, `busy` and left as it is, or `failed` with the reason. With
    `drain` a busy one finishes its turns within the setting `gateways.stop_grace`, and takes no new ones.
    """

    def do(name: str) -> Outcome:
        with working(hosting, "renew", user, wait=_TAKING_SECONDS) as work:
            return _renewed(work, name, drain=drain)

    return refreshing.outcome(hosting, user, do)


def _renewed(work: Work, name: str, *, drain: bool) -> Outcome:
    """Stop, store and start: whoever is killed in between leaves a gateway that starts with the token of its row."""
    with work.row() as row:
        status = row.status if row else "stopped"
    if status == "stopped" or not _lives(work):
        return _stored(work, name)
    wish, lacking = refreshing.wish(work)
    if wish:
        starting.check(work, wish)
    if blockers := _halted(work, status, drain=drain):
        return Outcome(name, "busy", ", ".join(blockers))
    outcome = _stored(work, name, f"it was stopped: {lacking}" if lacking else "")
    if wish is None or not (status in ("running", "starting") or (status == "paused" and refreshing.has_job(work))):
        return outcome
    try:
        starting.start(work, insist=True)
    except MosaicError as error:
        raise RuntimeFailure(f"it has a new token and did not start with it: {error.message}") from error
    return Outcome(name, "restarted")


def _lives(work: Work) -> bool:
    found = stopping.check_ours(work)
    return found is not None and found.lives


def _halted(work: Work, status: str, *, drain: bool) -> tuple[str, ...]:
    """Stop the gateway; return what it is busy with when it was left running."""
    token = refreshing.token_of(work)
    if drain or status == "stopping" or token is None:
        stopping.stop(work, None if drain else _IDLE_SECONDS, force=False)
        return ()
    return refreshing.stop_idle(work, token)


def _stored(work: Work, name: str, reason: str = "") -> Outcome:
    with work.hosting.db.transaction(system=True) as session:
        containers.renew_token(session, work.hosting.box, work.user, now())
    return Outcome(name, "stored", reason)
