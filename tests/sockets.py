"""HTTP on a Unix socket, as Docker speaks it, for tests of what Mosaic makes of its answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from typing import Any


class Answering(BaseHTTPRequestHandler):
    """Answers in JSON, or with text as it is."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: Any, *headers: tuple[str, str]) -> None:
        """Send an answer."""
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in [*headers, ("Content-Length", str(len(content)))]:
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> Any:
        """Read what was posted."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def address_string(self) -> str:
        """Name the other side, which has no address."""
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingMixIn, UnixStreamServer):
    """Keeps the connections, each in a thread of its own."""

    daemon_threads = True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection and remember it."""
        self.connections = [*getattr(self, "connections", []), request]
        super().process_request_thread(request, client_address)

    def hang_up(self) -> None:
        """End every connection, as a daemon that restarts does."""
        for connection in self.connections:
            self.shutdown_request(connection)


@contextmanager
def serving(path: Path, handler: type[Answering]) -> Iterator[Server]:
    """Serve at a socket until the block ends."""
    with Server(str(path), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
