"""Users: the people of the installation, called by name or by e-mail."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel import Session, col, select

from mosaic_fleet.db.tables import User
from mosaic_fleet.errors import Conflict, Invalid, NotFound
from mosaic_fleet.identity import administrators, audit
from mosaic_fleet.names import check_email, check_line, check_username

ROLES = ("member", "admin")
DISPLAY_NAME_LENGTH = 200
_FIELDS = ("name", "display_name", "email", "role", "is_local")


def add(session: Session, name: str, values: Mapping[str, Any]) -> User:
    """Add a user; `values` are its columns, `email` among them.

    Raises Invalid for a bad value and Conflict when the name or the e-mail is taken.
    """
    if not values.get("email"):
        raise Invalid(f'user "{name[:80]}" needs an e-mail', hint="--email name@domain")
    columns = checked({"display_name": name, "role": "member"} | {**values, "name": name})
    _check_free(session, None, columns)
    user = User(**columns)
    session.add(user)
    session.flush()
    audit.record(session, "user.add", user.name, email=user.email, role=user.role)
    return user


def set(session: Session, name: str, values: Mapping[str, Any], *, by: UUID | None = None) -> list[str]:
    """Change a user's columns and name those that changed; `by` is the user who asks, None at the command line.

    Raises Denied to who demotes themselves, and Conflict for the last administrator or a taken name or e-mail.
    """
    administrators.hold(session)
    user = get(session, name)
    called = user.name
    if user.role == "admin" and values.get("role", "admin") != "admin":
        administrators.check_not_oneself(user.id, by)
        administrators.check_user_may_go(session, user)
    changed = {field: value for field, value in checked(values).items() if getattr(user, field) != value}
    _check_free(session, user, changed)
    for field, value in changed.items():
        setattr(user, field, value)
    if changed:
        session.flush()
        audit.record(session, "user.set", called, **changed)
    return list(changed)


def disable(session: Session, name: str, *, now: datetime, by: UUID | None = None) -> bool:
    """Deactivate a user; return False when it is so already.

    Raises Denied to who deactivates themselves and Conflict for the last active administrator.
    """
    administrators.hold(session)
    user = get(session, name)
    if user.deactivated_at is not None:
        return False
    administrators.check_not_oneself(user.id, by)
    administrators.check_user_may_go(session, user)
    user.deactivated_at = now
    session.flush()
    audit.record(session, "user.disable", user.name)
    return True


def enable(session: Session, name: str) -> bool:
    """Reactivate a user; return False when it is active already."""
    administrators.hold(session)
    user = get(session, name)
    if user.deactivated_at is None:
        return False
    user.deactivated_at = None
    session.flush()
    audit.record(session, "user.enable", user.name)
    return True


def get(session: Session, name: str) -> User:
    """Return a user by name or e-mail; raises NotFound."""
    user = find(session, name)
    if user is None:
        raise NotFound(f'no user "{name[:300]}"', hint="mosaic user list")
    return user


def find(session: Session, name: str) -> User | None:
    """Return a user by name or e-mail as it is now, None when there is none; the reserved owner is nobody."""
    column = col(User.email if "@" in name else User.name)
    query = select(User).where(column == name.strip().lower(), User.role != "system")
    return session.exec(query, execution_options={"populate_existing": True}).first()


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a user among these values as they are kept; raises Invalid."""
    return {field: _checked(field, values[field]) for field in _FIELDS if field in values}


def _check_free(session: Session, user: User | None, columns: Mapping[str, Any]) -> None:
    """Raise Conflict when another user has this new name or e-mail."""
    for field, what in (("name", "user"), ("email", "e-mail")):
        taken = session.exec(select(User).where(getattr(User, field) == columns.get(field))).first()
        if field in columns and taken and taken is not user:
            whose = "already exists" if field == "name" else f'belongs to "{taken.name}"'
            raise Conflict(f'{what} "{columns[field]}" {whose}', hint=f"mosaic user set {taken.name} …")


def _checked(field: str, value: Any) -> Any:
    if field == "name":
        return check_username(value)
    if field == "email":
        return check_email(value)
    if field == "display_name":
        return check_line("display name", value, longest=DISPLAY_NAME_LENGTH)
    if field == "role" and value not in ROLES:
        raise Invalid(f"role {str(value)[:80]!r}: use one of {', '.join(ROLES)}")
    return value
