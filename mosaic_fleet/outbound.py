"""The one way out for Mosaic's own requests: an httpx client that connects to addresses it has checked, and no others.

A name is resolved once, every address it has is judged, and the connection goes to a judged address, so that DNS that
changes its answer gains nothing. No redirects, no proxy from the environment, a reply of bounded size, one deadline for
all that a client does, and errors that repeat nothing of a reply.
"""

import logging
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import httpcore
import httpx

from mosaic_fleet.egress import Opening, judge, where
from mosaic_fleet.errors import Invalid, RuntimeFailure

LARGEST = 4 << 20  # bytes of a reply after decompression: the model list of a reseller has one
_HEADERS = {"User-Agent": "mosaic", "Accept": "application/json", "Accept-Encoding": "gzip"}

# At DEBUG they would log keys in headers, and what servers say.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

Resolve = Callable[[str, int], Sequence[str]]


def addresses_of(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host, however it is spelled; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def client(allowed: Sequence[Opening], *, timeout: float, resolve: Resolve = addresses_of) -> httpx.Client:
    """Open a client whose requests all together may take `timeout` seconds; its failures are RuntimeFailure."""
    transport = _Transport(_Guard(allowed, timeout, resolve))
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, headers=_HEADERS)


@contextmanager
def answer(
    http: httpx.Client, method: str, url: str, *, headers: Mapping[str, str], body: object = None
) -> Iterator[httpx.Response]:
    """Send a request with an optional JSON body and hold its answer open.

    Raises Invalid for what is no address, RuntimeFailure for a redirect or when no answer comes.
    """
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        request = http.build_request(method, url, headers=encoded, json=body)
    except (httpx.InvalidURL, ValueError):
        request = None
    if request is None or (request.url.port or 0) > 65_535:
        raise Invalid(f"{where(url)} is no address that can be called")
    response = http.send(request, stream=True)
    try:
        if response.is_redirect:
            raise RuntimeFailure(f"{where(url)} answered {response.status_code}; redirects are not followed")
        yield response
    finally:
        response.close()


class Forbidden(RuntimeFailure):
    """The address is one that Mosaic does not call."""


class _Guard(httpcore.NetworkBackend):
    """Connects to judged addresses, and cuts every connection off at the deadline, whatever it is waiting for."""

    def __init__(self, allowed: Sequence[Opening], timeout: float, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(timeout, self._cut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._deadline

    def connect_tcp(self, host: str, port: int, *_: Any, **_options: Any) -> httpcore.NetworkStream:
        """Connect to the first address that answers, if all of them may be called; httpcore calls it."""
        checked = self._checked(host, port)
        for address in checked:
            try:
                stream = _TCP.connect_tcp(address, port, timeout=self._left())
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == checked[-1] or self.expired:
                    raise
                continue
            self._sockets.append(stream.get_extra_info("socket").dup())
            if self.expired:  # it may have been cut off a moment before it was known
                stream.close()
                raise httpcore.ConnectTimeout("deadline")
            return stream
        raise httpcore.ConnectError("no address")

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        for watched in self._sockets:
            watched.close()

    def _checked(self, host: str, port: int) -> Sequence[str]:
        addresses = self._looked_up(host, port)
        verdicts = {judge(address, port, self._allowed) for address in addresses}
        if "never" in verdicts:
            raise Forbidden("is at an address that is never called")
        if "private" in verdicts:
            shown = f"[{host}]" if ":" in host else host
            entry = f"{shown}:{port}" if list(addresses) == [host] else f"ADDRESS:{port}"
            raise Forbidden(
                "is at a private address, which egress.allow does not list",
                hint=f"mosaic config set egress.allow {entry}   (or save it untested with --no-test)",
            )
        return addresses

    def _looked_up(self, host: str, port: int) -> Sequence[str]:
        """Resolve in a thread, because the system's resolver knows no deadline."""
        answers: SimpleQueue[Sequence[str] | Exception] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(host, port))
            except Exception as error:  # whatever it is, nobody must wait for it
                answers.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = answers.get(timeout=self._left())
        except Empty:
            raise httpcore.ConnectTimeout("resolver") from None
        if isinstance(answer, Exception) or not answer:
            raise RuntimeFailure("has no address")
        return answer

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _cut(self) -> None:
        for watched in self._sockets:
            try:
                watched.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other side was quicker


class _Transport(httpx.BaseTransport):
    """Carries requests over guarded connections and names the address in whatever goes wrong."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard
        self._pool: httpcore.ConnectionPool | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; httpx calls it."""
        place = where(str(request.url))
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        content = request.stream if isinstance(request.stream, httpx.SyncByteStream) else b""
        with _Told(place, self._guard):
            response = self._connections(request).handle_request(
                httpcore.Request(request.method, url, headers=request.headers.raw, content=content)
            )
        headers = httpx.Headers(response.headers)
        encoding = headers.pop("Content-Encoding", "identity").strip().lower()
        body = _Body(response, encoding, _Told(place, self._guard))
        return httpx.Response(response.status, headers=headers, stream=body)

    def close(self) -> None:
        """Close all connections; httpx calls it."""
        if self._pool:
            self._pool.close()
        self._guard.close()

    def _connections(self, request: httpx.Request) -> httpcore.ConnectionPool:
        if self._pool is None:
            # Reading the system's certificates takes as long as a request.
            context = ssl.create_default_context() if request.url.scheme == "https" else None
            self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=self._guard)
        return self._pool


