"""A user's container as a row: what it is meant to be, what became of it, and when it may be tried again."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Network
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import Session, col, or_, select, update

from mosaic_fleet.db.gateway_reads import STARTED
from mosaic_fleet.db.tables import User, UserContainer, place
from mosaic_fleet.fleet import bridges
from mosaic_fleet.identity import audit
from mosaic_fleet.runtimes.gateway_base import Bridge, Container
from mosaic_fleet.sealing import Box, generate_token

# After so many failed starts in a row nobody tries again for a while, unless told to or given another config.
TRIES = 3
PAUSE = timedelta(minutes=5)
ALIVE = ("starting", *STARTED, "stopping")


def name(user: UUID) -> str:
    """Name a user's container and its network."""
    return f"mosaic-user-{user}"


def volume(user: UUID) -> str:
    """Name the volume that holds a user's state."""
    return f"{name(user)}-state"


def owner(session: Session, user: UUID) -> str:
    """Return what a user is called, for the audit."""
    row = session.get(User, user)
    return row.name if row else str(user)


def find(session: Session, user: UUID, *, lock: bool = False) -> UserContainer | None:
    """Return a user's container, None before its first start; with `lock` nobody else changes it meanwhile."""
    query = select(UserContainer).where(UserContainer.user_id == user)
    return session.exec(query.with_for_update() if lock else query).first()


def claim(session: Session, box: Box, user: UUID) -> UserContainer:
    """Return a user's container; the first time it is made, with a token of its own."""
    row = find(session, user)
    if row is None:
        row = UserContainer(user_id=user, container_name=name(user), gateway_token="")
        row.gateway_token = box.seal(place(row, "gateway_token"), SecretStr(generate_token()))
        session.add(row)
        session.flush()
    return row


def mark_stale(session: Session, user: UUID | None = None) -> None:
    """Note that a user's gateway, or everybody's, runs with something that was changed; see refreshing.refresh."""
    rows = update(UserContainer).where(col(UserContainer.status).in_(ALIVE))
    if user is not None:
        rows = rows.where(col(UserContainer.user_id) == user)
    session.flush()
    session.execute(rows.values(is_stale=True), execution_options={"synchronize_session": False})


def token(row: UserContainer, box: Box) -> SecretStr:
    """Open the token of a user's gateway."""
    return box.open(place(row, "gateway_token"), row.gateway_token)


def renew_token(session: Session, box: Box, user: UUID, now: datetime) -> None:
    """Give a user's container, which exists, another gateway token; what runs keeps the old one."""
    row = session.exec(select(UserContainer).where(UserContainer.user_id == user)).one()
    row.gateway_token = box.seal(place(row, "gateway_token"), SecretStr(generate_token()))
    row.gateway_token_at = now
    session.flush()
    audit.record(session, "gateway.token", owner(session, user))


def set_idle_timeout(session: Session, box: Box, user: UUID, minutes: int | None) -> bool:
    """Set a user's own idle timeout, 0 for never and None for the setting's; return False when it is that already."""
    row = claim(session, box, user)
    if row.idle_timeout_min == minutes:
        return False
    row.idle_timeout_min = minutes
    audit.record(session, "gateway.set", owner(session, user), idle_timeout_min=minutes)
    return True


def place_in(
    session: Session, row: UserContainer, pool: IPv4Network, refused: Iterable[int], there: Sequence[Bridge]
) -> int:
    """Give a container a free place in the pool, none of the refused; raises RuntimeFailure when there is none."""
    query = select(UserContainer.subnet_index).where(UserContainer.id != row.id)
    taken = [index for index in session.exec(query) if index is not None]
    row.subnet_index = bridges.free(pool, [*taken, *refused], there)
    return row.subnet_index


def places(session: Session) -> list[int]:
    """Return the places in the pool that are taken."""
    return [index for index in session.exec(select(UserContainer.subnet_index)) if index is not None]


def begin(row: UserContainer, digest: str, image_id: str, *, now: datetime) -> None:
    """Note that it is being started from now on, from an image and with what has this hash."""
    row.status, row.status_at, row.reason, row.container_id = "starting", now, None, None
    row.config_hash, row.image_id, row.is_stale = digest, image_id, False


def run(row: UserContainer, container: Container, *, config: str | None, now: datetime) -> None:
    """Note that it runs, with the openclaw.json it was given; None when that is not known."""
    row.status, row.reason, row.container_id = "running", None, container.id
    row.started_at, row.failures, row.retry_at = now, 0, None
    if config is not None:
        row.config = json.loads(config)


def fail(row: UserContainer, reason: str, *, counted: bool, now: datetime) -> None:
    """Note why it does not run; a counted failure brings the pause nearer."""
    row.status, row.reason, row.container_id, row.subnet_index = "error", reason, None, None
    if counted:
        row.failures += 1
        row.retry_at = now + PAUSE if row.failures >= TRIES else None


def end(row: UserContainer, reason: str | None = None) -> None:
    """Note that it is stopped and has given its network back."""
    row.status, row.reason, row.container_id, row.subnet_index = "stopped", reason, None, None


def is_held_back(row: UserContainer, digest: str, now: datetime) -> bool:
    """Tell whether it failed so often that it is not tried now; with another config it is."""
    return row.retry_at is not None and now < row.retry_at and row.config_hash == digest


def all_alive(session: Session) -> list[UserContainer]:
    """Return the containers that are meant to be there."""
    query = select(UserContainer).where(col(UserContainer.status).in_(ALIVE)).order_by(UserContainer.container_name)
    return list(session.exec(query))


def any_started(session: Session) -> bool:
    """Tell whether a gateway was ever started, or tried to, on this installation's host."""
    query = select(UserContainer.id).where(
        or_(col(UserContainer.started_at).is_not(None), UserContainer.status != "stopped")
    )
    return session.exec(query.limit(1)).first() is not None


def starting_beside(session: Session, user: UUID, since: datetime) -> int:
    """Count the other containers that are being started: their memory is not taken yet.

    A start that was begun before `since` has ended, whatever its row says: its process was killed.
    """
    row = UserContainer
    query = select(row.id).where(row.status == "starting", row.user_id != user, col(row.status_at) > since)
    return len(session.exec(query).all())
