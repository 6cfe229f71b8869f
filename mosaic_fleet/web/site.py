"""What all requests share: the objects of this Mosaic, and threads for what would hold up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import DatabaseFailure
from mosaic_fleet.fleet.pulling import Packages
from mosaic_fleet.web.duties import Duties

Result = TypeVar("Result")

# Seconds after which a request is told to come again; the entrypoint waits for ten.
_PATIENCE = 8.0


class Site:
    """A Mosaic that serves; the config endpoint has threads of its own, so that nothing else holds it up."""

    def __init__(self, mosaic: Mosaic) -> None:
        self.mosaic = mosaic
        self.packages = Packages()
        self.duties = Duties(lambda: mosaic.hosting, self.attempt)
        self.config_threads = ThreadPoolExecutor(4, thread_name_prefix="config")
        self.health_threads = ThreadPoolExecutor(1, thread_name_prefix="health")

    async def run(self, threads: ThreadPoolExecutor, work: Callable[[Database], Result]) -> Result:
        """Do something with the database in one of these threads; raises DatabaseFailure when it takes too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE):
                return await loop.run_in_executor(threads, self.attempt, work)
        except TimeoutError as error:
            raise DatabaseFailure(f"the database did not answer within {_PATIENCE:g} s") from error

    def close(self) -> None:
        """Let go of threads and connections."""
        self.duties.close()
        for threads in (self.config_threads, self.health_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        if "db" in vars(self.mosaic):
            self.mosaic.db.close()

    def attempt(self, work: Callable[[Database], Result]) -> Result:
        """Do it; an embedded Postgres that is found down is started first, as every command does."""
        try:
            return work(self.mosaic.db)
        except DatabaseFailure:
            embedded = self.mosaic.embedded
            if embedded is None or not embedded.exists() or not embedded.start():
                raise
            return work(self.mosaic.db)
