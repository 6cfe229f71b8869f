"""A Swarm of a hundred agents that nobody has to run: a socket that answers as Docker does."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, ClassVar

from mosaic_fleet import configuration
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.fleet import deploying
from mosaic_fleet.fleet.deploying import Fleet
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.runtimes.base import Finished, Image, Service
from mosaic_fleet.settings import Settings
from tests.docker.installation import Installation
from tests.fakes import FakeRuntime
from tests.postgres.team import Silent

SIZE = 100
STACK = "crowd"
_AT = "2026-11-24T12:00:00.123456789Z"
_NODE = "node1"
_IMAGE_ID = "sha256:" + "fa" * 32


@contextmanager
def crowd(made: Installation) -> Iterator[Installation]:
    """Give an installation a stack of a hundred agents that are deployed, each with a task that failed before."""
    names = [f"agent-{number:02}" for number in range(SIZE)]
    models = [{"id": "m1"}]
    roster = {
        "stack": STACK,
        "providers": {"echo": {"type": "custom", "base_url": "http://llm:1/v1", "models": models}},
        "agents": {name: {"model": "echo/m1", "personality": f"You are {name}."} for name in names},
    }
    file = made.folder / "crowd.yml"
    file.write_text(json.dumps(roster))
    made.mosaic("agent", "import", str(file))
    with answering(made.folder / "docker.sock", _deployed(made)) as host:
        yield replace(made, env={**made.env, "DOCKER_HOST": host})


def _deployed(made: Installation) -> dict[str, Any]:
    """Deploy the crowd to a Swarm in memory; return in Docker's words what is there then."""
    mosaic = Mosaic(Settings.from_env(made.env))
    swarm = FakeRuntime()
    swarm.programs["node"] = _accept
    with mosaic.db.transaction(system=True) as session:
        network, image = (str(configuration.values(session)[f"fleet.{key}"]) for key in ("network", "image"))
    swarm.images[image] = Image(_IMAGE_ID, "2026.9.6", None)
    swarm.create_network(network, labels={})
    deploying.deploy(Fleet(mosaic.db, mosaic.box, swarm, Silent()), STACK, Options())
    services = [_service(one) for one in swarm.services(STACK)]
    tasks = [task for service in services for task in (_task(service, "running"), _task(service, "failed"))]
    return {"services": services, "tasks": tasks, "nodes": [_node()], "json": {"Id": _IMAGE_ID, "Config": {}}}


def _accept(_: Sequence[str], stdin: bytes) -> Finished:
    return Finished(0, json.dumps({name: {"code": 0, "output": ""} for name in json.loads(stdin)}), "")


def _service(one: Service) -> dict[str, Any]:
    status = {"RunningTasks": 1, "DesiredTasks": 1, "CompletedTasks": 0}
    return {"ID": one.id, "CreatedAt": _AT, "UpdatedAt": _AT, "Spec": one.spec, "ServiceStatus": status}


def _task(service: Mapping[str, Any], state: str) -> dict[str, Any]:
    container = {"ContainerID": f"container-of-{service['ID']}", "PID": 1, "ExitCode": 0 if state == "running" else 1}
    return {
        "ID": f"{state}-{service['ID']}",
        "ServiceID": service["ID"],
        "NodeID": _NODE,
        "Slot": 1,
        "CreatedAt": _AT,
        "DesiredState": "running" if state == "running" else "shutdown",
        "Status": {"State": state, "Timestamp": _AT, "Message": state, "ContainerStatus": container},
        "Spec": service["Spec"]["TaskTemplate"],
    }


def _node() -> dict[str, Any]:
    resources = {"MemoryBytes": 64 << 30, "NanoCPUs": 16_000_000_000}
    description = {"Hostname": "crowded", "Resources": resources}
    spec = {"Availability": "active", "Role": "manager"}
    return {"ID": _NODE, "Description": description, "Spec": spec, "Status": {"State": "ready"}}


class _Handler(BaseHTTPRequestHandler):
    """Answers what is asked for by the last part of its path."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        """Answer."""
        body = self.answers.get(self.path.partition("?")[0].rpartition("/")[2], b"OK")
        self.send_response(200)
        self.send_header("Api-Version", "1.41")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Name the caller, who has no address here."""
        return "local"

    def log_message(self, format: str, *values: Any) -> None:
        """Write nothing."""


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def answering(path: Path, answers: Mapping[str, Any]) -> Iterator[str]:
    """Answer at a socket as Docker does, by the last part of a path; yield its address."""
    _Handler.answers = {name: json.dumps(answer).encode() for name, answer in answers.items()}
    with _Server(str(path), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            path.unlink()
