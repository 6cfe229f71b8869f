"""A new database becomes the installation whose database is gone: what that one made in Docker is its own then."""

import re

from sqlmodel import Session, col, select

from mosaic_fleet.db.tables import Audit, Deployment, SystemConfig, SystemContainer, UserContainer
from mosaic_fleet.errors import Conflict, Invalid
from mosaic_fleet.identity import audit

_INSTALL_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


def succeed(session: Session, install: str) -> bool:
    """Become the installation of an id; return False when it is this one's already.

    Raises Invalid for what is no id, Conflict when this one may have made something in Docker under its own.
    """
    if not _INSTALL_ID.fullmatch(install):
        raise Invalid(
            f'"{install}" is not the id of an installation, which is 12 hex digits',
            hint="docker volume inspect VOLUME   (its label com.mosaic.install)",
        )
    row = session.exec(select(SystemConfig).where(SystemConfig.key == "install.id")).one()
    if row.value == install:
        return False
    if _has_worked(session):
        raise Conflict(
            f"installation {row.value} has run agents or gateways: it cannot become {install}",
            hint="make a new database, then run the same command first",
        )
    row.value = install
    audit.record(session, "install.succeed", row.key, value=install)
    return True


def _has_worked(session: Session) -> bool:
    """Tell whether Docker may have something with this installation's id; agents are pinned before that is made."""
    pinned = select(SystemContainer.id).where(col(SystemContainer.node_id).is_not(None))
    adopted = select(Audit.id).where(Audit.verb == "agent.adopt")
    queries = (select(Deployment.id), select(UserContainer.id), pinned, adopted)
    return any(session.exec(query.limit(1)).first() is not None for query in queries)
