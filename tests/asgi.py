"""Asks an ASGI application in this process, without a server or a client library."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp


@dataclass(frozen=True)
class Answer:
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


def ask(app: ASGIApp, path: str, *, token: str | None = None, method: str = "GET", **more: Any) -> Answer:
    """Ask for a path, with a query behind its `?`, a bearer token, more `headers` and the chunks of a `body`."""
    return asyncio.run(asking(app, path, token=token, method=method, **more))


async def asking(
    app: ASGIApp,
    path: str,
    *,
    token: str | None = None,
    method: str = "GET",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Sequence[bytes] = (b"",),
) -> Answer:
    """Ask as one of many."""
    chunks = list(body)
    sent: list[Any] = []
    bearer = [(b"authorization", f"Bearer {token}".encode("latin-1"))] if token is not None else []
    where, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*bearer, *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception:
        if not sent:  # a bug's answer is sent, then the server is told
            raise
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:]))
