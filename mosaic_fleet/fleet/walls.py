"""Has the packet filter of this machine stand around users' gateways, as the settings say by now."""

from mosaic_fleet import configuration
from mosaic_fleet.fleet.hosting import Hosting

# What the rules are made from.
SETTINGS = ("egress.allow", "gateways.subnet_pool")
_WAITING_SECONDS = 60.0


def stand(hosting: Hosting) -> bool:
    """Put up what is missing of the walls; return False when nothing was. Raises RuntimeFailure when they cannot stand.

    One at a time, and the settings are read then: nobody who knew them before a change undoes what the change put up.
    """
    with hosting.db.lock("put up", "walls", wait=_WAITING_SECONDS):
        with hosting.db.transaction(system=True) as session:
            install, settings = configuration.install_id(session), configuration.values(session)
        return hosting.walls.apply(install, settings)
