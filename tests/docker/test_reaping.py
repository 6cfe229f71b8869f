"""The reaper on a real engine, with the stand-in for OpenClaw: real processes that are killed, or two at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlmodel import select

from mosaic_fleet.db.tables import Audit, now
from mosaic_fleet.fleet import activity, containers, reaping
from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.engine import EngineRuntime
from mosaic_fleet.web.duties import TABLE, Duties
from tests.docker.installation import Installation
from tests.docker.test_gateways import Guests, small
from tests.docker_run import DockerRun, wait_until
from tests.gateways import ask
from tests.postgres.test_nap_rounds import Stepping

# One round of a reaper that dies by SIGKILL in the so manieth call of argv[1], before or after it.
DYING = """
import os, signal, sys
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import now
from mosaic_fleet.fleet import reaping
from mosaic_fleet.runtimes.engine import EngineRuntime

method, late = sys.argv[1], sys.argv[2] == "late"
real = getattr(EngineRuntime, method)

def dying(self, *values, **named):
    if late:
        real(self, *values, **named)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(EngineRuntime, method, dying)
reaping.reap(Mosaic.from_env().hosting, now())
"""
NAP, STOP = 3, 43
# A nap makes ten calls to the engine; the last message comes when all is over.
_STEPS = 11


@pytest.fixture(scope="module")
def guests(installation: Installation, docker: DockerRun) -> Iterator[Guests]:
    """Return an installation whose gateways are small and end soon."""
    with small(installation, docker, start_timeout="120", stop_grace="60") as guests:
        yield guests


@pytest.fixture
def ann(guests: Guests, request: pytest.FixtureRequest) -> Iterator[str]:
    """Add a user whose gateway alone is awake, running a model that a test may choose."""
    name = guests.add(getattr(request, "param", "m1"))
    guests.wake(name)
    yield name
    guests.installation.run("gateway", "stop", name, "--timeout", "0", "--force")


def age(guests: Guests, name: str, minutes: float) -> None:
    """Have a gateway been started and active last so many minutes ago."""
    at = now() - timedelta(minutes=minutes)
    with guests.mosaic.db.transaction(system=True) as session:
        row = containers.find(session, guests.id(name))
        assert row
        row.started_at, row.last_active_at, row.last_active_by = at - timedelta(seconds=1), at, "chat"


def state(guests: Guests, name: str) -> tuple[str, str]:
    """Return what the row and what Docker says."""
    with guests.mosaic.db.transaction(system=True) as session:
        row = containers.find(session, guests.id(name))
        status = row.status if row else "stopped"
    found = guests.hosting.runtime.container(guests.container(name))
    return status, found.state if found else "gone"


@pytest.mark.parametrize(
    ("minutes", "method", "late"),
    [
        pytest.param(NAP, "execs", "late", id="nap, fenced"),
        pytest.param(NAP, "pause", "late", id="nap, paused"),
        pytest.param(NAP, "reclaim", "late", id="nap, not recorded"),
        pytest.param(STOP, "execs", "late", id="stop, fenced"),
        pytest.param(STOP, "terminate", "early", id="stop, not signalled"),
        pytest.param(STOP, "terminate", "late", id="stop, signalled"),
        pytest.param(STOP, "remove", "late", id="stop, network left"),
    ],
)
def test_a_reaper_that_is_killed_blocks_nobody(
    guests: Guests, endpoint: Endpoint, ann: str, minutes: float, method: str, late: str
) -> None:
    """kill -9 at any step: the next reaper holds its locks, takes its lease over, and does what it was to do."""
    age(guests, ann, minutes)
    words = [sys.executable, "-c", DYING, method, late]
    done = subprocess.run(words, env=dict(guests.installation.env), capture_output=True, timeout=300, check=False)
    assert done.returncode == -9, done
    ends = ("paused", "paused") if minutes == NAP else ("stopped", "gone")

    def is_done() -> bool:
        assert guests.installation.document("reap")["another"] is False
        return state(guests, ann) == ends

    wait_until(is_done)
    assert ask(guests.wake(ann), "hello") == (200, "you said: hello")


def test_of_reapers_beside_each_other_one_acts(guests: Guests, ann: str) -> None:
    """Three `mosaic reap` and the duty of `mosaic serve` at once: all end well, and it is stopped once."""
    age(guests, ann, STOP)
    duty = next(one for one in TABLE if one.name == "reap")
    served = Duties(lambda: guests.hosting, lambda work: work(guests.mosaic.db), table=[duty])
    commands = [guests.installation.start("reap", "--json") for _ in range(3)]
    served.round()
    said = [(*one.communicate(timeout=300), one.returncode) for one in commands]
    assert [(errors, code) for _, errors, code in said] == [("", 0)] * 3
    assert sum(json.loads(text)["changed"] for text, *_ in said) <= 1
    assert served.failing == []
    assert state(guests, ann) == ("stopped", "gone")
    with guests.mosaic.db.transaction(system=True) as session:
        stops = [one for one in session.exec(select(Audit).where(Audit.object == ann)) if one.verb == "gateway.stop"]
    assert len(stops) == 1


@pytest.mark.parametrize("ann", ["forgetful"], indirect=True)  # or its own word would put off each further nap
def test_a_message_at_the_moment_of_a_nap_is_answered(guests: Guests, ann: str) -> None:
    """Whatever step of a nap it meets, the engine's pause too, it is answered by the gateway that it was sent to."""
    before = guests.hosting.runtime.container(guests.container(ann))
    assert before
    outcomes = []
    with ThreadPoolExecutor(1) as pool:
        for step in range(1, _STEPS + 1):
            age(guests, ann, NAP)
            engine = Stepping(guests.hosting.runtime, step)
            round_ = pool.submit(reaping.reap, replace(guests.hosting, runtime=engine), now())
            round_.add_done_callback(lambda _, engine=engine: engine.reached.set())
            assert engine.reached.wait(120)
            with guests.mosaic.db.transaction(system=True) as session:
                activity.note(session, guests.id(ann), "chat", now=now())
            assert ask(guests.wake(ann), f"message {step}") == (200, f"you said: message {step}")
            outcomes += [row.outcome for row in round_.result(120) or []]
            assert state(guests, ann) == ("running", "running")
    after = guests.hosting.runtime.container(guests.container(ann))
    assert after == before
    assert set(outcomes) == {"napped", "kept"}


