"""Diff, scale, restart, push, rollback and upgrade on a real Swarm, with the stand-in for OpenClaw."""

import json
from typing import Any

from tests.docker import images
from tests.docker.installation import Fleet, Installation
from tests.docker_run import wait_until

BY_HAND = {
    "replicas": ["--replicas", "0"],
    "env.A": ["--env-add", "A=b"],
    "limits.memory": ["--limit-memory", "300M"],
    "limits.cpus": ["--limit-cpu", "1"],
    "labels.x": ["--label-add", "x=y"],
    "container_labels.z": ["--container-label-add", "z=y"],
    "healthcheck.interval": ["--health-interval", "9s"],
    "stop_grace_period": ["--stop-grace-period", "9s"],
    "endpoint_mode": ["--endpoint-mode", "vip"],
    "update_config.delay": ["--update-delay", "3s"],
    "hostname": ["--hostname", "h"],
    "mounts./x": ["--mount-add", "type=tmpfs,target=/x"],
    "read_only": ["--read-only=false"],
    "image": ["--image", "other:1"],
}


def diff(fleet: Fleet) -> dict[str, Any]:
    """Return the document of a diff."""
    return fleet.installation.document("fleet", "diff", "--stack", fleet.stack)


def by_hand(fleet: Fleet, name: str, *options: str) -> None:
    """Change a service with the docker command."""
    service = f"{fleet.stack}_{fleet.agent(name)}"
    fleet.installation.docker("service", "update", "--detach", "--no-resolve-image", *options, service)


def test_what_docker_makes_of_a_spec_is_no_difference(fleet: Fleet) -> None:
    """After a deploy, and after a restart by hand, the diff is empty and ends with 0."""
    fleet.load(one={"personality": "You are one.", "cpus": 0.5})
    fleet.deploy()
    words = ("fleet", "diff", "--stack", fleet.stack, "--exit-code")
    assert "0 to change, 0 to add, 0 to remove, 1 unchanged" in fleet.installation.mosaic(*words)
    by_hand(fleet, "one", "--force")
    assert "1 unchanged" in fleet.installation.mosaic(*words)


def test_everything_changed_by_hand_is_shown_and_repaired(fleet: Fleet) -> None:
    """Each change shows by its name as made by hand; one deploy takes all back, the next changes nothing."""
    fleet.load(one={"personality": "You are one."}, two={})
    fleet.deploy()
    neighbour = fleet.container("two")
    by_hand(fleet, "one", *(option for options in BY_HAND.values() for option in options))
    done = fleet.installation.run("fleet", "diff", "--stack", fleet.stack, "--exit-code")
    assert done.returncode == 10
    assert "replicas" in done.stdout
    one, two = diff(fleet)["agents"]
    assert {each["field"] for each in one["differences"]} == BY_HAND.keys()
    assert {each["by_hand"] for each in one["differences"]} == {True}
    assert two["action"] == "unchanged"
    assert fleet.deploy()["changed"] is True
    assert fleet.service("one")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] != "other:1"
    assert diff(fleet)["differs"] is False
    container = fleet.container("one")
    assert fleet.deploy()["changed"] is False
    assert (fleet.container("one"), fleet.container("two")) == (container, neighbour)


def test_a_moved_tag_restarts_once(fleet: Fleet, installation: Installation) -> None:
    """A tag that means another image now is drift; a deploy runs the new one and the next changes nothing."""
    docker, tag = installation.docker, f"mosaic-moved:{fleet.stack}"
    image = installation.document("config", "get", "fleet.image")["value"]
    docker("tag", image, tag)
    fleet.load(one={})
    fleet.deploy()
    installation.mosaic("fleet", "upgrade", "--stack", fleet.stack, "--image", tag)
    old = fleet.container("one")
    docker(
        "build", "-q", "--network", "none", "--label", docker.label, "-t", tag, "-", stdin=f"FROM {image}\nLABEL x=y\n"
    )
    assert [each["field"] for each in diff(fleet)["agents"][0]["differences"]] == ["image"]
    assert fleet.deploy()["agents"][0]["parts"] == ["image"]
    assert fleet.container("one") != old
    assert docker("inspect", "--format", '{{index .Config.Labels "x"}}', fleet.container("one")) == "y"
    assert fleet.deploy()["changed"] is False


def test_scale_is_kept(fleet: Fleet) -> None:
    """A stopped agent stays stopped by a deploy, a second scale changes nothing, two are refused."""
    fleet.load(one={}, two={})
    fleet.deploy()
    scale, name = ("fleet", "scale"), fleet.agent("one")
    fleet.installation.mosaic(*scale, f"{name}=0")
    assert fleet.container("one") == ""
    assert fleet.installation.document(*scale, f"{name}=0")["changed"] is False
    assert fleet.deploy()["changed"] is False
    assert fleet.container("one") == ""
    said = fleet.installation.refused(3, *scale, f"{name}=2")
    assert f"{name} keeps its state in one volume" in said
    fleet.installation.mosaic(*scale, f"{name}=1")
    assert fleet.container("one")


