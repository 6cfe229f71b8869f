"""What only a real engine shows of a container's output and of terminals in it."""

import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from threading import Thread

from mosaic_fleet.runtimes import control_groups
from mosaic_fleet.runtimes.base import LogLine
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.frames import LONGEST
from tests.docker.bench import Bench
from tests.docker.terminal import Terminal, on_terminal
from tests.docker_run import DockerRun, wait_until

_ATTACH = """
import signal, sys
from mosaic_fleet.runtimes.base import Streams
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
host, container, *command = sys.argv[1:]
signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
runtime = SwarmRuntime(Endpoint(host, ("docker", "--host", host)))
sys.exit(runtime.attach(container, command, Streams(), terminal=True))
"""

# Prints how much was read, and the most memory that was ever resident before and after, in KiB.
_FOLLOW = """
import resource, sys
from mosaic_fleet.fleet.journal import Journal
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
host, stack = sys.argv[1:]
runtime = SwarmRuntime(Endpoint(host, ("docker", "--host", host)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size, before = 0, 0
for entry in Journal(runtime, "here", [stack]).follow():
    size += len(entry.text)
    before = before or peak()
    if entry.text == "end":
        break
print(size, before, peak())
"""


def attached(
    endpoint: Endpoint, container: str, script: str, *, size: tuple[int, int]
) -> AbstractContextManager[Terminal]:
    """Run a script in a container on a terminal of so many lines and columns."""
    words = [sys.executable, "-c", _ATTACH, endpoint.host, container, "bash", "-c", script]
    return on_terminal(words, size=size)


def test_a_terminal_has_our_size_from_the_start_and_follows_it(swarm: Bench, endpoint: Endpoint) -> None:
    """The first thing a command can see is our size; when ours changes, its own does; its exit code is ours."""
    swarm.deploy()
    script = "stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.1; done"
    with attached(endpoint, swarm.running_container(), script, size=(31, 77)) as terminal:
        assert terminal.until("ready\r\n").split()[:2] == ["31", "77"]
        terminal.resize(12, 99)
        assert 99 <= int(terminal.until("\r\n").partition("\r\n")[0].removeprefix("12 ")) < 999
        assert terminal.ended() == 7


def test_what_runs_on_a_terminal_ends_with_us(swarm: Bench, endpoint: Endpoint) -> None:
    """When our side is gone, the command and what it started in the container are gone too, deaf ones included."""
    swarm.deploy()
    container = swarm.running_container()
    script = "trap '' HUP TERM; sleep 4321 & echo ready; wait"
    with attached(endpoint, container, script, size=(24, 80)) as terminal:
        terminal.until("ready")
        assert _runs(swarm, container)
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.ended() == 129
        wait_until(lambda: not _runs(swarm, container))


def test_a_line_longer_than_any_is_cut(swarm: Bench) -> None:
    """A line that Docker writes in many parts comes as one, cut after 64 KiB, and the next one comes whole."""
    script = f"head -c {LONGEST * 3} /dev/zero | tr '\\0' x; echo; echo next; printf unfinished >&2"
    swarm.deploy(["sh", "-c", script], deploy={"restart_policy": {"condition": "none"}})
    container = swarm.task_that(lambda task: task.state == "complete").container_id or ""
    seen = {line.text[:4]: line for line in swarm.runtime.log_lines(container)}
    assert {start: (line.stream, len(line.text), line.cut) for start, line in seen.items()} == {
        "xxxx": ("stdout", LONGEST, True),
        "next": ("stdout", 4, False),
        "unfi": ("stderr", 10, False),
    }


def test_one_that_was_only_made_has_not_started(swarm: Bench, docker: DockerRun) -> None:
    """It is neither running nor ended, and Docker's stream of it is over at once, although it is followed."""
    container = docker("create", "--label", docker.label, swarm.image, "sh", "-c", "echo late")
    seen = swarm.runtime.container_end(container)
    assert seen
    assert (seen.started, seen.running) == (False, False)
    assert list(swarm.runtime.log_lines(container, follow=True)) == []
    docker("start", container)
    assert [line.text for line in swarm.runtime.log_lines(container, follow=True)] == ["late"]
    ended = swarm.runtime.container_end(container)
    assert ended
    assert ended.started


def test_following_goes_on_until_the_container_ends(swarm: Bench) -> None:
    """What is written later is told as it comes; the stream ends with its container."""
    script = "".join(f"echo {word}; until [ -e /tmp/{word} ]; do sleep 0.1; done; " for word in ("early", "late"))
    script += "sleep 5"  # whoever tells it to end is done by then
    swarm.deploy(["sh", "-c", script], deploy={"restart_policy": {"condition": "none"}})
    container = swarm.running_container()
    seen: list[LogLine] = []

    def follow() -> None:
        for line in swarm.runtime.log_lines(container, follow=True):
            seen.append(line)  # each as it comes

    follower = Thread(target=follow, daemon=True)
    follower.start()
    for word in ("early", "late"):
        wait_until(lambda word=word: word in [line.text for line in seen])
        swarm.touch(f"/tmp/{word}")
    follower.join(120)
    assert not follower.is_alive()
    assert [line.text for line in seen] == ["early", "late"]


def test_following_holds_little_however_much_comes(swarm: Bench, endpoint: Endpoint) -> None:
    """While 100 MB go by, in whole lines and in one without an end, the process grows by less than 32 MB."""
    line = "printf '%04000d\\n' 0"
    long = "head -c 20000000 /dev/zero | tr '\\0' x; echo"
    script = f"echo go; yes $$({line}) | head -n 20000; {long}; echo end; exec sleep 600"
    marks = {"com.mosaic.install": "here", "com.mosaic.agent": "one"}
    swarm.deploy(["sh", "-c", f"{{ {script}; }} >&2"], deploy={"labels": swarm.labels | marks})
    swarm.running_container()
    command = [sys.executable, "-c", _FOLLOW, endpoint.host, swarm.stack]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    size, before, after = map(int, done.stdout.split())
    assert size > 80_000_000
    assert after - before < 32 << 10


def _runs(swarm: Bench, container: str) -> bool:
    """Tell whether the sleep of a script runs in a container."""
    look = ["sh", "-c", "grep -qs 432[1] /proc/[0-9]*/cmdline && echo yes || echo no"]
    return b"".join(swarm.runtime.exec(container, [*look], stdin=b"")).strip() == b"yes"


def test_memory_is_read_here_as_docker_counts_it(swarm: Bench, endpoint: Endpoint) -> None:
    """What the kernel of this host says of a container is what `docker stats` would, which takes a second."""
    swarm.deploy()
    container = swarm.running_container()

    def is_the_same() -> bool:
        here = control_groups.used(container)
        told = endpoint.get("containers", container, "stats", stream="false")["memory_stats"]
        droppable = told["stats"].get("total_inactive_file", told["stats"].get("inactive_file"))
        return here is not None and abs(here - (told["usage"] - droppable)) <= 1 << 20

    wait_until(is_the_same)
