"""SIGKILL in the middle of rollback, upgrade and adoption, on a real Swarm: the same command again ends well."""

import json
import signal
from collections.abc import Callable

import pytest

from tests.docker import images
from tests.docker.handmade import MEMORY, remember, run_by_hand
from tests.docker.installation import Fleet, Installation, interrupted, when

SOUL = "/home/node/.openclaw/workspace/SOUL.md"


def kill(fleet: Fleet, *words: str, seen: Callable[[], object]) -> None:
    """Start a command and kill it as soon as something is seen."""
    process = fleet.installation.start(*words)
    when(process, seen)
    interrupted(process, signal.SIGKILL)


def version(fleet: Fleet, name: str) -> int:
    """Return which version of its service Swarm has."""
    return int(fleet.service(name)["Version"]["Index"])


def image(fleet: Fleet, name: str) -> str:
    """Return the image that an agent's service is to run."""
    return str(fleet.service(name)["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])


def differs(fleet: Fleet) -> bool:
    """Tell whether what runs is not what the roster says."""
    return bool(fleet.installation.document("fleet", "diff", "--stack", fleet.stack)["differs"])


@pytest.mark.parametrize("point", ["recorded", "service"])
def test_a_killed_rollback_goes_on_with_the_same_command(fleet: Fleet, point: str) -> None:
    """Killed once it is written down, or once the service changes: typed again, it goes where it was going."""
    fleet.load(one={"personality": "first"})
    fleet.deploy()
    fleet.load(one={"personality": "second"})
    fleet.deploy()
    words = ("fleet", "rollback", "--stack", fleet.stack, "--timeout", "5m")
    before = version(fleet, "one")
    seen = {"recorded": lambda: len(fleet.deployments()) > 2, "service": lambda: version(fleet, "one") != before}
    kill(fleet, *words, seen=seen[point])
    fleet.installation.mosaic(*words)
    assert fleet.exec("one", "cat", SOUL) == "first"
    assert fleet.status("one")["health"] == "ok"
    statuses = [status for _, status in fleet.deployments()]
    assert (statuses[-1], "started" in statuses) == ("healthy", False)
    fleet.deploy()
    assert fleet.exec("one", "cat", SOUL) == "second"


@pytest.mark.parametrize("point", ["first", "second"])
def test_a_killed_upgrade_goes_on_with_the_same_command(fleet: Fleet, installation: Installation, point: str) -> None:
    """Killed as the first agent moves, or as the second does: typed again, both run the new image."""
    docker, old = installation.docker, installation.mosaic("config", "get", "fleet.image").strip()
    tag = images.other(docker, old, f"mosaic-other:{fleet.stack}")
    fleet.load(one={}, two={"model": "echo/slow-start"})  # slow enough to be seen while it moves
    fleet.deploy()
    words = ("fleet", "upgrade", "--stack", fleet.stack, "--image", tag, "--timeout", "5m")
    moved = {"first": 1, "second": 2}[point]
    try:
        kill(fleet, *words, seen=lambda: [image(fleet, name) for name in ("one", "two")].count(tag) >= moved)
        installation.mosaic(*words)
        for name in ("one", "two"):
            assert json.loads(docker("inspect", fleet.container(name)))[0]["Config"]["Image"] == tag
            assert fleet.status(name)["health"] == "ok"
        assert differs(fleet) is False
        assert "started" not in [status for _, status in fleet.deployments()]
    finally:
        installation.mosaic("config", "set", "fleet.image", old)


@pytest.mark.parametrize("point", ["room", "stopped", "deploy"])
def test_a_killed_adoption_goes_on_with_the_same_command(fleet: Fleet, installation: Installation, point: str) -> None:
    """Killed with the copy's volume made, the service stopped, or the deploy begun: again, and nothing is lost."""
    docker = installation.docker
    folder = run_by_hand(fleet)
    service, first = fleet.service("one")["ID"], fleet.container("one")
    remember(fleet)
    words = ("agent", "import", str(folder), "--stack", fleet.stack)
    words += ("--adopt", "--timeout", "5m", "--confirm", fleet.stack)
    seen = {
        "room": lambda: f"{fleet.stack}-old-before-mosaic" in docker("volume", "ls", "-q").split(),
        "stopped": lambda: fleet.container("one") != first,
        "deploy": fleet.deployments,
    }
    kill(fleet, *words, seen=seen[point])
    installation.mosaic(*words)
    assert fleet.service("one")["ID"] == service
    assert fleet.status("one")["health"] == "ok"
    assert installation.mosaic("fleet", "ask", fleet.agent("one"), "x") == "you said: x\n"
    assert {path: fleet.exec("one", "cat", path) for path in MEMORY} == MEMORY
    assert differs(fleet) is False
    kept = ("run", "--rm", "--network", "none", "-v", f"{fleet.stack}-old-before-mosaic:/kept")
    here = installation.mosaic("config", "get", "fleet.image").strip()
    assert docker(*kept, here, "cat", "/kept/state/memory.sqlite", "/kept/workspace/deep/NOTES.md") == "memory\nnotes"
