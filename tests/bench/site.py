"""Where the bench runs: a Mosaic in fresh folders, a network and a stand-in for OpenClaw; all of it goes again."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from sqlmodel import Session

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.configuration import REGISTRY
from mosaic_fleet.db.tables import User
from mosaic_fleet.fleet import providers
from mosaic_fleet.runtimes.endpoint import DEFAULT_HOST
from mosaic_fleet.settings import Settings
from tests.docker.installation import Installation
from tests.docker_run import DockerRun

_IMAGES = (os.environ.get("MOSAIC_TEST_IMAGE"), "mosaic-openclaw:2026.9.6", REGISTRY["fleet.image"].default)
_STAND_IN = Path(__file__).parents[1] / "docker" / "stand_in"
# As short as it can be: waiting for a probe would hide what Mosaic itself takes.
_QUICK = {"health.interval": "1", "update.monitor": "1", "restart.delay": "1"}


def daemon() -> DockerRun:
    """Describe the Docker that DOCKER_HOST names, else the usual one, whether or not it answers."""
    label = f"com.mosaic.test={uuid4().hex[:12]}"
    return DockerRun(os.environ.get("DOCKER_HOST") or DEFAULT_HOST, label, [label])


def obstacle(docker: DockerRun) -> str | None:
    """Say why nothing can be deployed there, None when it can."""
    command = ["docker", "--host", docker.host, "info", "--format", "{{.Swarm.ControlAvailable}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "the docker command is not installed"
    if done.returncode:
        return f"no Docker daemon answers at {docker.host}"
    if done.stdout.strip() != "true":
        return f"the Docker daemon at {docker.host} manages no Swarm"
    return None if base_image(docker) else f"no OpenClaw image at {docker.host}: make quickstart brings one"


@contextmanager
def installation(docker: DockerRun) -> Iterator[Installation]:
    """Initialise a Mosaic with two providers; its Postgres and its folders go at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mosaic-bench-"))
    folder.chmod(0o755)
    made = Installation.at(folder, docker)
    try:
        made.mosaic("init")
        made.mosaic("provider", "add", "zai", "--type", "zai", "--api-key-stdin", "--no-test", stdin=uuid4().hex)
        made.mosaic("provider", "add", "ollama", "--type", "ollama", "--base-url", "http://llm:11434", "--no-test")
        yield made
    finally:
        made.run("db", "stop")
        shutil.rmtree(Settings.from_env(made.env).socket_dir, ignore_errors=True)
        shutil.rmtree(folder)


def user(session: Session, mosaic: Mosaic, name: str, *, base_url: str = "http://llm:1/v1", model: str = "m1") -> UUID:
    """Add a user with a provider; return their id."""
    row = User(name=name, email=f"{name}@example.org")
    session.add(row)
    session.flush()
    providers.add(
        session, mosaic.box, row.id, "llm", {"type": "custom", "base_url": base_url, "models": [{"id": model}]}
    )
    return row.id


@contextmanager
def swarm(made: Installation) -> Iterator[None]:
    """Name a network and the stand-in for OpenClaw; whatever Docker object is made goes at the end."""
    docker = made.docker
    docker.labels.append(f"com.mosaic.install={made.document('status')['install']}")
    try:
        values = _QUICK | {"network": f"mosaic-bench-{uuid4().hex[:8]}", "image": _stand_in(docker)}
        for key, value in values.items():
            made.mosaic("config", "set", f"fleet.{key}", value)
        yield
    finally:
        docker.sweep()


@contextmanager
def real(made: Installation, image: str) -> Iterator[None]:
    """Have users' gateways run an OpenClaw image, which may take its time; afterwards they run what they did before."""
    before = made.document("config", "get", "fleet.image")["value"]
    for key, value in {"fleet.image": image, "gateways.start_timeout": "600"}.items():
        made.mosaic("config", "set", key, value)
    yield
    made.mosaic("config", "set", "fleet.image", before)


def base_image(docker: DockerRun) -> str | None:
    """Return the name of an OpenClaw image that is there, None when there is none."""
    return next((image for image in _IMAGES if image and docker("image", "ls", "-q", image)), None)


def _stand_in(docker: DockerRun) -> str:
    tag = f"mosaic-stand-in:{docker.label.partition('=')[2]}"
    build = ["build", "-q", "--network", "none", "--pull=false", "--label", docker.label, "-t", tag]
    docker(*build, "--build-arg", f"BASE={base_image(docker)}", str(_STAND_IN))
    return tag