class _Body(httpx.SyncByteStream):
    """A reply's body, decompressed here because httpx would do so without bounds."""

    def __init__(self, response: httpcore.Response, encoding: str, told: "_Told") -> None:
        self._response = response
        self._encoding = encoding
        self._told = told

    def __iter__(self) -> Iterator[bytes]:
        left = LARGEST
        with self._told:
            for part in _decoded(self._response.iter_stream(), self._encoding):
                left -= len(part)
                if left < 0:
                    raise RuntimeFailure(f"answered more than {LARGEST >> 20} MB")
                yield part

    def close(self) -> None:
        self._response.close()


class _Told:
    """A block whose failures are told as `<address> <what happened>`."""

    def __init__(self, place: str, guard: _Guard) -> None:
        self._place = place
        self._guard = guard

    def __enter__(self) -> None:
        if self._guard.expired:
            raise RuntimeFailure(self._late())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Forbidden):
            raise Forbidden(f"{self._place} {error.message}", hint=error.hint) from None
        if isinstance(error, RuntimeFailure):
            raise RuntimeFailure(f"{self._place} {error.message}", hint=error.hint) from None
        if isinstance(error, (*_SAID, zlib.error)):
            told = self._late() if self._guard.expired else f"{self._place} {_said(error)}"
            raise RuntimeFailure(told) from error
        if error is None and self._guard.expired:  # a body without a length ends as it likes, also when it is cut off
            raise RuntimeFailure(self._late())

    def _late(self) -> str:
        return f"{self._place} did not answer within {self._guard.timeout:g} s"


_TCP = httpcore.SyncBackend()
# What httpcore raises, and how it is told: the first that fits.
_SAID: dict[type[Exception], str] = {
    httpcore.TimeoutException: "did not answer in time",
    httpcore.ConnectError: "cannot be reached",
    httpcore.NetworkError: "broke off",
    httpcore.ProtocolError: "does not answer as HTTP asks for",
    httpcore.UnsupportedProtocol: "is no http or https address",
}


def _said(error: BaseException | None) -> str:
    cause = error.args[0] if error and error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "does not speak TLS as https asks for"
    return next((said for kind, said in _SAID.items() if isinstance(error, kind)), "sent what cannot be decompressed")


def _decoded(parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Undo gzip in bounded pieces; raises RuntimeFailure for an encoding that was not asked for."""
    if encoding == "identity":
        yield from parts
        return
    if encoding not in ("gzip", "x-gzip"):
        raise RuntimeFailure("answered in an encoding that was not asked for")
    unpacker = zlib.decompressobj(wbits=31)
    for part in parts:
        while part:
            yield unpacker.decompress(part, 1 << 16)
            part = unpacker.unconsumed_tail
