"""What is asked of a gateway whose answers are hostile, by a server on loopback."""

import socket
import threading

import pytest

from mosaic_fleet.runtimes import exchange
from mosaic_fleet.runtimes.gateway_base import Answer, Sent
from tests import servers
from tests.servers import Handler

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LONG, SHORT = 60.0, 0.3
FLOOD = 64 << 20
DROPS = 1000  # a hundredth of a second each


class Talker:
    """Sends a beginning and then the same again and again; `finished` tells that nobody broke it off."""

    def __init__(self, begin: bytes, piece: bytes, pieces: int, pause: float) -> None:
        self.finished = False
        self._begin, self._piece, self._pieces, self._pause = begin, piece, pieces, pause

    def __call__(self, connection: socket.socket, ended: threading.Event) -> None:
        """Talk to a client; the server calls it."""
        connection.recv(65_536)
        connection.sendall(self._begin)
        for _ in range(self._pieces):
            connection.sendall(self._piece)
            if self._pause and ended.wait(self._pause):
                return
        self.finished = True


def dripping(begin: bytes, drop: bytes) -> Talker:
    """Send a drop now and then."""
    return Talker(begin, drop, DROPS, 0.01)


def flooding(begin: bytes, piece: bytes) -> Talker:
    """Send as much as is taken."""
    piece *= 65_536 // len(piece)
    return Talker(begin, piece, FLOOD // len(piece), 0)


def once(said: bytes) -> Talker:
    """Send this and hang up."""
    return Talker(said, b"", 0, 0)


def asked(handler: Handler, timeout: float = LONG) -> Answer | None:
    """Ask such a server."""
    with servers.serving(handler) as server:
        return exchange.answer("GET", ("127.0.0.1", server.port), "/", timeout)


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b"H"),
        (b"", CONTINUE),
        (OK, b"X: y\r\n"),
        (OK + b"Content-Length: 100000\r\n\r\n", b"x"),
        (OK + b"\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
    ],
    ids=["status", "continue", "headers", "body", "body without length", "chunks", "trailers"],
)
def test_an_answer_that_drips_is_none(begin: bytes, drop: bytes) -> None:
    """The deadline is for all of an answer, however often a little of it comes."""
    talker = dripping(begin, drop)
    assert asked(talker, SHORT) is None
    assert not talker.finished


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"", CONTINUE), (CHUNKED + b"-1\r\n", b"x"), (CHUNKED + b"0\r\n", b"X: y\r\n")],
    ids=["continue", "chunk of a negative size", "trailers"],
)
def test_an_answer_without_end_is_none(begin: bytes, piece: bytes) -> None:
    """Only so much of an answer is read, wherever in it there is no end."""
    talker = flooding(begin, piece)
    assert asked(talker) is None
    assert not talker.finished


def test_a_body_without_end_is_cut() -> None:
    """Of a body that goes on 64 KiB are kept, as of any other."""
    talker = flooding(OK + b"\r\n", b"x")
    assert asked(talker) == Answer(200, b"x" * 65_536)
    assert not talker.finished


@pytest.mark.parametrize(
    "said",
    [CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n", CHUNKED + b"zz\r\n", b"HTTP/1.1 2OO OK\r\n\r\n", b"SSH-2.0\r\n", b""],
    ids=["negative size", "no size", "no status", "no http", "nothing"],
)
def test_an_odd_answer_is_none(said: bytes) -> None:
    """What is no HTTP is no answer, and no error."""
    assert asked(once(said)) is None


def test_nobody_who_listens_is_none() -> None:
    """A gateway that is not there gives no answer."""
    with servers.serving(servers.silent) as server:
        port = server.port
    assert exchange.answer("GET", ("127.0.0.1", port), "/", LONG) is None


def test_what_is_sent_arrives_and_is_answered() -> None:
    """A body is sent with its headers, and an answer is its status and body."""
    with servers.serving(servers.answering("503 Busy", b"later")) as server:
        sent = Sent(b"hello", {"X-Word": "one"})
        assert exchange.answer("POST", ("127.0.0.1", server.port), "/rpc", LONG, sent) == Answer(503, b"later")
    received = b"".join(server.requests)
    assert received.startswith(b"POST /rpc HTTP/1.1\r\n")
    assert b"X-Word: one" in received
