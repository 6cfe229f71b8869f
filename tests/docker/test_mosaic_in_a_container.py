"""Mosaic itself in a container beside one on the host: the host's network, Docker's socket, and two variables.

Its image is an empty one that sees this machine's system and this checkout read-only, so none has to be fetched.
"""

import json
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mosaic_fleet.runtimes.endpoint import DEFAULT_HOST
from tests.docker.installation import Installation
from tests.docker.test_gateways import Guests, small
from tests.docker_run import DockerRun, wait_until
from tests.gateways import ask

_ROOT = Path(__file__).parents[2]
_KEY = "/run/secrets/mosaic_secret_key"
_ASK = """
import sys
from uuid import UUID
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.fleet import lifecycle
from tests.gateways import ask
print(*ask(lifecycle.ensure_running(Mosaic.from_env().hosting, UUID(sys.argv[1])), "are you there?"))
"""


@pytest.fixture(scope="module")
def guests(installation: Installation, docker: DockerRun) -> Iterator[Guests]:
    """Return an installation whose gateways are small and have time."""
    with small(installation, docker, start_timeout="180", stop_grace="60") as guests:
        yield guests


@dataclass(frozen=True)
class Contained:
    """A Mosaic that is a fresh container for each command, with these options of `docker run`."""

    docker: DockerRun
    options: list[str]

    def python(self, *words: str) -> str:
        """Run Python; return what it printed."""
        return self.docker("run", "--rm", *self.options, *words)

    def __call__(self, *words: str) -> str:
        """Run a mosaic command; return what it printed."""
        return self.python("-m", "mosaic_fleet", "--no-input", *words)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Run a server until it is stopped, which is no failure; yield its public address."""
        words = ("-m", "mosaic_fleet", "serve", "--port", "0", "--internal-port", "0")
        container = self.docker("run", "-d", *self.options, *words)
        try:
            (line,) = wait_until(lambda: [one for one in self._said(container) if one.startswith("public listener")])
            yield line.split()[-1]
            self.docker("stop", "--time", "120", container)
            assert self.docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        finally:
            self.docker("rm", "-f", container)

    def _said(self, container: str) -> list[str]:
        command = ["docker", "--host", self.docker.host, "logs", container]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()


@pytest.fixture(scope="module")
def contained(guests: Guests, docker: DockerRun, tmp_path_factory: pytest.TempPathFactory) -> Contained:
    """Describe a Mosaic in containers that has the host's database and key, and nothing else of the host's Mosaic."""
    folder = tmp_path_factory.mktemp("contained")
    embedded, settings = guests.mosaic.embedded, guests.mosaic.settings
    assert embedded
    key = folder / "mosaic_secret_key"
    key.write_text(str(settings.secret_key), "utf-8")
    socket, usual = (host.removeprefix("unix://") for host in (docker.host, DEFAULT_HOST))
    binds = [f"{path}:{path}:ro" for path in _seen(str(settings.socket_dir))]
    binds += [f"{socket}:{usual}", f"{key}:{_KEY}:ro"]
    variables = {"DATABASE_URL": embedded.url(), "MOSAIC_SECRET_KEY_FILE": _KEY, "PATH": "/usr/sbin:/usr/bin"}
    options = ["--network", "host", "--cap-add", "NET_ADMIN", "--workdir", str(_ROOT), "--label", docker.label]
    options += [word for bind in binds for word in ("--volume", bind)]
    options += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return Contained(docker, [*options, _empty_image(folder, docker), sys.executable])


def _seen(*more: str) -> list[str]:
    """List what a container sees of this machine: its system, Python and this checkout."""
    places = {"/etc/alternatives", sys.base_prefix, str(_ROOT), *more}
    return ["/usr", *sorted(place for place in places if not place.startswith("/usr"))]


def _empty_image(folder: Path, docker: DockerRun) -> str:
    """Make an image of links alone: /bin, /lib and their like lie below /usr."""
    with tarfile.open(folder / "empty.tar", "w") as archive:
        for link in (
            path for path in Path("/").iterdir() if path.is_symlink() and str(path.readlink()).startswith("usr/")
        ):
            archive.add(link, arcname=link.name)
    label = docker.label.partition("=")
    change = f"LABEL {label[0]}={label[2]}"
    return docker("import", "--change", change, str(folder / "empty.tar"), f"mosaic-empty:{label[2]}")


def test_mosaic_in_a_container_does_what_it_does_on_the_host(guests: Guests, contained: Contained) -> None:
    """Walls, a start, a request and a stop from inside; what either of the two has done the other finds as it is."""
    name = guests.add()
    assert "in force" in contained("init")
    assert json.loads(contained("gateway", "start", name, "--json"))["changed"] is True
    assert contained.python("-c", _ASK, str(guests.id(name))) == "200 you said: are you there?"
    found = guests.wake(name)
    assert not found.woken
    assert ask(found, "and here?") == (200, "you said: and here?")
    for words, there in ((("set", "egress.allow", "10.99.0.8"), True), (("unset", "egress.allow"), False)):
        contained("config", *words)
        filters = subprocess.run(["iptables", "-w", "60", "-S"], capture_output=True, text=True, check=True).stdout
        assert ("-d 10.99.0.8/32 -j RETURN" in filters) is there
    assert json.loads(contained("gateway", "stop", name, "--json"))["changed"] is True
    assert guests.docker("ps", "-aq", "--filter", f"name={guests.container(name)}") == ""
    assert guests.wake(name).woken


def test_a_server_in_a_container_looks_after_gateways(guests: Guests, contained: Contained) -> None:
    """It is ready, puts a gateway right whose container is gone, and ends well when Docker stops it."""
    name = guests.add()
    guests.wake(name)
    guests.docker("rm", "-f", guests.container(name))
    with contained.serving() as url:
        wait_until(lambda: _status(guests, name) == "stopped")
        with urllib.request.urlopen(f"{url}/readyz", timeout=60) as response:
            assert response.status == 200


def _status(guests: Guests, name: str) -> str:
    return str(guests.installation.document("gateway", "show", name)["gateway"]["status"])
