"""What users' gateways are run with, and the lock under which one of them is worked on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import SecretStr

from mosaic_fleet import configuration
from mosaic_fleet.db.database import Database, Lock
from mosaic_fleet.db.tables import UserContainer
from mosaic_fleet.fleet import containers, foreign
from mosaic_fleet.fleet.flights import Flights
from mosaic_fleet.fleet.openclaw import PORT
from mosaic_fleet.runtimes.gateway_base import Answer, Container, GatewayRuntime, Walls
from mosaic_fleet.sealing import Box

# A stop may drain for 330 seconds, and a start follow it: whoever comes meanwhile waits for both.
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Running:
    """Where a user's gateway is, and the token that opens it."""

    url: str
    token: SecretStr
    woken: bool = False


@dataclass(frozen=True)
class Hosting:
    """What users' gateways are run with; one for a process."""

    db: Database
    box: Box
    runtime: GatewayRuntime
    walls: Walls
    flights: Flights[Running] = field(default_factory=Flights)


@dataclass(frozen=True)
class Work:
    """Something done to one user's gateway while its lock is held."""

    hosting: Hosting
    lock: Lock
    user: UUID
    install: str

    @property
    def runtime(self) -> GatewayRuntime:
        """Return the runtime to look with."""
        return self.hosting.runtime

    @property
    def name(self) -> str:
        """Return the name of the container and its network."""
        return containers.name(self.user)

    def change(self) -> GatewayRuntime:
        """Return the runtime to change something with, the lock being held; raises DatabaseFailure when it is lost."""
        self.lock.check()
        return self.hosting.runtime

    @contextmanager
    def row(self) -> Iterator[UserContainer | None]:
        """Open the user's row in a transaction of its own."""
        with self.hosting.db.transaction(system=True) as session:
            yield containers.find(session, self.user)


@contextmanager
def working(
    hosting: Hosting, verb: str, user: UUID, *, wait: float = _PATIENCE_SECONDS, thing: str = "gateway"
) -> Iterator[Work]:
    """Hold the lock of a user's gateway across processes; raises Conflict when another keeps it longer than `wait`.

    Another `thing` than the gateway has a lock of its own: who holds that changes nothing but what a crash may.
    """
    with hosting.db.lock(verb, f"{thing} {user}", wait=wait) as lock:
        with hosting.db.transaction(system=True) as session:
            install = configuration.install_id(session)
        yield Work(hosting, lock, user, install)


def says_ok(runtime: GatewayRuntime, found: Container, path: str, *, timeout: float) -> bool:
    """Ask a container's gateway by one of its probes; False when none answers within so many seconds."""
    return bool(found.address) and is_ok(runtime.get(found.address, path, port=PORT, timeout=timeout))


def is_ok(answer: Answer | None) -> bool:
    """Tell whether a probe says ok, in its body: an unknown path may answer 200 too."""
    try:
        return answer is not None and answer.status == 200 and foreign.parsed(answer.body)["ok"] is True
    except (ValueError, KeyError, TypeError):
        return False


def url(found: Container) -> str:
    """Return where a running container's gateway is."""
    return f"http://{found.address}:{PORT}"
