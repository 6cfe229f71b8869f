"""One gateway without a database: its network, volume and container, made as Mosaic makes them; and turns with one."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from threading import Event, Thread

from pydantic import SecretStr

from mosaic_fleet.fleet import delivery
from mosaic_fleet.fleet.hosting import Running
from mosaic_fleet.fleet.openclaw import STATE_DIR, Gateway
from mosaic_fleet.runtimes.gateway_base import Container, GatewayRuntime, Limits, Wanted
from tests.fakes import FAKE_IMAGE

TOKEN = SecretStr("token-of-one-gateway")


def one_gateway(
    runtime: GatewayRuntime,
    gateway: Gateway | None = None,
    *,
    image: str = FAKE_IMAGE,
    name: str = "mosaic-one",
    labels: Mapping[str, str] | None = None,
) -> Container:
    """Make and start a gateway; nobody waits for it."""
    found = runtime.image(image)
    assert found
    marks = dict(labels or {})
    runtime.create_bridge(name, interface=name[:15], subnet="10.218.1.0/28", labels=marks)
    runtime.create_volume(f"{name}-state", labels=marks)
    wanted = Wanted(
        name=name,
        image=found.id,
        bridge=name,
        volume=f"{name}-state",
        state_dir=STATE_DIR,
        run_dir=delivery.RUN_DIR,
        command=delivery.command(),
        environment=delivery.environment(2 << 30),
        limits=Limits(2 << 30, 2),
        labels=marks,
    )
    made = runtime.create(wanted)
    runtime.start(made, stdin=delivery.package(gateway or Gateway("llm/m1"), TOKEN, None).tar())
    seen = runtime.container(made)
    assert seen
    return seen


def ask(
    found: Running, text: str, *, token: str | None = None, timeout: float = 120, **more: str
) -> tuple[int, str | None]:
    """Ask a gateway something, with `more` in the request; return status and answer, None where it is refused."""
    body = {"messages": [{"role": "user", "content": text}], **more}
    headers = {"authorization": f"Bearer {token or found.token.get_secret_value()}"}
    request = urllib.request.Request(f"{found.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.load(response)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


class Turn:
    """A streamed turn of somebody's: `begun` is set with its first byte."""

    def __init__(self, url: str, token: SecretStr, text: str) -> None:
        self.begun = Event()
        self.received = b""
        body = {"model": "openclaw", "stream": True, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {token.get_secret_value()}"}
        self._request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        self._thread = Thread(target=self._receive)
        self._thread.start()
        assert self.begun.wait(120)

    def whole(self) -> str:
        """Wait for its end and return all that was streamed."""
        self._thread.join(180)
        assert not self._thread.is_alive()
        return self.received.decode()

    def _receive(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=180) as response:
                while piece := response.read1(65_536):
                    self.received += piece
                    self.begun.set()
        except urllib.error.HTTPError as refusal:
            with refusal:
                self.received += f"broken off: {refusal}".encode()
        except (OSError, HTTPException) as error:
            self.received += f"broken off: {error}".encode()
        finally:
            self.begun.set()
