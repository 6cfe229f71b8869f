"""An operator's year on a real Swarm, in one go: and no docker command is needed."""

import pytest

from tests.docker import images
from tests.docker.installation import Fleet
from tests.docker.year import Year
from tests.docker_run import wait_until


@pytest.fixture
def year(fleet: Fleet) -> Year:
    """Return a fleet of two in the roster, nothing of which runs."""
    fleet.load(one={"model": "echo/slow-answer", "personality": "You are one."}, two={})
    return Year(fleet)


def test_an_operators_year(year: Year) -> None:
    """Import, deploy, drift, diff, deploy, scale, restart, upgrade, rollback, prune and rm, with the same memory."""
    fleet, stack = year.fleet, year.fleet.stack
    installation, docker = fleet.installation, fleet.installation.docker

    # It comes up, and a second time there is nothing to do.
    year.fleet_says(10, "2 to add", "diff", "--exit-code")
    year.fleet_says(0, f"{stack} is changed at deploy 1, 2/2 healthy", "deploy", "--timeout", "5m")
    year.fleet_says(0, f"{stack} is unchanged, 2/2 healthy", "deploy")
    year.unchanged()
    fleet.exec("one", "sh", "-c", "echo remembered > /home/node/.openclaw/memory")

    # Somebody uses the docker command; it shows, and one deploy takes it back.
    docker("service", "scale", "--detach", f"{stack}_{year.two}=0")
    year.by_hand("--env-add", "A=b", "--limit-memory", "300M", "--label-add", "x=y")
    shown = year.fleet_says(10, "2 to change", "diff", "--exit-code")
    for field in ("replicas", "env.A", "limits.memory", "labels.x"):
        assert f"{field} " in shown
    assert shown.count("changed by hand") == 4
    year.fleet_says(0, "2/2 healthy", "deploy", "--timeout", "5m")
    year.unchanged()

    # One agent rests, through a deploy too, and comes back.
    year.says(0, "changed", "fleet", "scale", f"{year.two}=0")
    year.fleet_says(0, "is unchanged", "deploy")
    assert fleet.container("two") == ""
    year.says(3, "one gateway per state directory", "fleet", "scale", f"{year.two}=2")
    year.says(0, "2/2 healthy", "fleet", "scale", f"{year.two}=1")

    # A restart while an answer is under way waits for its end.
    before = fleet.container("one")
    asking = installation.start("fleet", "ask", year.one, "hello there")
    assert asking.stdout
    assert asking.stdout.read(1) == "y"
    year.says(0, "it is busy (embedded-run)", "fleet", "restart", year.one)
    assert (asking.stdout.read(), asking.wait(60)) == ("ou said: hello there\n", 0)
    asking.communicate()
    assert fleet.container("one") != before
    year.unchanged()

    # A broken image is taken back by itself; the second agent never sees it.
    broken = images.broken(docker, year.image, f"mosaic-broken:{stack}")
    two = fleet.container("two")
    year.fleet_says(7, f"taken back: {year.one}", "upgrade", "--image", broken, "--timeout", "5m")
    assert (fleet.container("two"), year.running_image()) == (two, year.image)
    year.unchanged()

    # A change that was a mistake goes back; the roster is ahead of it then.
    fleet.change("one", "--role", "a mistake")
    number = fleet.deploy()["number"]
    year.fleet_says(0, "2/2 healthy", "rollback", "--timeout", "5m")
    assert fleet.service("one")["Spec"]["Labels"]["com.mosaic.role"] != "a mistake"
    year.fleet_says(10, "a mistake", "diff", "--exit-code")
    year.fleet_says(4, "has no deploy 99", "rollback", "--to", "99")
    year.fleet_says(0, "2/2 healthy", "rollback", "--to", str(number), "--timeout", "5m")
    year.unchanged()

    # An agent leaves: it runs on until it is pruned, and its volume stays.
    year.says(0, "removed", "agent", "remove", year.two, "--yes")
    year.fleet_says(10, "1 to remove", "diff", "--exit-code")
    year.fleet_says(0, f"keep       {year.two}", "deploy")
    year.fleet_says(0, f"remove     {year.two}", "deploy", "--prune")
    wait_until(lambda: fleet.container("two") == "")
    assert f"{stack}_{year.two}-state" in docker("volume", "ls", "-q").split()

    # It is taken down, and up again, and remembers.
    year.fleet_says(0, f"removed {stack}_{year.one}", "rm", "--yes", "--timeout", "5m")
    year.fleet_says(0, "unchanged, nothing of", "rm", "--yes")
    assert fleet.objects("config") | fleet.objects("secret") == set()
    year.fleet_says(0, "1/1 healthy", "deploy", "--timeout", "5m")
    assert fleet.exec("one", "cat", "/home/node/.openclaw/memory") == "remembered\n"

    # Down for good: volumes go by their stack's name only, and a volume lost behind Mosaic's back is missed.
    year.fleet_says(0, "", "rm", "--yes", "--timeout", "5m")
    wait_until(lambda: volume_is_gone(fleet, f"{stack}_{year.one}-state"))
    year.fleet_says(7, "it would start with an empty memory", "deploy")
    year.fleet_says(0, "1/1 healthy", "deploy", "--fresh", year.one, "--timeout", "5m")
    year.fleet_says(2, "--confirm", "rm", "--volumes")
    year.fleet_says(0, f"removed {stack}_{year.one}-state", "rm", "--volumes", "--confirm", stack, "--timeout", "5m")
    assert f"{stack}_{year.one}-state" not in docker("volume", "ls", "-q").split()


def volume_is_gone(fleet: Fleet, name: str) -> bool:
    """Remove a volume, which Docker refuses while it clears the last container away; tell whether it is gone."""
    docker = fleet.installation.docker
    docker("volume", "rm", name, check=False)
    return name not in docker("volume", "ls", "-q").split()
