"""What goes wrong around a deploy, on a real Swarm: a clear error, nothing lost, the same command works after."""

import json
import signal

import pytest

from tests.docker.installation import Fleet, Installation, interrupted, sql, when
from tests.docker_run import wait_until


def test_an_update_that_is_never_healthy_is_taken_back(fleet: Fleet) -> None:
    """The old container serves again, the neighbour is new, the record says partial; then the mended one deploys."""
    installation = fleet.installation
    fleet.load(one={}, two={})
    fleet.deploy()
    fleet.change("one", "--model", "echo/crash")
    fleet.change("two", "--model", "echo/m2")
    said = fleet.refused(7)
    assert f"{fleet.agent('one')}: taken back by Swarm" in said
    assert "stand-in crashes as its model says" in said
    assert "1 of 2 are healthy" in said
    assert installation.mosaic("fleet", "ask", fleet.agent("one"), "x") == "you said: x\n"
    config = json.loads(fleet.exec("two", "cat", "/run/mosaic/openclaw.json"))
    assert config["agents"]["defaults"]["model"]["primary"] == "echo/m2"
    assert fleet.deployments() == [(1, "healthy"), (2, "partial")]
    fleet.change("one", "--model", "echo/m2")
    assert fleet.deploy()["number"] == 3
    assert fleet.deployments()[-1] == (3, "healthy")


def test_out_of_memory_is_named(fleet: Fleet) -> None:
    """A gateway killed for its memory is called that, with the command that raises the limit."""
    fleet.load(one={"model": "echo/hog"})
    said = fleet.refused(7)
    assert "OOM" in said
    assert "--memory" in said
    fleet.change("one", "--model", "echo/m1")
    assert fleet.deploy()["agents"][0]["state"] == "healthy"


def test_a_timeout_says_what_is_pending(fleet: Fleet) -> None:
    """An agent that does not get healthy in time is named with its state; later the same command succeeds."""
    fleet.load(one={"model": "echo/held"})
    done = fleet.installation.run("fleet", "deploy", "--stack", fleet.stack, "--timeout", "20s")
    assert done.returncode == 7
    assert f"{fleet.agent('one')}: not healthy after 20 s: " in done.stderr
    fleet.let_go("one")
    assert fleet.deploy()["changed"] is False
    assert fleet.deployments() == [(1, "healthy")]


def test_a_missing_network_is_made_only_when_asked(fleet: Fleet, installation: Installation) -> None:
    """Without it nothing is changed and the option is named; with the option the deploy works."""
    network = f"mosaic-test-net-{fleet.stack}"
    installation.mosaic("agent", "add", fleet.agent("one"), "--stack", fleet.stack)
    file = installation.folder / "network.yml"
    roster = {"stack": fleet.stack, "network": network, "agents": {fleet.agent("one"): {"model": "echo/m1"}}}
    fleet.load(one={})
    file.write_text(json.dumps(roster))
    installation.mosaic("agent", "import", str(file))
    said = fleet.refused(7)
    assert f'network "{network}" is not there' in said
    assert "--create-network" in said
    assert fleet.deployments() == []
    assert fleet.deploy("--create-network")["changed"] is True
    assert (
        installation.docker("network", "inspect", network, "--format", "{{.Driver}} {{.Attachable}}") == "overlay true"
    )


def test_a_missing_image_is_found_before_anything_stops(fleet: Fleet, installation: Installation) -> None:
    """An image that is not there and cannot be pulled ends the deploy with the running container untouched."""
    fleet.load(one={})
    fleet.deploy()
    container = fleet.container("one")
    image = installation.mosaic("config", "get", "fleet.image").strip()
    installation.mosaic("config", "set", "fleet.image", "127.0.0.1:1/no-such-image:1")
    try:
        assert "127.0.0.1:1/no-such-image:1" in fleet.refused(7)
        assert fleet.container("one") == container
    finally:
        installation.mosaic("config", "set", "fleet.image", image)
    assert fleet.deploy()["changed"] is False


