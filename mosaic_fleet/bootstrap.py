"""`Mosaic`: turns settings into live objects, each built on first use."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

from mosaic_fleet.errors import DatabaseFailure
from mosaic_fleet.settings import Settings

if TYPE_CHECKING:
    from mosaic_fleet.db.database import Database
    from mosaic_fleet.db.embedded import Embedded
    from mosaic_fleet.db.reads import Reads
    from mosaic_fleet.fleet.hosting import Hosting
    from mosaic_fleet.runtimes.swarm import SwarmRuntime
    from mosaic_fleet.sealing import Box


class Mosaic:
    """Everything a door needs; imports are late because `--help` must be quick.

    One that serves makes no database and migrates none, and keeps connections.
    """

    def __init__(self, settings: Settings, *, serving: bool = False) -> None:
        self.settings = settings
        self.serving = serving

    @classmethod
    def from_env(cls, *, serving: bool = False) -> "Mosaic":
        """Build it from the environment and the env file."""
        return cls(Settings.from_env(), serving=serving)

    @cached_property
    def embedded(self) -> "Embedded | None":
        """The embedded Postgres, None when DATABASE_URL names another one."""
        from mosaic_fleet.db.embedded import Embedded

        return None if self.settings.database_url else Embedded(self.settings.data_dir, self.settings.socket_dir)

    @cached_property
    def db(self) -> "Database":
        """The database for changes; the embedded one is made and started when it is not there."""
        from mosaic_fleet.db.database import Database

        if self.embedded and self.serving:
            self._check_made(self.embedded)
        elif self.embedded:
            self.embedded.create()
        actor = "serve" if self.serving else f"cli:{_os_user()}"
        return Database(self._url(), actor=actor, serving=self.serving)

    @contextmanager
    def reads(self, *, owner: UUID | None = None) -> Iterator["Reads"]:
        """Open a quick read-only transaction for an owner, or for the system."""
        from mosaic_fleet.db.reads import read

        if self.embedded:
            self._check_made(self.embedded)
        with read(self._url(), owner=owner) as reads:
            yield reads

    @cached_property
    def box(self) -> "Box":
        """What seals and opens values; the keyring is read on first use."""
        from mosaic_fleet import keyring

        return keyring.box(self.db, self.settings.secret_key)

    @cached_property
    def reading_box(self) -> "Box":
        """What opens values for a command that only reads: quicker, because it imports no ORM."""
        from mosaic_fleet import sealing

        def load() -> sealing.Ring:
            with self.reads() as reads:
                rows = reads.keyring()
            return sealing.open_ring(rows, sealing.environment_key(self.settings.secret_key, rows))

        return sealing.Box(load)

    @cached_property
    def runtime(self) -> "SwarmRuntime":
        """The Docker that the docker command would talk to."""
        from mosaic_fleet.runtimes import endpoint
        from mosaic_fleet.runtimes.swarm import SwarmRuntime

        return SwarmRuntime(endpoint.find(self.settings))

    @cached_property
    def hosting(self) -> "Hosting":
        """What users' gateways are run with: this machine's Docker and packet filter."""
        from mosaic_fleet.fleet.hosting import Hosting
        from mosaic_fleet.runtimes import endpoint
        from mosaic_fleet.runtimes.engine import EngineRuntime
        from mosaic_fleet.runtimes.packet_filter import PacketFilter

        return Hosting(self.db, self.box, EngineRuntime(endpoint.find(self.settings)), PacketFilter())

    @staticmethod
    def _check_made(embedded: "Embedded") -> None:
        if not embedded.exists():
            raise DatabaseFailure("there is no database yet", hint="mosaic init")

    def _url(self) -> str:
        if self.embedded:
            self.embedded.start()
            return self.embedded.url()
        return str(self.settings.database_url)


def _os_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
