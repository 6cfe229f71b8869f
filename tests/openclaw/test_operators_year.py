"""An operator's year with real OpenClaw: whatever is done to an agent, its answers end whole and it remembers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mosaic_fleet.resources import directory
from tests.docker import images
from tests.docker.installation import Fleet, fresh_stack, installed
from tests.docker.year import Year
from tests.docker_run import DockerRun, wait_until

STATE = "/home/node/.openclaw"
PATIENT = ("--timeout", "9m")


@dataclass(frozen=True)
class Stub:
    """A stub LLM on the fleet's network."""

    docker: DockerRun
    name: str

    def asked(self, text: str) -> dict[str, Any] | None:
        """Return the newest request with this text, None before there is one."""
        listed = self.docker("exec", self.name, "curl", "-sS", "-m", "60", "http://127.0.0.1:11434/requests")
        found: list[dict[str, Any]] = [one for one in json.loads(listed) if text in one["message"]]
        return found[-1] if found else None


@pytest.fixture
def year(docker: DockerRun, openclaw_image: str) -> Iterator[Year]:
    """Return a fleet of one in the roster of an installation of its own, which does not run."""
    with installed(docker, openclaw_image, **{"update.monitor": "1", "restart.delay": "1"}) as made:
        fleet = Fleet(made, fresh_stack())
        provider = {"type": "custom", "base_url": f"http://llm-{fleet.stack}:11434/v1", "models": [{"id": "m1"}]}
        memory = {"limit": "2G", "reservation": "16M"}
        agent = {"model": "stub/m1", "memory": memory, "personality": "You are one."}
        fleet.take({"stack": fleet.stack, "providers": {"stub": provider}, "agents": {fleet.agent("one"): agent}})
        yield Year(fleet)
        fleet.remove()


@pytest.fixture
def stub(year: Year, docker: DockerRun) -> Iterator[Stub]:
    """Run the stub LLM in a container beside the fleet."""
    network = year.fleet.installation.mosaic("config", "get", "fleet.network").strip()
    script = (directory("stacks") / "quickstart" / "stub-llm.mjs").read_text("utf-8")
    stub = Stub(docker, f"llm-{year.fleet.stack}")
    options = ("--label", docker.label, "--network", network, "--name", stub.name)
    docker("run", "-d", *options, year.image, "node", "--input-type=module", "-e", script)
    yield stub
    docker("rm", "-f", stub.name)


def remembers(fleet: Fleet) -> bool:
    """Tell whether the agent has the file and the conversation of its first day."""
    history = fleet.exec("one", "sh", "-c", f"grep -rlsi aubergine {STATE}/agents || true")
    return fleet.exec("one", "cat", f"{STATE}/memory") == "remembered\n" and history != ""


def test_an_operators_year_on_openclaw(year: Year, stub: Stub) -> None:
    """Import, deploy, drift, scale, restart in an answer, upgrade and back, rollback, rm: it remembers all along."""
    fleet, stack, one = year.fleet, year.fleet.stack, year.one
    docker = fleet.installation.docker

    # It comes up and is told something.
    year.fleet_says(10, "1 to add", "diff", "--exit-code")
    year.fleet_says(0, f"{stack} is changed at deploy 1, 1/1 healthy", "deploy", *PATIENT)
    year.unchanged()
    fleet.exec("one", "sh", "-c", f"echo remembered > {STATE}/memory")
    year.says(0, "stub nonce", "fleet", "ask", one, "remember the word aubergine")
    wait_until(lambda: remembers(fleet))

    # It rests; somebody uses the docker command meanwhile. That shows, one deploy takes it back, and it still rests.
    year.says(0, "is changed", "fleet", "scale", f"{one}=0", *PATIENT)
    year.by_hand("--env-add", "A=b", "--limit-memory", "3G", "--label-add", "x=y")
    shown = year.fleet_says(10, "1 to change", "diff", "--exit-code")
    assert [f"{field} " in shown for field in ("env.A", "limits.memory", "labels.x")] == [True] * 3
    assert shown.count("changed by hand") == 3
    year.fleet_says(0, "is changed", "deploy", *PATIENT)
    year.unchanged()
    assert fleet.container("one") == ""
    year.says(0, "1/1 healthy", "fleet", "scale", f"{one}=1", *PATIENT)
    assert remembers(fleet)

    # A restart while an answer is under way waits for its end.
    before, question = fleet.container("one"), "sleep:45 and then?"
    asking = fleet.installation.start("fleet", "ask", one, question)
    assert asking.stdout
    assert asking.stdout.read(2) == "1 "
    year.says(0, "it is busy (", "fleet", "restart", one, *PATIENT)
    answer, _ = asking.communicate(timeout=300)
    request = stub.asked(question)
    assert request
    assert (asking.returncode, request["done"]) == (0, True)
    assert answer.endswith(f" 90 stub nonce {request['nonce']}\n")
    assert fleet.container("one") != before
    year.unchanged()

    # It moves to another image; a broken one is taken back by itself; and it moves back.
    good = images.other(docker, year.image, f"mosaic-other:{stack}")
    year.fleet_says(0, "1/1 healthy", "upgrade", "--image", good, *PATIENT)
    assert (year.running_image(), remembers(fleet)) == (good, True)
    broken = images.broken(docker, year.image, f"mosaic-broken:{stack}")
    year.fleet_says(7, f"taken back: {one}", "upgrade", "--image", broken, *PATIENT)
    assert (year.running_image(), remembers(fleet)) == (good, True)
    year.unchanged()
    year.fleet_says(0, "1/1 healthy", "upgrade", "--image", year.image, *PATIENT)
    assert (year.running_image(), remembers(fleet)) == (year.image, True)

    # That was a mistake: it goes back, and the roster is ahead.
    year.fleet_says(0, "1/1 healthy", "rollback", *PATIENT)
    assert (year.running_image(), remembers(fleet)) == (good, True)
    year.fleet_says(10, "1 to change", "diff", "--exit-code")

    # It is taken down, and up again as the roster says; it remembers, and answers.
    year.fleet_says(0, f"removed {stack}_{one}", "rm", "--yes", *PATIENT)
    assert fleet.objects("config") | fleet.objects("secret") == set()
    year.fleet_says(0, "1/1 healthy", "deploy", *PATIENT)
    assert (year.running_image(), remembers(fleet)) == (year.image, True)
    year.says(0, "stub nonce", "fleet", "ask", one, "are you there?")
    year.fleet_says(0, f"removed {stack}_{one}-state", "rm", "--volumes", "--confirm", stack, *PATIENT)
