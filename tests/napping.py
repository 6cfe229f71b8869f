"""Has one gateway nap now, as a round of `mosaic reap` does once it has idled for long enough."""

import time
from contextlib import suppress
from uuid import UUID

from mosaic_fleet.errors import MosaicError
from mosaic_fleet.fleet import containers, leases, naps
from mosaic_fleet.fleet.hosting import Hosting, working
from mosaic_fleet.fleet.leases import Lease

# OpenClaw has something to do for some seconds after a turn, and takes 30 requests a minute.
_TRIES, _EVERY_SECONDS = 60, 2.1


def nap(hosting: Hosting, user: UUID) -> None:
    """Ask a gateway until it proves to be idle, and have it nap."""
    with working(hosting, "reap", user) as work:
        found = work.runtime.container(work.name)
        assert found
        with work.row() as row:
            assert row
            token = containers.token(row, hosting.box)
        assert naps.announce(work, row.last_active_at)
        for _ in range(_TRIES):
            lease = leases.prepare(work.runtime, found, token)
            if isinstance(lease, Lease):
                break
            time.sleep(_EVERY_SECONDS)
        assert isinstance(lease, Lease)
        try:
            naps.nap(work, found, lease)
        except MosaicError:  # another exception stands for a kill, which calls nothing off
            with suppress(MosaicError):
                naps.call_off(work, found, token)
            raise
