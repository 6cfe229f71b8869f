"""A stack of which somebody removed things by hand: diff and status tell it, deploy and rollback mend it."""

import pytest

from tests.docker.installation import Fleet
from tests.docker_run import wait_until

SOUL = "/home/node/.openclaw/workspace/SOUL.md"


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    """Return a fleet of two, deployed twice: the first time agent two was another."""
    fleet.load(one={}, two={"personality": "first"})
    fleet.deploy()
    fleet.load(one={}, two={"personality": "second"})
    fleet.deploy()
    return fleet


def actions(fleet: Fleet) -> dict[str, str]:
    """Return what `fleet diff` says of each agent."""
    rows = fleet.installation.document("fleet", "diff", "--stack", fleet.stack)["agents"]
    return {row["agent"].removeprefix(f"{fleet.stack}-"): row["action"] for row in rows}


def fields(fleet: Fleet) -> dict[str, bool]:
    """Return the fields of agent two that differ, each with whether that was made by hand."""
    rows = fleet.installation.document("fleet", "diff", "--stack", fleet.stack)["agents"]
    two = next(row for row in rows if row["agent"] == fleet.agent("two"))
    return {one["field"]: one["by_hand"] for one in two["differences"]}


def named(fleet: Fleet, kind: str) -> set[str]:
    """Name the Docker configs or Docker secrets of agent two."""
    return {name for name in fleet.objects(kind) if name.startswith(f"{fleet.stack}-{fleet.agent('two')}-")}


def removed(fleet: Fleet, kind: str, *names: str) -> None:
    """Remove Docker objects, which Docker refuses while it takes away what used them."""

    def gone() -> bool:
        fleet.installation.docker(kind, "rm", *names, check=False)
        return not fleet.objects(kind) & {*names}

    wait_until(gone)


def mend(fleet: Fleet, command: str) -> str:
    """Deploy, or go back to the first deploy; return what is agent two's personality then."""
    words = {"deploy": ["deploy"], "rollback": ["rollback", "--to", "1"]}[command]
    fleet.installation.mosaic("fleet", *words, "--stack", fleet.stack, "--timeout", "5m")
    return fleet.exec("two", "cat", SOUL)


@pytest.mark.parametrize(("command", "soul"), [("deploy", "second"), ("rollback", "first")])
def test_a_stack_half_removed_by_hand(fleet: Fleet, command: str, soul: str) -> None:
    """A service gone with its configs and secrets is told as not there, and made again; its neighbour runs on."""
    one, docker = fleet.container("one"), fleet.installation.docker
    objects = {kind: named(fleet, kind) for kind in ("config", "secret")}
    assert all(objects.values())
    docker("service", "rm", f"{fleet.stack}_{fleet.agent('two')}")
    for kind, names in objects.items():
        removed(fleet, kind, *names)
    assert actions(fleet) == {"one": "unchanged", "two": "add"}
    assert [fleet.status(name)["health"] for name in ("one", "two")] == ["ok", "not deployed"]
    wait_until(lambda: fleet.container("two") == "")
    assert mend(fleet, command) == soul
    assert named(fleet, "secret") == objects["secret"]
    assert [fleet.status(name)["health"] for name in ("one", "two")] == ["ok", "ok"]
    assert fleet.container("one") == one


@pytest.mark.parametrize(("command", "soul"), [("deploy", "second"), ("rollback", "first")])
def test_a_secret_deleted_by_hand(fleet: Fleet, command: str, soul: str) -> None:
    """Taken from a stopped service and deleted, it shows as made by hand; it comes back under its name, in use."""
    docker, service = fleet.installation.docker, f"{fleet.stack}_{fleet.agent('two')}"
    [secret] = [name for name in named(fleet, "secret") if "-token-" in name]
    docker("secret", "rm", secret, check=False)
    assert secret in named(fleet, "secret")
    by_hand = ("--detach", "--no-resolve-image", "--replicas", "0", "--secret-rm", secret)
    docker("service", "update", *by_hand, service)
    removed(fleet, "secret", secret)
    assert fields(fleet) == {"replicas": True, "token": True}
    wait_until(lambda: fleet.status("two")["health"] == "stopped")
    assert mend(fleet, command) == soul
    assert secret in named(fleet, "secret")
    assert fleet.status("two")["health"] == "ok"
    assert fleet.installation.mosaic("fleet", "ask", fleet.agent("two"), "x") == "you said: x\n"
