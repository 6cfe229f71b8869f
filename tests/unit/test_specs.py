"""What a stack file wants and what Docker has, in the same fields: on a service that engine 20.10 answered with."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet.fleet.specs import live, shown, wanted

SAMPLE = json.loads((Path(__file__).parent / "samples" / "service-20.10.json").read_text("utf-8"))
BY_HAND = {
    "env.A": (None, "b"),
    "limits.memory": ("256M", "300M"),
    "image": ("openclaw:fake", "other:1"),
    "labels.x": (None, "y"),
    "container_labels.z": (None, "y"),
    "replicas": ("1", "0"),
    "limits.cpus": ("0.5", "1"),
    "healthcheck.interval": ("1s", "9s"),
    "stop_grace_period": ("330s", "9s"),
    "user": ("1000:1000", "0"),
    "placement.constraints": ("node.id == node1", "node.id == node1 node.role==manager"),
    "cap_add": (None, "CAP_NET_ADMIN"),
    "endpoint_mode": ("dnsrr", "vip"),
    "update_config.delay": (None, "3s"),
    "restart_policy.max_attempts": (None, "3"),
    "hostname": ("team-anna", "h"),
    "mounts./x": (None, "volume x"),
    "read_only": ("True", None),
}


def differences(spec: dict[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return wanted and live of the fields that differ; the network's id is Docker's."""
    want, have = wanted(SAMPLE["rendered"]), live(spec)
    assert have.pop("network") == ["network1"]
    names = [name for name in want | have if want.get(name) != have.get(name)]
    return {name: (shown(name, want.get(name)), shown(name, have.get(name))) for name in names}


def test_what_docker_makes_of_a_stack_file_is_the_same() -> None:
    """Order, defaults, nanoseconds and ids that Docker adds are no difference."""
    assert differences(SAMPLE["spec"]) == {}


def test_order_and_bookkeeping_are_no_difference() -> None:
    """`docker service update --force` shuffles lists and counts itself; a newer engine adds empty fields."""
    spec = deepcopy(SAMPLE["spec"])
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Mounts"].reverse()
    container["Env"].reverse()
    container["Configs"].reverse()
    container["Sysctls"] = {}
    container["Privileges"]["Seccomp"] = None
    spec["TaskTemplate"]["ForceUpdate"] = 7
    assert differences(spec) == {}


def test_everything_changed_by_hand_differs() -> None:
    """A service after twenty `docker service update`: each shows by its name, nothing else does."""
    found = differences(SAMPLE["by_hand"])
    assert found.pop("ports")[0] is None
    assert found == BY_HAND


@pytest.mark.parametrize(
    ("part", "value", "field"),
    [
        ("Dir", "/x", "TaskTemplate.ContainerSpec.Dir"),
        ("Groups", ["0"], "TaskTemplate.ContainerSpec.Groups"),
        ("Sysctls", {"a.b": "1"}, "TaskTemplate.ContainerSpec.Sysctls.a.b"),
        ("Isolated", {"New": {"Thing": True}}, "TaskTemplate.ContainerSpec.Isolated.New.Thing"),
    ],
)
def test_what_no_stack_file_of_ours_has_differs_too(part: str, value: Any, field: str) -> None:
    """It is called as Docker calls it."""
    spec = deepcopy(SAMPLE["spec"])
    spec["TaskTemplate"]["ContainerSpec"][part] = value
    assert differences(spec).keys() == {field}


def test_a_file_that_others_may_read_differs() -> None:
    """OpenClaw refuses a secret whose mode is wider: the owner and the mode of a file count."""
    spec = deepcopy(SAMPLE["spec"])
    spec["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["File"]["Mode"] = 0o444
    assert differences(spec) == {"token.owner": (None, "1000:1000 444")}


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("limits.memory", 3 << 29, "1.5G"),
        ("healthcheck.timeout", 10 * 10**9, "10s"),
        ("limits.cpus", 500_000_000, "0.5"),
        ("openclaw.json", "jarvis-main-conf-0123456789ab", "89ab"),
        ("token", "jarvis-main-token-0123456789ab", "#89ab"),
        ("command", ["a", "b"], "a b"),
        ("replicas", 0, "0"),
        ("image", None, None),
    ],
)
def test_values_are_written_for_people(field: str, value: Any, text: str | None) -> None:
    """Sizes, times and cores in their units; of a file's name only the end of its hash."""
    assert shown(field, value) == text
