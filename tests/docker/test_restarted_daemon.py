"""A Docker daemon that is stopped and started again under users' gateways, with the stand-in for OpenClaw."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mosaic_fleet import configuration
from mosaic_fleet.resources import directory
from mosaic_fleet.web import duties
from mosaic_fleet.web.duties import Duties
from tests import napping
from tests.docker.installation import Installation
from tests.docker.test_gateways import Guests, small
from tests.docker_run import DockerRun, missing, wait_until
from tests.gateways import ask

pytestmark = pytest.mark.alone

_SCRIPT = directory("stacks") / "quickstart" / "docker.sh"
_CHOSEN = ("DOCKER_HOST", "DOCKER_CONTEXT")
_STATE = "/home/node/.openclaw/memory"


@pytest.fixture(scope="module")
def guests(installation: Installation, docker: DockerRun) -> Iterator[Guests]:
    """Return an installation whose gateways are small and have time."""
    if not os.environ.get("MOSAIC_TEST_PROVISIONED"):
        missing("it stops the machine's Docker: run it in the sandbox, make test")
    with small(installation, docker, start_timeout="180", stop_grace="60") as guests:
        yield guests


@contextmanager
def away(docker: DockerRun) -> Iterator[None]:
    """Have no daemon for a while: stopped as the sandbox stops it, then the same one again, with its Swarm."""
    home = _home()
    wait_until(lambda: _done(home, "stop"))
    try:
        yield
    finally:
        wait_until(lambda: _done(home))
        wait_until(lambda: docker("node", "ls", "--format", "{{.Status}}", check=False) == "Ready")


def _home() -> Path:
    """Find the folder that the sandbox gave its daemon, from the daemon's own command line."""
    lines = [_words(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    (found,) = {Path(line[line.index("--pidfile") + 1]) for line in lines if line[:1] == ["dockerd"]}
    return found.parents[2]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").split("\0")
    except OSError:
        return []


def _done(home: Path, *words: str) -> bool:
    """Run the quickstart's script; tell whether it got there, or ends before a slow Swarm or container does."""
    env = {key: value for key, value in os.environ.items() if key not in _CHOSEN} | {"XDG_DATA_HOME": str(home)}
    done = subprocess.run([_SCRIPT, *words], env=env, capture_output=True, text=True, timeout=300, check=False)
    print(done.stderr)
    return done.returncode == 0


def check_walls(guests: Guests) -> None:
    """Check that every rule is in force, and put none up."""
    with guests.mosaic.db.transaction(system=True) as session:
        install, settings = configuration.install_id(session), configuration.values(session)
    guests.hosting.walls.check(install, settings)


def check_answers(guests: Guests, name: str) -> None:
    """Check that the next request wakes a gateway anew, with its state."""
    found = guests.wake(name)
    assert found.woken
    assert ask(found, "still there?") == (200, "you said: still there?")
    assert guests.exec(name, "cat", _STATE) == name


def failing(looking_after: Duties) -> list[str]:
    """Do a round of duties; name those that failed."""
    looking_after.round()
    return [one.split('"')[1] for one in looking_after.failing]


def test_gateways_and_naps_outlive_the_daemon(guests: Guests, docker: DockerRun) -> None:
    """Running or napping, the next request wakes each anew; `serve` bears it, and says truly that they ended (4.3)."""
    asked, asked_napper, seen, seen_napper = names = [guests.add() for _ in range(4)]
    for name in names:
        guests.wake(name)
        guests.exec(name, "sh", "-c", f"echo {name} > {_STATE}")
    for name in (asked_napper, seen_napper):
        napping.nap(guests.hosting, guests.id(name))
    table = [one for one in duties.TABLE if one.name != "reap"]
    looking_after = Duties(lambda: guests.hosting, lambda work: work(guests.mosaic.db), table=table)
    assert failing(looking_after) == []
    with away(docker):
        check_walls(guests)
        assert failing(looking_after) == ["walls", "reconcile"]
        assert "docker does not answer" in guests.installation.refused(7, "gateway", "start", asked)
    check_walls(guests)
    for name in (asked, asked_napper):
        check_answers(guests, name)
    assert failing(looking_after) == []
    for name in (seen, seen_napper):
        found = guests.installation.document("gateway", "show", name)["gateway"]
        assert (found["status"], found["reason"][:26]) == ("stopped", "it ended with exit code 0"), found
        assert docker("ps", "-aq", "--filter", f"name={guests.container(name)}") == ""
        check_answers(guests, name)
