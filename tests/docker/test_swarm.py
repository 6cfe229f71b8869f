"""What SwarmRuntime does that only a real Docker can show."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
from tests.docker.bench import Bench
from tests.docker_run import DockerRun, wait_until

_DEBIAN_DOCKER = "/usr/bin/docker"
# Ends by SIGKILL as soon as there is a container to reach into a volume by.
_KILLED = """
import os, signal, sys
from mosaic_fleet.runtimes.base import Folder
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
host, what, volume, image = sys.argv[1:]
Endpoint.put = Endpoint.head = die
runtime = SwarmRuntime(Endpoint(host, ("docker", "--host", host)))
if what == "make":
    runtime.make_folder(volume, "workspace", image=image, at="/home/node/.openclaw")
else:
    runtime.has_folder(Folder("workspace", volume=volume), image=image)
"""


@pytest.fixture
def dialled(docker_host: str) -> Iterator[Endpoint]:
    """Return an endpoint that the docker command dials, as for TCP, TLS and ssh."""
    endpoint = Endpoint("tcp://dialled-by-the-docker-command", ("docker", "--host", docker_host))
    yield endpoint
    endpoint.close()


def test_run_once_is_hardened(swarm: Bench) -> None:
    """A command run once is user 1000 without capabilities, new privileges, a network or a writable root."""
    probe = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ls /sys/class/net; touch /x /tmp/x"
    finished = swarm.runtime.run_once(swarm.image, ["sh", "-c", probe], labels=swarm.labels)
    lines = finished.stdout.split()
    assert lines[0] == "1000"
    assert lines[lines.index("CapEff:") + 1] == lines[lines.index("CapBnd:") + 1] == "0" * 16
    assert lines[lines.index("NoNewPrivs:") + 1] == "1"
    assert set(lines[lines.index("NoNewPrivs:") + 2 :]) <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0"}
    assert finished.stderr.strip() == "touch: cannot touch '/x': Read-only file system"


def test_a_folder_in_a_volume_belongs_to_the_agents_user(swarm: Bench, docker: DockerRun) -> None:
    """The folder and the volume are user 1000's alone; made again, what lies in it stays; no container is left."""
    name = swarm.name("state")
    swarm.runtime.create_volume(name, labels=swarm.labels)
    run = ("run", "--rm", "-v", f"{name}:/state", "--label", docker.label, swarm.image, "sh", "-c")
    for _ in range(2):
        swarm.runtime.make_folder(name, "workspace", image=swarm.image, at="/home/node/.openclaw")
        docker(*run, "echo kept >> /state/workspace/note")
    seen = docker(*run, "stat -c '%u %g %a' /state /state/workspace; cat /state/workspace/note")
    assert seen == "1000 1000 700\n1000 1000 700\nkept\nkept"
    assert docker("ps", "-aq", "--filter", f"volume={name}") == ""


@pytest.mark.parametrize("what", ["make", "has"])
def test_who_was_killed_at_a_volume_does_not_keep_it(
    swarm: Bench, docker: DockerRun, endpoint: Endpoint, what: str
) -> None:
    """The container that a SIGKILL leaves is gone with its volume; another one that mounts it keeps it."""
    name = swarm.name("state")
    swarm.runtime.create_volume(name, labels=swarm.labels)
    other = docker("create", "-v", f"{name}:/state", "--label", docker.label, swarm.image)
    words = [sys.executable, "-c", _KILLED, endpoint.host, what, name, swarm.image]
    assert subprocess.run(words, timeout=60, check=False).returncode == -signal.SIGKILL
    assert len(docker("ps", "-aq", "--filter", f"volume={name}").split()) == 2
    assert swarm.runtime.remove_volume(name) is False
    assert docker("ps", "-aq", "--no-trunc", "--filter", f"volume={name}") == other
    docker("rm", other)
    assert subprocess.run(words, timeout=60, check=False).returncode == -signal.SIGKILL
    assert swarm.runtime.remove_volume(name) is True
    assert swarm.runtime.volume_labels(name) is None


