"""How long a client may take to send a request, and how much before its body: uvicorn itself takes everything."""

from asyncio import Handle, Transport

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_SECONDS = 10.0
# Twenty megabytes, the largest body that is ever taken, at three megabits per second.
BODY_SECONDS = 60.0
# Of a request's headers, and of what may follow its body.
HEADERS_BYTES = 65_536
_PIECE = 4096
_TOO_SLOW = b"408 Request Timeout"
_TOO_LARGE = b"431 Request Header Fields Too Large"


class PatientProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, that ends a connection whose headers, or whose body, take too long in all.

    So does one whose headers or trailers are too large: they are held until they are complete.
    Between two requests uvicorn's own limit counts. While reading is paused, because Mosaic does not keep up with what
    it got, nobody is blamed.
    """

    _timer: Handle | None = None
    _awaits_headers = True
    _held = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for headers: a connection that sends nothing ends too."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take it in pieces, so that what is no body is counted nearly to the byte."""
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            self._take(data[start : start + _PIECE])

    def on_message_begin(self) -> None:
        """Begin to wait for the headers of a request that follows at once."""
        if self._timer is None:
            self._await_headers()
        self._held = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait for the body from here on."""
        super().on_headers_complete()
        self._held = 0
        self._cancel()
        self._awaits_headers = False
        self._timer = self.loop.call_later(BODY_SECONDS, self._give_up)

    def on_body(self, body: bytes) -> None:
        """Count anew: a body is not held here."""
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing: it is Mosaic's turn."""
        self._cancel()
        super().on_message_complete()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _take(self, piece: bytes) -> None:
        """Begin to wait with any byte behind a response: an empty line begins no request, and ends uvicorn's limit."""
        if self._timer is None and not self._is_answering:
            self._await_headers()
        super().data_received(piece)
        self._held += len(piece)
        if self._held > HEADERS_BYTES and not self.transport.is_closing():
            self._end(_TOO_LARGE)

    def _await_headers(self) -> None:
        self._cancel()
        self._awaits_headers = True
        self._timer = self.loop.call_later(HEADERS_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """End the connection, unless it is Mosaic that is slow."""
        if self.flow.read_paused:
            self._timer = self.loop.call_later(BODY_SECONDS, self._give_up)
            return
        self._timer = None
        self._end(_TOO_SLOW)

    def _end(self, status: bytes) -> None:
        """End the connection, with a word where no answer is under way or given."""
        if not self._is_answering if self._awaits_headers else not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
