"""What a container pulls with its config token: the same package that another one is pushed."""

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from sqlmodel import Session

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.tables import SystemContainer
from mosaic_fleet.errors import NotFound
from mosaic_fleet.fleet import config_tokens, delivery, personal, stack
from mosaic_fleet.sealing import Box

_MOST = 256


class Packages:
    """The packages that were pulled last, each good as long as the rows that it was made from are the same."""

    def __init__(self) -> None:
        self._made: OrderedDict[UUID, tuple[str, delivery.Package]] = OrderedDict()
        self._lock = Lock()

    def find(self, holder: config_tokens.Holder) -> delivery.Package | None:
        """Return the package of these very rows."""
        with self._lock:
            stamp, package = self._made.get(holder.id, ("", None))
            return package if stamp == holder.stamp else None

    def keep(self, holder: config_tokens.Holder, package: delivery.Package) -> delivery.Package:
        """Keep a package, and forget the oldest one when there are too many."""
        with self._lock:
            self._made.pop(holder.id, None)
            self._made[holder.id] = (holder.stamp, package)
            if len(self._made) > _MOST:
                self._made.popitem(last=False)
        return package


def pull(db: Database, box: Box, packages: Packages, asked: tuple[str, str], token: str) -> delivery.Package:
    """Return the files of a container, asked for by type and id, to who shows its config token.

    Raises Denied as config_tokens.holder() does, KeyFailure without the right key, ConfigurationError when the
    gateway cannot run as it is.
    """
    kind, name = asked
    with db.transaction(system=True) as session:
        holder = config_tokens.holder(session, kind, name, token)
        if found := packages.find(holder):
            return found
        if kind == config_tokens.SYSTEM:
            return packages.keep(holder, _system(session, box, holder.id))
    with db.transaction(owner=holder.id) as session:
        return packages.keep(holder, personal.load(session, box, holder.id).package)


def _system(session: Session, box: Box, agent: UUID) -> delivery.Package:
    row = session.get(SystemContainer, agent)
    if row is None:
        raise NotFound("no such agent")
    found = stack.agent(session, box, row)
    return delivery.package(found.gateway, found.token, found.personality)