def test_a_limit_above_the_nodes_memory_is_refused(fleet: Fleet) -> None:
    """It is refused by name before anything is made."""
    fleet.load(one={"memory": {"limit": "4T", "reservation": "16M"}})
    assert "may use 4T" in fleet.refused(3)
    assert fleet.objects("config") == set()


def test_an_agent_that_cannot_be_rendered_is_named(fleet: Fleet, installation: Installation) -> None:
    """Without a model, or with a provider that has no key, the deploy names agent and remedy."""
    fleet.load(one={})
    installation.mosaic("agent", "add", fleet.agent("bare"), "--stack", fleet.stack)
    assert f'agent "{fleet.agent("bare")}" has no model' in fleet.refused(3)
    name = f"z{fleet.stack}"
    installation.mosaic("provider", "add", name, "--type", "zai", "--model", "glm-5")
    fleet.change("bare", "--model", f"{name}/glm-5")
    said = fleet.refused(3)
    assert f'provider "{name}", which has no key' in said
    assert f"mosaic provider set {name} --api-key-stdin" in said


def test_somebody_elses_service_is_left_alone(fleet: Fleet, installation: Installation) -> None:
    """A service of that name that Mosaic did not make is named and not touched."""
    fleet.load(one={})
    name = f"{fleet.stack}_{fleet.agent('one')}"
    namespace = f"com.docker.stack.namespace={fleet.stack}"
    image = installation.mosaic("config", "get", "fleet.image").strip()
    installation.docker(
        *("service", "create", "-d", "--no-healthcheck", "--name", name, "--label", namespace),
        *("--label", installation.docker.label, "--network", "bridge", image, "sleep", "1000"),
    )
    wait_until(lambda: fleet.container("one"))  # Swarm writes to a service until it has a task
    before = fleet.service("one")["Version"]
    assert f'service "{name}" is not Mosaic\'s' in fleet.refused(5)
    assert "unchanged" in installation.mosaic("fleet", "rm", "--stack", fleet.stack, "--yes")
    assert fleet.service("one")["Version"] == before


def test_a_service_made_by_hand_is_found_before_anything_is_made(fleet: Fleet, installation: Installation) -> None:
    """One of that name outside of any stack is named, and the deploy leaves no config, secret, volume or record."""
    fleet.load(one={})
    name = f"{fleet.stack}_{fleet.agent('one')}"
    image = installation.mosaic("config", "get", "fleet.image").strip()
    label = ("--label", installation.docker.label)
    installation.docker("service", "create", "-d", "--name", name, *label, "--replicas", "0", image, "sleep", "1000")
    try:
        assert f'service "{name}" is not Mosaic\'s' in fleet.refused(5)
        assert fleet.objects("config") | fleet.objects("secret") == set()
        assert installation.docker("volume", "ls", "-q", "--filter", f"name={fleet.stack}_") == ""
        assert fleet.deployments() == []
    finally:
        installation.docker("service", "rm", name)
    assert fleet.deploy()["changed"] is True


def test_another_installations_fleet_is_left_alone(
    fleet: Fleet, installation: Installation, other_installation: Installation
) -> None:
    """A second Mosaic with a stack of the same name is refused, and its `rm` removes nothing."""
    fleet.load(one={})
    fleet.deploy()
    container = fleet.container("one")
    double = Fleet(other_installation, fleet.stack)
    double.load(one={})
    other_installation.mosaic("config", "set", "fleet.network", _network(installation))
    double.load(one={})
    assert "another Mosaic installation's" in double.refused(5)
    assert "unchanged" in other_installation.mosaic("fleet", "rm", "--stack", fleet.stack, "--yes")
    assert fleet.container("one") == container
    assert double.status("one")["health"] == "not deployed"
    assert "does not run" in other_installation.refused(4, "fleet", "ask", double.agent("one"), "x")


def test_two_deploys_at_once(fleet: Fleet, installation: Installation) -> None:
    """The second is told who holds the stack; the first ends well."""
    fleet.load(one={"model": "echo/held"})
    first = installation.start("fleet", "deploy", "--stack", fleet.stack)
    when(first, lambda: fleet.container("one"))
    assert f"mosaic deploy stack {fleet.stack}" in fleet.refused(5)
    fleet.let_go("one")
    stdout, stderr = first.communicate(timeout=240)
    assert first.returncode == 0, stdout + stderr


