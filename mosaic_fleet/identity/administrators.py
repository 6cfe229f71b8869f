"""Who administers: whoever else goes, one administrator stays, and nobody takes the role from themselves."""

from uuid import UUID

from sqlmodel import Session, col, func, select

from mosaic_fleet.db.database import take_turns
from mosaic_fleet.db.tables import BreakglassUser, User
from mosaic_fleet.errors import Conflict, Denied


def hold(session: Session) -> None:
    """Keep everybody else from making or removing administrators until the transaction ends."""
    take_turns(session, "administrators")


def check_not_oneself(person: UUID, by: UUID | None) -> None:
    """Refuse to let somebody deactivate or demote themselves; raises Denied. `by` is None at the command line."""
    if person == by:
        raise Denied("nobody deactivates or demotes themselves", hint="ask another administrator")


def check_user_may_go(session: Session, user: User) -> None:
    """Raise Conflict when this user is the last active administrator; `hold` must have been called."""
    if user.role != "admin" or user.deactivated_at is not None:
        return
    others = [one for one in active_users(session) if one != user.id]
    if not others and not active_breakglass(session):
        raise Conflict(f'"{user.name}" is the last active administrator', hint="mosaic admin create-breakglass NAME")


def check_breakglass_may_go(session: Session, admin: BreakglassUser) -> None:
    """Raise Conflict when this is the last active breakglass administrator: the others need an issuer or the web."""
    if admin.is_active and active_breakglass(session) <= 1:
        raise Conflict(
            f'"{admin.username}" is the last active breakglass admin', hint="mosaic admin create-breakglass NAME"
        )


def active_users(session: Session) -> list[UUID]:
    """Return the ids of the active users who are administrators."""
    return list(session.exec(select(User.id).where(User.role == "admin", col(User.deactivated_at).is_(None))))


def active_breakglass(session: Session) -> int:
    """Count the active breakglass administrators."""
    return session.exec(select(func.count()).where(col(BreakglassUser.is_active))).one()