def test_a_file_in_a_folder_is_made_where_there_is_none(swarm: Bench, docker: DockerRun) -> None:
    """An absent file is made empty and user 1000's, an empty one of root's becomes it, one with content stays.

    Of one that is larger than any memory nothing is fetched.
    """
    name = swarm.name("state")
    swarm.runtime.create_volume(name, labels=swarm.labels)
    run = ("run", "--rm", "--user", "0", "-v", f"{name}:/state", "--label", docker.label, swarm.image, "sh", "-c")
    seen = []
    for prepare in ("true", "chown root $soul", "echo mine > $soul", "truncate -s 100G $soul"):
        docker(*run, f"soul=/state/workspace/SOUL.md; {prepare}")
        at = "/home/node/.openclaw"
        swarm.runtime.make_folder(name, "workspace", image=swarm.image, at=at, file="SOUL.md")
        seen.append(docker(*run, "cd /state/workspace; stat -c '%u %g %a %s' SOUL.md; head -c 4 SOUL.md | tr -d '\\0'"))
    assert [one.split() for one in seen] == [
        ["1000", "1000", "600", "0"],
        ["1000", "1000", "600", "0"],
        ["1000", "1000", "600", "5", "mine"],
        ["1000", "1000", "600", str(100 << 30), "mine"],
    ]


def test_run_once_leaves_no_container(swarm: Bench, docker: DockerRun) -> None:
    """A command run once leaves nothing behind, whether it succeeds, fails or cannot start."""
    labels = swarm.labels | {"com.mosaic.one": swarm.stack}
    for command in (["true"], ["false"], ["no-such-command"]):
        swarm.runtime.run_once(swarm.image, command, labels=labels)
    assert wait_until(lambda: not docker("ps", "-aq", "--filter", f"label=com.mosaic.one={swarm.stack}"))


def test_run_once_that_takes_too_long_is_ended(
    swarm: Bench, docker: DockerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that does not end is a RuntimeFailure, and its container is removed."""
    monkeypatch.setattr("mosaic_fleet.runtimes.containers._RUN_SECONDS", 60.0)
    labels = swarm.labels | {"com.mosaic.one": swarm.stack}
    with pytest.raises(RuntimeFailure, match="docker run did not end within 60 s"):
        swarm.runtime.run_once(swarm.image, ["sleep", "600"], labels=labels)
    assert docker("ps", "-aq", "--filter", f"label=com.mosaic.one={swarm.stack}") == ""


def test_exec_yields_as_the_output_comes(swarm: Bench) -> None:
    """The first line arrives while the command runs on, and closing the generator ends the docker command."""
    swarm.deploy()
    container = swarm.running_container()
    blocks = swarm.runtime.exec(container, ["sh", "-c", "echo first; sleep 600"], stdin=b"")
    assert next(blocks) == b"first\n"
    assert f"exec -i {container}" in _processes()
    blocks.close()  # it is a generator
    assert f"exec -i {container}" not in _processes()


def test_a_dialled_endpoint_answers_like_a_socket(dialled: Endpoint, endpoint: Endpoint) -> None:
    """TCP, TLS and ssh go through the docker command, and give the same answers on one connection."""
    assert dialled.get("info")["ID"] == endpoint.get("info")["ID"]
    assert dialled.find("volumes", "mosaic-no-such-volume") is None
    assert [item["ID"] for item in dialled.get("nodes")] == [item["ID"] for item in endpoint.get("nodes")]


def test_an_endpoint_dials_again_after_it_hung_up(endpoint: Endpoint) -> None:
    """A closed endpoint can be used again."""
    endpoint.get("info")
    endpoint.close()
    assert endpoint.get("info")["ID"]


def test_the_docker_command_of_debian_deploys_too(swarm: Bench, docker_host: str) -> None:
    """Docker 20.10's command, which does not know --detach, deploys a stack."""
    if not shutil.which(_DEBIAN_DOCKER) or " 20.10." not in _output(_DEBIAN_DOCKER, "--version"):
        pytest.skip(f"{_DEBIAN_DOCKER} is not docker 20.10")
    old = SwarmRuntime(Endpoint(docker_host, (_DEBIAN_DOCKER, "--host", docker_host)))
    with_old = Bench(old, swarm.image, swarm.stack, swarm.labels)
    with_old.deploy()
    with_old.running_container()
    old.close()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def _processes() -> str:
    return _output("ps", "-ewwo", "args")
