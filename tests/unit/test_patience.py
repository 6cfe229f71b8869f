"""Clients that dawdle, or send too much before a body: on real sockets, with a uvicorn of the test's own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.settings import Settings
from mosaic_fleet.web import app, failures, listeners, patience
from mosaic_fleet.web.site import Site

LONG = 60
LIMIT = 0.2
PAUSE = 0.5  # between two words
ENOUGH = 1000  # drops, a hundredth of a second each


@contextmanager
def served(application: ASGIApp) -> Iterator[int]:
    """Serve an application as `mosaic serve` does; yield the port."""
    with listeners.bound(listeners.Address("127.0.0.1", 0)) as sock:
        server = listeners._Server(listeners._config(application), "test", sock)

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve(sockets=[sock]))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.stop()
            server.stop()
            thread.join()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Connect to a port."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as connection:
        yield connection


def said(connection: socket.socket) -> bytes:
    """Return what comes until the other side ends the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass  # what was sent after the end
    return b"".join(parts)


def dripped(connection: socket.socket, drop: bytes) -> bytes:
    """Send a drop now and then until the other side ends the connection; return what it said."""
    connection.settimeout(0.01)
    parts = []
    for _ in range(ENOUGH):
        try:
            connection.sendall(drop)
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise AssertionError("the connection goes on")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have little patience."""
    monkeypatch.setattr(patience, "HEADERS_SECONDS", LIMIT)
    monkeypatch.setattr(patience, "BODY_SECONDS", LIMIT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Return what requests share where no database answers."""
    homes = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    site = Site(Mosaic(Settings.from_env({**homes, "DATABASE_URL": "postgresql://mosaic@127.0.0.1:1/none"})))
    yield site
    site.close()


@pytest.fixture
def echo() -> FastAPI:
    """Return an application that takes a body, and one that answers word by word."""
    application = FastAPI()
    failures.install(application)

    @application.post("/echo")
    async def take(request: Request) -> int:
        return len(await request.body())

    @application.get("/words")
    async def words() -> StreamingResponse:
        async def spoken() -> object:
            for _ in range(5):
                await asyncio.sleep(PAUSE)
                yield "word "

        return StreamingResponse(spoken())

    return application


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("listener", ["public", "internal"])
@pytest.mark.parametrize(
    ("begin", "drop"),
    [(b"", b""), (b"", b"\n"), (b"GET /healthz HT", b""), (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: ", b"y")],
    ids=["nothing", "empty lines", "half a line", "endless header"],
)
def test_headers_that_do_not_come_end_it(site: Site, listener: str, begin: bytes, drop: bytes) -> None:
    """Whoever sends nothing, half a request or a header without end is told so, on either listener."""
    with served(getattr(app, listener)(site)) as port, connected(port) as connection:
        connection.sendall(begin)
        answer = dripped(connection, drop) if drop else said(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") or (drop and not answer)  # what is sent after the end loses the word


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("listener", ["public", "internal"])
def test_a_body_that_nobody_reads_ends_it_too(site: Site, listener: str) -> None:
    """A request that is answered before its body came is not kept open for the body."""
    with served(getattr(app, listener)(site)) as port, connected(port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n")
        answer = dripped(connection, b"x")
    assert answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("drop", [b"", b"x"], ids=["silent", "dripping"])
def test_a_body_that_does_not_come_ends_it(echo: FastAPI, drop: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A route that waits for a body waits for a bounded time, and the log is not filled with it."""
    with served(echo) as port, connected(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n{")
        answer = dripped(connection, drop) if drop else said(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") or (drop and not answer)
    assert "Traceback" not in caplog.text


def test_an_answer_may_take_longer(echo: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are for what clients send: an answer that streams for longer arrives whole."""
    monkeypatch.setattr(patience, "HEADERS_SECONDS", 4 * PAUSE)
    monkeypatch.setattr(patience, "BODY_SECONDS", 4 * PAUSE)
    with served(echo) as port, connected(port) as connection:
        connection.sendall(b"GET /words HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = said(connection)
    assert answer.count(b"word ") == 5
    assert b"408" not in answer


@pytest.mark.usefixtures("hurried")
def test_empty_lines_behind_an_answer_end_it(echo: FastAPI) -> None:
    """They begin no request, and do not keep a connection open."""
    with served(echo) as port, connected(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        assert connection.recv(65536)
        dripped(connection, b"\n")


def test_a_client_in_time_is_served_again_and_again(echo: FastAPI) -> None:
    """Two requests on a connection, the second one in pieces, are both answered."""
    with served(echo) as port, connected(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        first = connection.recv(65536)
        for piece in (
            b"POST /echo HTTP/1.1\r\nhost: a\r\n",
            b"connection: close\r\ncontent-length: 4\r\n\r\nab",
            b"cd",
        ):
            connection.sendall(piece)
        assert first.startswith(b"HTTP/1.1 200 ")
        assert said(connection).endswith(b"\r\n\r\n4")


BEGIN = b"GET /healthz HTTP/1.1\r\nhost: a\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize("listener", ["public", "internal"])
@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"GET /", b"y"), (BEGIN + b"x: ", b"y"), (BEGIN, b"x: y\r\n"), (b"", b"\r\n")],
    ids=["target", "one header", "many headers", "empty lines"],
)
def test_headers_that_are_too_large_end_it(site: Site, listener: str, begin: bytes, more: bytes) -> None:
    """Whoever sends more than 64 KiB before a body is told so as soon as they did, on either listener."""
    with served(getattr(app, listener)(site)) as port, connected(port) as connection:
        connection.sendall((begin + more * 65_536)[: 65_536 + 1])
        assert said(connection).startswith(b"HTTP/1.1 431 ")


def test_trailers_that_are_too_large_end_it(echo: FastAPI) -> None:
    """What follows a body is held too, and limited."""
    with served(echo) as port, connected(port) as connection:
        connection.sendall(CHUNKED)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            connection.sendall(b"x: y\r\n" * 10_000_000)


def test_what_is_within_the_limit_is_served(echo: FastAPI) -> None:
    """Large headers, a larger body behind them, and requests that follow at once are no flood."""
    head = b"POST /echo HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 60_000
    request = head + b"\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    with served(echo) as port, connected(port) as connection:
        connection.sendall(request + request)
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx")
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 3
    assert answers.endswith(b"\r\n\r\n1")
