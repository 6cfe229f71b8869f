"""The two listeners of `mosaic serve`: bound before anything else, stopped together and without haste."""

import asyncio
import errno
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
import uvloop
from starlette.types import ASGIApp

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.errors import Conflict, Invalid, MosaicError
from mosaic_fleet.web import app
from mosaic_fleet.web.api import health
from mosaic_fleet.web.patience import PatientProtocol
from mosaic_fleet.web.site import Site

_GRACE_SECONDS = 20
_BACKLOG = 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


def serve(mosaic: Mosaic, public: Address, internal: Address, *, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end what is under way; `ready` is told where, once both answer.

    Raises Conflict when a port is taken, Invalid for an address that is not this machine's. Needs neither Docker nor a
    database nor a key to start.
    """
    _allow_connections()
    site = Site(mosaic)
    with bound(public) as outer, bound(internal) as inner:
        pairs = [("public", app.public(site), outer), ("internal", app.internal(site), inner)]
        servers = [_Server(_config(one), name, sock) for name, one, sock in pairs]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(_run(site, servers, ready))
            finally:
                site.close()


def _allow_connections() -> None:
    """Open as many files as this process may: the soft limit, which is 1,024 by custom, is for who uses select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def bound(address: Address) -> Iterator[socket.socket]:
    """Listen at an address."""
    where = f"{address.host}:{address.port}"
    try:
        family, _, _, _, found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(found[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{where} is in use", hint="choose another --port or --internal-port") from error
        raise Invalid(f"cannot listen at {where}: {error.strerror or error}", hint="mosaic serve --help") from error
    with sock:
        yield sock


class _Server(uvicorn.Server):
    """A listener that leaves signals to who runs both."""

    def __init__(self, config: uvicorn.Config, name: str, sock: socket.socket) -> None:
        super().__init__(config)
        self.name = name
        self.sock = sock

    @property
    def url(self) -> str:
        """Return where it listens."""
        host, port = self.sock.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """End what is under way; asked twice, break it off."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _config(application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


async def _run(site: Site, servers: Sequence[_Server], ready: Callable[[str], None]) -> None:
    """Run the listeners until a signal, or until one of them ends by itself."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        site.duties.end()
        for server in servers:
            server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = [asyncio.create_task(server.serve(sockets=[server.sock])) for server in servers]
    while not all(server.started or server.should_exit for server in servers):
        await asyncio.sleep(0.01)
    for server in servers:
        ready(f"{server.name} listener at {server.url}")
    look = asyncio.create_task(_look(site))
    site.duties.start()
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)
    look.cancel()


async def _look(site: Site) -> None:
    """Say in the log what is missing at the start; what is missing may come."""
    try:
        said = await site.run(site.health_threads, lambda db: health.condition(db, site.mosaic.settings.secret_key))
    except MosaicError as error:
        _log.warning("degraded: %s", error.message)
        return
    for reason in said["degraded"]:
        _log.warning("degraded: %s", reason)