def test_restart_one_by_one(fleet: Fleet) -> None:
    """Every agent gets another container, the diff stays empty, and the agent answers."""
    fleet.load(one={}, two={})
    fleet.deploy()
    before = {name: fleet.container(name) for name in ("one", "two")}
    rows = fleet.installation.document("fleet", "restart", "--all", "--stack", fleet.stack)["agents"]
    assert [row["result"] for row in rows] == ["restarted", "restarted"]
    assert not {fleet.container(name) for name in ("one", "two")} & set(before.values())
    assert diff(fleet)["differs"] is False
    assert fleet.deploy()["changed"] is False


def test_push_makes_a_file_that_docker_takes(fleet: Fleet, installation: Installation) -> None:
    """Pushed and rendered, `docker stack deploy` runs it as it is; diff says unchanged, and so does a deploy."""
    fleet.load(one={"personality": "You are one."}, two={})
    pushed = installation.document("fleet", "push", "--stack", fleet.stack)
    assert (pushed["changed"], len(pushed["made"]["docker_objects"])) == (True, 5)
    assert installation.document("fleet", "push", "--stack", fleet.stack)["changed"] is False
    out = installation.folder / f"{fleet.stack}-pushed"
    installation.mosaic("fleet", "render", "--stack", fleet.stack, "--out", str(out))
    installation.docker("stack", "deploy", "-c", str(out / "stack.yml"), fleet.stack)
    assert diff(fleet)["differs"] is False
    wait_until(lambda: fleet.container("one") and fleet.container("two"))
    assert fleet.exec("one", "cat", "/home/node/.openclaw/workspace/SOUL.md") == "You are one."
    container = fleet.container("one")
    assert fleet.deploy()["changed"] is False
    assert fleet.container("one") == container
    assert fleet.deployments() == [(1, "healthy")]


def test_rollback_brings_removed_objects_back(fleet: Fleet) -> None:
    """A deploy whose objects were removed runs again under the same names; the roster is ahead then."""
    fleet.load(one={"personality": "first"})
    fleet.deploy()
    first = fleet.objects("config")
    for text in ("second", "third", "fourth"):
        fleet.load(one={"personality": text})
        fleet.deploy()
    assert not first <= fleet.objects("config")
    fleet.installation.mosaic("fleet", "rollback", "--to", "1", "--stack", fleet.stack)
    assert first <= fleet.objects("config")
    assert fleet.exec("one", "cat", "/home/node/.openclaw/workspace/SOUL.md") == "first"
    found = diff(fleet)
    assert (found["applies"], found["agents"][0]["action"]) == (1, "change")
    assert [each["by_hand"] for each in found["agents"][0]["differences"]] == [False]
    assert fleet.status("one")["config"] == "stale"
    fleet.deploy()
    assert fleet.exec("one", "cat", "/home/node/.openclaw/workspace/SOUL.md") == "fourth"


def test_an_upgrade_to_a_broken_image_is_taken_back(fleet: Fleet, installation: Installation) -> None:
    """The first agent fails and runs the old image again, the second is never touched, the roster is as before."""
    docker, image = installation.docker, installation.document("config", "get", "fleet.image")["value"]
    tag = images.broken(docker, image, f"mosaic-broken:{fleet.stack}")
    fleet.load(one={}, two={})
    fleet.deploy()
    two = fleet.container("two")
    words = ("fleet", "upgrade", "--stack", fleet.stack, "--image", tag, "--timeout", "5m")
    said = fleet.installation.refused(7, *words)
    assert f"taken back: {fleet.agent('one')}" in said
    assert fleet.container("two") == two
    assert json.loads(docker("inspect", fleet.container("one")))[0]["Config"]["Image"] == image
    assert diff(fleet)["differs"] is False


def test_a_restart_waits_for_a_running_answer(fleet: Fleet) -> None:
    """The answer that was under way comes to its end before the gateway is stopped."""
    fleet.load(one={"model": "echo/slow-answer"})
    fleet.deploy()
    before = fleet.container("one")
    asking = fleet.installation.start("fleet", "ask", fleet.agent("one"), "hello there")
    assert asking.stdout
    assert asking.stdout.read(1) == "y"
    done = fleet.installation.run("fleet", "restart", fleet.agent("one"))
    assert "it is busy (embedded-run)" in done.stderr
    assert done.returncode == 0, done.stderr
    assert (asking.stdout.read(), asking.wait(120)) == ("ou said: hello there\n", 0)
    asking.communicate()
    assert fleet.container("one") != before
