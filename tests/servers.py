"""Servers on loopback, each misbehaving in its way, for tests of what Mosaic itself calls."""

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

Handler = Callable[[socket.socket, threading.Event], None]


@dataclass
class Server:
    """A listener on a port of its own; `requests` are the heads that it received, in order."""

    port: int
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(handler: Handler, host: str = "127.0.0.1") -> Iterator[Server]:
    """Run a handler for each connection until the block ends; the event tells it that."""
    ended = threading.Event()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0)))
        server = Server(listener.getsockname()[1])
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=handle, args=(connection,)))
                threads[-1].start()

        def handle(connection: socket.socket) -> None:
            with connection:
                try:
                    handler(_Recording(connection, server), ended)
                except OSError:
                    return  # the client left, as it should

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


class _Recording:
    """A connection that keeps what it receives."""

    def __init__(self, connection: socket.socket, server: Server) -> None:
        self._connection = connection
        self._server = server

    def recv(self, size: int) -> bytes:
        received = self._connection.recv(size)
        if received:
            self._server.requests.append(received)
        return received

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def answering(status: str, body: bytes = b"{}", *headers: str) -> Handler:
    """Answer every request with this."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]

    def handle(connection: socket.socket, _: threading.Event) -> None:
        while connection.recv(65_536):
            connection.sendall("\r\n".join(lines).encode() + body)

    return handle


def relaying(path: str) -> Handler:
    """Pass every byte on to a Unix socket, and back."""

    def handle(connection: socket.socket, _: threading.Event) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
            back = threading.Thread(target=_pass_on, args=(other, connection))
            back.start()
            _pass_on(connection, other)
            back.join()

    return handle


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65_536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


def silent(connection: socket.socket, ended: threading.Event) -> None:
    """Take a request and never answer."""
    connection.recv(65_536)
    ended.wait()


def endless(connection: socket.socket, ended: threading.Event) -> None:
    """Send a body without length that does not end."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not ended.is_set():
        connection.sendall(b"x" * 65_536)


def dripping_body(connection: socket.socket, ended: threading.Event) -> None:
    """Send a body without length, a byte now and then."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{")
    while not ended.wait(0.02):
        connection.sendall(b" ")


def slow_headers(connection: socket.socket, ended: threading.Event) -> None:
    """Send headers, a byte now and then, and never the last."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not ended.wait(0.02):
        connection.sendall(b"y")


def endless_headers(connection: socket.socket, ended: threading.Event) -> None:
    """Send headers without end."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not ended.is_set():
        connection.sendall(b"X: " + b"y" * 1000 + b"\r\n")


def slow_handshake(connection: socket.socket, ended: threading.Event) -> None:
    """Begin a TLS record and go on a byte now and then."""
    connection.recv(65_536)
    connection.sendall(b"\x16\x03\x03\x40\x00")
    while not ended.wait(0.02):
        connection.sendall(b"\x02")


def no_http(connection: socket.socket, _: threading.Event) -> None:
    """Speak another protocol."""
    connection.recv(65_536)
    connection.sendall(b"SSH-2.0-OpenSSH_9.2 secret-banner\r\n")


def breaking_off(connection: socket.socket, _: threading.Event) -> None:
    """Promise more than is sent."""
    connection.recv(65_536)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": [')


def gzip_bomb(megabytes: int = 50) -> Handler:
    """Answer with little that unfolds to much."""
    packer = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    body = b"".join(packer.compress(piece) for _ in range(megabytes)) + packer.flush()
    return answering("200 OK", body, "Content-Encoding: gzip")


def gzipped(body: bytes) -> Handler:
    """Answer as compressed as was asked for."""
    return answering("200 OK", gzip.compress(body), "Content-Encoding: gzip")


def tls(handler: Handler, folder: Path) -> Handler:
    """Wrap a handler in TLS with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder))

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        raw = socket.socket(fileno=connection.detach())
        with raw, context.wrap_socket(raw, server_side=True) as wrapped:
            handler(wrapped, ended)

    return handle


def _certificate(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path
