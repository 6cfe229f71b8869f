"""One exchange with a gateway over HTTP that may be hostile: bounded in time and in bytes, whatever it answers."""

import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from mosaic_fleet.runtimes.gateway_base import Answer, Sent

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_BODY_BYTES = 65536
# The rest is for headers, trailers and the sizes of chunks.
_ALL_BYTES = 2 * _BODY_BYTES


def answer(method: str, where: tuple[str, int], path: str, timeout: float, sent: Sent | None = None) -> Answer | None:
    """Return what is answered, of its body 64 KiB; None when no HTTP is within `timeout` seconds in all and 128 KiB."""
    connection = _Connection(where, timeout)
    try:
        connection.request(method, path, sent.body if sent else None, sent.headers if sent else {})
        response = connection.getresponse()
        return Answer(response.status, response.read(_BODY_BYTES))
    except (OSError, HTTPException, ValueError):  # ValueError: http.client reads chunks of a negative size
        return None
    finally:
        connection.close()


class _Connection(HTTPConnection):
    """HTTP over a bounded socket."""

    def __init__(self, where: tuple[str, int], timeout: float) -> None:
        super().__init__(*where, timeout=timeout)
        self._deadline = time.monotonic() + timeout

    def connect(self) -> None:
        """Connect; http.client calls it."""
        super().connect()
        self.sock = _Bounded(self.sock, self._deadline)


class _Bounded(socket.socket):
    """A connected socket that is used until a deadline and gives so many bytes: a timeout alone holds for each read."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__(connected.family, connected.type, connected.proto, connected.detach())
        self._deadline = deadline
        self._bytes_left = _ALL_BYTES

    def sendall(self, data: "ReadableBuffer", flags: int = 0) -> None:
        """Send all; http.client calls it."""
        self._hurry()
        super().sendall(data, flags)

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """Receive some bytes; what socket.makefile() returns calls it."""
        self._hurry()
        received = super().recv_into(buffer, nbytes, flags)
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise OSError("an answer without end")
        return received

    def _hurry(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        self.settimeout(left)
