"""docker.sh: a daemon where none answers, in namespaces of its own, and never anybody else's."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docker_run import missing, wait_until

SCRIPT = Path(__file__).parents[2] / "stacks/quickstart/docker.sh"
_SWARM = "0100007F:0949"  # 127.0.0.1:2377, as the kernel writes it
_NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_EMPTY = "mount -t tmpfs -o mode=0755 tmpfs /run && ip link set lo up && exec sleep infinity"


@dataclass
class Room:
    """A bare machine: no uplink, nothing below /run, process 1 does not care for the dead."""

    pid: int
    home: Path

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it; no Docker is chosen unless `env` does."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "XDG_"))}
        places = {"HOME": str(self.home), "XDG_DATA_HOME": str(self.home / "data")}
        enter = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid")
        return subprocess.run(
            [*enter, *words], env=clean | places | env, capture_output=True, text=True, timeout=280, check=False
        )

    def script(self, *words: str, **env: str) -> str:
        """Run docker.sh, which must succeed; return its standard output."""
        done = self.run(str(SCRIPT), *words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def pid_file(self) -> Path:
        """Return the pid file of the daemon that docker.sh starts."""
        return self.home / "data/mosaic/docker/dockerd.pid"

    def daemons(self) -> list[str]:
        """Return the process numbers of the dockerds that live in it; what they start for a moment is not meant."""
        stats = self.run("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout.splitlines()
        return [one.pid for one in map(_process, stats) if (one.name, one.parent) == ("dockerd", "1") and one.lives]


class _Process(NamedTuple):
    pid: str
    name: str
    lives: bool
    parent: str


def _process(stat: str) -> _Process:
    """Read a line of /proc/<pid>/stat: number, (name), state, parent, …"""
    pid, _, rest = stat.partition(" (")
    name, _, rest = rest.rpartition(") ")
    state, parent, *_ = rest.split()
    return _Process(pid, name, state != "Z", parent)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Make a bare machine out of namespaces; the kernel ends all that runs in it."""
    if os.geteuid() != 0:
        missing("namespaces need root")
    for program in ("dockerd", "docker", "ip"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    with subprocess.Popen(["unshare", *_NAMESPACES, "sh", "-c", _EMPTY]) as process:
        try:
            first = wait_until(lambda: _sleeper(process.pid))
            yield Room(first, tmp_path)
        finally:
            process.send_signal(signal.SIGKILL)


def test_it_starts_a_daemon_that_grants_no_privileges(room: Room) -> None:
    """Where no daemon answers one is started, with --no-new-privileges, its data in our folder and Swarm active.

    Nobody else's machine can speak to that Swarm: its port is loopback's.
    """
    assert "swarm active" in room.script()
    assert room.daemons() == [room.pid_file.read_text()]
    assert "--no-new-privileges" in room.run("cat", f"/proc/{room.daemons()[0]}/cmdline").stdout
    sockets = [line.split() for line in room.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()]
    listening = {words[1] for words in sockets if words[3] == "0A"}
    assert [address for address in listening if address.endswith(_SWARM[-5:])] == [_SWARM]
    assert room.run("docker", "info", "-f", "{{.DockerRootDir}}").stdout.strip().startswith(str(room.home))


def test_a_second_run_changes_nothing(room: Room) -> None:
    """A daemon that answers stays, and so does its Swarm."""
    room.script()
    before = room.daemons(), room.run("docker", "info", "-f", "{{.Swarm.Cluster.ID}}").stdout
    room.script()
    assert (room.daemons(), room.run("docker", "info", "-f", "{{.Swarm.Cluster.ID}}").stdout) == before


def test_it_heals_after_kill_9(room: Room) -> None:
    """After kill -9 a pid file, a socket and containerd are left; the next run brings the same Swarm back."""
    room.script()
    (killed,) = room.daemons()
    before = room.run("docker", "info", "-f", "{{.Swarm.Cluster.ID}}").stdout
    room.run("kill", "-9", killed)
    wait_until(lambda: room.daemons() == [])
    room.script()
    assert room.daemons() != [killed]
    assert room.run("docker", "info", "-f", "{{.Swarm.Cluster.ID}}").stdout == before


def test_stop_ends_the_daemon_and_keeps_its_data(room: Room) -> None:
    """`stop` ends the daemon; a volume made before is there after the next start; stopping twice is no error."""
    room.script()
    room.run("docker", "volume", "create", "kept")
    assert "stopped" in room.script("stop")
    assert room.daemons() == []
    assert "left as it is" in room.script("stop")
    room.script()
    assert room.run("docker", "volume", "ls", "-q").stdout.split() == ["kept"]


def test_stop_leaves_other_daemons_alone(room: Room) -> None:
    """A pid file whose number belongs to somebody else's daemon by now stops nothing."""
    room.script()
    (other,) = room.daemons()
    stale = room.home / "mine/mosaic/docker/dockerd.pid"
    stale.parent.mkdir(parents=True)
    stale.write_text(other)
    assert "left as it is" in room.script("stop", XDG_DATA_HOME=str(room.home / "mine"))
    assert room.daemons() == [other]


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"DOCKER_HOST": "unix:///nowhere.sock"}, "unix:///nowhere.sock"),
        ({"DOCKER_CONTEXT": "nobody"}, "Docker context"),
    ],
)
def test_a_chosen_docker_is_never_replaced(room: Room, chosen: dict[str, str], named: str) -> None:
    """A DOCKER_HOST or context that does not answer ends the run with its name; no daemon is started beside it."""
    done = room.run(str(SCRIPT), **chosen)
    assert done.returncode == 7
    assert named in done.stderr
    assert "hint:" in done.stderr
    assert room.daemons() == []


def test_a_daemon_that_cannot_start_is_explained(room: Room) -> None:
    """When dockerd ends at once, its own last words are shown."""
    data = room.home / "data/mosaic/docker/data"
    data.parent.mkdir(parents=True)
    data.write_text("no folder")
    done = room.run(str(SCRIPT))
    assert done.returncode == 7
    assert str(data) in done.stderr
    assert "error: the Docker daemon did not start" in done.stderr


def _sleeper(parent: int) -> int | None:
    """Find process 1 of the room once it has become the sleeper."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            process = _process(path.read_text())
            if (process.parent, process.name) == (str(parent), "sleep"):
                return int(process.pid)
    return None
