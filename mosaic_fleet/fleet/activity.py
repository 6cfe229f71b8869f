"""What counts as activity of a user's gateway, and since when there was none.

- `chat`: a turn, whichever way it came: asked before it is put to sleep, the gateway tells when its latest one was.
- `work`: it said itself that it is busy when it was to be put to sleep: a turn, a job of its own
  schedules, background work, an open terminal, a command in its container.
- `wake`: it was had to go on from a nap, by a request or by an operator.
- `start`: it was started or restarted, likewise.

Nothing else does: an open tab, a page view, a health probe, a look by an operator, a container that fetches its config.
"""

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlmodel import Session, col, or_, select, update

from mosaic_fleet.db.tables import User, UserContainer
from mosaic_fleet.fleet import containers
from mosaic_fleet.fleet.idleness import Gateway

Source = Literal["chat", "work", "wake"]
# Within this time of the last note nothing is written: a busy chat would write with every message. So much more than
# it was idle for a gateway may seem to be: see configuration.LEAST_NAP_MINUTES.
INTERVAL = timedelta(seconds=30)


def note(session: Session, user: UUID, source: Source, *, now: datetime) -> None:
    """Note that a user's gateway was active; one that was so a moment ago stays as it is."""
    last = col(UserContainer.last_active_at)
    session.execute(
        update(UserContainer)
        .where(col(UserContainer.user_id) == user, or_(last.is_(None), last <= now - INTERVAL, last > now))
        .values(last_active_at=now, last_active_by=source)
    )


def awake(session: Session, user: UUID | None = None) -> dict[UUID, Gateway]:
    """Return the gateways that are meant to be there, or a user's if it is, by their users' names."""
    row = UserContainer
    times: list[Any] = [row.updated_at, row.started_at, row.last_active_at, row.last_active_by, row.idle_timeout_min]
    times.append(row.next_due_at)
    who: list[Any] = [row.user_id, User.name, col(User.deactivated_at).is_(None), row.status]
    query = select(*who, *times).join(User, col(User.id) == row.user_id).order_by(User.name)
    query = query.where(col(row.status).in_(containers.ALIVE))
    found = session.execute(query if user is None else query.where(col(row.user_id) == user))
    return {owner: Gateway(*values) for owner, *values in found}


def hold_back(session: Session, *, now: datetime) -> None:
    """Set times that lie in the future to now: a clock that was put back would keep gateways awake until then."""
    for column in (col(UserContainer.last_active_at), col(UserContainer.started_at)):
        session.execute(update(UserContainer).where(column > now).values({column: now}))
