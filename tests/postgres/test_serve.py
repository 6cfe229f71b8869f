"""`mosaic serve` in a process of its own: what it starts without, how it ends, what it writes down."""

import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import quote, unquote

import psycopg
import pytest

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.embedded import Embedded
from mosaic_fleet.settings import Settings
from tests.docker_run import wait_until
from tests.postgres.guests import Guests
from tests.postgres.machine import Machine
from tests.postgres.pullers import Pullers
from tests.processes import until

_LISTENER = re.compile(r"^(public|internal) listener at http://127\.0\.0\.1:(\d+)$", re.MULTILINE)


@dataclass
class Server:
    """A running `mosaic serve`: its process, its two ports, and what it wrote until now."""

    process: "subprocess.Popen[bytes]"
    ports: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def get(
        self, path: str, *, listener: str = "public", token: str = "", seconds: float = 120
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Ask for a path; return status, headers and body."""
        connection = HTTPConnection("127.0.0.1", self.ports[listener], timeout=seconds)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def ask(self, path: str, *, listener: str = "public") -> int:
        """Ask for a path again until nobody is told to come later; return the status."""
        return int(until(lambda: (status := self.get(path, listener=listener)[0]) != 503 and status))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def serving(machine: Machine, *words: str) -> Iterator[Server]:
    """Run a server on free ports until the test is over."""
    process = machine.start(*words, "serve", "--port", "0", "--internal-port", "0")
    server = Server(process)
    assert process.stderr
    for raw in process.stderr:
        server.lines.append(raw.decode())
        server.ports = {name: int(port) for name, port in _LISTENER.findall("".join(server.lines))}
        if len(server.ports) == 2:
            break
    assert len(server.ports) == 2, server.lines
    reader = Thread(target=lambda: server.lines.extend(raw.decode() for raw in process.stderr or ()))
    reader.start()
    try:
        yield server
    finally:
        process.kill()
        process.wait(120)
        reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe
            pipe.close()


def test_a_container_is_served_and_nothing_is_written_down(mosaic: Machine, database: Database, tmp_path: Path) -> None:
    """By its own process over its own socket, in full detail of the log: no token, no key, no server header."""
    pullers = Pullers.at(database, tmp_path)
    machine = mosaic.but(MOSAIC_SECRET_KEY=pullers.key)
    with serving(machine, "-v") as server:
        path, token = "/api/internal/agent-config/system/far", pullers.tokens["far"]
        assert server.ask("/readyz") == 200
        status, headers, body = server.get(path, listener="internal", token=token)
        assert (status, headers["cache-control"]) == (200, "no-store")
        assert b"openclaw.json" in body
        assert "server" not in headers
        assert server.get(path, token=token)[0] == 404
        assert server.get("/readyz")[2] == b'{"ok":true,"degraded":[]}'
        for wrong in ("planted-wrong-token", pullers.tokens["ann"]):
            assert server.get(f"{path}?token={wrong}", listener="internal", token=wrong)[0] == 401
        assert server.stop() == 0
    written = "".join(server.lines)
    assert "GET /api/internal/agent-config/{container_type}/{container_id:path} 200" in written
    secrets = [*pullers.tokens.values(), "planted", pullers.key]
    assert [secret for secret in secrets if secret in written] == []


def is_free(port: int) -> bool:
    """Tell whether a port can be taken; whoever else was given it by the kernel has it for a moment."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_haste(mosaic: Machine, number: int) -> None:
    """It ends with 0, gives the ports back, and a new one takes them."""
    with serving(mosaic) as server:
        assert server.get("/healthz", listener="internal")[0] == 200
        assert server.stop(number) == 0
        for port in server.ports.values():
            until(lambda port=port: is_free(port))


def test_a_port_in_use_ends_it_at_once(mosaic: Machine) -> None:
    """Exit 5 names address and option, whichever listener it is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (["--port", port, "--internal-port", "0"], ["--port", "0", "--internal-port", port]):
            said = mosaic("serve", *words)
            assert said.error == (5, f"127.0.0.1:{port} is in use", "choose another --port or --internal-port")


def test_it_takes_as_many_connections_as_it_may(mosaic: Machine) -> None:
    """A soft limit of few open files is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with serving(mosaic) as server:
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a folder whose path leaves room for a socket's, which ends at 107 bytes."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_it_starts_without_database_and_docker_and_recovers(
    mosaic: Machine, database: Database, embedded: Embedded, short_path: Path
) -> None:
    """Alive with nobody behind the database's address, 503 elsewhere, and ready once it answers."""
    away = short_path / "away"
    url = embedded.url(database=database.url.partition("@/")[2].partition("?")[0])
    folder = Path(unquote(url.partition("?host=")[2].partition("&")[0]))
    with serving(
        mosaic.but(DATABASE_URL=url.replace(quote(str(folder), safe=""), quote(str(away), safe="")))
    ) as server:
        for listener, path, status in (
            ("public", "/healthz", 200),
            ("internal", "/healthz", 200),
            ("public", "/readyz", 503),
            ("internal", "/api/internal/agent-config/user/ann", 503),
        ):
            got, headers, _ = server.get(path, listener=listener)
            assert (path, got) == (path, status)
            assert got == 200 or headers["retry-after"]
        away.symlink_to(folder)
        assert server.ask("/readyz") == 200
        assert server.ask("/api/internal/agent-config/user/ann", listener="internal") == 401


def test_duties_that_fail_are_told_by_readyz(mosaic: Machine, database: Database) -> None:
    """Where a gateway was started and Docker is away it stays ready, lists its duties, and ends at once."""
    guests = Guests.at(database)
    guests.add("ann")
    guests.wake("ann")
    with serving(mosaic) as server:
        wait_until(lambda: b'duty \\"reconcile\\" failed' in server.get("/readyz")[2])
        assert server.get("/readyz")[0] == 200
        assert server.stop() == 0
    assert "walls: " in "".join(server.lines)


def test_connections_that_broke_are_made_anew(mosaic: Machine, database: Database, embedded: Embedded) -> None:
    """When Postgres ended every connection, the next request is answered."""
    with serving(mosaic) as server:
        path = "/api/internal/agent-config/user/ann"
        assert server.ask(path, listener="internal") == 401
        with psycopg.connect(embedded.url("mosaic_super"), autocommit=True) as superuser:
            there = "SELECT pid FROM pg_stat_activity WHERE usename = 'mosaic'"
            pids = [pid for (pid,) in superuser.execute(there)]
            assert pids
            superuser.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])
            until(lambda: not set(pids) & {pid for (pid,) in superuser.execute(there)})
        assert server.ask(path, listener="internal") == 401
        assert server.ask("/readyz") == 200


def test_an_embedded_postgres_that_is_down_is_started(fresh_mosaic: Machine, fresh_settings: Settings) -> None:
    """Before `mosaic init` there is none and none is made; after it, a server starts what it finds down."""
    with serving(fresh_mosaic) as server:
        assert server.get("/readyz")[0] == 503
        assert not Embedded(fresh_settings.data_dir, fresh_settings.socket_dir).exists()
        assert fresh_mosaic("init").exit_code == 0
        assert server.ask("/readyz") == 200
        assert fresh_mosaic("db", "stop").exit_code == 0
        # A request that waits too long for the start is told to come again.
        assert server.ask("/readyz") == 200