@pytest.mark.parametrize("point", ["validating", "objects", "service", "task"])
def test_a_killed_deploy_goes_on_with_the_same_command(fleet: Fleet, installation: Installation, point: str) -> None:
    """SIGKILL while validating, between objects, once the service is there or while waiting: run again, it is well."""
    fleet.load(one={"model": "echo/slow-start", "personality": point})
    process = installation.start("fleet", "deploy", "--stack", fleet.stack)
    docker = installation.docker
    seen = {
        "validating": lambda: _recorded(fleet),
        "objects": lambda: fleet.objects("config"),
        "service": lambda: docker("service", "ls", "-q", "--filter", f"name={fleet.stack}_"),
        "task": lambda: fleet.container("one"),
    }
    when(process, seen[point])
    interrupted(process, signal.SIGKILL)
    fleet.deploy()
    assert fleet.status("one")["health"] == "ok"
    assert fleet.deployments()[-1][1] == "healthy"
    assert len(fleet.objects("config")) == 2


def test_ctrl_c_ends_with_130_and_is_written_down(fleet: Fleet, installation: Installation) -> None:
    """An interrupted deploy says so in its record; the same command finishes it."""
    fleet.load(one={"model": "echo/held"})
    process = installation.start("fleet", "deploy", "--stack", fleet.stack)
    when(process, lambda: fleet.container("one"))
    code, stderr = interrupted(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stderr
    assert fleet.deployments() == [(1, "interrupted")]
    fleet.let_go("one")
    assert fleet.deploy()["changed"] is False
    assert fleet.deployments() == [(1, "healthy")]


def test_a_database_that_goes_away_in_the_middle(fleet: Fleet, installation: Installation) -> None:
    """A deploy that loses Postgres ends with 8; the same command then succeeds."""
    fleet.load(one={"model": "echo/held"})
    process = installation.start("fleet", "deploy", "--stack", fleet.stack)
    when(process, lambda: fleet.container("one"))
    installation.mosaic("db", "stop")
    fleet.let_go("one")
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 8, stdout + stderr
    assert "Traceback" not in stderr
    assert fleet.deploy()["changed"] is False
    assert fleet.deployments() == [(1, "healthy")]


def test_docker_that_does_not_answer(fleet: Fleet, installation: Installation) -> None:
    """Without Docker a deploy and a status end with 7 and the address; render works."""
    fleet.load(one={})
    lost = Installation(
        installation.folder, installation.docker, dict(installation.env) | {"DOCKER_HOST": "unix:///nowhere.sock"}
    )
    for verb in ("deploy", "status"):
        assert "unix:///nowhere.sock" in lost.refused(7, "fleet", verb, "--stack", fleet.stack)
    assert fleet.stack in lost.mosaic("fleet", "render", "--stack", fleet.stack)


@pytest.mark.alone
def test_an_agent_without_room_is_named(fleet: Fleet) -> None:
    """When no node has the memory it reserves, the deploy ends with Swarm's reason; with less it works."""
    half = f"{int(fleet.installation.docker('info', '--format', '{{.MemTotal}}')) * 6 // 10}"
    big = {"memory": {"limit": half, "reservation": half}}
    fleet.load(one=big, two=big)
    assert "no suitable node" in fleet.refused(7)
    for name in ("one", "two"):
        fleet.change(name, "--memory-reservation", "16M")
    fleet.deploy()
    assert {fleet.status(name)["health"] for name in ("one", "two")} == {"ok"}


def _recorded(fleet: Fleet) -> bool:
    query = "SELECT 1 FROM deployment d JOIN stack s ON s.id = stack_id WHERE s.name = %s"
    return bool(sql(fleet.installation, query, fleet.stack))


def _network(installation: Installation) -> str:
    return installation.mosaic("config", "get", "fleet.network").strip()
