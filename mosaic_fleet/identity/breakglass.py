"""Breakglass administrators: local people who get in with nothing but the database."""

from uuid import UUID

from sqlmodel import Session, select

from mosaic_fleet.db.tables import BreakglassUser
from mosaic_fleet.errors import Conflict, NotFound
from mosaic_fleet.identity import administrators, audit
from mosaic_fleet.names import check_username


def create(session: Session, username: str, password_hash: str) -> BreakglassUser:
    """Create an active administrator; raises Invalid for a bad name and Conflict when it is taken."""
    check_username(username)
    is_free(session, username)
    admin = BreakglassUser(username=username, password_hash=password_hash)
    session.add(admin)
    session.flush()
    audit.record(session, "admin.create", username)
    return admin


def set_password(session: Session, username: str, password_hash: str) -> None:
    """Replace an administrator's password; raises NotFound."""
    admin = get(session, username)
    admin.password_hash = password_hash
    session.flush()
    audit.record(session, "admin.set-password", username)


def disable(session: Session, username: str, *, by: UUID | None = None) -> bool:
    """Shut an administrator out; return False when it is so already.

    Raises NotFound, Denied to who asks it for themselves, and Conflict for the last active one.
    """
    administrators.hold(session)
    admin = get(session, username)
    if not admin.is_active:
        return False
    administrators.check_not_oneself(admin.id, by)
    administrators.check_breakglass_may_go(session, admin)
    admin.is_active = False
    session.flush()
    audit.record(session, "admin.disable", username)
    return True


def enable(session: Session, username: str) -> bool:
    """Let an administrator in again; return False when they are already. Raises NotFound."""
    administrators.hold(session)
    admin = get(session, username)
    if admin.is_active:
        return False
    admin.is_active = True
    session.flush()
    audit.record(session, "admin.enable", username)
    return True


def is_free(session: Session, username: str, *, may_exist: bool = False) -> bool:
    """Tell whether a name is free, and keep it so until the transaction ends; raises Conflict unless it may exist."""
    administrators.hold(session)
    taken = find(session, username) is not None
    if taken and not may_exist:
        raise Conflict(
            f'breakglass admin "{username}" already exists',
            hint=f"mosaic admin set-password {username}   (or add --if-not-exists)",
        )
    return not taken


def get(session: Session, username: str) -> BreakglassUser:
    """Return an administrator by name; raises NotFound."""
    admin = find(session, username)
    if admin is None:
        raise NotFound(f'no breakglass admin "{username[:300]}"', hint="mosaic admin list")
    return admin


def find(session: Session, username: str) -> BreakglassUser | None:
    """Return an administrator by name as it is now, None when there is none."""
    query = select(BreakglassUser).where(BreakglassUser.username == username)
    return session.exec(query, execution_options={"populate_existing": True}).first()