class Falling(EngineRuntime):
    """An engine whose container is killed by somebody just before it is paused."""

    def pause(self, container_id: str) -> None:
        """Pause what has just ended."""
        self.kill(container_id)
        super().pause(container_id)


def test_a_pause_that_docker_refuses_is_told_and_costs_nothing(guests: Guests, endpoint: Endpoint, ann: str) -> None:
    """The round says why it failed; the next request has a gateway."""
    age(guests, ann, NAP)
    falling = Falling(endpoint)
    [row] = reaping.reap(replace(guests.hosting, runtime=falling), now()) or []
    falling.close()
    assert (row.outcome, "is not running" in row.reason) == ("failed", True), row
    assert ask(guests.wake(ann), "hello") == (200, "you said: hello")


def test_an_upgrade_reaches_one_that_naps(guests: Guests, docker: DockerRun, stand_in_image: str, ann: str) -> None:
    """Another image stops a gateway that naps; its next request starts the new one on the same volume."""
    newer = f"mosaic-test-newer:{uuid4().hex[:8]}"
    build = ("build", "-q", "--network", "none", "--pull=false", "--label", docker.label, "-t", newer, "-")
    docker(*build, stdin=f"FROM {stand_in_image}\nENV MOSAIC_TEST_NEWER=1\n")
    guests.exec(ann, "sh", "-c", "echo remembered > /home/node/.openclaw/memory")
    age(guests, ann, NAP)
    assert [row["outcome"] for row in guests.installation.document("reap")["gateways"]] == ["napped"]
    before = guests.installation.document("config", "get", "fleet.image")["value"]
    try:
        guests.installation.mosaic("config", "set", "fleet.image", newer)
        assert state(guests, ann) == ("stopped", "gone")
        assert ask(guests.wake(ann), "hello") == (200, "you said: hello")
        assert guests.exec(ann, "sh", "-c", "echo $MOSAIC_TEST_NEWER; cat .openclaw/memory").split() == [
            "1",
            "remembered",
        ]
    finally:
        guests.installation.mosaic("config", "set", "fleet.image", before)


def test_without_a_candidate_docker_is_not_asked(guests: Guests, ann: str) -> None:
    """With a Docker that is not there a round without candidates ends with 0, and one with them with 9."""
    away = replace(guests.installation, env={**guests.installation.env, "DOCKER_HOST": "unix:///run/nobody.sock"})
    assert away.document("reap", "--explain")["counts"] == {"kept": 1}
    age(guests, ann, STOP)
    assert away.document("reap", "--dry-run")["counts"] == {"would stop": 1}
    assert "could not be put to sleep" in away.refused(9, "reap", "-q")
    assert state(guests, ann)[1] == "running"
