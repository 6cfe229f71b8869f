"""A vendor of models on loopback that speaks what a test tells it to, and remembers what it was asked."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from mosaic_fleet.fleet.dialects import TOOL

KEY = "0123456789abcdef-sentinel-wxyz"
Reply = tuple[int, Any]  # a status, and JSON or raw bytes


@dataclass(frozen=True)
class Asked:
    """A request that the vendor received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Vendor:
    """Answers by path; a reply is a pair, or a function of the request that makes one."""

    port: int
    replies: dict[str, Reply | Callable[[Asked], Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """Return what it was asked for, in order."""
        return [f"{one.method} {one.path}" for one in self.asked]

    def reply(self, asked: Asked) -> Reply:
        """Find the answer to a request."""
        self.asked.append(asked)
        found = self.replies.get(asked.path, (404, {"error": "no such path"}))
        return found(asked) if callable(found) else found


class _Server(ThreadingHTTPServer):
    """Lets clients leave when they like."""

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def vendor(**replies: Reply | Callable[[Asked], Reply]) -> Iterator[Vendor]:
    """Run a vendor until the block ends; names of replies are paths, their slashes written as two underscores."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, body: Any) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, value = made.reply(Asked(self.command, self.path, headers, body))
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with _Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made = Vendor(server.server_port, {f"/{name.replace('__', '/')}": reply for name, reply in replies.items()})
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def keyed(value: Any, key: str = KEY) -> Callable[[Asked], Reply]:
    """Answer only who brings the key, as a bearer or as Anthropic has it."""

    def reply(asked: Asked) -> Reply:
        right = asked.headers.get("authorization") == f"Bearer {key}" or asked.headers.get("x-api-key") == key
        return (200, value) if right else (401, {"error": f"wrong key {asked.headers.get('authorization')}"})

    return reply


def openai_turn(asked: Asked) -> Reply:
    """Speak `/chat/completions`: a text, a stream, or a call of the tool."""
    if asked.body["stream"]:
        return 200, b'data: {"choices": [{"delta": {"content": "ok"}}]}\n\ndata: [DONE]\n\n'
    message: dict[str, Any] = {"role": "assistant", "content": "ok"}
    if "tools" in asked.body:
        message["tool_calls"] = [{"type": "function", "function": {"name": TOOL, "arguments": '{"word": "ok"}'}}]
    return 200, {"choices": [{"message": message}]}


def responses_turn(asked: Asked) -> Reply:
    """Speak `/responses`."""
    if asked.body["stream"]:
        return 200, b'event: response.completed\ndata: {"type": "response.completed"}\n\n'
    call = {"type": "function_call", "name": TOOL, "arguments": "{}"}
    return 200, {"output": [call if "tools" in asked.body else {"type": "message"}]}


def anthropic_turn(asked: Asked) -> Reply:
    """Speak `/v1/messages`."""
    if asked.body["stream"]:
        return 200, b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    call = {"type": "tool_use", "name": TOOL, "input": {}}
    return 200, {"content": [call if "tools" in asked.body else {"type": "text", "text": "ok"}]}


def ollama_turn(asked: Asked) -> Reply:
    """Speak Ollama's `/api/chat`."""
    if asked.body["stream"]:
        return 200, b'{"message": {"content": "ok"}, "done": false}\n{"message": {}, "done": true}\n'
    message: dict[str, Any] = {"role": "assistant", "content": "ok"}
    if "tools" in asked.body:
        message["tool_calls"] = [{"function": {"name": TOOL, "arguments": {}}}]
    return 200, {"message": message, "done": True}
