"""Fixtures of the runtime contract."""

from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from mosaic_fleet.runtimes.base import Finished
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
from tests.docker.bench import SPEAK_AND_FAIL, Bench
from tests.docker.installation import QUICK, Fleet, Installation, fresh_stack, installed
from tests.docker_run import DockerRun
from tests.fakes import FAKE_IMAGE, FakeRuntime


@pytest.fixture(params=["fake", "swarm"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Return a bench in memory, then one on the real Swarm."""
    bench: Bench = request.getfixturevalue(request.param)
    return bench


@pytest.fixture
def fake() -> Bench:
    """Return a bench in memory."""
    fake = FakeRuntime(polls_to_running=2)
    fake.programs["sh"] = _shell
    return Bench(fake, FAKE_IMAGE, f"mt{uuid4().hex[:8]}", {"com.mosaic.test": "fake"}, fake)


@pytest.fixture
def swarm(endpoint: Endpoint, stand_in_image: str, run_label: dict[str, str]) -> Iterator[Bench]:
    """Return a bench on the real Swarm; its services are removed afterwards, the rest at the end of the session."""
    bench = Bench(SwarmRuntime(endpoint), stand_in_image, f"mt{uuid4().hex[:8]}", run_label)
    yield bench
    for service in bench.runtime.services(bench.stack):
        bench.runtime.remove_service(service.id)


def _shell(command: Sequence[str], stdin: bytes) -> Finished:
    assert list(command) == ["sh", "-c", SPEAK_AND_FAIL]
    return Finished(3, "said\n", "wrong\n")


@pytest.fixture(scope="session")
def installation(docker: DockerRun, stand_in_image: str) -> Iterator[Installation]:
    """Initialise a Mosaic whose agents run the stand-in, with probes that fit tests; stop its database at the end."""
    with installed(docker, stand_in_image, **QUICK) as made:
        yield made


@pytest.fixture(scope="session")
def other_installation(docker: DockerRun, stand_in_image: str) -> Iterator[Installation]:
    """Initialise a second Mosaic on the same Docker."""
    with installed(docker, stand_in_image, **QUICK) as made:
        yield made


@pytest.fixture
def fleet(installation: Installation) -> Iterator[Fleet]:
    """Return a stack of its own for a test, removed afterwards."""
    fleet = Fleet(installation, fresh_stack())
    yield fleet
    fleet.remove()
