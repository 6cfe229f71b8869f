"""Naps on a real engine, with the stand-in for OpenClaw: frozen, killed at each step, and awake again as it was."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import napping
from tests.docker.installation import Installation
from tests.docker.test_gateways import GO, Guests, small
from tests.docker_run import DockerRun
from tests.gateways import Turn, ask

# Naps the gateway of argv[1] and dies by SIGKILL in the so manieth change that a nap makes, before or after it.
DYING = """
import os, signal, sys
from uuid import UUID
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.runtimes import engine
from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.runtimes.gateway_base import Swap
from tests import napping

# A limit under which the kernel brings this gateway on any host, so that there is something to restore without swap.
engine._SQUEEZED = 128 << 20
EngineRuntime.swap = lambda self: Swap(1 << 30, 1 << 30)

user, method, number, late = UUID(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "late"
calls, real = [0], getattr(EngineRuntime, method)

def dying(self, *values, **named):
    calls[0] += 1
    if calls[0] == number and not late:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = real(self, *values, **named)
    if calls[0] == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

setattr(EngineRuntime, method, dying)
napping.nap(Mosaic.from_env().hosting, user)
"""


@pytest.fixture(scope="module")
def guests(installation: Installation, docker: DockerRun) -> Iterator[Guests]:
    """Return an installation whose gateways are small and end soon."""
    with small(installation, docker, start_timeout="180", stop_grace="60") as guests:
        yield guests


def facts(guests: Guests, name: str) -> tuple[str, bool, int, int]:
    """Return id, whether it is paused, and its limits of memory and of memory and swap, as Docker has them."""
    seen = json.loads(guests.docker("inspect", guests.container(name)))[0]
    host = seen["HostConfig"]
    return seen["Id"], seen["State"]["Paused"], host["Memory"], host["MemorySwap"]


def kernel_limit(guests: Guests, name: str) -> int:
    """Return the limit that is in force, as a container sees it; 0 where its control groups are of another kind."""
    path = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    return int(guests.exec(name, "sh", "-c", f"cat {path} 2>/dev/null || echo 0"))


def status(guests: Guests, name: str) -> str:
    """Return what `mosaic gateway list` says of a gateway."""
    rows = guests.installation.document("gateway", "list")["gateways"]
    [found] = [row["status"] for row in rows if row["user"] == name]
    return str(found)


def test_a_nap_is_a_pause_and_the_next_request_is_answered(guests: Guests) -> None:
    """It is paused with the limits it had, well and not asked; awake it is the same container and answers at once."""
    name = guests.add()
    guests.wake(name)
    before = facts(guests, name)
    napping.nap(guests.hosting, guests.id(name))
    assert facts(guests, name) == (before[0], True, before[2], before[3])
    assert status(guests, name) == "paused"
    health = {row["user"]: row for row in guests.installation.document("gateway", "health")["gateways"]}
    assert health[name]["health"] == "paused"
    found = guests.wake(name)
    assert found.woken
    assert ask(found, "good morning") == (200, "you said: good morning")
    assert facts(guests, name) == before
    assert kernel_limit(guests, name) in (256 << 20, 0)
    assert status(guests, name) == "running"


@pytest.mark.parametrize(
    ("method", "number", "late"),
    [
        pytest.param("execs", 1, "early", id="fenced"),
        pytest.param("pause", 1, "late", id="paused"),
        pytest.param("reclaim", 1, "early", id="before reclaim"),
        pytest.param("_limit", 1, "late", id="reclaimed"),
        pytest.param("_limit", 2, "late", id="restored"),
        pytest.param("reclaim", 1, "late", id="before recording"),
    ],
)
def test_a_nap_that_is_killed_is_woken_by_the_next_request(guests: Guests, method: str, number: int, late: str) -> None:
    """kill -9 at any step of a nap: the same container goes on with its limits, and the first message is answered."""
    name = guests.add()
    guests.wake(name)
    before = facts(guests, name)
    words = [sys.executable, "-c", DYING, str(guests.id(name)), method, str(number), late]
    done = subprocess.run(words, env=dict(guests.installation.env), capture_output=True, timeout=120, check=False)
    assert done.returncode == -9, done
    left = facts(guests, name)
    assert (left[2] < before[2]) is ((method, number) == ("_limit", 1)), left
    found = guests.wake(name)
    assert ask(found, "hello") == (200, "you said: hello")
    assert facts(guests, name) == before
    assert kernel_limit(guests, name) in (256 << 20, 0)


def test_a_nap_that_is_killed_is_undone_by_a_look_at_all(guests: Guests) -> None:
    """`mosaic gateway health --fix` lets a gateway go on whose nap broke off, and leaves one that naps alone."""
    broken, napper = guests.add(), guests.add()
    guests.wake(broken)
    guests.wake(napper)
    guests.docker("pause", guests.container(broken))
    napping.nap(guests.hosting, guests.id(napper))
    said = guests.installation.run("gateway", "health", "--fix")
    assert "goes on, its nap broke off" in said.stderr
    assert (facts(guests, broken)[1], facts(guests, napper)[1]) == (False, True)


def test_stop_and_restart_reach_one_that_naps(guests: Guests) -> None:
    """A restart makes a fresh container on the same volume, a stop leaves nothing but that."""
    name = guests.add()
    guests.wake(name)
    guests.exec(name, "sh", "-c", "echo remembered > /home/node/.openclaw/memory")
    before = facts(guests, name)[0]
    napping.nap(guests.hosting, guests.id(name))
    guests.installation.mosaic("gateway", "restart", name)
    assert facts(guests, name)[0] != before
    assert guests.exec(name, "cat", "/home/node/.openclaw/memory") == "remembered"
    napping.nap(guests.hosting, guests.id(name))
    assert guests.installation.document("gateway", "stop", name)["changed"] is True
    assert guests.docker("ps", "-aq", "--filter", f"name={guests.container(name)}") == ""


def test_a_deactivated_user_s_nap_ends_for_good(guests: Guests) -> None:
    """`mosaic user disable` stops one that naps; no request wakes it."""
    name = guests.add()
    guests.wake(name)
    napping.nap(guests.hosting, guests.id(name))
    guests.installation.mosaic("user", "disable", name)
    assert guests.docker("ps", "-aq", "--filter", f"name={guests.container(name)}") == ""
    guests.installation.refused(6, "gateway", "start", name)


def test_an_answer_that_is_frozen_ends_whole(guests: Guests) -> None:
    """A stream that stands still because somebody pauses the container goes on where it was, to its end."""
    name = guests.add("held-answer")
    found = guests.wake(name)
    turn = Turn(found.url, found.token, "one two three four five six seven eight")
    guests.docker("pause", guests.container(name))
    assert guests.wake(name).woken
    guests.exec(name, "touch", GO)
    text = turn.whole()
    assert "eight" in text
    assert text.rstrip().endswith("data: [DONE]")
