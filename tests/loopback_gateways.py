"""`LoopbackGateways`: the engine in memory, but each gateway listens on loopback and is spoken to over HTTP.

A gateway's address is its own with 127 in front (`10.213.0.2` becomes `127.213.0.2`), its port is OpenClaw's.
"""

import json
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.runtimes.gateway_base import Answer, Container, Sent
from tests.fake_gateways import FakeGateways
from tests.fake_openclaw import CHAT, FakeOpenClaw, unavailable

PORT = 18789
PIECES, PIECE_SECONDS = 4, 0.005


class LoopbackGateways(FakeGateways):
    """Implements GatewayRuntime; `cut` lists the turns that ended before their [DONE]."""

    def __init__(self) -> None:
        super().__init__()
        self.looks_to_start = 0
        self.cut: list[str] = []
        self._servers: dict[str, _Server] = {}

    def address(self, subnet: str) -> str:
        """Place a gateway on loopback."""
        return super().address(subnet).replace("10.", "127.", 1)

    def started(self, container: Container, openclaw: FakeOpenClaw) -> None:
        """Have a gateway listen."""
        self._servers[container.id] = _Server(container.address, openclaw)

    def ended(self, container: Container) -> None:
        """Have it hang up on everybody; a turn that is under way then is cut."""
        if server := self._servers.pop(container.id, None):
            self.cut += server.hang_up()

    def get(self, address: str, path: str, *, port: int, timeout: float) -> Answer | None:
        """Ask over HTTP."""
        return EngineRuntime.get(self, address, path, port=port, timeout=timeout)

    def post(self, address: str, path: str, sent: Sent, *, port: int, timeout: float) -> Answer | None:
        """Send over HTTP."""
        return EngineRuntime.post(self, address, path, sent, port=port, timeout=timeout)


class _Server:
    """One gateway's listener."""

    def __init__(self, address: str, openclaw: FakeOpenClaw) -> None:
        self._openclaw = openclaw
        self._listener = _Listener((address, PORT), _handler(openclaw))
        self._thread = Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.005})
        self._thread.start()

    def hang_up(self) -> list[str]:
        """Listen no more; name the turns that were under way."""
        cut = [f"turn {number}" for number in range(self._openclaw.turns)]
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        return cut


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _handler(openclaw: FakeOpenClaw) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers as OpenClaw does: probes, the admin RPC, and turns in pieces."""

        def do_GET(self) -> None:
            self._answer(Answer(503 if openclaw.closed else 200, b'{"ok":true,"status":"started"}'))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers: Mapping[str, str] = dict(self.headers.items())
            if self.path == CHAT and headers.get("Authorization") == f"Bearer {openclaw.token}":
                self._turn()
            else:
                self._answer(openclaw.post(self.path, Sent(body, headers)))

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _turn(self) -> None:
            if not openclaw.begin():
                self._answer(unavailable())
                return
            try:
                self.send_response(200)
                self.end_headers()
                for number in range(PIECES):
                    time.sleep(PIECE_SECONDS)
                    self.wfile.write(f"data: {json.dumps({'piece': number})}\n\n".encode())
                    self.wfile.flush()
                self.wfile.write(b"data: [DONE]\n\n")
                self.wfile.flush()
                self.connection.shutdown(1)
            finally:
                openclaw.end()

        def _answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    return Handler
