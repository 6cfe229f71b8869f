"""How long a client may take to send a request: uvicorn itself waits for ever."""

from asyncio import Handle, Transport

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_SECONDS = 10.0
# Twenty megabytes, the largest body that is ever taken, at three megabits per second.
BODY_SECONDS = 60.0
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, that ends a connection whose headers, or whose body, take too long in all.

    Between two requests uvicorn's own limit counts. While reading is paused, because Mosaic does not keep up with what
    it got, nobody is blamed.
    """

    _timer: Handle | None = None
    _awaits_headers = True

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for headers: a connection that sends nothing ends too."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin to wait with any byte behind a response: an empty line begins no request, and ends uvicorn's limit."""
        if self._timer is None and not self._is_answering:
            self._await_headers()
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin to wait for the headers of a request that follows at once."""
        if self._timer is None:
            self._await_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait for the body from here on."""
        super().on_headers_complete()
        self._cancel()
        self._awaits_headers = False
        self._timer = self.loop.call_later(BODY_SECONDS, self._give_up)

    def on_message_complete(self) -> None:
        """Wait for nothing: it is Mosaic's turn."""
        self._cancel()
        super().on_message_complete()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_headers(self) -> None:
        self._cancel()
        self._awaits_headers = True
        self._timer = self.loop.call_later(HEADERS_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """End the connection, with a word where no answer is under way or given."""
        if self.flow.read_paused:
            self._timer = self.loop.call_later(BODY_SECONDS, self._give_up)
            return
        self._timer = None
        if not self._is_answering if self._awaits_headers else not self.cycle.response_started:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
