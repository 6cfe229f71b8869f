"""Fixtures for tests that need Docker: which daemon, which images, and the run whose objects are swept."""

import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mosaic_fleet.runtimes.endpoint import DEFAULT_HOST, Endpoint
from tests.docker_run import DockerRun, missing
from tests.sharing import Sharing

_HERE = Path(__file__).parent
TEST_LABEL = "com.mosaic.test"
STAND_IN = _HERE / "docker" / "stand_in"
_runs: list[DockerRun] = []
# Seconds for a test of a folder and what it is the first to need: an image, an installation, a fleet of real gateways.
_LIMITS = {_HERE / "postgres": 600, _HERE / "docker": 900, _HERE / "openclaw": 1800}

# A shell starts what is to run in the background deaf to Ctrl-C, and all that it starts: the tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def docker_host() -> str:
    """Return the address of a Docker daemon whose Swarm is active."""
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    command = ["docker", "--host", host, "info", "--format", "{{.Swarm.ControlAvailable}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        missing("the docker command is not installed")
    if done.returncode or done.stdout.strip() != "true":
        missing(f"no Docker daemon that is a Swarm manager at {host}: {done.stderr.strip() or 'swarm inactive'}")
    return host


@pytest.fixture(scope="session")
def docker(docker_host: str) -> Iterator[DockerRun]:
    """Return the docker command for this run's daemon; what carries its labels is swept at the end."""
    label = f"{TEST_LABEL}={uuid4().hex[:12]}"
    run = DockerRun(docker_host, label, [label])
    _runs.append(run)
    yield run
    _runs.remove(run)
    run.sweep()


@pytest.fixture(scope="session")
def run_label(docker: DockerRun) -> dict[str, str]:
    """Return the label, as a mapping, that every Docker object of a test must carry."""
    key, _, value = docker.label.partition("=")
    return {key: value}


@pytest.fixture(scope="session")
def endpoint(docker_host: str) -> Iterator[Endpoint]:
    """Return an endpoint to the daemon."""
    endpoint = Endpoint(docker_host, ("docker", "--host", docker_host))
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def openclaw_image(docker: DockerRun) -> str:
    """Return the real OpenClaw image."""
    image = os.environ.get("MOSAIC_TEST_IMAGE") or "mosaic-openclaw:2026.9.6"
    if not docker("image", "ls", "-q", image):
        missing(f"the image {image} is not on {docker.host}")
    return image


@pytest.fixture(scope="session")
def stand_in_image(docker: DockerRun, openclaw_image: str) -> str:
    """Build the stand-in for OpenClaw: the real image with another `openclaw` command, without a network."""
    tag = f"mosaic-stand-in:{docker.label.partition('=')[2]}"
    build = ["build", "-q", "--network", "none", "--pull=false", "--label", docker.label, "-t", tag]
    docker(*build, "--build-arg", f"BASE={openclaw_image}", str(STAND_IN))
    return tag


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Share the files out among the workers."""
    return Sharing(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and give the tests that wait for others three times what they need in quiet."""
    items.sort(key=lambda item: -_LIMITS.get(item.path.parent, 0))
    for item in items:
        if limit := _LIMITS.get(item.path.parent):
            item.add_marker(pytest.mark.timeout(limit), append=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the run's containers to the report of a failed test."""
    report = yield
    if report.failed and report.when == "call":
        for run in _runs:
            report.sections += [(f"docker logs {title}", text) for title, text in run.logs().items()]
    return report
